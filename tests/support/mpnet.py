"""A trained MPNet without a hub: the BERT weights of all-MiniLM-L6-v2, converted exactly.

A BERT is an MPNet whose relative attention bias is 0, once the embedding of token type 0 is added to every word and
the ids and positions are moved to where MPNet has them: ``<s> <pad> </s> <unk>`` stand before BERT's vocabulary and
``<mask>`` after it, and positions count from the padding id 1 on.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from transformers import MPNetConfig, MPNetTokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

_RENAMED = {
    "attention.self.query": "attention.attn.q",
    "attention.self.key": "attention.attn.k",
    "attention.self.value": "attention.attn.v",
    "attention.output.dense": "attention.attn.o",
    "attention.output.LayerNorm": "attention.LayerNorm",
}
_COPIED = ("modules.json", "sentence_bert_config.json", "1_Pooling/config.json")
_BUCKETS = 32


def convert_bert(bert: Path, folder: Path) -> Path:
    """Write the MPNet that computes the same embeddings as the BERT sentence encoder in ``bert``.

    Args:
        bert: A BERT in the hub's layout, with a lower-casing WordPiece tokenizer.
        folder: Where to write; made if missing.

    Returns:
        ``folder``.
    """
    (folder / "1_Pooling").mkdir(parents=True, exist_ok=True)
    (folder / "2_Normalize").mkdir(exist_ok=True)
    for name in _COPIED:
        shutil.copyfile(bert / name, folder / name)
    config = json.loads((bert / "config.json").read_text(encoding="utf-8"))
    vocabulary = (bert / "vocab.txt").read_text(encoding="utf-8").split("\n")[: config["vocab_size"]]
    tensors = _convert(load_file(bert / "model.safetensors"), vocabulary, config["num_attention_heads"])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _config(config).save_pretrained(folder)
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *vocabulary, "<mask>"]
    MPNetTokenizer({token: index for index, token in enumerate(tokens)}, model_max_length=512).save_pretrained(folder)
    return folder


def _convert(bert: dict[str, Tensor], vocabulary: list[str], heads: int) -> dict[str, Tensor]:
    words = bert["embeddings.word_embeddings.weight"] + bert["embeddings.token_type_embeddings.weight"][0]
    special = {token: words[vocabulary.index(token)] for token in ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")}
    before = torch.stack([special[token] for token in ("[CLS]", "[PAD]", "[SEP]", "[UNK]")])
    positions = bert["embeddings.position_embeddings.weight"]
    tensors = {
        "embeddings.word_embeddings.weight": torch.cat([before, words, special["[MASK]"][None]]),
        "embeddings.position_embeddings.weight": torch.cat([torch.zeros(2, positions.shape[1]), positions]),
        "encoder.relative_attention_bias.weight": torch.zeros(_BUCKETS, heads),
    }
    for name, tensor in bert.items():
        if name.startswith(("encoder.", "embeddings.LayerNorm.")):
            tensors[_rename(name)] = tensor.contiguous()
    return tensors


def _rename(name: str) -> str:
    for old, new in _RENAMED.items():
        name = name.replace(old, new)
    return name


def _config(bert: dict[str, int | float | str]) -> MPNetConfig:
    same = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
    rates = ("hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range", "layer_norm_eps")
    return MPNetConfig(
        vocab_size=int(bert["vocab_size"]) + 5,
        max_position_embeddings=int(bert["max_position_embeddings"]) + 2,
        relative_attention_num_buckets=_BUCKETS,
        architectures=["MPNetModel"],
        **{key: bert[key] for key in (*same, *rates)},
    )
