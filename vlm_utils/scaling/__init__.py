"""Lesson 10: more processes, and less memory in each."""

from vlm_utils.scaling.cluster import (
    Cluster,
    predict_scaling,
    predict_step,
)
from vlm_utils.scaling.processes import (
    evaluate_together,
    launch_command,
    launch_environment,
    predict_together,
    same_everywhere,
    together,
)
from vlm_utils.scaling.sharding import (
    Shards,
    gather_weights,
    held_bytes,
    shard,
)

__all__ = [
    "Cluster",
    "Shards",
    "evaluate_together",
    "gather_weights",
    "held_bytes",
    "launch_command",
    "launch_environment",
    "predict_scaling",
    "predict_step",
    "predict_together",
    "same_everywhere",
    "shard",
    "together",
]
