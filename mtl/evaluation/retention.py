"""Retention: how much of its general ability an encoder keeps when it is fine-tuned.

Measured as in the semantic textual similarity tasks (Cer et al. 2017): the Spearman rank correlation between the cosine
similarity of two embeddings and human scores of the pair of sentences. It needs no training, and it drops long before
the metrics of the trained tasks do in a model that forgets its pretraining.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torchmetrics.functional.regression import spearman_corrcoef

from mtl.activations.encoding import Encoding, encode_table, token_table
from mtl.data.pairs import Pairs
from mtl.model.encoder import Encoder

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase


def pair_correlation(
    encoder: Encoder, tokenizer: PreTrainedTokenizerBase, pairs: Pairs, *, pad_id: int, batch_size: int = 128
) -> float:
    """Return the Spearman correlation of the encoder's similarities with the scores of ``N`` pairs.

    Computed in fp32, so that an encoder that did not change gives exactly the same number. The modes of the encoder's
    modules are restored.
    """
    table = token_table([*pairs.first, *pairs.second], tokenizer, encoder)
    embeddings = encode_table(encoder, table, Encoding(pad_id=pad_id, batch_size=batch_size))
    return correlation(cosine(embeddings[: len(pairs)], embeddings[len(pairs) :]), pairs.scores)


def cosine(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the cosine similarity of each pair of rows of two arrays ``(N, H)``, ``(N,)``; 0 beside a zero vector."""
    one, other = first.astype(np.float64), second.astype(np.float64)
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    products: NDArray[np.float64] = np.einsum("nh,nh->n", one, other)
    similarities: NDArray[np.float64] = np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)
    return similarities


def correlation(similarities: NDArray[np.float64], scores: NDArray[np.float64]) -> float:
    """Return Spearman's rank correlation of two arrays ``(N,)``, equal values sharing their mean rank.

    0 where all similarities are equal, as those of a collapsed encoder.
    """
    if np.ptp(similarities) == 0:
        return 0.0
    return float(spearman_corrcoef(torch.from_numpy(similarities), torch.from_numpy(scores)))
