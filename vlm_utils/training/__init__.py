"""Lesson 04: training the projector and the language model on encoded images."""

from vlm_utils.profiles import TrainingSettings
from vlm_utils.training.checkpoints import resume_run, save_checkpoint
from vlm_utils.training.features import FeatureTable, encode_table
from vlm_utils.training.ladder import climb
from vlm_utils.training.loop import (
    StopButton,
    answer_weights,
    print_progress,
    train,
    training_step,
)
from vlm_utils.training.optimizers import (
    BETAS,
    MuonAndAdamW,
    make_optimizer,
    parameter_groups,
)
from vlm_utils.training.run import Copies, TrainingRun, start_run

__all__ = [
    "BETAS", "Copies", "FeatureTable", "MuonAndAdamW", "StopButton", "TrainingRun",
    "TrainingSettings", "answer_weights", "climb", "encode_table", "make_optimizer",
    "parameter_groups", "print_progress", "resume_run", "save_checkpoint", "start_run", "train",
    "training_step"]
