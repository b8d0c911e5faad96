"""Lesson 10: less memory, data that does not fit, more processes."""

from vlm_utils.scaling.adapters import add_adapter, load_adapter, save_adapter
from vlm_utils.scaling.feature_parts import encode_parts, estimate_features
from vlm_utils.scaling.memory_formula import measure_kept, numbers_of_layer, peak, predict_step
from vlm_utils.scaling.streaming import SampleStream, write_shards

__all__ = [
    "SampleStream",
    "add_adapter",
    "encode_parts",
    "estimate_features",
    "load_adapter",
    "measure_kept",
    "numbers_of_layer",
    "peak",
    "predict_step",
    "save_adapter",
    "write_shards",
]
