"""Lesson 10: more processes, and less memory in each."""

from vlm_utils.scaling.processes import (
    evaluate_together,
    launch_command,
    launch_environment,
    predict_together,
    same_everywhere,
    together,
)
from vlm_utils.scaling.sharding import Shards

__all__ = [
    "Shards",
    "evaluate_together",
    "launch_command",
    "launch_environment",
    "predict_together",
    "same_everywhere",
    "together",
]
