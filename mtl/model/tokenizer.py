"""The tokenizer of a backbone: fast, local, and with no settings left over from whoever saved it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tokenizers import normalizers
from transformers import AutoTokenizer

from mtl.base.errors import ModelError, Problem
from mtl.model.layout import layout
from mtl.model.untrusted import check_files

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerFast


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Load the tokenizer in ``folder``; its texts are lower-cased first where the folder's layout says so.

    Truncation and padding that were saved with it (all-MiniLM-L6-v2 pads every text to 128 tokens) are taken off.

    Args:
        folder: A folder in the hub's layout.

    Returns:
        A fast tokenizer with a padding token.

    Raises:
        ModelError: There is no tokenizer that can be read, it is a slow one, it cannot pad, or the folder holds what
            is not allowed there (see `check_files`).
    """
    check_files(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # the Rust library raises bare Exception
        found = f"no tokenizer can be read: {type(error).__name__}: {error}"
        expected = "tokenizer.json, or another tokenizer that transformers turns into a fast one"
        raise ModelError(Problem(str(folder), found, expected, "fetch the tokenizer's files again")) from error
    if not tokenizer.is_fast or tokenizer.pad_token_id is None:
        found = f"{type(tokenizer).__name__}, {'without a padding token' if tokenizer.is_fast else 'a slow tokenizer'}"
        raise ModelError(Problem(str(folder), found, "a fast tokenizer with a padding token"))
    _check_vocabulary(folder, tokenizer)
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    if layout(folder).do_lower_case:
        _lower_first(tokenizer)
    return tokenizer


def _check_vocabulary(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Check that the encoder in the folder has an embedding for every token."""
    try:
        size = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("vocab_size")
    except (OSError, ValueError, AttributeError, RecursionError):
        return  # loading the encoder says so
    highest = max(tokenizer.get_vocab().values(), default=0)
    if isinstance(size, int) and highest >= size:
        found = f"tokens up to {highest}, and config.json has a vocab_size of {size}"
        raise ModelError(Problem(str(folder), found, "a token embedding for each", "fetch the folder again"))


def _lower_first(tokenizer: PreTrainedTokenizerFast) -> None:
    """Put lower-casing before what the tokenizer does to a text; doing it twice changes nothing."""
    backend = tokenizer.backend_tokenizer
    rest = [] if backend.normalizer is None else [backend.normalizer]
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *rest])
