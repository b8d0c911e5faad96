"""Lesson 10: less memory, data that does not fit, more processes."""

from vlm_utils.scaling.adapters import (
    add_adapter,
    load_adapter,
    move_base,
    save_adapter,
)
from vlm_utils.scaling.cluster import (
    Cluster,
    predict_scaling,
    predict_step,
)
from vlm_utils.scaling.feature_parts import (
    encode_parts,
    estimate_features,
)
from vlm_utils.scaling.memory_formula import (
    bytes_of_layer,
    measure_kept,
    peak,
    predict_memory,
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
from vlm_utils.scaling.streaming import (
    SampleStream,
    write_shards,
)

__all__ = [
    "Cluster",
    "SampleStream",
    "Shards",
    "add_adapter",
    "bytes_of_layer",
    "encode_parts",
    "estimate_features",
    "evaluate_together",
    "gather_weights",
    "held_bytes",
    "launch_command",
    "launch_environment",
    "load_adapter",
    "measure_kept",
    "move_base",
    "peak",
    "predict_memory",
    "predict_scaling",
    "predict_step",
    "predict_together",
    "same_everywhere",
    "save_adapter",
    "shard",
    "together",
    "write_shards",
]
