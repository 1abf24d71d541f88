"""Heads: from a sentence embedding to the logits of one task's classes."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

HeadKind = Literal["linear", "mlp"]


class LinearHead(nn.Module):
    """Dropout and one linear layer.

    Args:
        in_features: ``H``, the size of an embedding.
        num_classes: ``C``, the number of classes.
        dropout: Share of the embedding that is dropped in training.
        scale: Fixed factor of the embeddings, see `build_head`.
    """

    def __init__(self, in_features: int, num_classes: int, dropout: float, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(in_features, num_classes)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return logits ``(B, C)`` of embeddings ``(B, H)``."""
        logits: Tensor = self.out(self.dropout(_scaled(embeddings, self.scale)))
        return logits


class MlpHead(nn.Module):
    """One hidden layer with GELU, dropout before each linear layer.

    Args:
        in_features: ``H``, the size of an embedding.
        num_classes: ``C``, the number of classes.
        dropout: Share of its input that each linear layer loses in training.
        hidden: Units of the hidden layer.
        scale: Fixed factor of the embeddings, see `build_head`.
    """

    def __init__(self, in_features: int, num_classes: int, dropout: float, hidden: int, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(in_features, hidden)
        self.out = nn.Linear(hidden, num_classes)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return logits ``(B, C)`` of embeddings ``(B, H)``."""
        hidden = nn.functional.gelu(self.hidden(self.dropout(_scaled(embeddings, self.scale))))
        logits: Tensor = self.out(self.dropout(hidden))
        return logits


def _scaled(embeddings: Tensor, scale: float) -> Tensor:
    """Return the embeddings times a factor; for 1 they are no copy, which takes as long as a head on it."""
    return embeddings if scale == 1 else embeddings * scale


def build_head(
    kind: HeadKind,
    in_features: int,
    num_classes: int,
    dropout: float = 0.0,
    hidden: int | None = None,
    scale: float = 1.0,
) -> nn.Module:
    """Return a fresh head.

    Args:
        kind: ``linear`` or ``mlp``.
        in_features: ``H``, the size of an embedding.
        num_classes: ``C``, the number of classes.
        dropout: Share of its input that a linear layer loses in training.
        hidden: Units of the hidden layer of ``mlp``; ``None``: as many as the embedding has.
        scale: Fixed factor of the embeddings before the head. Embeddings of length 1 bound the logits by the norms of
            the weights, and a softmax over such logits can hardly fall (Wang et al. 2017, NormFace, section 3.3).
    """
    if kind == "mlp":
        return MlpHead(in_features, num_classes, dropout, hidden or in_features, scale)
    return LinearHead(in_features, num_classes, dropout, scale)
