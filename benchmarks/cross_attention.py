"""Images beside the sequence: what does each part of lesson 08's model do?

    python benchmarks/cross_attention.py --seeds 3                  every comparison
    python benchmarks/cross_attention.py --only start,mask          some of them

start      as the lesson starts; with the gates at zero; with blocks of random weights instead of a
           copy of each layer's self-attention; with a new resampler instead of the base's projector
mask       text sees all images before it ("preceding"), or the last one only ("immediate")
text       the language model's own weights are trained too, or frozen
layers     blocks in all layers but the first, in all, or in the last alone
block      cross-attention only, or with a gated feed-forward part, as Flamingo's
latents    a resampler with 1, 4 or 16 latents an image
order      with an embedding of each image's number, or without

Each arm starts from the base model in data/ and trains on lesson 08's mixture, with fewer steps.
Questions, intervals and `differs` are those of ablations.py. cross_attention_designs.py compares
the whole model with images in the sequence.

The last line is JSON, which --output also writes to a file, after each training. If the file is
there already, its trainings are kept and not done again: so the work can be done in parts, with
--only or with more --seeds, and goes on where it was interrupted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from ablations import differing_arms, parse_options
from common import machine, same_for_everyone, say
from learning import KEY, over_seeds, test_questions

from vlm_utils.cross_attention import add_cross_attention, gates
from vlm_utils.datasets import add_orientations, build_tasks, load_image_table
from vlm_utils.evaluation import evaluate
from vlm_utils.loading import load_base_model
from vlm_utils.making.cross_model import MIXTURE
from vlm_utils.profiles import get_device, get_profile
from vlm_utils.training import TrainingSettings, encode_table, start_run, train

TASKS = ("select 3", "compare 2", "sequence 4", "refer 3")


@dataclass(frozen=True)
class Setup:
    """What one arm changes; the defaults are the lesson's. See add_cross_attention."""

    layers: tuple[int, ...] | None = None
    initial_gate: float = 0.5
    copy_attention: bool = True
    gated_feed_forward: bool = False
    image_mask: str = "preceding"
    latents: int | None = None
    image_order: bool = True
    frozen: bool = False        # the language model's own weights, not those of its blocks


COMPARISONS: dict[str, dict[str, Setup]] = {
    "start": {"the lesson's": Setup(), "gates at zero": Setup(initial_gate=0.0),
              "random blocks": Setup(copy_attention=False), "new resampler": Setup(latents=4)},
    "mask": {"preceding": Setup(), "immediate": Setup(image_mask="immediate")},
    "text": {"trained": Setup(), "frozen": Setup(frozen=True)},
    "layers": {"2 and 3": Setup(), "1 to 3": Setup(layers=(0, 1, 2)), "3": Setup(layers=(2,))},
    "block": {"attention": Setup(), "with feed-forward": Setup(gated_feed_forward=True)},
    "latents": {"1": Setup(latents=1), "4": Setup(latents=4), "16": Setup(latents=16)},
    "order": {"with": Setup(), "without": Setup(image_order=False)},
}


def train_and_measure(setup: Setup, seed: int, steps: int, samples: int) -> pd.DataFrame:
    """One training and its accuracy for each task, with its seconds and its gates."""
    changed = {name: value for name, value in vars(setup).items() if name != "frozen"}
    model, processor = add_cross_attention(*load_base_model(get_profile("tiny")), seed=seed,
                                           **changed)
    if setup.frozen:
        freeze_language_model(model)
    seconds = train_on_mixture(model, processor, seed, steps)
    questions = test_questions(TASKS, samples, model, processor)
    measured = evaluate(model, processor, questions)[[*KEY, "samples", "accuracy"]]
    return measured.assign(seed=seed, seconds=seconds, gates=json.dumps(gates(model)))


def train_on_mixture(model, processor, seed: int, steps: int,
                     clock: Callable[[], float] = time.perf_counter) -> float:
    """Train on lesson 08's mixture, with the settings of the tiny profile; returns the seconds."""
    profile = get_profile("tiny")
    table = add_orientations(load_image_table(profile, "train"), profile.orientations)
    table.image_features = encode_table(table, model, processor)
    settings = TrainingSettings.of(profile, steps=steps, seed=seed)
    share = min(1, settings.steps * settings.batch_size / sum(MIXTURE.values()) + 0.01)
    mixture = {name: round(share * count) for name, count in MIXTURE.items()}
    run = start_run(model, processor, build_tasks(table, mixture, seed=seed), settings)
    started = clock()
    train(run)
    return clock() - started


def freeze_language_model(model) -> None:
    """All but its cross-attention blocks."""
    for name, weight in model.language_model.named_parameters():
        weight.requires_grad_("cross_attention" in name)


# --- what is stored ----------------------------------------------------------------------------

def stored_results(stored: dict) -> dict[Setup, list[pd.DataFrame]]:
    """The trainings of a report, as train_and_measure returned them, one table for each seed.

    Of seconds and gates a row holds the mean and those of the first seed: each gets these.
    """
    results = {}
    for (comparison, arm), rows in pd.DataFrame(stored["rows"]).groupby(["comparison", "arm"]):
        if (setup := COMPARISONS.get(comparison, {}).get(arm)) is None:
            raise ValueError(f"the file has an arm {arm!r} of {comparison!r}, which this command "
                             "does not know: give --output another file")
        results[setup] = per_seed(rows)
    return results


def per_seed(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """One arm's stored rows, each over several seeds, as one table for each seed."""
    tables = []
    for seed in range(0 if rows.empty else len(rows["seeds"].iloc[0])):
        table = rows[[*KEY, "samples", "seconds"]].assign(seed=seed)
        # Stored with three digits; the number of right answers is whole.
        table["accuracy"] = [round(row.seeds[seed] * row.samples) / row.samples
                             for row in rows.itertuples()]
        if "gates" in rows:
            table["gates"] = [json.dumps(opened) for opened in rows["gates"]]
        tables.append(table.reset_index(drop=True))
    return tables


def read_report(path: Path | None, settings: dict) -> dict | None:
    """The report that a file holds, or None if there is none yet.

    Raises ValueError if it was made with other settings: their numbers do not belong together.
    """
    if path is None or not path.exists():
        return None
    stored = json.loads(path.read_text())
    for name, value in settings.items():
        if (found := stored["settings"].get(name)) != value:
            raise ValueError(f"{path} was made with {name} {found}, not {value}: give --{name} "
                             f"{found}, or --output another file")
    return stored


# --- the table ---------------------------------------------------------------------------------

def tabulate(results: dict[Setup, list[pd.DataFrame]], chosen: list[str]) -> pd.DataFrame:
    """One row for each comparison, arm, task and number of images, over the seeds that are done."""
    parts = []
    for comparison in chosen:
        for arm, setup in COMPARISONS[comparison].items():
            if results.get(setup):
                part = over_seeds([each.drop(columns=["gates"]) for each in results[setup]])
                part["samples"] = part["samples"].astype(int)
                part["gates"] = [json.loads(results[setup][0]["gates"].iloc[0])] * len(part)
                parts.append(part.assign(comparison=comparison, arm=arm))
    table = pd.concat(parts, ignore_index=True)
    return table.assign(differs=differing_arms(table))


def main() -> None:
    options = parse_options(__doc__, list(COMPARISONS), steps=450, samples=200)
    same_for_everyone()
    asked = {name: getattr(options, name) for name in ("steps", "samples")}
    stored = read_report(options.output, asked) or {"settings": {"only": []}, "seconds": 0}
    results = stored_results(stored) if "rows" in stored else {}
    chosen = [name for name in COMPARISONS if name in options.only + stored["settings"]["only"]]
    setups = dict.fromkeys(setup for name in options.only for setup in COMPARISONS[name].values())
    runs = [(setup, seed) for setup in setups
            for seed in range(len(results.setdefault(setup, [])), options.seeds)]
    started = time.perf_counter()
    for number, (setup, seed) in enumerate(runs, start=1):
        results[setup].append(train_and_measure(setup, seed, options.steps, options.samples))
        say(f"run {number} of {len(runs)}: {setup}, seed {seed}, "
            f"{results[setup][-1]['seconds'].iloc[0]:.0f} s of training")
        if options.output:
            options.output.write_text(report(
                asked, chosen, results, stored["seconds"] + time.perf_counter() - started) + "\n")
    print(tabulate(results, chosen).drop(columns=["gates"]).round(3).to_string(index=False))
    result = report(asked, chosen, results, stored["seconds"] + time.perf_counter() - started)
    print(result)
    if options.output:
        options.output.write_text(result + "\n")


def report(settings: dict, chosen: list[str], results: dict[Setup, list[pd.DataFrame]],
           seconds: float) -> str:
    """The JSON line. Its seeds are those that every arm has."""
    table = tabulate(results, chosen)
    settings = {"seeds": int(table["seeds"].map(len).min())} | settings | {"only": chosen}
    return json.dumps({
        "benchmark": "cross_attention", "settings": settings,
        "machine": machine(get_device().type), "seconds": round(seconds),
        "rows": json.loads(table.round(4).to_json(orient="records"))})


if __name__ == "__main__":
    main()
