# says: the mask is padded on the other side than the ids
import torch


def collate_samples(samples: list[dict], pad_token_id: int,
                    for_generation: bool) -> dict:
    texts = [s["prompt"] if for_generation else s["prompt"] + s["answer"] for s in samples]
    longest = max(len(text) for text in texts)
    ids = torch.full((len(texts), longest), pad_token_id)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for i, text in enumerate(texts):
        mask[i, :len(text)] = 1
        start = longest - len(text) if for_generation else 0
        end, answer = start + len(text), start + len(samples[i]["prompt"])
        ids[i, start:end] = torch.tensor(text)
        labels[i, answer:end] = ids[i, answer:end]
    batch = {"pixel_values": torch.cat([s["pixels"] for s in samples]),
             "input_ids": ids, "attention_mask": mask}
    return batch if for_generation else batch | {"labels": labels}
