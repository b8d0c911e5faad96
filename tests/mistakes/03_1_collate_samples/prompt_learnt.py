# says: the prompt is learnt
import torch


def collate_samples(samples: list[dict], pad_token_id: int,
                    for_generation: bool) -> dict:
    texts = [s["prompt"] if for_generation else s["prompt"] + s["answer"] for s in samples]
    longest = max(len(text) for text in texts)
    ids = torch.full((len(texts), longest), pad_token_id)
    mask = torch.zeros_like(ids)
    for i, text in enumerate(texts):
        start = longest - len(text) if for_generation else 0
        ids[i, start:start + len(text)] = torch.tensor(text)
        mask[i, start:start + len(text)] = 1
    batch = {"pixel_values": torch.cat([s["pixels"] for s in samples]),
             "input_ids": ids, "attention_mask": mask}
    if not for_generation:
        batch["labels"] = ids.masked_fill(mask == 0, -100)
    return batch
