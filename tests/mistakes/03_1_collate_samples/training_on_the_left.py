# says: training was padded on the left
import torch


def collate_samples(samples: list[dict], pad_token_id: int,
                    for_generation: bool) -> dict:
    texts = [s["prompt"] if for_generation else s["prompt"] + s["answer"] for s in samples]
    longest = max(len(text) for text in texts)
    rows, masks, labels = [], [], []
    for s, text in zip(samples, texts, strict=True):
        gap = longest - len(text)
        rows.append([pad_token_id] * gap + text)
        masks.append([0] * gap + [1] * len(text))
        labels.append([-100] * (gap + len(s["prompt"])) + text[len(s["prompt"]):])
    batch = {"pixel_values": torch.cat([s["pixels"] for s in samples]),
             "input_ids": torch.tensor(rows), "attention_mask": torch.tensor(masks)}
    if not for_generation:
        batch["labels"] = torch.tensor(labels)
    return batch
