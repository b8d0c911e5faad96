"""The file of metrics of a job: a line for each step, as JSON or in a table."""

from __future__ import annotations

import csv
import json
from contextlib import suppress

from vlm_utils.scaling.plan import Job
from vlm_utils.sources.checkpoints import brief
from vlm_utils.training import TrainingRun
from vlm_utils.training.processes import in_first_process


class Metrics:
    """An on_step that writes a line for each step, and prints one now and then.

    The file is written again from the run's history when it begins: what a killed job had written
    after its last checkpoint is not there twice. Only process 0 writes.
    """

    def __init__(self, job: Job, run: TrainingRun):
        self.job, self.run, self.losses = job, run, []
        self.per_step = run.settings.batch_size * run.settings.accumulation

    def __enter__(self) -> Metrics:
        in_first_process(self.run.accelerator, self._open)
        return self

    def __exit__(self, *error) -> None:
        if self.run.accelerator.is_main_process:
            with suppress(OSError):             # what cannot be written has been said
                self.file.close()

    def __call__(self, row: dict) -> None:
        if not self.run.accelerator.is_main_process:
            return
        self._write(row)
        self.losses.append(row["loss"])
        if row["step"] % self.job.log_every == 0 or row["step"] == self.run.settings.steps:
            rate = self.per_step * len(self.losses) / max(1e-9, row["seconds"] - self.since)
            print(f"step {row['step']:6,} of {self.run.settings.steps:,}  loss "
                  f"{sum(self.losses) / len(self.losses):.4f}  {rate:.1f} samples/s  "
                  f"{row['seconds']:.0f} s", flush=True)
            self.losses, self.since = [], row["seconds"]

    def _open(self) -> None:
        self.job.metrics.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(self.job.metrics, "w", encoding="utf-8", newline="")
        self.columns = None
        for row in self.run.history:
            self._write(row)
        self.since = self.run.history[-1]["seconds"] if self.run.history else 0.0

    def _write(self, row: dict) -> None:
        """One line, there for a reader at once. Raises OSError naming the file."""
        row = {"step": row["step"], "samples": row["step"] * self.per_step, **row}
        try:
            if self.job.metrics.suffix == ".jsonl":
                self.file.write(json.dumps(row) + "\n")
            else:
                writer = csv.DictWriter(self.file, list(row))
                if self.columns is None:
                    writer.writeheader()
                self.columns = list(row)
                writer.writerow(row)
            self.file.flush()
        except OSError as error:
            raise OSError(error.errno, f"{brief(self.job.metrics)} cannot be written "
                          f"({error.strerror})") from None
