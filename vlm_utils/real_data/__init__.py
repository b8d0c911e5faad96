"""Lesson 09: real data: public formats and their scores, several tasks from one model, another
domain, and what to ask of a data set."""

from vlm_utils.real_data.adapting import grow_encoder, measure_domains, unfreeze_encoder
from vlm_utils.real_data.caption_scores import bleu_4, caption_scores, cider_d, rouge_l
from vlm_utils.real_data.checklist import (
    balance,
    checklist,
    domain_gap,
    guessing,
    licences,
    samples_needed,
)
from vlm_utils.real_data.detection import (
    Thing,
    detection_scores,
    match_things,
    parse_things,
    things_of,
    things_text,
)
from vlm_utils.real_data.duplicates import near_duplicates, perceptual_hash
from vlm_utils.real_data.flickr8k import read_flickr8k, write_flickr8k
from vlm_utils.real_data.instructions import (
    INSTRUCTIONS,
    LONGEST_ANSWER,
    asked_as,
    can_instruct,
    caption_facts,
    in_form,
    instruct,
    right_answers,
    score_tasks,
)
from vlm_utils.real_data.joined import join_datasets, join_tables, turned_copies
from vlm_utils.real_data.levir_cc import read_levir_cc, write_levir_cc
from vlm_utils.real_data.nlvr import read_nlvr, write_nlvr
from vlm_utils.real_data.nlvr2 import read_nlvr2, write_nlvr2
from vlm_utils.real_data.pretraining import Augmentation, caption_targets, pretrain_encoder
from vlm_utils.real_data.records import RealData
from vlm_utils.real_data.scores import class_f1, nlvr_scores, teochat_scores
from vlm_utils.real_data.sensor import OTHER_SENSOR, Sensor, load_new_domain, seen_by
from vlm_utils.real_data.shapes import draw, drawn_f1, parse_boxes, parse_polygons
from vlm_utils.real_data.spot_the_diff import read_spot_the_diff, write_spot_the_diff
from vlm_utils.real_data.teochatlas import read_teochatlas, write_teochatlas

__all__ = [
    "INSTRUCTIONS", "LONGEST_ANSWER", "OTHER_SENSOR", "Augmentation", "RealData", "Sensor",
    "Thing", "asked_as", "balance", "bleu_4", "can_instruct", "caption_facts", "caption_scores",
    "caption_targets", "checklist", "cider_d", "class_f1", "detection_scores", "domain_gap",
    "draw", "drawn_f1", "grow_encoder", "guessing", "in_form", "instruct", "join_datasets",
    "join_tables", "licences", "load_new_domain", "match_things", "measure_domains",
    "near_duplicates", "nlvr_scores", "parse_boxes", "parse_polygons", "parse_things",
    "perceptual_hash", "pretrain_encoder", "read_flickr8k", "read_levir_cc", "read_nlvr",
    "read_nlvr2", "read_spot_the_diff", "read_teochatlas", "right_answers", "rouge_l",
    "samples_needed", "score_tasks", "seen_by", "teochat_scores", "things_of", "things_text",
    "turned_copies", "unfreeze_encoder", "write_flickr8k", "write_levir_cc", "write_nlvr",
    "write_nlvr2", "write_spot_the_diff", "write_teochatlas"]
