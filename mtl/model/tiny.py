"""A small MPNet with random weights and an offline tokenizer, for tests and dry runs; written without torch."""

from __future__ import annotations

import contextlib
import json
import os
import string
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mtl.base.errors import ModelError, Problem
from mtl.base.files import cache_root, writing_folder
from mtl.model.layout import SentenceLayout, layout_files

VERSION: Final = 1  # of the files that `write_tiny` makes: raise it with each change to them
HIDDEN: Final = 32
LAYERS: Final = 3
MAX_LENGTH: Final = 128
_INNER: Final = 64
_HEADS: Final = 4
_BUCKETS: Final = 32
_SPECIAL: Final = ("<s>", "<pad>", "</s>", "<unk>", "[UNK]")
_WORDS: Final = (
    "a about after again all also always amazing an and any are as ask at awful back bad battery be beautiful because "
    "been before best better big book boring both bought box broke broken but buy by call came can cannot case cheap "
    "clean clear cold colour come cook could customer day dead delivery did do does dress easy enough even ever every "
    "excellent expected family fast few film find fine first fit food for friend from full fun get gift give go good "
    "got great had happy hard has hate have he help her here high hot hour house how i if in into is it item just keep "
    "kitchen know last late less life light like little long look lot love low made make many me money month more most "
    "movie much music must my need never new nice no not nothing now of off old on one only open or order other our "
    "out over own part perfect phone place plastic play poor pretty price product put quality quick quite read really "
    "recommend refund return right room same say screen see seem service she shoes short show size slow small so some "
    "something soon sound still stop store story strong such take terrible than thank that the their them then there "
    "these they thing think this time tiny to together too took top try two under until up us use very wait want warm "
    "was waste watch water way we week well were what when where which while who why will with without wonderful work "
    "world worse worst worth would wrong year yes yet you your"
)


def cached_tiny() -> Path:
    """Return the tiny model's folder in the cache, made on first use.

    Its time says when it was last used.
    """
    root = cache_root()
    folder = root / f"tiny-{VERSION}"
    if folder.is_dir():
        with contextlib.suppress(OSError):  # a cache that is read-only
            os.utime(folder)
        return folder
    try:
        with writing_folder(folder) as temporary:
            write_tiny(temporary, seed=0)
    except OSError as error:
        if not folder.is_dir():  # no other process was faster
            repair = "MTL_CACHE_DIR=<folder> names another place"
            raise ModelError(Problem(str(root), str(error), "a folder to keep models in", repair)) from error
    return folder


def write_tiny(folder: Path, seed: int) -> None:
    """Write a random MPNet in the hub's layout; the same seed gives the same bytes of weights."""
    from safetensors.numpy import save_file

    vocabulary = _vocabulary()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_weights(len(vocabulary), seed), folder / "model.safetensors", metadata={"format": "pt"})
    _tokenizer_json(vocabulary, folder / "tokenizer.json")
    for name, content in _json_files(len(vocabulary)).items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _vocabulary() -> list[str]:
    """Return special tokens, words, and the printable ASCII characters at the start and inside of a word.

    The tokenizer lower-cases and strips accents; a word with any other character becomes ``[UNK]``.
    """
    letters = string.ascii_lowercase + string.digits
    words = [word for word in _WORDS.split() if len(word) > 1]
    return [*_SPECIAL, *words, *letters, *(f"##{letter}" for letter in letters), *string.punctuation, "<mask>"]


def _weights(vocabulary: int, seed: int) -> dict[str, NDArray[np.float32]]:
    """Draw the tensors of an ``MPNetModel`` without pooler: normal with deviation 0.02, as for a model to pretrain."""
    random = np.random.default_rng(seed)

    def linear(name: str, outputs: int, inputs: int) -> None:
        tensors[f"{name}.weight"] = random.normal(0, 0.02, (outputs, inputs)).astype(np.float32)
        tensors[f"{name}.bias"] = np.zeros(outputs, np.float32)

    def norm(name: str) -> None:
        tensors[f"{name}.weight"] = np.ones(HIDDEN, np.float32)
        tensors[f"{name}.bias"] = np.zeros(HIDDEN, np.float32)

    tensors: dict[str, NDArray[np.float32]] = {}
    for name, rows, columns in (
        ("embeddings.word_embeddings", vocabulary, HIDDEN),
        ("embeddings.position_embeddings", MAX_LENGTH + 2, HIDDEN),
        ("encoder.relative_attention_bias", _BUCKETS, _HEADS),
    ):
        tensors[f"{name}.weight"] = random.normal(0, 0.02, (rows, columns)).astype(np.float32)
    norm("embeddings.LayerNorm")
    for layer in (f"encoder.layer.{index}" for index in range(LAYERS)):
        for projection in "qkvo":
            linear(f"{layer}.attention.attn.{projection}", HIDDEN, HIDDEN)
        norm(f"{layer}.attention.LayerNorm")
        linear(f"{layer}.intermediate.dense", _INNER, HIDDEN)
        linear(f"{layer}.output.dense", HIDDEN, _INNER)
        norm(f"{layer}.output.LayerNorm")
    return tensors


def _tokenizer_json(vocabulary: list[str], path: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

    ids = {token: index for index, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))  # noqa: S106 - a token of a vocabulary
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", ids["</s>"]), ("<s>", ids["<s>"]))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in (*_SPECIAL, "<mask>")])
    tokenizer.save(str(path))


def _json_files(vocabulary: int) -> dict[str, Any]:
    config = {
        "architectures": ["MPNetModel"],
        "model_type": "mpnet",
        "vocab_size": vocabulary,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": _HEADS,
        "intermediate_size": _INNER,
        "max_position_embeddings": MAX_LENGTH + 2,  # positions count from the padding token's id 1 on
        "relative_attention_num_buckets": _BUCKETS,
        "layer_norm_eps": 1e-5,
    }
    tokenizer = {"tokenizer_class": "MPNetTokenizer", "unk_token": "[UNK]", "model_max_length": MAX_LENGTH}
    return {
        "config.json": config,
        "tokenizer_config.json": tokenizer,
        **layout_files(SentenceLayout("mean", normalize=True, max_length=MAX_LENGTH), HIDDEN),
    }
