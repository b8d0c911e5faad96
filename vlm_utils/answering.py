"""Ask a model one sample, or many."""

from __future__ import annotations

from vlm_utils.datasets import Sample


def answer_sample(model, processor, sample: Sample, max_new_tokens: int = 48) -> str:
    """The model's answer to one sample, greedy decoding."""
    from vlm_utils.collate import collate_multi_image
    batch = collate_multi_image([sample], processor, for_generation=True)
    ids = model.generate(**{name: value.to(model.device) for name, value in batch.items()},
                         do_sample=False, max_new_tokens=max_new_tokens,
                         pad_token_id=processor.pad_token_id)
    return processor.decode(ids[0])
