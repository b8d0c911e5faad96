# says: padding images were added
import torch


def collate_samples(samples: list[dict], pad_token_id: int,
                    for_generation: bool) -> dict:
    most = max(len(s["pixels"]) for s in samples)
    pixels = []
    for s in samples:
        empty = torch.zeros(most - len(s["pixels"]), *s["pixels"].shape[1:])
        pixels.append(torch.cat([s["pixels"], empty]))
    texts = [s["prompt"] if for_generation else s["prompt"] + s["answer"] for s in samples]
    longest = max(len(text) for text in texts)
    ids = torch.full((len(texts), longest), pad_token_id)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for i, text in enumerate(texts):
        ids[i, :len(text)], mask[i, :len(text)] = torch.tensor(text), 1
        start = len(samples[i]["prompt"])
        labels[i, start:len(text)] = ids[i, start:len(text)]
    return {"pixel_values": torch.cat(pixels), "input_ids": ids, "attention_mask": mask,
            "labels": labels}
