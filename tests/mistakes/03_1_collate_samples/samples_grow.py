# says: your function changes its input samples
import torch


def collate_samples(samples: list[dict], pad_token_id: int,
                    for_generation: bool) -> dict:
    texts = []
    for s in samples:
        text = s["prompt"]
        if not for_generation:
            text += s["answer"]
        texts.append(text)
    longest = max(len(text) for text in texts)
    ids = torch.full((len(texts), longest), pad_token_id)
    mask = torch.zeros_like(ids)
    for i, text in enumerate(texts):
        start = longest - len(text) if for_generation else 0
        ids[i, start:start + len(text)] = torch.tensor(text)
        mask[i, start:start + len(text)] = 1
    return {"pixel_values": torch.cat([s["pixels"] for s in samples]),
            "input_ids": ids, "attention_mask": mask, "labels": ids}
