"""Hours of a notebook's life: train, evaluate, explore, retrain and delete, again and again.

    python tests/long_life.py --rounds 30

One kernel does all rounds. After each, what the process holds is written down; after the third,
nothing may grow. Prints a table and, as its last line, the growth as JSON; ends with status 1 if
something has grown.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import pandas as pd
from jupyter_client.manager import start_new_kernel

REPOSITORY = Path(__file__).resolve().parents[1]
SETTLED = 3                     # rounds until caches, pools and lazy imports have been filled
# What may come on top of the level after the third round: of the process, what the C library keeps
# of one round's blocks; of everything else nothing, or it would be more after a day.
ALLOWED = {"process": 24.0, "tensors": 0.5, "files": 0, "threads": 0, "temporary": 0, "widgets": 0,
           "figures": 0, "checkpoints": 0}
START = """
import os, tempfile, threading
from pathlib import Path

import psutil
from ipywidgets.widgets import widget as widgets
from matplotlib import pyplot

from vlm_utils.datasets import build_tasks, load_image_table
from vlm_utils.evaluation import evaluate
from vlm_utils.loading import lesson_checkpoint, load_base_model, load_checkpoint
from vlm_utils.memory import memory_report, release
from vlm_utils.plots import LiveLoss, draw_samples, show
from vlm_utils.profiles import announce, get_profile
from vlm_utils.training import TrainingSettings, encode_table, resume_run, start_run, train
from vlm_utils.widgets import Explorer

profile = get_profile()
announce(profile)
"""
ROUND = """
model, processor = load_base_model(profile)
table = load_image_table(profile, "validation", with_truth=True)
table.image_features = encode_table(table, model, processor)
samples = build_tasks(table, {"select 2": 40, "compare 2": 40, "sequence 2-4": 40}, seed=0)
settings = TrainingSettings.of(profile, steps=12, batch_size=8, warmup_steps=2, checkpoint_every=6)
folder = lesson_checkpoint(profile)

def interrupt(row):
    if row["step"] == 7:
        raise KeyboardInterrupt

train(start_run(model, processor, samples, settings), folder, on_step=interrupt)
run = resume_run(folder, samples)
history = train(run, folder, on_step=LiveLoss(settings.steps))
model, processor = load_checkpoint(folder)
scores = evaluate(model, processor, samples)
show(draw_samples([samples.with_images(0)], ["an answer"]), "One sample.")
explorer = Explorer(model, processor, samples)
explorer.show()
for task in explorer.task.options:
    explorer.task.value = task
    explorer.number.value = 1
explorer.prompt.value = "<image>There is one image too few."
try:
    model(input_ids=None)
except Exception as error:
    print(type(error).__name__)
scores
"""
END = """
release(globals(), "explorer", "model", "processor", "table", "samples", "run", "history",
        "scores")
process = psutil.Process()
report = memory_report()
import json
print("MEASURED", json.dumps({
    "process": report.process, "tensors": report.tensors, "files": process.num_fds(),
    "threads": threading.active_count(), "temporary": len(os.listdir(tempfile.gettempdir())),
    "widgets": len(widgets._instances),
    "figures": len(pyplot.get_fignums()),
    "checkpoints": sum(1 for path in Path(os.environ["VLM_OUTPUT"]).rglob("*"))}))
"""


def live(rounds: int, place: Path) -> pd.DataFrame:
    """What the kernel holds after each round, one row per round; memory in MB, all else counted.

    place: an empty folder, for temporary files and for what the lessons write.
    """
    folders = {"TMPDIR": place / "temporary", "VLM_OUTPUT": place / "output"}
    for folder in folders.values():
        folder.mkdir()
    environment = os.environ | {name: str(folder) for name, folder in folders.items()}
    environment |= {"PYTHONPATH": str(REPOSITORY), "VLM_PROFILE": "tiny"}
    environment.pop("VLM_IMAGES", None)
    manager, client = start_new_kernel(env=environment, cwd=str(REPOSITORY / "notebooks"))
    try:
        run(client, START)
        rows = []
        for _ in range(rounds):
            run(client, ROUND)
            printed = run(client, END)
            rows.append(json.loads(printed.split("MEASURED ")[1].splitlines()[0]))
        return pd.DataFrame(rows, index=pd.RangeIndex(1, rounds + 1, name="round"))
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def run(client, code: str) -> str:
    """What a cell prints. Raises RuntimeError with its traceback if it fails."""
    printed = []

    def hook(message):
        if message["msg_type"] == "stream":
            printed.append(message["content"]["text"])
    reply = client.execute_interactive(code, output_hook=hook)
    if reply["content"]["status"] != "ok":
        raise RuntimeError("\n".join(reply["content"]["traceback"]))
    return "".join(printed)


def growth(table: pd.DataFrame) -> pd.Series:
    """How much more each thing is at the end than after the third round.

    Of memory the least of the last three rounds counts against the most of rounds 3 to 5: what
    comes and goes is not a leak. Everything else counts as it is.
    """
    found = table.iloc[-1] - table.loc[SETTLED]
    for name in ("process", "tensors"):
        found[name] = table[name].iloc[-3:].min() - table[name].loc[SETTLED:SETTLED + 2].max()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Does a long-lived notebook grow?")
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        table = live(options.rounds, Path(place))
    print(table.round(1).to_string())
    grown = growth(table)
    print(json.dumps(grown.round(2).to_dict()))
    return int(any(grown[name] > most for name, most in ALLOWED.items()))


if __name__ == "__main__":
    sys.exit(main())
