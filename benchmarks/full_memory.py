"""Memory of the full profile's largest moments, at its whole size and on real shapes.

    python benchmarks/full_memory.py

A training step of lesson 04 at the profile's batch, the evaluation of lessons 04 and 05, and lesson
05's selections of eight images; each in a process of its own, with random weights, so that neither
network nor hub is needed. Lessons 01, 02, 03 and 06 do the same work on a subset: their memory is
the column "peak MB" of `VLM_PROFILE=full VLM_SUBSET=16 python -m vlm_utils check`. What doctor says
of memory (vlm_utils/course/limits.py) are these numbers.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace

import torch
from accelerate import Accelerator
from common import SCALES, as_table, make_ours, make_samples, same_for_everyone
from workers import Worker

from vlm_utils.collate import collate
from vlm_utils.datasets import EncodedSamples, TaskDataset
from vlm_utils.evaluation import predict
from vlm_utils.profiles import PROFILES, TrainingSettings, get_device
from vlm_utils.training import make_optimizer, training_step

FULL = PROFILES["full"]
BATCH = 128                 # samples that lesson 05 asks at a time (evaluation.predict)
PARTS = {"training step": ("select 3", FULL.training.batch_size),
         "evaluation": ("select 3", BATCH),
         "selections of eight": ("select 8", FULL.test_samples // 2)}


def measure(turn: Callable[[dict], None], part: str, scale: str, fewer: int) -> None:
    """Do a part once, with so many times fewer samples than it has."""
    task, samples = PARTS[part]
    shapes = SCALES[scale]
    model, processor = make_ours(shapes, shapes.merges[1][0], seed=0)
    model.to(get_device())
    pictures, recipes = make_samples(shapes, {task: max(2, samples // fewer)}, seed=0)
    table, patches = as_table(pictures), model.config.patches_per_image
    table.image_features = torch.randn(len(pictures), patches, shapes.vision["hidden_size"]).half()
    dataset = TaskDataset(table, recipes)
    if part == "training step":
        train(model, processor, dataset)
    else:
        predict(model, processor, dataset, BATCH)
    turn({"samples": len(recipes)})


def train(model, processor, dataset: TaskDataset) -> None:
    """Two steps: the second has gradients, the optimizer's numbers and activations at once."""
    settings = replace(TrainingSettings.of(FULL), batch_size=len(dataset))
    accelerator = Accelerator(mixed_precision=settings.precision, cpu=model.device.type == "cpu")
    optimizer = accelerator.prepare(make_optimizer(model.train(), settings))
    encoded = EncodedSamples(dataset, processor)
    batch = collate([encoded[i] for i in range(len(encoded))], processor.pad_token_id)
    batch = {name: values.to(model.device) for name, values in batch.items()}
    for _ in range(2):
        training_step(accelerator, model, optimizer, [batch])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scale", choices=SCALES, default="real")
    parser.add_argument("--fewer", type=int, default=1, help="divide the samples of each part")
    options = parser.parse_args()
    same_for_everyone()
    print(f"{'what':22} {'samples':>7} {'peak MB':>8}")
    for part in PARTS:
        worker = Worker(measure, part, options.scale, options.fewer)
        found = worker.next()
        worker.stop()
        print(f"{part:22} {found['samples']:7} {found['peak_mb']:8.0f}", flush=True)


if __name__ == "__main__":
    main()
