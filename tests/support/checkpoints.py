"""Tiny random checkpoints of every supported family, in the shapes of today's embedders, as their makers save them."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from mtl.model.loading import quiet
from mtl.model.tiny import _vocabulary

if TYPE_CHECKING:
    from pathlib import Path

LONGEST = 48
"""Tokens of the longest input."""
_WINDOW = 8
"""Tokens of a sliding window, shorter than many a text."""
_HIDDEN = 16
_BERT: dict[str, Any] = {
    "hidden_size": _HIDDEN,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": LONGEST + 2,
    "pad_token_id": 1,
}
_DECODER: dict[str, Any] = {
    **_BERT,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint is made of, and what can be done with its family.

    Attributes:
        family: The model type of transformers.
        settings: Its config.
        tokens: How texts become tokens: ``wordpiece``, ``bytes`` or ``unigram``.
        pooling: The modes of the pooling.
        dense: Output sizes of Dense modules.
        normalize: Whether embeddings have length 1.
        prompts: Prompts by name.
        default_prompt: The name of the prompt that is used by default.
        left: Whether the tokenizer pads on the left.
        packed: Whether its layers run over packed tokens on a CPU.
        split: Whether it can be started from one of its layers, so that hidden states are cached.
        lora: Whether it takes adapters; ``joined``: for query, key and value together.
    """

    family: str
    settings: dict[str, Any]
    tokens: str = "wordpiece"
    pooling: tuple[str, ...] = ("mean",)
    dense: tuple[int, ...] = ()
    normalize: bool = False
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    left: bool = False
    packed: bool = False
    split: bool = False
    lora: bool | str = True


_KIN: dict[str, Any] = {"packed": True, "split": True}
_PROMPTS = {
    "query": "Instruct: find what answers it\nQuery:",
    "document": "",
    "topic": "task: classification | query: ",
}
CHECKPOINTS = {
    "bert": Checkpoint("bert", _BERT, normalize=True, **_KIN),
    "bert-concatenated": Checkpoint("bert", _BERT, pooling=("mean", "cls", "max"), **_KIN),
    "bert-dense": Checkpoint("bert", _BERT, pooling=("cls",), dense=(12,), normalize=True, **_KIN),
    "mpnet": Checkpoint("mpnet", _BERT, prompts=_PROMPTS, default_prompt="topic", normalize=True, **_KIN),
    "roberta": Checkpoint("roberta", _BERT, "bytes", **_KIN),
    "xlm-roberta": Checkpoint("xlm-roberta", _BERT, "unigram", pooling=("cls",), normalize=True, **_KIN),
    "camembert": Checkpoint("camembert", _BERT, "unigram", pooling=("mean_sqrt_len_tokens",), **_KIN),
    "electra": Checkpoint("electra", {**_BERT, "embedding_size": 8}, pooling=("weightedmean",), **_KIN),
    "distilbert": Checkpoint(
        "distilbert",
        {
            "dim": _HIDDEN,
            "n_layers": 3,
            "n_heads": 2,
            "hidden_dim": 24,
            "max_position_embeddings": LONGEST,
            "pad_token_id": 1,
        },
        pooling=("max",),
        split=True,
    ),
    "albert": Checkpoint("albert", {**_BERT, "embedding_size": 8}, "unigram", lora=False),
    "deberta-v2": Checkpoint(
        "deberta-v2",
        {
            **_BERT,
            "relative_attention": True,
            "position_buckets": 16,
            "pos_att_type": ["p2c", "c2p"],
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "position_biased_input": False,
            "type_vocab_size": 0,
        },
        "unigram",
    ),
    "modernbert": Checkpoint(
        "modernbert",
        {
            **_BERT,
            "local_attention": 2 * _WINDOW,
            "global_attn_every_n_layers": 2,
            "cls_token_id": 0,
            "sep_token_id": 2,
            "bos_token_id": 0,
            "eos_token_id": 2,
        },
        "bytes",
        lora="joined",
    ),
    "qwen3": Checkpoint(
        "qwen3", _DECODER, "bytes", pooling=("lasttoken",), normalize=True, prompts=_PROMPTS, left=True
    ),
    "qwen2": Checkpoint("qwen2", _DECODER, "bytes", pooling=("lasttoken",), normalize=True),
    "llama": Checkpoint("llama", _DECODER, "unigram", pooling=("weightedmean",)),
    "mistral": Checkpoint(
        "mistral", {**_DECODER, "sliding_window": _WINDOW}, "unigram", pooling=("lasttoken",), left=True
    ),
    "gemma3_text": Checkpoint(
        "gemma3_text",
        {
            **_DECODER,
            "use_bidirectional_attention": True,
            "sliding_window": 2 * _WINDOW,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "query_pre_attn_scalar": 8,
        },
        "unigram",
        dense=(40, _HIDDEN),
        normalize=True,
        prompts=_PROMPTS,
    ),
}  # fmt: skip


def write_checkpoint(checkpoint: Checkpoint, folder: Path) -> Path:
    """Write a checkpoint, the same one each time.

    Args:
        checkpoint: What it is made of.
        folder: Where to write; made if missing.

    Returns:
        ``folder``.
    """
    tokenizer = _tokenizer(checkpoint)
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(0)
        model = AutoModel.from_config(
            AutoConfig.for_model(checkpoint.family, vocab_size=len(tokenizer), **checkpoint.settings)
        )
        with torch.no_grad():
            for parameter in model.parameters():  # far from their start, so that each takes part in the results
                noise = torch.randn_like(parameter) * 0.3
                parameter.copy_(noise if parameter.ndim > 1 else parameter + noise)
        plain = folder / "plain"
        model.save_pretrained(plain)
        tokenizer.save_pretrained(plain)
        modes: Any = checkpoint.pooling  # their names are literals in the signature
        chain: list[torch.nn.Module] = [modules.Transformer(str(plain)), modules.Pooling(_HIDDEN, modes)]
        sizes, alone = (len(modes) * _HIDDEN, *checkpoint.dense), len(checkpoint.dense) == 1
        for width, size in pairwise(sizes):  # as in LaBSE, or two linear ones as in EmbeddingGemma
            activation = torch.nn.Tanh() if alone else torch.nn.Identity()
            chain.append(modules.Dense(width, size, bias=alone, activation_function=activation))
    if checkpoint.normalize:
        chain.append(modules.Normalize())
    whole = SentenceTransformer(
        modules=chain, prompts=checkpoint.prompts, default_prompt_name=checkpoint.default_prompt, device="cpu"
    )
    whole.save(str(folder / "checkpoint"), create_model_card=False)
    return folder / "checkpoint"


def _tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerFast:
    """Return a tokenizer with the ids ``<s>`` 0, ``<pad>`` 1 and ``</s>`` 2."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    backend = {"wordpiece": _wordpiece, "bytes": _bytes, "unigram": _unigram}[checkpoint.tokens](special)
    template = "$A </s>" if checkpoint.left else "<s> $A </s>"
    backend.post_processor = processors.TemplateProcessing(
        single=template, pair=f"{template} $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token"), special, strict=True))
    side = "left" if checkpoint.left else "right"
    return PreTrainedTokenizerFast(tokenizer_object=backend, padding_side=side, model_max_length=LONGEST, **names)


def _wordpiece(special: list[str]) -> Tokenizer:
    words = [word for word in _vocabulary() if word not in special]
    ids = {word: at for at, word in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token=special[-1]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _bytes(special: list[str]) -> Tokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({word: at for at, word in enumerate([*special, *letters])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _unigram(special: list[str]) -> Tokenizer:
    words = [word for word in _vocabulary() if word.isascii() and "[" not in word and not word.startswith(("#", "<"))]
    pieces = [*special, "▁", *(f"▁{word}" for word in words if len(word) > 1), *(w for w in words if len(w) == 1)]
    tokenizer = Tokenizer(models.Unigram([(piece, -float(len(special))) for piece in pieces], special.index("<unk>")))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer
