# says: the end token is not learnt
import torch


def collate_samples(samples: list[dict], pad_token_id: int,
                    for_generation: bool) -> dict:
    texts = [s["prompt"] if for_generation else s["prompt"] + s["answer"] for s in samples]
    longest = max(len(text) for text in texts)
    rows, masks = [], []
    for text in texts:
        gap = longest - len(text)
        padding = [pad_token_id] * gap
        rows.append(padding + text if for_generation else text + padding)
        masks.append([0] * gap + [1] * len(text) if for_generation else [1] * len(text) + [0] * gap)
    ids = torch.tensor(rows)
    batch = {"pixel_values": torch.cat([s["pixels"] for s in samples]),
             "input_ids": ids, "attention_mask": torch.tensor(masks)}
    if not for_generation:
        labels = ids.clone()
        labels[ids == pad_token_id] = -100
        for i, s in enumerate(samples):
            labels[i, :len(s["prompt"])] = -100
        batch["labels"] = labels
    return batch
