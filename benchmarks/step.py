"""A training step taken apart: what each change of `vlm_utils.training.faster` is worth.

    OMP_NUM_THREADS=1 python benchmarks/step.py --scale real --output benchmarks/step.json
    python benchmarks/step.py --scale real --fraction 10 --passes 0 --only plain,clipping --profile

The steps are those of training.py at its default number of tokens an image: the same samples in the
same batches, random weights; only the features are noise. Each row keeps the changes of those above
it. In one process they take turns, a pass over the batches each, and a large matrix product is
timed right before and after each pass. All of that by processor time (of all threads), which
another program on the same core disturbs less than the clock: `share` is the time in which such
products would do the useful operations of a pass, over the time of the pass.

Then the first row, `train`'s default and the compiled one train from the same weights, each in a
process of its own: their losses, and the most memory that they took.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from unittest import mock

import torch
from accelerate import Accelerator
from common import (
    SCALES,
    Scale,
    add_output,
    as_table,
    machine,
    make_ours,
    make_samples,
    rounded,
    same_for_everyone,
    say,
)
from training import BATCH_SIZE, LEARNING_RATES, MIXTURE, useful_flops
from workers import Worker

from vlm_utils.collate import LengthGroupedSampler, collate
from vlm_utils.datasets import EncodedSamples, TaskDataset
from vlm_utils.training import TrainingSettings, faster, loop, make_optimizer, training_step


@dataclass(frozen=True)
class Row:
    """One way to take the step. parts: of faster.PARTS."""

    change: str
    parts: tuple[str, ...] = ()
    clipping: bool = False
    compiled: bool = False


PARTS = faster.PARTS        # mask, norms, gates, attention, rows, embedding
ROWS = {
    "plain": Row("transformers' own parts"),
    "mask": Row("no mask where padding is on the right", PARTS[:1]),
    "norms": Row("RMSNorm: one autograd function, LayerNorm's kernel backward", PARTS[:2]),
    "gates": Row("SwiGLU: one autograd function, in place", PARTS[:3]),
    "attention": Row("queries, keys, values: one function; rotary in place", PARTS[:4]),
    "rows": Row("no padding: the batch as one row, each sample attends to itself", PARTS[:5]),
    "embedding": Row("rows of the looked-up words added to the head's gradient", PARTS),
    "clipping": Row("short gradients are not multiplied by 1", PARTS, True),
    "compiled": Row("what is between the products compiled (off by default)", PARTS, True, True),
}
DEFAULT = "clipping"        # the row that `train` takes on a CPU
ALONE = "plain", DEFAULT, "compiled"


class Steps:
    """Model, optimizer and batches of the benchmark, and a pass over them in the way of a row."""

    def __init__(self, scale: Scale, seed: int):
        self.accelerator = Accelerator(cpu=True)
        self.model, processor = make_ours(scale, scale.merges[1][0], seed)
        pictures, recipes = make_samples(scale, MIXTURE, seed)
        table, config = as_table(pictures), self.model.config
        table.image_features = torch.randn(
            len(pictures), config.patches_per_image, config.vision_config.hidden_size).half()
        samples = EncodedSamples(TaskDataset(table, recipes), processor)
        sampler = LengthGroupedSampler(samples.lengths, BATCH_SIZE, seed, TrainingSettings.window)
        self.batches = [collate([samples[i] for i in chosen], processor.pad_token_id)
                        for chosen in sampler]
        places = sum(batch["input_ids"].numel() for batch in self.batches)
        self.facts = {"flops": useful_flops(scale, samples), "places": places,
                      "padding": 1 - sum(samples.lengths) / places}
        settings = TrainingSettings(steps=1, learning_rate=LEARNING_RATES["adamw"])
        self.optimizer = self.accelerator.prepare(make_optimizer(self.model.train(), settings))

    def take(self, row: Row) -> list[float]:
        """One pass; the losses of its steps."""
        clip = faster.clip_gradients if row.clipping else clip_all
        with mock.patch.object(loop, "clip_gradients", clip), \
                mock.patch.dict(faster.KERNELS, compiled_kernels() if row.compiled else {}):
            faster.speed_up(self.model, row.parts)
            try:
                return [training_step(self.accelerator, self.model, self.optimizer, [batch])
                        for batch in self.batches]
            finally:
                faster.slow_down(self.model)


def clip_all(accelerator: Accelerator, model, max_norm: float) -> None:
    accelerator.clip_grad_norm_(model.parameters(), max_norm)


@cache
def compiled_kernels() -> dict[str, Callable]:
    with mock.patch.dict(faster.KERNELS):
        faster.compile_kernels()
        return dict(faster.KERNELS)


# --- in a process of its own ----------------------------------------------------------------------

def take_turns(turn: Callable[[dict], None], scale: Scale, seed: int, names: list[str],
               profile: bool) -> None:
    """Each turn a round: seconds and share of each row."""
    steps = Steps(scale, seed)
    warm = {name: cpu_seconds(lambda name=name: steps.take(ROWS[name])) for name in names}
    turn(steps.facts | {"first_pass": warm})
    while True:
        found = {}
        for name in names:
            before, started = product_speed(), time.perf_counter()
            seconds = cpu_seconds(lambda name=name: steps.take(ROWS[name]))
            clock, after = time.perf_counter() - started, product_speed()
            reached = steps.facts["flops"] / seconds
            found[name] = {"cpu_seconds": seconds, "seconds": clock, "product": [before, after],
                           "share": reached / statistics.mean([before, after])}
        if profile:
            for name in names:
                with torch.profiler.profile() as trace:
                    steps.take(ROWS[name])
                say(name + "\n" + trace.key_averages().table(
                    sort_by="self_cpu_time_total", row_limit=30, max_name_column_width=60))
        turn({"rows": found})


def train_alone(turn: Callable[[dict], None], scale: Scale, seed: int, name: str,
                passes: int) -> None:
    """The losses of some passes; with them the worker hands over the most memory it took."""
    steps = Steps(scale, seed)
    losses, seconds, shares = [], [], []
    for _ in range(passes):
        before = product_speed()
        seconds.append(cpu_seconds(lambda: losses.extend(steps.take(ROWS[name]))))
        reached = steps.facts["flops"] / seconds[-1]
        shares.append(reached / statistics.mean([before, product_speed()]))
    turn({"losses": losses, "cpu_seconds": seconds, "share": shares})


def cpu_seconds(action: Callable[[], object]) -> float:
    started = time.process_time()
    action()
    return time.process_time() - started


def product_speed(side: int = 2048) -> float:
    """FLOP per second of processor time in a large matrix product: the best of three."""
    a = torch.ones(side, side)
    return 2 * side**3 / min(cpu_seconds(lambda: a @ a) for _ in range(3))


# --- the table ------------------------------------------------------------------------------------

def main() -> None:
    options = parse()
    same_for_everyone()
    scale = smaller(SCALES[options.scale], options.fraction)
    result = {"benchmark": "step", "settings": {
        name: value for name, value in vars(options).items() if name != "output"},
        "default": DEFAULT, "machine": machine("cpu"),
        "rows": {name: {"change": ROWS[name].change} for name in options.only}}
    worker = Worker(take_turns, scale, options.seed, options.only, options.profile)
    try:
        facts = worker.next()
        result |= {key: facts[key] for key in ("flops", "places", "padding", "first_pass")}
        say(f"{result['padding']:.1%} of {result['places']} places are padding")
        rounds = []
        for number in range(1, options.rounds + 1):
            rounds.append(worker.next()["rows"])
            for name, found in rounds[-1].items():
                say(f"round {number}: {name:10} {found['cpu_seconds']:.2f} s of processor time, "
                    f"share {found['share']:.3f}")
            for name in options.only:
                result["rows"][name] |= summary([each[name] for each in rounds])
            write(result, options.output)       # a run that is cut off leaves what it has
    finally:
        worker.stop()
    losses: dict[str, list[float]] = {}     # of the first row: all others should have its own
    alone_too = [name for name in options.only if name in ALONE and options.passes]
    for name in alone_too:
        found = alone(scale, options, name)
        losses.setdefault("first", found["losses"])
        result["rows"][name] |= {"losses": found["losses"], "peak_mb": found["peak_mb"],
                                 "losses_apart": max(abs(a - b) for a, b in zip(
                                     losses["first"], found["losses"], strict=True)),
                                 "alone": {"cpu_seconds": found["cpu_seconds"],
                                           "share": found["share"]}}
        say(f"{name:10} alone: {found['peak_mb']:.0f} MB, losses "
            + " ".join(f"{loss:.5f}" for loss in found["losses"]))
        write(result, options.output)
    print(json.dumps(rounded(result)))


def smaller(scale: Scale, fraction: int) -> Scale:
    """The same widths with a fraction of the layers and of the vocabulary."""
    if fraction == 1:
        return scale
    text = {key: scale.text[key] // fraction for key in ("num_hidden_layers", "vocab_size")}
    return replace(scale, vision=scale.vision | {"num_hidden_layers": 1}, text=scale.text | text)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fraction", type=int, default=1,
                        help="10: a tenth of the layers and of the vocabulary, for a first look in "
                             "half a minute (default: 1)")
    parser.add_argument("--rounds", type=int, default=3, help="timed turns of each (default: 3)")
    parser.add_argument("--passes", type=int, default=2,
                        help="of each alone, for losses and memory; 0 for not (default: 2)")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(ROWS),
                        help=f"rows, separated by commas: {', '.join(ROWS)}")
    parser.add_argument("--profile", action="store_true", help="print torch's profile of each row")
    add_output(parser)
    options = parser.parse_args()
    unknown = set(options.only) - set(ROWS)
    if unknown:
        parser.error(f"--only: no such row: {', '.join(sorted(unknown))}; there are "
                     f"{', '.join(ROWS)}")
    return options


def summary(rounds: list[dict]) -> dict:
    """Medians over the rounds, and each round's numbers."""
    return {"cpu_seconds": statistics.median(each["cpu_seconds"] for each in rounds),
            "share": statistics.median(each["share"] for each in rounds), "rounds": rounds}


def alone(scale: Scale, options: argparse.Namespace, name: str) -> dict:
    """The result of train_alone, in a process with the row's environment."""
    worker = Worker(train_alone, scale, options.seed, name, options.passes)
    try:
        return worker.next()
    finally:
        worker.stop()


def write(result: dict, path: Path | None) -> None:
    if path:
        path.write_text(json.dumps(rounded(result)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
