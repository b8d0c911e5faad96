"""A new domain: what does a frozen encoder cost there, which cure helps, and what is forgotten?

    python benchmarks/domain.py --seconds 300                       TinyEarth by another sensor
    python benchmarks/domain.py --seconds 900 --images FOLDER       a folder with captions
    python benchmarks/domain.py --only cures                        one of the comparisons
    python benchmarks/domain.py --only forgetting --split validation        to choose by

cures       projector and language model only; the encoder's last layer trained too; all of it, at a
            tenth of their learning rate; the ViT pretrained on the new captions first; orientations
            as augmentation, frozen and pretrained; convolutions beside the ViT, pretrained
rate        all of the encoder, at the same learning rate as everything else, or at a tenth
kept        half, a tenth or none of the samples are TinyEarth's own, for what it forgets
forgetting  what keeps TinyEarth's own figures: all its images among the samples; a slower language
            model; the model as it was for a teacher; in the end, weights part of the way back
best        the best of them alone; left out unless it is named, as forgetting is

Every arm starts from the trained model in data/ and has the same seconds of processor time, those
of its encoder included: what sees its images again at each step takes fewer steps. Arms with the
same first stage share it, and each is charged for it. Every arm is asked about new images of the
new domain and of TinyEarth ("before" is the model that all start from). --images: a quarter of
each class is kept for the test, as the lessons do, unless the folder has train/ and test/ of its
own. --split validation: TinyEarth's validation places, and a fifth of the training images of a
folder, which are then not trained on.
The last line is JSON, which --output also writes to a file, after each run.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
from ablations import at_least_one, differing_arms, parse_comparisons
from common import add_output, machine, same_for_everyone, say
from keeping import TaughtSamples, move_back, slow_language_model, start_taught_run, weights_of
from learning import KEY, over_seeds

from vlm_utils import tiny_earth
from vlm_utils.architecture import MultiImageProcessor, MultiImageVLM
from vlm_utils.datasets import (
    ImageTable,
    TaskDataset,
    Truth,
    add_orientations,
    build_tasks,
    load_image_table,
    load_series_table,
)
from vlm_utils.datasets.tables import take_subset
from vlm_utils.evaluation import predict, wilson_interval
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
ASIDE = 5                                   # one of so many training images, to choose by

# What TinyEarth's samples ask: all that the trained model knows, also of many images. What they
# leave out is forgotten first.
OLD_MIXTURE = {"select 2": 0.03, "select 3": 0.06, "select 4-8": 0.1, "compare 2": 0.18,
               "sequence 2-4": 0.2, "sequence 5-8": 0.15, "refer 1-3": 0.06, "refer 4-8": 0.1,
               "describe 1": 0.12}


@dataclass(frozen=True)
class Cure:
    """What is done about a new domain.

    layers: of the encoder, trained with the language model: none (0), so many last ones, or all of
    them (None). rate: their learning rate, in shares of that of everything else. pretrained: the
    share of the time in which the encoder learns captions first. beside: convolutions beside the
    ViT are what is pretrained. orientations: in which new images are seen. kept: the share of the
    samples that are TinyEarth's. every: these are of all its images, not of some. language_rate:
    the language model's learning rate, in shares of the projector's. taught: the model as it was
    answers TinyEarth's samples. back: the share of the way that the weights go back in the end.
    """

    layers: int | None = 0
    rate: float = 0.1
    pretrained: float = 0.0
    beside: bool = False
    orientations: int = 1
    kept: float = 0.5
    every: bool = False
    language_rate: float = 1.0
    taught: bool = False
    back: float = 0.0

    @property
    def first(self) -> Cure:
        """Of this cure, what is done before the language model learns; its encoder."""
        return Cure(self.layers, pretrained=self.pretrained, beside=self.beside,
                    orientations=self.orientations)


PRETRAINED = 0.4
PLAIN = Cure(pretrained=PRETRAINED, beside=True, orientations=4)
EVERY = replace(PLAIN, every=True)
SLOW, TAUGHT = replace(EVERY, language_rate=0.2), replace(EVERY, taught=True)
BEST = replace(EVERY, kept=0.6)
COMPARISONS: dict[str, dict[str, Cure]] = {
    "cures": {"frozen": Cure(), "last layer": Cure(layers=1), "all layers": Cure(layers=None),
              "turned": Cure(orientations=4),
              "pretrained, turned": Cure(pretrained=PRETRAINED, orientations=4),
              "convolutions, turned": PLAIN},
    "rate": {"a tenth": Cure(layers=None), "the same": Cure(layers=None, rate=1.0)},
    "kept": {"half": PLAIN, "a tenth": replace(PLAIN, kept=0.1), "none": replace(PLAIN, kept=0.0)},
    "forgetting": {
        "every image, every task": EVERY, "a quarter back": replace(EVERY, back=0.25),
        "slow": SLOW, "slow, a quarter back": replace(SLOW, back=0.25),
        "taught": TAUGHT, "taught, a quarter back": replace(TAUGHT, back=0.25)},
    "best": {"convolutions, turned": BEST, "a tenth back": replace(BEST, back=0.1)},
}
ALONE = ("forgetting", "best")        # comparisons that run only if they are named


@dataclass
class First:
    """A model after the first stage of a cure, with its encoder as it then is, and what it took.

    seconds: of processor time. tables: those that it has encoded, and the seconds of each.
    """

    model: MultiImageVLM
    steps: int
    seconds: float
    tables: dict[str, tuple[ImageTable, float]] = field(default_factory=dict)


@dataclass
class Domain:
    """The tables of both domains, what is asked of each, and what runs have made of them."""

    train: ImageTable
    test: ImageTable
    old_train: ImageTable
    old_test: ImageTable
    mixture: dict[str, float]
    questions: tuple[str, ...]
    scratch: Path | None = None         # where features go; None: the system's own place
    firsts: dict = field(default_factory=dict)
    trained: dict = field(default_factory=dict)

    OLD_QUESTIONS = ("select 2", "select 3", "select 8", "compare 2", "sequence 2", "sequence 4",
                     "sequence 8", "refer 1", "refer 3", "refer 8", "describe 1")


def load_domain(images: Path | None, split: str = "test") -> Domain:
    """The new domain and TinyEarth. images: a folder; None: TinyEarth by another sensor."""
    profile = get_profile("tiny")
    old = [load_series_table(each) for each in ("train", split)]
    if images is None:
        train, test = (seen_by(OTHER_SENSOR, take_subset(table, count))
                       for table, count in zip(old, (TRAIN_IMAGES, TEST_IMAGES), strict=True))
    else:
        os.environ["VLM_IMAGES"] = str(images)
        train, test = (load_image_table(profile, each) for each in ("train", "test"))
        if not train.truth.has_captions:
            raise ValueError(f"{images}: has no captions; give class folders or a metadata file")
        if split == "validation":
            aside = set(range(0, len(train), ASIDE))
            train, test = (rows_of(train, [row for row in range(len(train))
                                           if (row in aside) == kept]) for kept in (False, True))
    if train.truth.has_scenes:
        mixture = {"select 2": 0.2, "select 3": 0.3, "refer 1": 0.5}
        questions = ("select 2", "select 3", "refer 1")
    else:
        mixture = {"select 2": 0.25, "select 3": 0.4, "describe 1": 0.35}
        questions = ("select 2", "select 3", "describe 1")
    return Domain(train, test, old[0], old[1], mixture, questions)


def rows_of(table: ImageTable, rows: list[int]) -> ImageTable:
    """Some rows of a table of captioned images, each a place of its own."""
    truth = Truth([table.truth.scenes[row] for row in rows],
                  [table.truth.captions[row] for row in rows], [(i,) for i in range(len(rows))])
    return replace(table, name=f"{table.name}, {len(rows)} images", truth=truth,
                   dataset=table.dataset.select(rows),
                   files=[table.files[row] for row in rows] if table.files else ())


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
    whole = replace(cure, back=0.0)
    if (whole, seed) not in domain.trained:
        domain.trained[whole, seed] = train_whole(whole, domain, seconds, seed)
    model, processor, before, took = domain.trained[whole, seed]
    if cure.back:
        model = move_back(copy.deepcopy(model), before, cure.back)
    return model, processor, took


def train_whole(cure: Cure, domain: Domain, seconds: float, seed: int) -> tuple:
    """As adapt, before any way back; also what projector and language model were before."""
    _, processor = load_checkpoint(data_folder() / "tiny_vlm")
    first = first_stage(cure.first, domain, processor, seconds, seed)
    (new, first_seconds), (old, more) = (
        table_of(name, cure, first, domain, processor)
        for name in ("new", "every old" if cure.every else "old"))
    spent = first.seconds + first_seconds + (more if cure.kept else 0)
    started = time.process_time()
    model = copy.deepcopy(first.model)
    before = weights_of(model)

    def learn(steps: int, of: MultiImageVLM) -> None:
        settings = TrainingSettings(
            steps=steps, batch_size=BATCH, learning_rate=1e-3, optimizer="muon", seed=seed,
            warmup_steps=min(50, steps), encoder_rate=1.0 if cure.layers == 0 else cure.rate)
        samples, taught = mixed(cure, domain, new, old, max(steps * BATCH, 200), seed)
        if cure.taught:
            samples = TaughtSamples(samples, processor, taught)
            run = start_taught_run(of, copy.deepcopy(first.model), samples, settings)
        else:
            run = start_run(of, processor, samples, settings)
        train(run if cure.language_rate == 1 else slow_language_model(run, cure.language_rate))

    each = seconds_of_step(lambda steps: learn(steps, copy.deepcopy(model)))
    steps = max(1, int((seconds - spent - (time.process_time() - started)) / each))
    learn(steps, model)
    return model, processor, before, {
        "encoder steps": first.steps, "steps": steps,
        "seconds": spent + time.process_time() - started}


def first_stage(cure: Cure, domain: Domain, processor: MultiImageProcessor, seconds: float,
                seed: int) -> First:
    """The model from which the language model's training starts; arms that share it find it."""
    if (cure, seed) not in domain.firsts:
        started = time.process_time()
        model, _ = load_checkpoint(data_folder() / "tiny_vlm")
        steps = pretrain(cure, model, processor, domain, seconds, seed) if cure.pretrained else 0
        model.freeze_vision_encoder()
        if cure.layers != 0:
            unfreeze_encoder(model, cure.layers)
        domain.firsts[cure, seed] = First(model, steps, time.process_time() - started)
    return domain.firsts[cure, seed]


def table_of(name: str, cure: Cure, first: First, domain: Domain,
             processor: MultiImageProcessor) -> tuple[ImageTable, float]:
    """Images to train on, encoded unless their encoder trains too, and the seconds that it took."""
    if name not in first.tables:
        started = time.process_time()
        table = {"new": lambda: in_orientations(domain.train, cure.orientations),
                 "old": lambda: take_subset(domain.old_train, KEPT_IMAGES),
                 "every old": lambda: domain.old_train}[name]()
        # What another arm has encoded belongs to that arm's encoder.
        table = replace(table, image_features=None)
        if cure.layers == 0:
            folder = tempfile.mkdtemp(dir=domain.scratch)   # found there by no other run
            table.image_features = encode_table(table, first.model, processor,
                                                folder=Path(folder))
        first.tables[name] = table, time.process_time() - started
    return first.tables[name]


def pretrain(cure: Cure, model: MultiImageVLM, processor: MultiImageProcessor, domain: Domain,
             seconds: float, seed: int) -> int:
    """Teach the encoder the new captions for its share of the time; returns the steps it took."""
    grow_encoder(model, seed=seed) if cure.beside else unfreeze_encoder(model)
    # What has captions only is turned as it is learnt; what has scenes, with its captions before.
    turned = cure.orientations > 1 and not domain.train.truth.has_scenes
    table = domain.train if turned else in_orientations(domain.train, cure.orientations)

    def learn(steps: int, of: MultiImageVLM) -> None:
        pretrain_encoder(of, processor, table, steps, augment=Augmentation(turned=turned),
                         seed=seed, learning_rate=3e-3 if cure.beside else 1e-3)

    each = seconds_of_step(lambda steps: learn(steps, copy.deepcopy(model)))
    steps = max(1, int(seconds * cure.pretrained / each))
    learn(steps, model)
    return steps


def mixed(cure: Cure, domain: Domain, new: ImageTable, old: ImageTable, samples: int,
          seed: int) -> tuple[TaskDataset, list[bool]]:
    """New samples, and TinyEarth's for the share that is kept; and which of them are TinyEarth's.
    """
    fresh = build_tasks(new, parts(domain.mixture, round((1 - cure.kept) * samples)), seed=seed)
    if not cure.kept:
        return fresh, [False] * len(fresh)
    kept = build_tasks(old, parts(OLD_MIXTURE, round(cure.kept * samples)),
                       seed=seed)
    return join_datasets(fresh, kept), [False] * len(fresh) + [True] * len(kept)


# --- measuring ---------------------------------------------------------------------------------

def measure(model: MultiImageVLM, processor: MultiImageProcessor, domain: Domain,
            samples: int) -> pd.DataFrame:
    """Accuracy in the new domain, with controls, and in TinyEarth."""
    new = measure_domains(model, processor, {NEW: domain.test},
                          dict.fromkeys(domain.questions, samples), controls=True)
    asked = [name for name in domain.OLD_QUESTIONS if not name.startswith("describe")]
    old = measure_domains(model, processor, {OLD: domain.old_test}, dict.fromkeys(asked, samples))
    described = descriptions(model, processor, domain.old_test, samples)
    return pd.concat([new, old, described.assign(domain=OLD)], ignore_index=True)


def descriptions(model: MultiImageVLM, processor: MultiImageProcessor, table: ImageTable,
                 samples: int) -> pd.DataFrame:
    """How many descriptions of encoded tiles say all that is there and nothing else."""
    asked = build_tasks(table, {"describe 1": samples}, seed=1)
    said = predict(model, processor, asked)["prediction"]
    right = sum(tiny_earth.facts(text) == tiny_earth.scene_facts(table.truth.scenes[r.rows[0]])
                for text, r in zip(said, asked.recipes, strict=True))
    low, high = wilson_interval(right, len(asked))
    return pd.DataFrame([{"task": "describe", "num_images": 1, "samples": len(asked),
                          "accuracy": right / len(asked), "low": low, "high": high}])


def train_and_measure(cure: Cure | None, domain: Domain, seed: int, seconds: float,
                      samples: int) -> pd.DataFrame:
    """One arm with one seed; None: the model that all arms start from."""
    if cure is None:
        model, processor = load_checkpoint(data_folder() / "tiny_vlm")
        took = {"encoder steps": 0, "steps": 0, "seconds": 0.0}
    else:
        model, processor, took = adapt(cure, domain, seconds, seed)
    measured = measure(model, processor, domain, samples)
    columns = ["domain", *KEY, "samples", "accuracy", "blind", "shuffled"]   # no control of OLD
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
    usual = [name for name in COMPARISONS if name not in ALONE]
    parser.add_argument("--only", default=usual, metavar="NAME,NAME",
                        type=lambda text: parse_comparisons(text, list(COMPARISONS)),
                        help=f"some of {', '.join(COMPARISONS)} (default: {', '.join(usual)})")
    parser.add_argument("--split", choices=("validation", "test"), default="test",
                        help="images to ask about: validation to choose by (default: test)")
    add_output(parser)
    options = parser.parse_args()
    return options


def main() -> None:
    options = parse()
    same_for_everyone()
    with tempfile.TemporaryDirectory() as scratch:
        domain = load_domain(options.images, options.split)
        domain.scratch = Path(scratch)
        run_all(options, domain)


def run_all(options: argparse.Namespace, domain: Domain) -> None:
    """Each arm with each seed; the table and the JSON line."""
    started = time.perf_counter()
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
