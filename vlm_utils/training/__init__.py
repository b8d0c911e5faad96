"""Lesson 04: training the projector and the language model on encoded images."""

from vlm_utils.training.features import encode_table
from vlm_utils.training.ladder import climb
from vlm_utils.training.loop import EncodedSamples, answer_weights, print_progress, train
from vlm_utils.training.optimizers import make_optimizer, parameter_groups
from vlm_utils.training.settings import TrainingSettings

__all__ = [
    "EncodedSamples", "TrainingSettings", "answer_weights", "climb", "encode_table",
    "make_optimizer", "parameter_groups", "print_progress", "train"]
