"""Checks of the exercises: each takes the student's function and prints a verdict.

`check.merge_images(merge_images)` prints "passed", or what result and what was expected on a small
input with the name of the mistake, or "not attempted yet". A check never raises because of the
student's code.
"""

from vlm_utils.check.architecture import images_that_fit, interleave, merge_images
from vlm_utils.check.collate import collate_samples, split_images, wasted_tokens
from vlm_utils.check.cross_attention import attend_safely, leaking_rows, visible_images
from vlm_utils.check.datasets import find_leaks, make_selection, mask_labels
from vlm_utils.check.evaluation import (
    permutation_agreement,
    permute_selection,
    selection_accuracy,
    wilson,
)
from vlm_utils.check.memory import forget_error, measure_tensors, predict_scores
from vlm_utils.check.real_data import true_false_scores, undeserved, weighted_f1
from vlm_utils.check.scaling import shards_of_process, step_memory
from vlm_utils.check.time_series import false_alarm_rate, overlap, segment_centres
from vlm_utils.check.training import accumulate_gradients, decay_groups, learning_rate

__all__ = [
    "accumulate_gradients", "attend_safely", "collate_samples", "decay_groups",
    "false_alarm_rate", "find_leaks", "forget_error", "images_that_fit", "interleave",
    "leaking_rows", "learning_rate", "make_selection", "mask_labels", "measure_tensors",
    "merge_images", "overlap", "permutation_agreement", "permute_selection", "predict_scores",
    "segment_centres", "selection_accuracy", "shards_of_process", "split_images", "step_memory",
    "true_false_scores", "undeserved", "visible_images", "wasted_tokens", "weighted_f1", "wilson"]
