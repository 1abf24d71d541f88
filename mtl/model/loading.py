"""Load encoder and tokenizer from a folder: fp32, no pooler, no foreign code, complete or not at all."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import normalizers
from torch import Tensor, nn
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from mtl.base.errors import ModelError, Problem, listed
from mtl.data.tokens import tokenizing
from mtl.model.layout import layout
from mtl.model.untrusted import check_files, check_sizes, stored_shapes

SUPPORTED_FAMILIES: Final = (
    "albert",
    "bert",
    "camembert",
    "deberta-v2",
    "distilbert",
    "electra",
    "gemma3_text",
    "llama",
    "mistral",
    "modernbert",
    "mpnet",
    "qwen2",
    "qwen3",
    "roberta",
    "xlm-roberta",
)
"""The model types whose embeddings are held equal to those of sentence-transformers by a test."""
_MOST_GROWTH: Final = 2**16
"""Far more than the dozen replacements of a real tokenizer, which mostly make one character of one or several."""


def load_backbone(folder: Path) -> PreTrainedModel:
    """Load the bare encoder, without a pooler, in float32 and evaluation mode, where possible with SDPA attention.

    Raises:
        ModelError: The family is not supported, the weights are damaged or do not fit the config, some are missing, or
            the folder holds what is not allowed there (see `check_files`).
    """
    check_files(folder)
    check_sizes(folder)
    config = _config(folder)
    model_class = _model_class(folder, config)
    if hasattr(config, "use_cache"):  # keys and values of earlier tokens, for a model that continues texts
        config.use_cache = False
    poolerless = "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
    options = {"add_pooling_layer": False} if poolerless else {}
    _check_shapes(folder, model_class, config, options)
    try:
        with quiet():  # without `attn_implementation` transformers takes SDPA wherever the family has it
            model, report = model_class.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below: their error points to a report that is not shown
                **options,
            )
    except Exception as error:  # of a damaged config any layer may raise anything
        found = f"the weights cannot be loaded: {_reason(error)}"
        expected = "safetensors that fit config.json"
        raise ModelError(Problem(str(folder), found, expected, "fetch the folder again")) from error
    _refuse_gaps(folder, model_class.__name__, report)
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model.eval()


def read_tensors(path: Path, repair: str) -> dict[str, Tensor]:
    """Return the tensors in a file of safetensors, or raise a `ModelError` with the repair for one that is damaged."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(Problem(str(path), f"not readable: {_reason(error)}", "safetensors", repair)) from error


def load_dense(module: nn.Module, path: Path) -> None:
    """Load the weights of a Dense module from its safetensors, in place."""
    tensors = {name: value.float() for name, value in read_tensors(path, "fetch the file again").items()}
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    if shapes != expected:
        wanted = f"{expected}, as the config.json beside it says"
        raise ModelError(Problem(str(path), f"the tensors {shapes}", wanted, "fetch the folder again"))
    module.load_state_dict(tensors)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bars and reports, such as of unused pooler weights, off the terminal."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _config(folder: Path) -> PreTrainedConfig:
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # transformers and its validators raise what they like
        found = f"cannot be used: {_reason(error)}"
        expected = "the config of an encoder that transformers knows without code from the folder"
        raise ModelError(Problem(str(folder / "config.json"), found, expected)) from error


def _reason(error: Exception) -> str:
    """Return what an error says in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def _model_class(folder: Path, config: PreTrainedConfig) -> Any:
    if config.model_type not in SUPPORTED_FAMILIES or config.is_encoder_decoder:
        kind = ", an encoder-decoder" if config.is_encoder_decoder else ""
        found, expected = f"the model type {config.model_type}{kind}", f"one of {', '.join(SUPPORTED_FAMILIES)}"
        raise ModelError(Problem(str(folder / "config.json"), found, expected, "take another checkpoint"))
    return MODEL_MAPPING[type(config)]


def _check_shapes(folder: Path, model_class: Any, config: PreTrainedConfig, options: dict[str, Any]) -> None:
    """Refuse a configuration whose network has other shapes than the weights, before any memory is taken for it."""
    try:
        with quiet(), torch.device("meta"), torch.random.fork_rng(devices=[]):
            network = model_class(config, **options)
    except Exception as error:  # of a damaged config any layer may raise anything
        found = f"no network can be built of it: {_reason(error)}"
        expected = "the config of the weights beside it"
        raise ModelError(Problem(str(folder / "config.json"), found, expected, "fetch the folder again")) from error
    stored = {
        name.removeprefix(f"{network.base_model_prefix}."): shape for name, shape in stored_shapes(folder).items()
    }
    wanted = {
        name: tuple(parameter.shape) for name, parameter in network.named_parameters() if not name.startswith("pooler.")
    }
    misfits = [(name, stored[name], shape) for name, shape in wanted.items() if stored.get(name, shape) != shape]
    if misfits:
        raise ModelError(_misfits(folder, model_class.__name__, misfits))
    size, limit = (sum(map(math.prod, shapes.values())) for shapes in (wanted, stored))
    if size > 2 * limit:  # fewer gaps are named one by one after loading
        found = f"{model_class.__name__} with {size:,} parameters, and weights for {limit:,}"
        repair = "fetch the folder again; weights of another family do not fit this config.json"
        raise ModelError(Problem(str(folder / "config.json"), found, "weights for every parameter", repair))


def _misfits(folder: Path, model: str, misfits: Sequence[tuple[str, Any, Any]]) -> Problem:
    shown = [f"{name} is {tuple(has)}, not {tuple(wants)}" for name, has, wants in sorted(misfits)]
    found = f"weights of another shape for {len(shown)} of the parameters of {model}: {listed(shown, 4)}"
    return Problem(str(folder), found, "the shapes of config.json", "fetch the folder again")


def _refuse_gaps(folder: Path, model: str, report: dict[str, Any]) -> None:
    """Refuse weights that are missing or of another shape: transformers fills in random numbers and only warns."""
    problems = []
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    if missing:
        found = f"no weights for {len(missing)} of the parameters of {model}: {listed(missing, 4)}"
        repair = "fetch the folder again; weights of another family do not fit this config.json"
        problems.append(Problem(str(folder), found, "weights for every parameter", repair))
    if report["mismatched_keys"]:
        problems.append(_misfits(folder, model, report["mismatched_keys"]))
    if problems:
        raise ModelError(problems)


def positions(backbone: nn.Module) -> int | None:
    """Return the longest input that has positions; families after RoBERTa leave those up to the padding id unused."""
    for name, module in backbone.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    limit = getattr(backbone.config, "max_position_embeddings", None)
    return limit if limit is not None and limit > 0 else None


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Load the tokenizer in ``folder``; its texts are lower-cased first where the folder's layout says so.

    It is a fast one with a padding token. Truncation and padding that were saved with it (all-MiniLM-L6-v2 pads every
    text to 128 tokens) are taken off.

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
    _check_growth(folder, tokenizer)
    _check_vocabulary(folder, tokenizer)
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    if layout(folder).do_lower_case:
        _lower_first(tokenizer)
    return tokenizer


def _check_vocabulary(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Refuse ids without an embedding, of the vocabulary and of what is put around every text."""
    try:
        size = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("vocab_size")
    except (OSError, ValueError, AttributeError, RecursionError):
        return  # loading the encoder says so
    with tokenizing(tokenizer):
        highest = max([*tokenizer.get_vocab().values(), *tokenizer("", verbose=False)["input_ids"]], default=0)
    if isinstance(size, int) and highest >= size:
        found = f"tokens up to {highest}, and config.json has a vocab_size of {size}"
        raise ModelError(Problem(str(folder), found, "a token embedding for each", "fetch the folder again"))


def _check_growth(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Refuse a chain of replacements that could make more of a text than fits into memory, each more of the last."""
    normalizer = tokenizer.backend_tokenizer.normalizer
    growth = 1.0 if normalizer is None else _growth(json.loads(normalizer.__getstate__()))
    if growth > _MOST_GROWTH:
        found = f"a normalizer that can make a text {growth:,.0f} times as long"
        expected = f"at most {_MOST_GROWTH:,} times"
        raise ModelError(Problem(str(folder / "tokenizer.json"), found, expected, "take another model"))


def _growth(normalizer: dict[str, Any]) -> float:
    """Return how many characters a normalizer can make of one."""
    if normalizer["type"] == "Sequence":
        return math.prod(map(_growth, normalizer["normalizers"]))
    if normalizer["type"] == "Prepend":
        return 1.0 + len(normalizer["prepend"])
    if normalizer["type"] == "Replace":
        literal = normalizer["pattern"].get("String")
        return max(1.0, len(normalizer["content"]) / len(literal)) if literal else 1.0 + len(normalizer["content"])
    return 1.0


def _lower_first(tokenizer: PreTrainedTokenizerFast) -> None:
    """Put lower-casing before what the tokenizer does to a text; doing it twice changes nothing."""
    backend = tokenizer.backend_tokenizer
    rest = [] if backend.normalizer is None else [backend.normalizer]
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *rest])
