"""Images in the sequence or beside it: which learns more in the same time?

    python benchmarks/cross_attention_designs.py --seconds 150 --seeds 3

Both start from the base model in data/, train on lesson 08's mixture with the same settings, and
answer the same test questions of every task. Both get the same time: how long a step of each takes
is measured first, in turns, and each gets as many steps as fit. A training cannot simply be stopped
after some seconds, because its learning rate falls towards a last step that it must know. Seconds
are processor time, of all cores together: what other programs do meanwhile does not count.

The base model was trained with its images in the sequence: that design goes on with what it knows,
and the other one starts with copies of it in a new place.

Intervals and `differs` are those of ablations.py. The last line is JSON, which --output also writes
to a file, after each training. If the file is there already, its steps and trainings are kept: so
seeds can be added one by one, as --runs 1 does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from functools import partial

import pandas as pd
from ablations import at_least_one, differing_arms
from common import add_output, machine, same_for_everyone, say
from cross_attention import per_seed, read_report, train_on_mixture
from learning import KEY, LESSON_TASKS, over_seeds, test_questions

from vlm_utils.cross_attention import add_cross_attention
from vlm_utils.evaluation import evaluate
from vlm_utils.loading import load_base_model
from vlm_utils.profiles import get_device, get_profile

DESIGNS = ("in sequence", "beside")
PACE_STEPS, PACE_ROUNDS = 20, 3


def make_model(design: str, seed: int):
    """Model and processor of a design, as lesson 04 or lesson 08 starts."""
    model, processor = load_base_model(get_profile("tiny"))
    if design == "beside":
        return add_cross_attention(model, processor, seed=seed)
    return model, processor


def steps_that_fit(seconds: int) -> dict[str, int]:
    """Optimizer steps of each design in so many seconds of this machine."""
    def pace(design: str, seed: int) -> float:
        return train_on_mixture(*make_model(design, seed), seed, PACE_STEPS,
                                time.process_time) / PACE_STEPS

    paces: dict[str, list[float]] = {design: [] for design in DESIGNS}
    for seed in range(PACE_ROUNDS):
        for design in DESIGNS:
            paces[design].append(pace(design, seed))
    say("; ".join(f"{design}: {1000 * statistics.median(each):.0f} ms a step"
                  for design, each in paces.items()))
    return {design: max(1, round(seconds / statistics.median(each)))
            for design, each in paces.items()}


def train_and_measure(design: str, seed: int, steps: int, samples: int) -> pd.DataFrame:
    """One training, its seconds, and its accuracy for each task and number of images."""
    model, processor = make_model(design, seed)
    seconds = train_on_mixture(model, processor, seed, steps, time.process_time)
    questions = test_questions(LESSON_TASKS, samples, model, processor)
    measured = evaluate(model, processor, questions)[[*KEY, "samples", "accuracy"]]
    return measured.assign(seed=seed, seconds=seconds)


def tabulate(results: dict[str, list[pd.DataFrame]]) -> pd.DataFrame:
    """One row for each design, task and number of images, over the seeds that are done."""
    parts = [over_seeds(tables).assign(comparison="designs", arm=design)
             for design, tables in results.items() if tables]
    table = pd.concat(parts, ignore_index=True)
    table["samples"] = table["samples"].astype(int)
    return table.assign(differs=differing_arms(table))


def report(settings: dict, steps: dict[str, int], results: dict[str, list[pd.DataFrame]],
           seconds: float) -> str:
    """The JSON line. Its seeds are those that both designs have."""
    settings = {"seeds": min(map(len, results.values()))} | settings
    return json.dumps({
        "benchmark": "cross_attention_designs", "settings": settings, "steps": steps,
        "machine": machine(get_device().type), "seconds": round(seconds),
        "rows": json.loads(tabulate(results).round(4).to_json(orient="records"))})


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, text in (
            ("seeds", 3, "trainings of each design"),
            ("seconds", 300, "of each training, of one core"),
            ("samples", 500, "test questions of each task and number of images")):
        parser.add_argument(f"--{name}", type=at_least_one, default=default,
                            help=f"{text} (default: {default})")
    parser.add_argument("--runs", type=at_least_one, help="at most so many seeds now, each "
                        "of both designs, so that both meet the same conditions")
    add_output(parser)
    options = parser.parse_args()
    return options


def main() -> None:
    options = parse_options()
    same_for_everyone()
    settings = {"seconds": options.seconds, "samples": options.samples}
    stored = read_report(options.output, settings) or {"seconds": 0}
    results = {design: per_seed(pd.DataFrame(row for row in stored.get("rows", [])
                                             if row["arm"] == design)) for design in DESIGNS}
    started = time.perf_counter()
    steps = stored.get("steps") or steps_that_fit(options.seconds)
    write = partial(report, settings, steps, results)
    missing = [seed for seed in range(options.seeds)
               if seed >= min(map(len, results.values()))][:options.runs]
    runs = [(design, seed) for seed in missing for design in DESIGNS
            if seed >= len(results[design])]
    for number, (design, seed) in enumerate(runs, start=1):
        results[design].append(train_and_measure(design, seed, steps[design], options.samples))
        say(f"run {number} of {len(runs)}: {design}, seed {seed}, {steps[design]} steps in "
            f"{results[design][-1]['seconds'].iloc[0]:.0f} s")
        if options.output:
            options.output.write_text(
                write(stored["seconds"] + time.perf_counter() - started) + "\n")
    print(tabulate(results).round(3).to_string(index=False))
    result = write(stored["seconds"] + time.perf_counter() - started)
    print(result)
    if options.output:
        options.output.write_text(result + "\n")


if __name__ == "__main__":
    main()
