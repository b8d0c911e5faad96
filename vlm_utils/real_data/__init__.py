"""Lesson 09: public formats, the series' other tasks, and an encoder that must adapt."""

from vlm_utils.real_data.adapting import grow_encoder, measure_domains, unfreeze_encoder
from vlm_utils.real_data.joined import join_datasets, join_tables, turned_copies
from vlm_utils.real_data.pretraining import Augmentation, caption_targets, pretrain_encoder
from vlm_utils.real_data.sensor import OTHER_SENSOR, Sensor, load_new_domain, seen_by

__all__ = [
    "OTHER_SENSOR",
    "Augmentation",
    "Sensor",
    "caption_targets",
    "grow_encoder",
    "join_datasets",
    "join_tables",
    "load_new_domain",
    "measure_domains",
    "pretrain_encoder",
    "seen_by",
    "turned_copies",
    "unfreeze_encoder",
]
