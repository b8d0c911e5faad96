"""The embedded model of lesson 09: `python -m vlm_utils.making.tasks_model`.

From lesson 07's model, which knows boxes and changes, more training on six tasks at once, each with
its sentence that fixes the form of the answer (`real_data/instructions.py`). Writes
data/tiny_vlm_tasks/, its weights in half precision, and, beside them, its figures on the test
split: those of the weights as they are stored. The stored model went on from lesson 07's before
that was averaged: --start with the folder that `time_model --no-average --output` writes.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

from vlm_utils.datasets import add_orientations, load_image_table
from vlm_utils.evaluation import blind, predict
from vlm_utils.loading import load_checkpoint
from vlm_utils.making.conditions import only_embedded
from vlm_utils.profiles import data_folder, get_profile
from vlm_utils.real_data import (
    INSTRUCTIONS,
    LONGEST_ANSWER,
    caption_facts,
    detection_scores,
    instruct,
    score_tasks,
)
from vlm_utils.training import TrainingSettings, encode_table, print_progress, start_run, train

# Boxes take longest to learn: more than half of the samples are about them.
MIXTURE = {"caption": 12_000, "vqa": 18_000, "detect": 48_000, "change": 20_000,
           "changed": 10_000, "change_box": 28_000}
SETTINGS = TrainingSettings(steps=2_000, batch_size=64, learning_rate=2e-3, optimizer="muon",
                            window=4)
ORIENTATIONS = 4


def measure(model, processor, split: str = "test", samples: int = 500) -> dict:
    """Scores of each task on unseen places, beside those of a model that sees no image."""
    table = load_image_table(get_profile("tiny"), split)
    table.image_features = encode_table(table, model, processor)
    asked = instruct(table, dict.fromkeys(INSTRUCTIONS, samples), seed=1)
    said = predict(model, processor, asked, max_new_tokens=LONGEST_ANSWER)
    tasks = score_tasks(said)
    unseen = predict(model, processor, blind(asked), max_new_tokens=LONGEST_ANSWER)
    tasks["blind"] = score_tasks(unseen)["right"]
    print(tasks.round(3).to_string(), flush=True)
    found = {"captions": caption_facts(said[said["task"] == "caption"]),
             "detections": detection_scores(said[said["task"] == "detect"])}
    return {"split": split, "tasks": json.loads(tasks.round(4).to_json(orient="records"))} | {
        name: {key: round(value, 4) for key, value in scores.items()}
        for name, scores in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the model of lesson 09.")
    parser.add_argument("--output", type=Path, default=data_folder() / "tiny_vlm_tasks")
    parser.add_argument("--start", type=Path, default=data_folder() / "tiny_vlm_time",
                        help="the checkpoint to start from")
    parser.add_argument("--steps", type=int, default=SETTINGS.steps)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", default="test", help="the split to measure on")
    parser.add_argument("--evaluate", action="store_true",
                        help="train nothing: write the figures of the model in --output again")
    options = parser.parse_args()
    only_embedded()
    figures_file, started = options.output / "figures.json", time.perf_counter()
    if options.evaluate:
        figures = json.loads(figures_file.read_text())
    else:
        profile = get_profile("tiny")
        table = add_orientations(load_image_table(profile, "train"), ORIENTATIONS)
        model, processor = load_checkpoint(options.start)
        table.image_features = encode_table(table, model, processor)
        settings = replace(SETTINGS, steps=options.steps, seed=options.seed)
        dataset = instruct(table, MIXTURE, seed=options.seed)
        train(start_run(model, processor, dataset, settings), on_step=print_progress(250))
        model.half().save_pretrained(options.output)
        processor.save_pretrained(options.output)
        figures = {"steps": options.steps,
                   "minutes": round((time.perf_counter() - started) / 60, 1)}
    figures |= measure(*load_checkpoint(options.output), options.split)
    figures_file.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
