"""A training of twelve steps that takes a moment, for tests and for the commands beside them."""

from functools import lru_cache

import numpy as np
import torch
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image
from small_models import MAX_IMAGES, MERGE, SIDE, TEXTS, TOKENS, small_llama, small_vit
from transformers import ViTImageProcessorPil

from vlm_utils.architecture import MultiImageProcessor, MultiImageVLM, join_parts
from vlm_utils.datasets import ImageTable, TaskDataset, Truth, build_tasks
from vlm_utils.making.base_model import make_tokenizer
from vlm_utils.profiles import TrainingSettings
from vlm_utils.training import resume_run, start_run, train

# The loss of each step is that of a run in which dropout draws random numbers: only a resumed run
# with the same random state goes on as if it had not been interrupted.
SETTINGS = TrainingSettings(steps=12, batch_size=8, learning_rate=3e-3, warmup_steps=2,
                            checkpoint_every=4)
MIXTURE = {"select 2": 12, "refer 1-3": 16}         # 28 samples: 3 batches an epoch
IMAGES = 16


@lru_cache
def small_processor() -> MultiImageProcessor:
    return MultiImageProcessor(
        make_tokenizer(TEXTS, MAX_IMAGES),
        ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}), tokens_per_image=TOKENS,
        max_images=MAX_IMAGES, max_length=512)


def small_model(seed: int = 0, dropout: float = 0.1) -> MultiImageVLM:
    processor = small_processor()
    torch.manual_seed(seed)
    language_model = small_llama(processor.tokenizer, attention_dropout=dropout)
    return join_parts(
        small_vit(), language_model, merge_factor=MERGE, max_images=MAX_IMAGES,
        image_token_id=processor.image_token_id).freeze_vision_encoder().eval()


def small_dataset(seed: int = 0, mixture: dict[str, int] | None = None) -> TaskDataset:
    """Captioned noise, and features that no encoder had to compute."""
    rng = np.random.default_rng(seed)
    pictures = [Image.fromarray(rng.integers(0, 256, (8, 8, 3)).astype(np.uint8))
                for _ in range(IMAGES)]
    dataset = Dataset.from_dict({"image": pictures}, features=Features({"image": ImageFeature()}))
    captions = [[f"Image {row} shows thing {row}."] for row in range(IMAGES)]
    truth = Truth([None] * IMAGES, captions, [(row,) for row in range(IMAGES)])
    features = rng.standard_normal((IMAGES, TOKENS * MERGE**2, 32)).astype(np.float16)
    table = ImageTable("noise", dataset, truth, image_features=torch.from_numpy(features))
    return build_tasks(table, mixture or MIXTURE, seed=0)


def small_run(settings: TrainingSettings = SETTINGS, dataset: TaskDataset | None = None,
              device: torch.device | str = "cpu", dropout: float = 0.1):
    return start_run(small_model(dropout=dropout).to(device), small_processor(),
                     dataset or small_dataset(), settings)


def losses_of(run, folder=None, on_step=None) -> list[float]:
    return train(run, folder, on_step)["loss"].tolist()


def resumed_losses(folder, dataset: TaskDataset | None = None, **options) -> list[float]:
    return losses_of(resume_run(folder, dataset or small_dataset(), **options), folder)


def interrupt_after(step: int):
    """An on_step that presses the stop button after a step."""
    def on_step(row):
        if row["step"] == step:
            raise KeyboardInterrupt
    return on_step
