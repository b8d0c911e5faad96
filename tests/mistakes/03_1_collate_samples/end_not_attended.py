# says: the end token is not attended
import torch


def collate_samples(samples: list[dict], pad_token_id: int,
                    for_generation: bool) -> dict:
    texts = [s["prompt"] if for_generation else s["prompt"] + s["answer"] for s in samples]
    longest = max(len(text) for text in texts)
    rows, labels = [], []
    for s, text in zip(samples, texts, strict=True):
        gap = [pad_token_id] * (longest - len(text))
        rows.append(gap + text if for_generation else text + gap)
        answer = text[len(s["prompt"]):]
        labels.append([-100] * len(s["prompt"]) + answer + [-100] * len(gap))
    ids = torch.tensor(rows)
    batch = {"pixel_values": torch.cat([s["pixels"] for s in samples]),
             "input_ids": ids, "attention_mask": (ids != pad_token_id).long()}
    if not for_generation:
        batch["labels"] = torch.tensor(labels)
    return batch
