"""What more GPUs change, computed before anyone pays for them: compute against communication.

The figures follow from the makers' speeds and from assumptions, which stand in `Cluster`. None of
them is measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

BUCKET = 25 * 2**20         # bytes that DDP collects before it sends them


class Size(NamedTuple):
    """A language model: trained numbers (the projector is small beside it), and its layers."""

    numbers: float
    layers: int


MODELS = {"SmolLM-135M": Size(135e6, 30), "SmolLM-1.7B": Size(1.71e9, 24),
          "Llama-2-7B": Size(6.74e9, 32)}


@dataclass(frozen=True)
class Cluster:
    """Machines of GPUs. Default: H100 as its maker describes it, 400 Gbit/s to the network each."""

    gpus_per_machine: int = 8
    flops: float = 989e12       # of bfloat16 products in a second, dense
    utilisation: float = 0.4    # the share of it that training reaches; assumed: measure your own
    inside: float = 450e9       # bytes a second from each GPU to its neighbours (NVLink)
    between: float = 50e9       # bytes a second from each GPU to another machine
    latency: float = 10e-6      # seconds of one message, however short; assumed
    memory: float = 80e9        # bytes of a GPU
    bytes_per_number: int = 4   # of weights and gradients as they travel: float32


H100 = Cluster()


def exchange_seconds(size: Size, gpus: int, sharded: bool, cluster: Cluster = H100) -> float:
    """Seconds in which the GPUs tell each other what a training step needs.

    Copies (DDP) exchange gradients: 2 passes over all numbers, reduce-scatter and all-gather, in
    buckets. Shards (FSDP) need 3, layer by layer: weights are gathered forwards and again
    backwards, gradients are scattered. Inside a machine first; then each GPU speaks with its
    counterparts on other machines about its share of that.
    """
    if gpus == 1:
        return 0.0
    near = min(gpus, cluster.gpus_per_machine)
    machines = math.ceil(gpus / near)
    length = size.numbers * cluster.bytes_per_number
    passes, parts = (3, size.layers + 1) if sharded else (2, math.ceil(length / BUCKET))
    inside = (near - 1) / near * length / cluster.inside
    between = (machines - 1) / machines * length / near / cluster.between
    messages = parts * math.ceil(math.log2(gpus)) * cluster.latency     # along a tree
    return passes * (inside + between + messages)


def predict_step(size: Size, gpus: int, tokens_per_gpu: float, sharded: bool = False,
                 cluster: Cluster = H100) -> dict:
    """One training step, computed: seconds, efficiency and the memory that a GPU needs.

    compute: 6 operations for each number and token. Communication hides behind the backward pass,
    two thirds of the computing, and what does not fit there is waited for. efficiency: computing
    over seconds. enough_tokens: with so many tokens for each GPU nothing is waited for. gigabytes:
    weights, gradients and AdamW's two moments in float32, without activations.
    """
    a_token = 6 * size.numbers / (cluster.flops * cluster.utilisation)      # seconds
    compute = a_token * tokens_per_gpu
    communication = exchange_seconds(size, gpus, sharded, cluster)
    seconds = compute + max(0.0, communication - compute * 2 / 3)
    held = 16 * size.numbers / (gpus if sharded else 1)
    return {"gpus": gpus, "layout": "shards" if sharded else "copies", "compute": compute,
            "communication": communication, "seconds": seconds, "efficiency": compute / seconds,
            "enough_tokens": communication / (a_token * 2 / 3), "gigabytes": held / 1e9,
            "fits": held < 0.8 * cluster.memory}


def predict_scaling(gpus: tuple[int, ...] = (8, 64, 512), tokens_per_gpu: int = 8192,
                    cluster: Cluster = H100) -> pd.DataFrame:
    """predict_step for each model, number of GPUs and layout, one row each.

    same_batch: the efficiency if the batch stays that of the fewest GPUs, so that each of more GPUs
    has less of it.
    """
    rows = []
    for name, size in MODELS.items():
        for count in gpus:
            for sharded in (False, True):
                less = tokens_per_gpu * gpus[0] / count
                same = predict_step(size, count, less, sharded, cluster)
                rows.append({"model": name}
                            | predict_step(size, count, tokens_per_gpu, sharded, cluster)
                            | {"same_batch": same["efficiency"]})
    return pd.DataFrame(rows)


def as_markdown(table: pd.DataFrame) -> str:
    """predict_scaling's table as the page `cluster.md` shows it."""
    lines = ["| model | GPUs | layout | GB on each | compute, ms | communication, ms | efficiency |"
             " tokens a GPU for 100% | efficiency with the batch of 8 |", "|---" * 9 + "|"]
    for row in table.itertuples():
        held = f"{row.gigabytes:.2g}" if row.fits else f"**{row.gigabytes:.0f}, too many**"
        lines.append(f"| {row.model} | {row.gpus} | {row.layout} | {held} | "
                     f"{1000 * row.compute:.0f} | {1000 * row.communication:.0f} | "
                     f"{row.efficiency:.0%} | {row.enough_tokens:,.0f} | {row.same_batch:.0%} |")
    return "\n".join(lines)
