"""Heads: from a sentence embedding to the logits of one task's classes, in one stage or two.

A multi-stage head decides the coarse class first and the label within it second. Notation: ``B`` rows, ``H`` size of an
embedding, ``C`` labels (the leaves), ``K`` coarse classes (the branches), ``L`` labels of branches that have several.
With ``k(c)`` the branch of label ``c``, the chain rule gives

    log p(c | x) = log p(k(c) | x) + log p(c | k(c), x)

where both are log-softmaxes: the first over the ``K`` logits of the first stage, the second over those logits of the
second stage that belong to the labels of ``k(c)``, and 0 where ``c`` is alone in its branch (hierarchical softmax:
Goodman 2001, "Classes for fast maximum entropy training"; Morin & Bengio 2005). The head's logits are these ``C``
log-probabilities: they sum to 1 as probabilities, so softmax returns them, and their cross-entropy is the sum of the
losses of both stages, that of the second one within the true branch.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from mtl.base.label_tree import LabelTree

HeadKind = Literal["linear", "mlp"]


class Head(nn.Module):
    """Dropout and a linear layer; of kind ``mlp`` dropout, a hidden layer and GELU before them.

    Args:
        kind: ``linear`` or ``mlp``.
        in_features: ``H``, the size of an embedding.
        num_classes: ``C``, the number of classes.
        dropout: Share of its input that a linear layer loses in training.
        hidden: Units of the hidden layer of ``mlp``; ``None``: as many as the embedding has.
        scale: Fixed factor of the embeddings before the head. Embeddings of length 1 bound the logits by the norms of
            the weights, and a softmax over such logits can hardly fall (Wang et al. 2017, NormFace, section 3.3).
    """

    def __init__(
        self,
        kind: HeadKind,
        in_features: int,
        num_classes: int,
        dropout: float = 0.0,
        hidden: int | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        width = (hidden or in_features) if kind == "mlp" else in_features
        self.hidden = nn.Linear(in_features, width) if kind == "mlp" else None
        self.out = nn.Linear(width, num_classes)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return logits ``(B, C)`` of embeddings ``(B, H)``."""
        scaled = embeddings if self.scale == 1 else embeddings * self.scale  # a copy takes as long as a linear layer
        states = self.dropout(scaled)
        if self.hidden is not None:
            states = self.dropout(nn.functional.gelu(self.hidden(states)))
        logits: Tensor = self.out(states)
        return logits


class BorrowedStage:
    """The head of another task as the first stage: the logits of those of its classes that are the coarse ones.

    It is no module, so that the head's parameters stay those of its own task: one layer freezes them, one optimizer
    group learns them, one name saves them. Gradients flow into the head unless that layer is frozen. Dropout in it is
    on where both that layer and the one of the borrowing head learn: a head in eval mode has one output.

    Args:
        head: The head, from embeddings ``(B, H)`` to logits.
        columns: The ``K`` class ids of the coarse classes. Other classes of the head count for nothing.
    """

    def __init__(self, head: nn.Module, columns: list[int]) -> None:
        self.head = head
        self.columns = columns

    def __call__(self, embeddings: Tensor, *, training: bool = False) -> Tensor:
        """Return logits ``(B, K)`` of embeddings ``(B, H)``, without dropout unless the borrower is ``training``."""
        silenced = self.head.training and not training
        if silenced:
            self.head.eval()
        logits: Tensor = self.head(embeddings)
        if silenced:
            self.head.train()
        return logits[:, self.columns]


class MultiStageHead(nn.Module):
    """Two stages over a tree of labels, with the log-probabilities of the labels as its logits.

    Args:
        tree: The coarse classes and their labels.
        first: From embeddings ``(B, H)`` to the logits ``(B, K)`` of the coarse classes.
        second: From embeddings ``(B, H)`` to the logits ``(B, L)`` of the labels in the branches that have
            several, in the order of `LabelTree.divided`.
    """

    branch_of: Tensor
    places: Tensor

    def __init__(self, tree: LabelTree, first: nn.Module | BorrowedStage, second: nn.Module) -> None:
        super().__init__()
        self.tree = tree
        self.first = first
        self.second = second
        self._sizes = [len(ids) for ids in tree.divided.values()]
        self.register_buffer("branch_of", torch.tensor(tree.branch_of), persistent=False)
        places = torch.tensor([place for ids in tree.divided.values() for place in ids])
        self.register_buffer("places", places, persistent=False)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return log-probabilities ``(B, C)`` of embeddings ``(B, H)``, in fp32 or better."""
        if isinstance(self.first, BorrowedStage):
            decided = self.first(embeddings, training=self.training)
        else:
            decided = self.first(embeddings)
        coarse = _log_softmax(decided)  # (B, K)
        parts = self.second(embeddings).split(self._sizes, dim=-1)
        within = torch.cat([_log_softmax(part) for part in parts], dim=-1)  # (B, L)
        return coarse.index_select(-1, self.branch_of).index_add(-1, self.places, within)  # (B, C)


def _log_softmax(logits: Tensor) -> Tensor:
    wide = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    return torch.log_softmax(wide, dim=-1)
