import torch


def collate_samples(samples: list[dict], pad_token_id: int,
                    for_generation: bool) -> dict:
    """pixel_values, input_ids, attention_mask, and in training labels.

    A sample: "pixels" (its images, 3, height, width), "prompt", "answer".
    Training: prompt + answer, padded on the right; only the answer has
    labels other than -100. Generation: prompt only, padded on the left.
    """
    texts = [s["prompt"] if for_generation else s["prompt"] + s["answer"]
             for s in samples]
    shape = len(texts), max(map(len, texts))
    ids, labels = torch.full(shape, pad_token_id), torch.full(shape, -100)
    mask = torch.zeros_like(ids)
    for i, text in enumerate(texts):
        start = shape[1] - len(text) if for_generation else 0
        end, answer = start + len(text), start + len(samples[i]["prompt"])
        ids[i, start:end], mask[i, start:end] = torch.tensor(text), 1
        labels[i, answer:end] = ids[i, answer:end]
    batch = {"pixel_values": torch.cat([s["pixels"] for s in samples]),
             "input_ids": ids, "attention_mask": mask}
    return batch if for_generation else batch | {"labels": labels}
