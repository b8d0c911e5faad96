"""Ask a model one sample, or many: the one place where the course generates answers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from vlm_utils.architecture import MultiImageProcessor, MultiImageVLM
from vlm_utils.collate import collate
from vlm_utils.datasets import Sample, encode_samples


def make_prompt_batch(model: MultiImageVLM, processor: MultiImageProcessor,
                      samples: Sequence[Sample]) -> dict[str, Tensor]:
    """The prompts and images of samples as one batch on the model's device, padded on the left.

    Raises ValueError naming the sample whose prompt does not fit its images.
    """
    encoded = encode_samples(samples, processor, for_generation=True)
    batch = collate(encoded, processor.pad_token_id, left=True)
    return {name: values.to(model.device) for name, values in batch.items()}


def answer_samples(model: MultiImageVLM, processor: MultiImageProcessor,
                   samples: Sequence[Sample], max_new_tokens: int = 48,
                   **generation) -> list[str]:
    """The model's answers, one per sample.

    generation: arguments of the language model's `generate`, as do_sample
    and temperature. Without any, decoding is greedy.
    """
    model.eval()
    batch = make_prompt_batch(model, processor, samples)
    ids = model.generate(**batch, **({"do_sample": False} | generation),
                         max_new_tokens=max_new_tokens,
                         pad_token_id=processor.pad_token_id)
    return [processor.decode(row) for row in ids]


def answer_sample(model: MultiImageVLM, processor: MultiImageProcessor, sample: Sample,
                  max_new_tokens: int = 48, **generation) -> str:
    """The model's answer to one sample."""
    return answer_samples(model, processor, [sample], max_new_tokens, **generation)[0]
