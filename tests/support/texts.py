"""Texts of every kind that an encoder meets, and the batches made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mtl.model.loading import load_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

TEXTS = (
    "The film was wonderful, from the first minute to the last.",
    "",
    " ",
    "no",
    "Terrible!!! Broke after 2 days :-( would NOT buy again...",
    "great 👍🏽 quality 🎉🎉",
    "Crème brûlée à la carte, naïve façade, Straße",
    "中文的句子 и немного русского",
    "a\ttab, a\nnew line and a null\x00byte",
    "supercalifragilisticexpialidocious" * 5,
    "one word after another " * 150,  # 600 words: longer than any limit
)


def batch(folder: Path, max_length: int, texts: tuple[str, ...] = TEXTS) -> tuple[Tensor, Tensor]:
    """Return ids and mask, (B, S), of texts as the tokenizer in ``folder`` sees them."""
    encoded = load_tokenizer(folder)(
        list(texts), padding=True, truncation=True, max_length=max_length, return_tensors="pt"
    )
    return encoded["input_ids"], encoded["attention_mask"].bool()
