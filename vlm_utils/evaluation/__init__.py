"""Lesson 05: does the model use its images? Intervals and controls that answer it."""

from vlm_utils.evaluation.attention import attention_to_images, eager_attention
from vlm_utils.evaluation.controls import blind, permuted, reversed_frames, shuffled, with_unrelated
from vlm_utils.evaluation.free_text import free_text_scores
from vlm_utils.evaluation.grading import (
    accuracy_by_position,
    evaluate,
    evaluate_with_controls,
    grade,
    is_answer,
    parse_choice,
    predict,
    summarise,
)
from vlm_utils.evaluation.intervals import warn_small_samples, wilson_interval

__all__ = [
    "accuracy_by_position", "attention_to_images", "blind", "eager_attention", "evaluate",
    "evaluate_with_controls", "free_text_scores", "grade", "is_answer", "parse_choice",
    "permuted", "predict", "reversed_frames", "shuffled", "summarise", "warn_small_samples",
    "wilson_interval", "with_unrelated"]
