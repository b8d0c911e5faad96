"""Lesson 09: real data: public formats, several tasks from one model, a new domain."""

from vlm_utils.real_data.detection import (
    Thing,
    detection_scores,
    match_things,
    parse_things,
    things_of,
    things_text,
)
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

__all__ = ["INSTRUCTIONS", "LONGEST_ANSWER", "Thing", "asked_as", "can_instruct", "caption_facts",
           "detection_scores", "in_form", "instruct", "match_things", "parse_things",
           "right_answers", "score_tasks", "things_of", "things_text"]
