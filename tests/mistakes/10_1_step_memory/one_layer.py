# says: the activations are those of one layer
def step_memory(weights: int, trained: int, tokens: int, layers: int,
                kept: int, answers: int, vocabulary: int,
                moments: int = 2) -> dict[str, float]:
    """MB (a million bytes) of each part of a training step in float32.

    weights: numbers of the whole model, of which `trained` are trained.
    moments: numbers that the optimizer keeps for each trained one.
    tokens: of the batch. kept: numbers that one layer keeps per token.
    answers: tokens whose logits the loss reads, `vocabulary` each.
    Keys: "weights", "gradients", "moments", "activations", "logits".
    """
    number = 4 / 1_000_000
    return {"weights": weights * number, "gradients": trained * number,
            "moments": moments * trained * number,
            "activations": tokens * kept * number,
            "logits": answers * vocabulary * number}
