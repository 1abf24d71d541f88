"""Compact word embeddings: training leaves out words that occur in no row of a run.

Notation: V ids of the vocabulary, n of them in use, H columns of the table.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in this field
from torch import Tensor, nn

from mtl.data.tokens import TokenTable
from mtl.model.layers import EMBEDDINGS
from mtl.model.network import MultiTaskNetwork
from mtl.training.freezing import FreezePlan

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WORTHWHILE = 0.8
"""The share of used ids above which the whole table is trained."""
_CHUNK = 2**20
_UNKNOWN = -1


class CompactEmbedding(nn.Module):
    """Look up embeddings in a table of the used ids alone.

    Args:
        weight: The table ``(n + 1, H)``: the rows of ``used`` in its order, and one more row without an id.
        used: The used ids in ascending order, int64, ``(n,)``.
        size: V.
        padding_idx: The used id whose row gets no gradient.
    """

    places: Tensor

    def __init__(self, weight: nn.Parameter, used: Tensor, size: int, padding_idx: int | None) -> None:
        super().__init__()
        self.weight = weight
        places = torch.full((size,), _UNKNOWN, device=used.device)
        places[used] = torch.arange(len(used), device=used.device)
        self.register_buffer("places", places, persistent=False)  # follows from the data
        self._padding = None if padding_idx is None else int(places[padding_idx])

    def forward(self, ids: Tensor) -> Tensor:
        """Return the embeddings ``(..., H)`` of ids of any shape; an unused id is an error."""
        places = self.places.index_select(0, ids.reshape(-1)).view_as(ids)
        return F.embedding(places, self.weight, self._padding)


@contextlib.contextmanager
def compact_embeddings(
    network: MultiTaskNetwork, plan: FreezePlan, tables: Iterable[TokenTable], pad_id: int
) -> Iterator[None]:
    """Train only the used word embeddings inside the block, with the same result as training all of them.

    The row of an unused word has a gradient of 0 in every step. Adam's averages of it stay 0, so AdamW only applies its
    decoupled weight decay, which multiplies all rows by the same factor (Loshchilov & Hutter 2019, algorithm 2). That
    factor, also under weight averaging, is read from one additional row, which starts as ones and is never looked up.
    MiniLM has half of its parameters in 30,522 rows, of which a data set uses a part: clearing, clipping and stepping
    the others takes longer than the matrix products of a layer.

    The parameter stays the same object, so existing optimizer groups stay valid; its ``data`` is the compact table
    inside the block. Checkpoints that are written inside hold the compact table, and must be loaded inside the block
    over the same rows.

    The block changes nothing if the embeddings are not trained from the first step on (cached activations depend on the
    whole table), if most of the vocabulary is used, or if the table is not a plain `torch.nn.Embedding` used once.

    ``tables`` are the token ids of all rows that the network processes inside the block.
    """
    named = _table(network.encoder.backbone) if plan.first.get(EMBEDDINGS) == 0 else None
    if named is None:
        yield
        return
    name, embedding = named
    always = {pad_id, embedding.padding_idx or 0}
    used = used_ids(tables, embedding.num_embeddings, always)
    if len(used) > WORTHWHILE * embedding.num_embeddings:
        yield
        return
    weight = embedding.get_parameter("weight")
    whole = weight.data
    used = used.to(whole.device)
    weight.data = torch.cat([whole[used], whole.new_ones(1, whole.shape[1])])
    compact = CompactEmbedding(weight, used, embedding.num_embeddings, embedding.padding_idx)
    network.encoder.backbone.set_submodule(name, compact)
    try:
        yield
    finally:
        network.encoder.backbone.set_submodule(name, embedding)
        weight.grad = None
        whole = whole.to(weight.device)
        whole *= weight.data[-1]
        whole[used.to(weight.device)] = weight.data[:-1]
        weight.data = whole


def used_ids(tables: Iterable[TokenTable], size: int, always: Iterable[int]) -> Tensor:
    """Return the ids in the tables and those of ``always`` in ascending order, int64, ``(n,)``."""
    seen = np.zeros(size, dtype=bool)
    seen[list(always)] = True
    for table in tables:
        for start in range(0, len(table.ids), _CHUNK):
            seen[table.ids[start : start + _CHUNK]] = True
    return torch.from_numpy(np.flatnonzero(seen))


def _table(backbone: PreTrainedModel) -> tuple[str, nn.Embedding] | None:
    """Return name and module of the word embeddings if they are plain and not shared."""
    embedding = backbone.get_input_embeddings()
    if type(embedding) is not nn.Embedding or embedding.sparse or embedding.scale_grad_by_freq or embedding.max_norm:
        return None
    names = [name for name, module in backbone.named_modules(remove_duplicate=False) if module is embedding]
    parameters = backbone.named_parameters(remove_duplicate=False)
    owners = [name for name, parameter in parameters if parameter is embedding.weight]
    return (names[0], embedding) if len(names) == len(owners) == 1 else None
