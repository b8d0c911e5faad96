"""A new domain: what does a frozen encoder cost there, which cure helps, and what is forgotten?

    python benchmarks/domain.py --seconds 300                       TinyEarth by another sensor
    python benchmarks/domain.py --seconds 900 --images FOLDER       a folder with captions
    python benchmarks/domain.py --only cures                        one of the comparisons

cures      projector and language model only; the encoder's last layer trained too; all of it, at a
           tenth of their learning rate; the ViT pretrained on the new captions first; orientations
           as augmentation, frozen and pretrained; convolutions beside the ViT, pretrained
rate       all of the encoder, at the same learning rate as everything else, or at a tenth
kept       half, a tenth or none of the samples are TinyEarth's own, for what it forgets
best       the last of the cures alone; left out unless it is named

Every arm starts from the trained model in data/ and has the same seconds of processor time, those
of its encoder included: what sees its images again at each step takes fewer steps. Every arm is
asked about new images of the new domain and of TinyEarth ("before" is the model that all start
from). --images: a quarter of each class is kept for the test, as the lessons do, unless the folder
has train/ and test/ of its own.
The last line is JSON, which --output also writes to a file, after each run.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from ablations import at_least_one, differing_arms, parse_comparisons
from common import machine, same_for_everyone, say
from learning import KEY, over_seeds

from vlm_utils.architecture import MultiImageProcessor, MultiImageVLM
from vlm_utils.datasets import (
    ImageTable,
    TaskDataset,
    add_orientations,
    build_tasks,
    load_image_table,
    load_series_table,
)
from vlm_utils.datasets.tables import take_subset
from vlm_utils.loading import load_checkpoint
from vlm_utils.profiles import data_folder, get_device, get_profile
from vlm_utils.real_data import (
    OTHER_SENSOR,
    Augmentation,
    grow_encoder,
    join_datasets,
    measure_domains,
    pretrain_encoder,
    seen_by,
    turned_copies,
    unfreeze_encoder,
)
from vlm_utils.training import TrainingSettings, encode_table, start_run, train

NEW, OLD = "new domain", "TinyEarth"
TRAIN_IMAGES, TEST_IMAGES = 2000, 1000      # of TinyEarth by another sensor
KEPT_IMAGES = 6000                          # of TinyEarth, that training goes back to
BATCH, SAMPLES_OF_ONE_STEP = 64, 4          # samples of a step; steps that are timed


@dataclass(frozen=True)
class Cure:
    """What is done about a new domain.

    layers: of the encoder, trained with the language model: none (0), so many last ones, or all of
    them (None). rate: their learning rate, in shares of that of everything else. pretrained: the
    share of the time in which the encoder learns captions first. beside: convolutions beside the
    ViT are what is pretrained. orientations: in which new images are seen. kept: the share of the
    samples that are TinyEarth's.
    """

    layers: int | None = 0
    rate: float = 0.1
    pretrained: float = 0.0
    beside: bool = False
    orientations: int = 1
    kept: float = 0.5


PRETRAINED = 0.7
BEST = Cure(pretrained=PRETRAINED, beside=True, orientations=8)
COMPARISONS: dict[str, dict[str, Cure]] = {
    "cures": {"frozen": Cure(), "last layer": Cure(layers=1), "all layers": Cure(layers=None),
              "pretrained": Cure(pretrained=PRETRAINED), "turned": Cure(orientations=8),
              "pretrained, turned": Cure(pretrained=PRETRAINED, orientations=8),
              "convolutions, turned": BEST},
    "rate": {"a tenth": Cure(layers=None), "the same": Cure(layers=None, rate=1.0)},
    "kept": {"half": BEST, "a tenth": replace(BEST, kept=0.1), "none": replace(BEST, kept=0.0)},
    "best": {"convolutions, turned": BEST},
}


@dataclass
class Domain:
    """The tables of both domains, and what is asked of each."""

    train: ImageTable
    test: ImageTable
    old_train: ImageTable
    old_test: ImageTable
    mixture: dict[str, float]
    questions: tuple[str, ...]

    OLD_MIXTURE = {"select 2": 0.08, "select 3": 0.12, "compare 2": 0.25, "sequence 2-4": 0.35,
                   "refer 1-3": 0.2}
    OLD_QUESTIONS = ("select 2", "select 3", "compare 2", "sequence 4", "refer 3")


def load_domain(images: Path | None) -> Domain:
    """The new domain and TinyEarth. images: a folder; None: TinyEarth by another sensor."""
    profile = get_profile("tiny")
    old = [load_series_table(split) for split in ("train", "test")]
    kept = take_subset(old[0], KEPT_IMAGES)
    if images is None:
        train, test = (seen_by(OTHER_SENSOR, take_subset(table, count))
                       for table, count in zip(old, (TRAIN_IMAGES, TEST_IMAGES), strict=True))
    else:
        os.environ["VLM_IMAGES"] = str(images)
        train, test = (load_image_table(profile, split) for split in ("train", "test"))
        if not train.truth.has_captions:
            raise ValueError(f"{images}: has no captions; give class folders or a metadata file")
    if train.truth.has_scenes:
        mixture = {"select 2": 0.2, "select 3": 0.3, "refer 1": 0.5}
        questions = ("select 2", "select 3", "refer 1")
    else:
        mixture = {"select 2": 0.25, "select 3": 0.4, "describe 1": 0.35}
        questions = ("select 2", "select 3", "describe 1")
    return Domain(train, test, kept, old[1], mixture, questions)


def in_orientations(table: ImageTable, orientations: int) -> ImageTable:
    """Its truth turned with it if there are scenes; else its captions stay."""
    turn = add_orientations if table.truth.has_scenes else turned_copies
    return table if orientations == 1 else turn(table, orientations)


def parts(mixture: dict[str, float], samples: int) -> dict[str, int]:
    return {name: round(share * samples) for name, share in mixture.items()}


# --- equal time --------------------------------------------------------------------------------

def seconds_of_step(work: Callable[[int], object]) -> float:
    """Processor seconds of one more step of work(steps)."""
    spent = []
    for steps in (2, 2 + SAMPLES_OF_ONE_STEP):
        started = time.process_time()
        work(steps)
        spent.append(time.process_time() - started)
    return max(spent[1] - spent[0], 1e-3) / SAMPLES_OF_ONE_STEP


def adapt(cure: Cure, domain: Domain, seconds: float, seed: int) -> tuple:
    """The trained model in data/ after a cure: model, processor, what it took."""
    model, processor = load_checkpoint(data_folder() / "tiny_vlm")
    started = time.process_time()
    took = {"encoder steps": 0}
    # What another arm has encoded belongs to that arm's encoder.
    new = replace(in_orientations(domain.train, cure.orientations), image_features=None)
    old = replace(domain.old_train, image_features=None)
    if cure.pretrained:
        took["encoder steps"] = pretrain(cure, model, processor, domain, new, seconds, seed)
    model.freeze_vision_encoder()
    if cure.layers == 0:
        new, old = (replace(table, image_features=encode_table(table, model, processor))
                    for table in (new, old))
    else:
        unfreeze_encoder(model, cure.layers)

    def learn(steps: int, of: MultiImageVLM) -> None:
        settings = TrainingSettings(
            steps=steps, batch_size=BATCH, learning_rate=1e-3, optimizer="muon", seed=seed,
            warmup_steps=min(50, steps), encoder_rate=1.0 if cure.layers == 0 else cure.rate)
        samples = mixed(cure, domain, new, old, max(steps * BATCH, 200), seed)
        train(start_run(of, processor, samples, settings))

    each = seconds_of_step(lambda steps: learn(steps, copy.deepcopy(model)))
    took["steps"] = max(1, int((seconds - (time.process_time() - started)) / each))
    learn(took["steps"], model)
    took["seconds"] = time.process_time() - started
    return model, processor, took


def pretrain(cure: Cure, model: MultiImageVLM, processor: MultiImageProcessor, domain: Domain,
             new: ImageTable, seconds: float, seed: int) -> int:
    """Teach the encoder the new captions for its share of the time; returns the steps it took."""
    grow_encoder(model, seed=seed) if cure.beside else unfreeze_encoder(model)
    # What has captions only is turned as it is learnt; what has scenes, with its captions before.
    turned = cure.orientations > 1 and not domain.train.truth.has_scenes
    table = domain.train if turned else new

    def learn(steps: int, of: MultiImageVLM) -> None:
        pretrain_encoder(of, processor, table, steps, augment=Augmentation(turned=turned),
                         seed=seed, learning_rate=3e-3 if cure.beside else 1e-3)

    each = seconds_of_step(lambda steps: learn(steps, copy.deepcopy(model)))
    steps = max(1, int(seconds * cure.pretrained / each))
    learn(steps, model)
    return steps


def mixed(cure: Cure, domain: Domain, new: ImageTable, old: ImageTable, samples: int,
          seed: int) -> TaskDataset:
    """New samples, and TinyEarth's for the share that is kept."""
    fresh = build_tasks(new, parts(domain.mixture, round((1 - cure.kept) * samples)), seed=seed)
    if not cure.kept:
        return fresh
    return join_datasets(fresh, build_tasks(
        old, parts(domain.OLD_MIXTURE, round(cure.kept * samples)), seed=seed))


# --- measuring ---------------------------------------------------------------------------------

def measure(model: MultiImageVLM, processor: MultiImageProcessor, domain: Domain,
            samples: int) -> pd.DataFrame:
    """Accuracy with controls in the new domain, and in TinyEarth."""
    asked = [(NEW, domain.test, domain.questions), (OLD, domain.old_test, domain.OLD_QUESTIONS)]
    return pd.concat([
        measure_domains(model, processor, {name: table}, dict.fromkeys(questions, samples),
                        controls=True)
        for name, table, questions in asked], ignore_index=True)


def train_and_measure(cure: Cure | None, domain: Domain, seed: int, seconds: float,
                      samples: int) -> pd.DataFrame:
    """One arm with one seed; None: the model that all arms start from."""
    if cure is None:
        model, processor = load_checkpoint(data_folder() / "tiny_vlm")
        took = {"encoder steps": 0, "steps": 0, "seconds": 0.0}
    else:
        model, processor, took = adapt(cure, domain, seconds, seed)
    measured = measure(model, processor, domain, samples)
    columns = ["domain", *KEY, "samples", "accuracy", "blind", "shuffled"]
    return measured[columns].assign(seed=seed, **took)


def tabulate(results: dict[Cure | None, list[pd.DataFrame]], chosen: list[str]) -> pd.DataFrame:
    """One row for each comparison, arm, domain and task, over the seeds that are done."""
    rows = []
    for comparison in chosen:
        for arm, cure in {"before": None, **COMPARISONS[comparison]}.items():
            for domain in (NEW, OLD) if results[cure] else ():
                part = over_seeds([each[each["domain"] == domain].drop(columns="domain")
                                   for each in results[cure]])
                part["samples"] = part["samples"].astype(int)
                rows.append(part.assign(comparison=f"{comparison}, {domain}", domain=domain,
                                        arm=arm))
    table = pd.concat(rows, ignore_index=True)
    return table.assign(differs=differing_arms(table))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, text in (
            ("seeds", 1, "trainings of each arm"),
            ("seconds", 300, "processor seconds of each training, its encoder's included"),
            ("samples", 800, "test questions of each task and number of images")):
        parser.add_argument(f"--{name}", type=at_least_one, default=default,
                            help=f"{text} (default: {default})")
    parser.add_argument("--images", type=Path, help="a folder with captions or class folders")
    usual = [name for name in COMPARISONS if name != "best"]
    parser.add_argument("--only", default=usual, metavar="NAME,NAME",
                        type=lambda text: parse_comparisons(text, list(COMPARISONS)),
                        help=f"some of {', '.join(COMPARISONS)} (default: all but best)")
    parser.add_argument("--output", type=Path, help="a file for the JSON, besides the last line")
    options = parser.parse_args()
    if options.output and not options.output.parent.is_dir():
        parser.error(f"--output: there is no folder {options.output.parent}")
    return options


def main() -> None:
    options = parse()
    same_for_everyone()
    started = time.perf_counter()
    domain = load_domain(options.images)
    cures = dict.fromkeys([None, *(cure for name in options.only
                                   for cure in COMPARISONS[name].values())])
    results: dict[Cure | None, list[pd.DataFrame]] = {cure: [] for cure in cures}
    runs = [(cure, seed) for seed in range(options.seeds) for cure in cures]
    for number, (cure, seed) in enumerate(runs, start=1):
        results[cure].append(
            train_and_measure(cure, domain, seed, options.seconds, options.samples))
        say(f"run {number} of {len(runs)}: {cure}, seed {seed}, "
            f"{results[cure][-1]['seconds'].iloc[0]:.0f} s of training")
        result = report(options, domain, results, time.perf_counter() - started)
        if options.output:
            options.output.write_text(result + "\n")
    print(tabulate(results, options.only).drop(columns=["comparison"]).round(3).to_string(
        index=False))
    print(result)


def report(options: argparse.Namespace, domain: Domain, results: dict, seconds: float) -> str:
    """The JSON line; of a folder, its name alone."""
    settings = {name: value for name, value in vars(options).items() if name != "output"}
    settings["images"] = domain.train.name if options.images is None else options.images.name
    return json.dumps({
        "benchmark": "domain", "settings": settings, "machine": machine(get_device().type),
        "images": {"train": len(domain.train), "test": len(domain.test)},
        "seconds": round(seconds),
        "rows": json.loads(tabulate(results, options.only).round(4).to_json(orient="records"))})


if __name__ == "__main__":
    main()
