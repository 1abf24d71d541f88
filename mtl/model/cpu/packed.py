"""Run layers over packed tokens on the CPU: equal to transformers' layers, with fewer passes over memory.

Linear layers, norms, dropouts and activations see real tokens only, attention alone sees padded blocks of rows of
similar length. Query, key and value are one product. Under autocast the activations stay in its type from layer to
layer (autocast itself goes to float32 and back around each norm), norms and softmax accumulate in float32, and each
weight is cast once.

Notation: B rows, S tokens of the longest row, T real tokens of the batch, H hidden size, D size of an attention head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in this field
from torch import Tensor, nn

from mtl.model.adapters import adapted, has_adapter
from mtl.model.cpu.attention import inferred_attention
from mtl.model.cpu.dense import has_graph, in_order, is_gelu, linear, linear_gelu
from mtl.model.cpu.dropout import dropout_noise, fast_dropout
from mtl.model.cpu.packing import Packing, RowGroup

FAMILIES = frozenset({"bert", "roberta", "xlm-roberta", "camembert", "electra", "mpnet"})
"""Those whose layers are of one make: self-attention, then two linear layers, a norm behind each (post-norm)."""

_EQUAL_LENGTHS = 3
"""Different lengths of a batch in inference up to which each is a group without padding. More groups take longer than
they save; in training nearly all batches have more lengths."""

_USUAL_TOKENS = 1024  # of a batch in inference
_PRODUCTS = ("projections", "attended", "inner", "outer")


@dataclass(frozen=True, slots=True)
class PackedLayer:
    """The modules of one layer by their part in it, whatever the family calls them."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    attended: nn.Linear
    attention_dropout: nn.Dropout
    attended_dropout: nn.Dropout
    attended_norm: nn.LayerNorm
    inner: nn.Linear
    activation: nn.Module
    outer: nn.Linear
    outer_dropout: nn.Dropout
    outer_norm: nn.LayerNorm
    heads: int
    # For each product of the layer weight and bias as they are multiplied, see `made_ready`
    ready: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @classmethod
    def of(cls, layer: Any) -> Self:
        """Return the view of a layer of one of `FAMILIES`."""
        attention = layer.attention
        mpnet = hasattr(attention, "attn")
        own = attention.attn if mpnet else attention.self
        behind = attention if mpnet else attention.output
        return cls(
            query=own.q if mpnet else own.query,
            key=own.k if mpnet else own.key,
            value=own.v if mpnet else own.value,
            attended=own.o if mpnet else behind.dense,
            attention_dropout=own.dropout,
            attended_dropout=behind.dropout,
            attended_norm=behind.LayerNorm,
            inner=layer.intermediate.dense,
            activation=layer.intermediate.intermediate_act_fn,
            outer=layer.output.dense,
            outer_dropout=layer.output.dropout,
            outer_norm=layer.output.LayerNorm,
            heads=own.num_attention_heads,
        )

    @property
    def drops(self) -> bool:
        """Whether a pass draws random numbers: with and without a graph they are to fall on the same elements."""
        return any(map(_rate, (self.attention_dropout, self.attended_dropout, self.outer_dropout)))

    def made_ready(self, dtype: torch.dtype) -> Self:
        """Return the layer with its weights cast, stacked and put in order once, for many passes without a graph."""
        ready = {}
        for name in _PRODUCTS:
            weight, bias = self._parameters(name, dtype)
            ready[name] = in_order(weight, _USUAL_TOKENS), bias
        return replace(self, ready=ready)

    def _parameters(self, product: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return weight ``(out, in)`` and bias ``(out,)`` of a product, in the type to compute in."""
        if product in self.ready:
            return self.ready[product]
        if product == "projections":
            three = (self.query, self.key, self.value)
            return _stacked(dtype, *(part.weight for part in three)), _stacked(dtype, *(part.bias for part in three))
        layer = getattr(self, product)
        return layer.weight.to(dtype), layer.bias.to(dtype)

    def _product(self, name: str, x: Tensor) -> Tensor:
        return adapted(x, linear(x, *self._parameters(name, x.dtype)), getattr(self, name))

    def __call__(self, hidden: Tensor, packing: Packing, bias: Tensor | None) -> Tensor:
        """Return the new hidden states of the packed tokens and their copies, ``(T + F, H)``, in the type of the old.

        ``bias`` is what to add to all attention scores, ``(heads, S, S)``.
        """
        attended = self._product("attended", self._attention(hidden, packing, bias))
        hidden = _norm(attended, hidden, self.attended_dropout, self.attended_norm, packing.tokens)
        outer = self._product("outer", self._activated(hidden))
        return _norm(outer, hidden, self.outer_dropout, self.outer_norm, packing.tokens)

    def _activated(self, hidden: Tensor) -> Tensor:
        if is_gelu(self.activation) and not has_adapter(self.inner):
            return linear_gelu(hidden, *self._parameters("inner", hidden.dtype))
        activated: Tensor = self.activation(self._product("inner", hidden))
        return activated

    def _attention(self, hidden: Tensor, packing: Packing, bias: Tensor | None) -> Tensor:
        projected = self._projections(hidden)
        contexts = [self._attend(projected[group.tokens], group, bias) for group in packing.groups]
        if packing.copies:
            contexts.append(hidden.new_zeros(packing.copies, contexts[0].shape[-1]))
        return contexts[0] if len(contexts) == 1 else torch.cat(contexts)

    def _projections(self, hidden: Tensor) -> Tensor:
        """Return query, key and value of each token side by side, ``(T + F, 3H)``."""
        three = (self.query, self.key, self.value)
        few = len(hidden) < hidden.shape[-1]  # the results are less to put together than the weights
        if few and not self.ready and not has_graph(hidden, *(layer.weight for layer in three)):
            return torch.cat([self._product(name, hidden) for name in ("query", "key", "value")], dim=-1)
        projected = linear(hidden, *self._parameters("projections", hidden.dtype))
        if not any(map(has_adapter, three)):
            return projected
        parts = zip(projected.chunk(3, dim=-1), three, strict=True)
        return torch.cat([adapted(hidden, part, layer) for part, layer in parts], dim=-1)

    def _attend(self, projected: Tensor, group: RowGroup, bias: Tensor | None) -> Tensor:
        """Return the context ``(T_g, H)`` of the rows of a group; see Vaswani et al. 2017, equation 1."""
        rows, longest = group.rows, group.longest
        block = group.pad(projected).view(rows, longest, 3, self.heads, -1)  # (B, S, 3, heads, D)
        query, key, value = block.permute(2, 0, 3, 1, 4)  # each (B, heads, S, D)
        added = _added(group, bias, projected.dtype)
        rate = _rate(self.attention_dropout)
        scale = query.shape[-1] ** -0.5
        if not rate and not has_graph(projected, added):
            context = inferred_attention(query, key, value, added, scale)
        else:
            scores = torch.matmul(query, key.transpose(2, 3))  # (B, heads, S, S)
            scores = scores * scale if added is None else torch.add(added, scores, alpha=scale)
            context = torch.matmul(fast_dropout(scores.softmax(dim=-1), rate), value)
        return group.unpad(context.transpose(1, 2).reshape(rows * longest, -1))


def run_packed(
    layers: list[PackedLayer], hidden: Tensor, mask: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Run layers over the real tokens of a batch, with weights cast to ``dtype``.

    Args:
        layers: The layers from the bottom.
        hidden: Hidden states, ``(B, S, H)``.
        mask: True at real tokens, ``(B, S)``.
        bias: What to add to all attention scores, ``(heads, S, S)``, such as MPNet's relative position bias.
        dtype: The type to compute in.

    Returns:
        Hidden states, ``(B, S, H)``, of type ``dtype``, with zeros at padding.
    """
    learns = torch.is_grad_enabled() or any(layer.drops for layer in layers)
    packing = Packing.of(mask, equal=1 if learns else _EQUAL_LENGTHS)
    with torch.autocast(hidden.device.type, enabled=False):
        packed = packing.pack(hidden).to(dtype)
        added = None if bias is None else bias.to(dtype)
        for layer in layers:
            packed = layer(packed, packing, added)
        return packing.unpack(packed, *mask.shape)


def _rate(dropout: nn.Dropout) -> float:
    return dropout.p if dropout.training else 0.0


def _added(group: RowGroup, bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return what to add to the scores of a group, ``(1 or B, 1 or heads, 1 or S, S)``; None for nothing."""
    own = None if bias is None else bias[None, :, : group.longest, : group.longest]
    if group.index is None:
        return own
    # The lowest finite number, not -inf: a row of padding alone gives a mean over it instead of NaN.
    lowest = torch.finfo(dtype).min
    padding = ~group.real[:, None, None, :]
    if own is None:
        return torch.zeros(padding.shape, dtype=dtype).masked_fill_(padding, lowest)
    return own.masked_fill(padding, lowest)


def _stacked(dtype: torch.dtype, *parts: Tensor) -> Tensor:
    """Return the parameters of several linear layers as one, cast in the same pass."""
    stacked: Tensor = _Stack.apply(dtype, *parts)  # type: ignore[no-untyped-call]
    return stacked


class _Stack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *parts: Tensor) -> Tensor:
        ctx.sizes, ctx.types = [len(part) for part in parts], [part.dtype for part in parts]
        stacked = parts[0].new_empty((sum(ctx.sizes), *parts[0].shape[1:]), dtype=dtype)
        for target, part in zip(torch.split(stacked, ctx.sizes), parts, strict=True):
            target.copy_(part)
        return stacked

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        parts = zip(torch.split(gradient, ctx.sizes), ctx.types, strict=True)
        return None, *(part.to(dtype) for part, dtype in parts)


def _norm(x: Tensor, residual: Tensor, dropout: nn.Dropout, norm: nn.LayerNorm, tokens: int) -> Tensor:
    """Return ``norm(dropout(x) + residual)``; of ``x`` all rows behind the tokens are dropped."""
    rate = _rate(dropout)
    if 0 < rate < 1:
        noise = dropout_noise(x, rate, tokens)
        return F.layer_norm(torch.addcmul(residual, x, noise), norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    summed = fast_dropout(x, rate) + residual
    return F.layer_norm(summed, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
