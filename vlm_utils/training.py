"""Lesson 04: training the projector and the language model on encoded images.

The vision encoder is frozen, so each image is encoded once and its features are kept in a
memory-mapped file. One loop serves every device, precision and number of processes (accelerate).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import get_cosine_schedule_with_warmup

from vlm_utils.architecture import MultiImageVLM
from vlm_utils.collate import LengthGroupedSampler, pad_texts
from vlm_utils.datasets import ImageTable, TaskDataset, encode_samples
from vlm_utils.loading import recover_checkpoint
from vlm_utils.processor import MultiImageProcessor
from vlm_utils.profiles import Profile, get_device, output_folder

_STATE = "training_state.pt"


@dataclass(frozen=True)
class TrainingSettings:
    """steps: optimizer steps, each of batch_size x accumulation samples. precision: "no" (float32),
    "bf16" or "fp16". checkpoint_every: steps between checkpoints, 0 for none on the way. window:
    batches of samples that are sorted by length together (collate.LengthGroupedSampler): many save
    padding, few mix the tasks in every batch. average: over "samples" the loss of a short answer
    counts as much as that of a long one, over "tokens" each token counts the same. optimizer:
    "adamw"; "muon" for the matrices and AdamW for the rest; or "adafactor", which keeps row and
    column sums where AdamW keeps two numbers a weight, and whose learning rate is a share of each
    matrix's own size: about 1e-2."""

    steps: int
    batch_size: int = 64
    accumulation: int = 1
    learning_rate: float = 2e-3
    warmup_steps: int = 200
    weight_decay: float = 0.05
    max_grad_norm: float = 1.0
    precision: str = "no"
    checkpoint_every: int = 0
    window: int = 2
    average: str = "samples"
    optimizer: str = "adamw"
    seed: int = 0

    @classmethod
    def of(cls, profile: Profile, **changes) -> TrainingSettings:
        """The numbers of a profile, with changes."""
        names = ("steps", "batch_size", "accumulation", "learning_rate", "warmup_steps",
                 "weight_decay", "precision", "optimizer", "seed")
        settings = cls(**{name: getattr(profile, name) for name in names})
        if not torch.cuda.is_available():
            settings = replace(settings, precision="no")
        return replace(settings, **changes)


class FeatureTable:
    """Encoded images on disk, read row by row without loading the file (memory-mapped).

    table[[3, 5]] is (2, patches, vision_dim), float16.
    """

    key = "image_features"

    def __init__(self, dataset, patches: int):
        self.patches = patches
        self.chunks = [chunk.flatten().to_numpy().reshape(len(chunk), patches, -1)
                       for chunk in dataset.data.column("features").chunks]
        self.starts = np.cumsum([0] + [len(c) for c in self.chunks])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, rows: list[int]) -> Tensor:
        where = np.searchsorted(self.starts, rows, side="right") - 1
        return torch.from_numpy(np.stack(
            [self.chunks[c][r - self.starts[c]] for c, r in zip(where, rows, strict=True)]))


def encode_table(table: ImageTable, model: MultiImageVLM, processor: MultiImageProcessor,
                 batch_size: int = 128) -> FeatureTable:
    """Encode every image of a table once, with `datasets.map`, into a file that is found again.

    The file is named after images, encoder weights and preprocessing: change one of them and the
    features are computed anew.
    """
    from datasets import Features, List, Value
    name = _fingerprint(table, model, processor)
    config = model.config
    width = config.patches_per_image * config.vision_config.hidden_size
    folder = output_folder() / "features"
    folder.mkdir(parents=True, exist_ok=True)

    def encode(rows: list[int]) -> dict[str, np.ndarray]:
        pixels = processor.pixel_values([table.image(row) for row in rows])
        with torch.inference_mode():
            features = model.encode_images(pixels.to(model.device))    # (rows, patches, dim)
        return {"features": features.half().cpu().numpy().reshape(len(rows), -1)}

    encoded = table.dataset.map(
        encode, with_indices=True, batched=True, batch_size=batch_size,
        remove_columns=table.dataset.column_names, input_columns=[], new_fingerprint=name,
        features=Features({"features": List(Value("float16"), length=width)}),
        cache_file_name=str(folder / f"{name}.arrow"), desc=f"encoding {table.name}")
    return FeatureTable(encoded, config.patches_per_image)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Trainable parameters in two groups: matrices decay; embeddings, norms and biases do not.

    Token rows that a batch does not use get no gradient; decay would shrink them all the same.
    """
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding)
                  for p in m.parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.ndim >= 2 and id(p) not in embeddings]
    kept = [p for p in trained if p.ndim < 2 or id(p) in embeddings]
    return [{"params": decayed, "weight_decay": weight_decay},
            {"params": kept, "weight_decay": 0.0}]


class MuonAndAdamW(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for the matrices that decay, AdamW for everything else.

    One object with one state, so that schedule, accelerate and checkpoints need not know. Muon's
    steps are scaled to the size of AdamW's, so both take the same learning rate.
    """

    def __init__(self, groups: list[dict], lr: float):
        decayed, kept = groups
        matrices = [p for p in decayed["params"] if p.ndim == 2]
        others = [decayed | {"params": [p for p in decayed["params"] if p.ndim != 2]}, kept]
        self.parts = [
            torch.optim.Muon(matrices, lr=lr, weight_decay=decayed["weight_decay"],
                             adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), fused=True)]
        super().__init__([group for part in self.parts for group in part.param_groups], {})

    @property
    def state(self) -> dict:
        """What both keep for their parameters; memory reports read it."""
        return {p: kept for part in self.parts for p, kept in part.state.items()}

    @state.setter
    def state(self, value) -> None:
        """Held by the parts: what the base class assigns when it is made is empty."""

    def step(self, closure=None):
        loss = None if closure is None else closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)  # puts new groups in the place of the old
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def make_optimizer(model: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """The settings' optimizer. Raises ValueError for one that the course does not have."""
    groups = parameter_groups(model, settings.weight_decay)
    if settings.optimizer == "muon":
        return MuonAndAdamW(groups, settings.learning_rate)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98), fused=True)
    if settings.optimizer == "adafactor":
        return torch.optim.Adafactor(groups, lr=settings.learning_rate)
    raise ValueError('the optimizer is "adamw", "muon" or "adafactor", '
                     f"not {settings.optimizer!r}")


class EncodedSamples(torch.utils.data.Dataset):
    """The samples of a TaskDataset, tokenised once: no step does it again."""

    def __init__(self, dataset: TaskDataset, processor: MultiImageProcessor):
        if dataset.features is None:
            raise ValueError("the images are not encoded: set dataset.features = "
                             "encode_table(dataset.table, model, processor)")
        unknown = [i for i, r in enumerate(dataset.recipes) if r.answer is None]
        if unknown:
            raise ValueError(f"sample {unknown[0]} has no answer to learn from "
                             f"({len(unknown)} of {len(dataset)}): add captions to the images")
        self.recipes, self.features = dataset.recipes, dataset.features
        self.pad_token_id = processor.pad_token_id
        self.image_token_id = processor.image_token_id
        self.texts = encode_samples(dataset.recipes, processor)
        self.lengths = [len(text["input_ids"]) for text in self.texts]

    def __len__(self) -> int:
        return len(self.recipes)

    def __getitem__(self, i: int) -> int:
        return i

    def collate(self, chosen: list[int]) -> dict[str, Tensor]:
        """A training batch: padded texts and the flat stack of encoded images."""
        batch = pad_texts([self.texts[i] for i in chosen], self.pad_token_id, left=False)
        rows = [row for i in chosen for row in self.recipes[i].rows]
        batch[self.features.key] = self.features[rows]
        return batch

    def loader(self, batch_size: int, seed: int, window: int) -> DataLoader:
        if len(self) < batch_size:
            raise ValueError(f"{len(self)} samples do not fill one batch of {batch_size}: "
                             "choose a smaller batch_size")
        sampler = LengthGroupedSampler(self.lengths, batch_size, seed, window)
        return DataLoader(self, batch_sampler=sampler, collate_fn=self.collate)


def train(model: MultiImageVLM, dataset: TaskDataset | EncodedSamples,
          processor: MultiImageProcessor, settings: TrainingSettings,
          folder: str | Path | None = None, resume: bool = False,
          on_step: Callable[[dict], None] | None = None) -> pd.DataFrame:
    """Train the model's unfrozen parameters; returns step, loss, learning rate and seconds.

    dataset: EncodedSamples where several runs share them, else they are made here. folder: where
    checkpoints go. resume: go on from the checkpoint there, with the same batches
    in the same order as if there had been no interruption. on_step: called after each step with
    its row. An interrupt (the stop button) saves a checkpoint, where there is a folder, and
    returns what was reached. Raises FloatingPointError where the loss is no number.
    """
    from tqdm.auto import tqdm
    set_seed(settings.seed)
    AcceleratorState._reset_state()  # a second run in one notebook may choose another precision
    accelerator = Accelerator(mixed_precision=settings.precision, cpu=get_device().type == "cpu")
    samples = dataset if isinstance(dataset, EncodedSamples) \
        else EncodedSamples(dataset, processor)
    optimizer = make_optimizer(model, settings)
    schedule = get_cosine_schedule_with_warmup(optimizer, settings.warmup_steps, settings.steps)
    loader = samples.loader(settings.batch_size, settings.seed, settings.window)
    wrapped, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    history: list[dict] = []
    if resume:
        history = load_training_state(folder, optimizer, schedule, settings)
    batches = _endless(loader, skip=len(history) * settings.accumulation)
    model.train()
    started = time.perf_counter() - (history[-1]["seconds"] if history else 0)
    # Said only where it is to be silent: a False would overrule TQDM_DISABLE.
    silent = {} if accelerator.is_main_process else {"disable": True}
    bar = tqdm(total=settings.steps, initial=len(history), leave=False, unit="step", mininterval=1,
               **silent)
    try:
        for step in range(len(history) + 1, settings.steps + 1):
            window = [next(batches) for _ in range(settings.accumulation)]
            loss = _accumulate(accelerator, wrapped, window, settings.average)
            if not np.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss} at step {step}: lower the learning "
                                         "rate, or look for a sample without an answer")
            accelerator.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            history.append({"step": step, "loss": loss, "learning_rate": schedule.get_last_lr()[0],
                            "seconds": time.perf_counter() - started})
            bar.update()
            if on_step is not None:
                on_step(history[-1])
            if folder and settings.checkpoint_every and step % settings.checkpoint_every == 0:
                save_checkpoint(folder, model, processor, optimizer, schedule, history, settings)
    except KeyboardInterrupt:
        print(f"interrupted after step {len(history)} of {settings.steps}")
    finally:
        bar.close()
    if folder and accelerator.is_main_process:
        save_checkpoint(folder, model, processor, optimizer, schedule, history, settings)
    optimizer.zero_grad(set_to_none=True)
    model.eval()
    return pd.DataFrame(history)


def print_progress(every: int) -> Callable[[dict], None]:
    """An on_step that prints step, mean loss and seconds once in so many steps."""
    losses: list[float] = []

    def report(row: dict) -> None:
        losses.append(row["loss"])
        if row["step"] % every == 0:
            print(f"step {row['step']:5d}  loss {np.mean(losses[-every:]):.4f}  "
                  f"{row['seconds']:.0f} s", flush=True)
    return report


def answer_weights(labels: Tensor, average: str) -> Tensor:
    """What each label (batch, length) counts: as much as any other, or its share of its sample.

    Without shares, a selection, answered by one identifier, weighs a quarter of a comparison.
    Raises ValueError where average is neither "tokens" nor "samples".
    """
    learnt = (labels != -100).float()
    if average == "tokens":
        return learnt
    if average == "samples":
        return learnt / learnt.sum(dim=1, keepdim=True).clamp(min=1)
    raise ValueError(f'average is "tokens" or "samples", not {average!r}')


def _accumulate(accelerator: Accelerator, model: nn.Module, window: list[dict],
                average: str) -> float:
    """Gradients of several batches as of one. Returns the loss."""
    weights = [answer_weights(batch["labels"], average) for batch in window]
    count = sum(w.sum() for w in weights)
    count = accelerator.reduce(count, "sum") / accelerator.num_processes
    total = 0.0
    for i, batch in enumerate(window):
        last = i == len(window) - 1
        with nullcontext() if last else accelerator.no_sync(model), accelerator.autocast():
            loss = model(**batch, loss_weights=weights[i], num_items_in_batch=count,
                         use_cache=False).loss
            accelerator.backward(loss)
        total += loss.detach()
    return float(accelerator.reduce(total, "mean"))


def _endless(loader: DataLoader, skip: int) -> Iterator[dict]:
    """Batches epoch after epoch, the first `skip` of them left out without reading them."""
    per_epoch = len(loader)
    sampler = loader.batch_sampler
    while not hasattr(sampler, "epoch"):  # accelerate may wrap it
        sampler = sampler.batch_sampler
    sampler.epoch = skip // per_epoch
    if skip % per_epoch:
        yield from skip_first_batches(loader, skip % per_epoch)
    while True:
        yield from loader


def save_checkpoint(folder: str | Path, model: MultiImageVLM, processor: MultiImageProcessor,
                    optimizer, schedule, history: list[dict], settings: TrainingSettings) -> None:
    """Model and processor as from_pretrained reads them, and beside them what resuming needs.

    Written to a folder beside and moved into place: a crash leaves the last checkpoint whole.
    """
    folder = Path(folder)
    recover_checkpoint(folder)
    fresh = folder.with_name(folder.name + ".new")
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(fresh, ignore_errors=True)
    model.save_pretrained(fresh)
    processor.save_pretrained(fresh)
    torch.save({"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(),
                "history": history, "settings": vars(settings),
                "random": torch.get_rng_state(),
                "random_cuda": torch.cuda.get_rng_state_all()}, fresh / _STATE)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load_training_state(folder: str | Path, optimizer, schedule,
                        settings: TrainingSettings) -> list[dict]:
    """Put optimizer, schedule and random state back; returns the history so far.

    The weights are read with from_pretrained before. Raises FileNotFoundError where there is no
    checkpoint, ValueError where it was made with other settings.
    """
    if folder:
        recover_checkpoint(folder)
    folder = Path(folder or "")
    path = folder / _STATE
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint to resume from: {path} is missing")
    state = torch.load(path, weights_only=True, map_location="cpu")
    ours = vars(settings)
    then = state["settings"]
    different = {k: (then.get(k), ours.get(k)) for k in then.keys() | ours.keys()
                 if k != "checkpoint_every" and then.get(k) != ours.get(k)}
    if different:
        raise ValueError(f"{folder} was trained with other settings (then, now): {different}")
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    torch.set_rng_state(state["random"])
    if len(state["random_cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["random_cuda"])
    return state["history"]


def _fingerprint(table: ImageTable, model: MultiImageVLM, processor: MultiImageProcessor) -> str:
    digest = hashlib.sha256(table.dataset._fingerprint.encode())
    for name, weight in sorted(model.vision_encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().float().cpu().numpy().tobytes())
    settings = processor.image_processor.to_dict()
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:24]
