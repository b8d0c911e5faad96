"""The same step in less time: fewer passes over memory between the matrix products.

On a CPU a training step is matrix products, which run near the machine's limit, and many small
operations between them, each of which reads a tensor and writes another. `speed_up` replaces the
parts of a Llama by parts that compute the same numbers (to rounding) with fewer of those passes and
keep fewer tensors for the backward pass. `benchmarks/step.py` measures what each is worth.

Only the class of a module changes: weights, their names and the modules that hold them stay.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaMLP,
    LlamaModel,
    LlamaRMSNorm,
    eager_attention_forward,
)

# --- what is done between the matrix products -------------------------------------------------

def norm(states: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """weight * states / sqrt(mean(states**2) + eps), and the divisor's inverse (..., 1)."""
    length = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
    inverse = torch.rsqrt(length.square() / states.shape[-1] + eps)
    return (states * inverse).mul_(weight), inverse


def norm_gradients(grad: Tensor, states: Tensor, weight: Tensor,
                   inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Of a norm: the gradients of states and weight."""
    dim = states.shape[-1]
    # LayerNorm has a fused kernel, RMSNorm none. With a mean of zero, one term is too much.
    grad_states, grad_weight, _ = torch.ops.aten.native_layer_norm_backward(
        grad, states, [dim], torch.zeros_like(inverse), inverse, weight, None,
        [True, True, False])
    mean = torch.mv(grad.flatten(0, -2), weight).view(inverse.shape) / dim
    return grad_states.add_(mean.mul_(inverse)), grad_weight


def gate(gated: Tensor, raised: Tensor) -> Tensor:
    """silu(gated) * raised."""
    return functional.silu(gated).mul_(raised)


def gate_gradients(grad: Tensor, gated: Tensor,
                   raised: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of a gate: the gradients of gated and raised, and once more what it gave."""
    active = functional.silu(gated)
    given = active * raised
    grad_raised = active.mul_(grad)
    return torch.ops.aten.silu_backward(grad * raised, gated), grad_raised, given


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of numbers of states (..., head_dim) by its angle (Su et al. 2021).

    Llama pairs a number of the first half with one of the second.
    """
    half = states.shape[-1] // 2
    turned = states * cos
    turned[..., :half].addcmul_(states[..., half:], sin[..., :half], value=-1)
    turned[..., half:].addcmul_(states[..., :half], sin[..., half:])
    return turned


PLAIN_KERNELS = {each.__name__: each
                 for each in (norm, norm_gradients, gate, gate_gradients, rotate)}
KERNELS = dict(PLAIN_KERNELS)      # as they are, or compiled


# --- with the matrix products around them, for autograd ----------------------------------------

class RootMeanSquare(Function):
    """`norm`, which keeps its input and one number a row for the backward pass."""

    @staticmethod
    def forward(ctx, states: Tensor, weight: Tensor, eps: float) -> Tensor:
        normed, inverse = KERNELS["norm"](states, weight, eps)
        ctx.save_for_backward(states, weight, inverse)
        return normed

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        return *KERNELS["norm_gradients"](grad, *ctx.saved_tensors), None


class GatedUnit(Function):
    """down(silu(gate(states)) * up(states)); keeps the results of gate and up, and no others."""

    @staticmethod
    def forward(ctx, states: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        rows = states.flatten(0, -2)                                        # (tokens, dim)
        gated, raised = rows @ gate.T, rows @ up.T                          # (tokens, hidden)
        ctx.save_for_backward(rows, gated, raised, gate, up, down)
        return (KERNELS["gate"](gated, raised) @ down.T).view(states.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        rows, gated, raised, gate, up, down = ctx.saved_tensors
        shape, grad, wanted = grad.shape, grad.flatten(0, -2), ctx.needs_input_grad
        grad_gated, grad_raised, given = KERNELS["gate_gradients"](grad @ down, gated, raised)
        grad_rows = (grad_gated @ gate).addmm_(grad_raised, up)
        return (grad_rows.view(shape), grad_gated.T @ rows if wanted[1] else None,
                grad_raised.T @ rows if wanted[2] else None, grad.T @ given if wanted[3] else None)


class Projections(Function):
    """Several matrices times the same states; their gradients are added up by the products."""

    @staticmethod
    def forward(ctx, states: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        rows = states.flatten(0, -2)                                        # (tokens, dim)
        ctx.save_for_backward(rows, *weights)
        return tuple((rows @ weight.T).view(*states.shape[:-1], -1) for weight in weights)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor):
        rows, *weights = ctx.saved_tensors
        shape = *grads[0].shape[:-1], rows.shape[-1]
        grads = [grad.flatten(0, -2) for grad in grads]
        grad_rows = grads[0] @ weights[0]
        for grad, weight in zip(grads[1:], weights[1:], strict=True):
            grad_rows.addmm_(grad, weight)
        return (grad_rows.view(shape), *(
            grad.T @ rows if wanted else None
            for grad, wanted in zip(grads, ctx.needs_input_grad[1:], strict=True)))


class Rotation(Function):
    """`rotate`; its gradient is turned back."""

    @staticmethod
    def forward(ctx, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return KERNELS["rotate"](states, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        cos, sin = ctx.saved_tensors
        return KERNELS["rotate"](grad, cos, -sin), None, None


# A call of the attention for one sample takes as long as the products of a layer for a token of a
# model 700 wide: what padding must cost at least, for each sample, before it is worth leaving out.
WORTH_A_CALL = 700**2


# --- the parts of a Llama that use them -------------------------------------------------------

def fits(states: Tensor) -> bool:
    """Is this a float32 training step on a CPU? Everything else is left to transformers."""
    return (torch.is_grad_enabled() and states.device.type == "cpu"
            and states.dtype == torch.float32 and not torch.is_autocast_enabled("cpu"))


def is_plain(*layers: nn.Module) -> bool:
    """Are these matrices and nothing else? An adapter is not, and must not be passed over."""
    return all(type(layer) is nn.Linear and layer.bias is None and not layer._forward_hooks
               and not layer._forward_pre_hooks for layer in layers)


class FasterNorm(LlamaRMSNorm):
    def forward(self, hidden_states: Tensor) -> Tensor:
        if not fits(hidden_states):
            return super().forward(hidden_states)
        return RootMeanSquare.apply(hidden_states, self.weight, self.variance_epsilon)


class FasterMLP(LlamaMLP):
    def forward(self, x: Tensor) -> Tensor:
        layers = self.gate_proj, self.up_proj, self.down_proj
        if not fits(x) or not is_plain(*layers) or self.config.hidden_act != "silu":
            return super().forward(x)
        return GatedUnit.apply(x, *(layer.weight for layer in layers))


class FasterAttention(LlamaAttention):
    def forward(self, hidden_states: Tensor, position_embeddings=None, attention_mask=None,
                past_key_values=None, lengths: list[int] | None = None, **kwargs):
        """lengths: of the samples, if they lie in one row one after another."""
        if not fits(hidden_states) or past_key_values is not None:
            return super().forward(hidden_states, position_embeddings, attention_mask,
                                   past_key_values, **kwargs)
        layers = self.q_proj, self.k_proj, self.v_proj
        if is_plain(*layers):
            projected = Projections.apply(hidden_states, *(layer.weight for layer in layers))
        else:
            projected = [layer(hidden_states) for layer in layers]
        shape = *hidden_states.shape[:-1], -1, self.head_dim        # (batch, length, heads, dim)
        queries, keys, values = (each.view(shape) for each in projected)
        cos, sin = (each.unsqueeze(2) for each in position_embeddings)
        queries, keys = Rotation.apply(queries, cos, sin), Rotation.apply(keys, cos, sin)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward)
        samples = [(queries, keys, values)] if lengths is None else \
            zip(*(each.split(lengths, dim=1) for each in (queries, keys, values)), strict=True)
        attended = [attend(self, *(each.transpose(1, 2) for each in sample), attention_mask,
                           dropout=self.attention_dropout if self.training else 0.0,
                           scaling=self.scaling, **kwargs) for sample in samples]
        states = [each for each, _ in attended]                     # (batch, length, heads, dim)
        states = states[0] if lengths is None else torch.cat(states, dim=1)
        return self.o_proj(states.flatten(2)), attended[0][1]


class FasterLlama(LlamaModel):
    """Without a mask if padding is on the right: no word sees what comes after it anyway."""

    def forward(self, input_ids=None, attention_mask=None, position_ids=None,
                past_key_values=None, inputs_embeds=None, **kwargs):
        if self.training and past_key_values is None and is_on_the_right(attention_mask):
            if position_ids is None and self.packs(inputs_embeds, attention_mask):
                return self.in_one_row(inputs_embeds, attention_mask)
            attention_mask = None
        return super().forward(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids,
            past_key_values=past_key_values, inputs_embeds=inputs_embeds, **kwargs)

    def packs(self, embeddings: Tensor | None, mask: Tensor) -> bool:
        return False


class PackedLlama(FasterLlama):
    """All samples of a batch in one row, without padding; each attends to itself alone."""

    def packs(self, embeddings: Tensor | None, mask: Tensor) -> bool:
        """Is it worth it? Of small models or many short samples, the padding costs less."""
        padding = mask.numel() - int(mask.sum())
        worth = padding * self.config.hidden_size**2 > len(mask) * WORTH_A_CALL
        return worth and embeddings is not None and fits(embeddings) and all(
            isinstance(layer.self_attn, FasterAttention) for layer in self.layers)

    def in_one_row(self, embeddings: Tensor, mask: Tensor) -> BaseModelOutputWithPast:
        """As forward, zeros where there is padding. embeddings: (batch, length, dim)."""
        lengths = mask.sum(dim=1).tolist()
        places = mask.flatten().nonzero().squeeze(1)                        # (words,)
        row = embeddings.flatten(0, 1).index_select(0, places).unsqueeze(0)     # (1, words, dim)
        positions = torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0)
        angles = self.rotary_emb(row, positions)
        for layer in self.layers:
            row = layer(row, position_embeddings=angles, lengths=lengths)
        states = torch.zeros_like(embeddings).flatten(0, 1)
        states = states.index_copy(0, places, self.norm(row).squeeze(0))
        return BaseModelOutputWithPast(last_hidden_state=states.view(embeddings.shape))


def is_on_the_right(mask: Tensor | None) -> bool:
    """Does each row of the mask (batch, length) begin with its words and end with its padding?"""
    return mask is not None and mask.ndim == 2 and bool((mask[:, 1:] <= mask[:, :-1]).all())


FASTER = {"mask": (LlamaModel, FasterLlama), "norms": (LlamaRMSNorm, FasterNorm),
          "gates": (LlamaMLP, FasterMLP), "attention": (LlamaAttention, FasterAttention),
          "rows": (LlamaModel, PackedLlama)}
PARTS = (*FASTER, "embedding")


def speed_up(model: nn.Module, parts: Sequence[str] = PARTS) -> None:
    """Let a model's Llama compute the same in less time, until `slow_down`.

    parts: of PARTS, all by default; `benchmarks/step.py` says what each is worth. "rows" has an
    effect with "attention" only. "embedding": the gradient of looking words up has a row for each
    word of the batch, not for the whole vocabulary; if the table is tied to the output layer, it is
    added to that layer's. Leave it out if several processes train: DDP would take the whole
    gradient for one with few rows.
    Raises ValueError naming a part that there is not.
    """
    unknown = set(parts) - set(PARTS)
    if unknown:
        raise ValueError(f"no such part: {', '.join(sorted(unknown))}; there are "
                         f"{', '.join(PARTS)}")
    _change_classes(model, dict(FASTER[part] for part in parts if part in FASTER))
    words, output = model.get_input_embeddings(), model.get_output_embeddings()
    if "embedding" in parts and output is not None and output.weight is words.weight:
        words.sparse = True


def slow_down(model: nn.Module) -> None:
    """Undo `speed_up`: every module is transformers' own again."""
    _change_classes(model, {faster: plain for plain, faster in FASTER.values()})
    model.get_input_embeddings().sparse = False


def _change_classes(model: nn.Module, classes: dict[type, type]) -> None:
    for module in model.modules():
        module.__class__ = classes.get(type(module), type(module))


def compile_kernels() -> None:
    """Compile what is done between the matrix products, for every model of this process.

    It needs a C++ compiler and some ten seconds of a core, before the first step. Python's version
    of an operation writes each intermediate result to memory; a compiled one writes the last only.
    """
    for name, kernel in PLAIN_KERNELS.items():
        KERNELS[name] = torch.compile(kernel, dynamic=True, fullgraph=True)


def clip_gradients(accelerator: Accelerator, model: nn.Module, max_norm: float) -> None:
    """Scale gradients down to a length, as accelerator.clip_grad_norm_ does.

    On a CPU, gradients that are short enough are left alone; torch multiplies them by 1, which
    reads and writes all of them.
    """
    if accelerator.device.type != "cpu" or accelerator.num_processes > 1:
        accelerator.clip_grad_norm_(model.parameters(), max_norm)
        return
    trained = [weight for weight in model.parameters() if weight.grad is not None]
    norm = nn.utils.get_total_norm([weight.grad for weight in trained])
    if norm > max_norm:
        nn.utils.clip_grads_with_norm_(trained, max_norm, norm)
