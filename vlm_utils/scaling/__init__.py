"""Lesson 10: less memory, data that does not fit, more processes."""

from vlm_utils.scaling.adapters import add_adapter, load_adapter, save_adapter
from vlm_utils.scaling.memory_formula import measure_kept, numbers_of_layer, peak, predict_step

__all__ = [
    "add_adapter",
    "load_adapter",
    "measure_kept",
    "numbers_of_layer",
    "peak",
    "predict_step",
    "save_adapter",
]
