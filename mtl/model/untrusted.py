"""Checks of a model folder, without torch, before transformers sees it.

transformers loads more than the weights by itself: an adapter (whose configuration names a Python module to import), a
distributed checkpoint in place of ``model.safetensors``, kernels and quantisers that ``config.json`` names. It also
believes the sizes in ``config.json`` and builds a network of them before it looks at the weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open

from mtl.base.errors import ModelError, Problem, listed

ADAPTER: Final = "adapter_config.json"
_WEIGHTS: Final = "model.safetensors"
_DISTRIBUTED: Final = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
_LOADS_MORE: Final = (
    "compression_config",
    "distributed_config",
    "fusion_config",
    "kernel_config",
    "quantization_config",
    "transformers_weights",
)
_ATTENTION: Final = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")
_PLAIN_ATTENTION: Final = (None, "eager", "sdpa")
_COUNTS: Final = re.compile(r".*layers?|num_hidden_groups|inner_group_num|num_experts")
_SIZES: Final = re.compile(
    r"d_ff|d_model|dim|hidden_dim|(embedding|hidden|intermediate|type_vocab|vocab)_size"
    r"|num_attention_heads|_?num_labels"
)


def check_files(folder: Path) -> None:
    """Refuse what would make transformers load anything but the configuration, the tokenizer and the weights.

    Raises:
        ModelError: The folder holds an adapter, a distributed checkpoint, a pipe or a device, or its ``config.json``
            asks for kernels, quantisation or another file of weights; all of it.
    """
    problems = [problem for path in _entries(folder) for problem in _file_problems(path)]
    if not problems:  # reading a pipe would wait
        problems += _setting_problems(folder / "config.json")
    if problems:
        raise ModelError(problems)


def check_sizes(folder: Path) -> None:
    """Compare the sizes in ``config.json`` with the header of the weights, so that no network is built that cannot fit.

    Raises:
        ModelError: ``config.json`` asks for more layers than there are tensors, or for a size that no tensor has.
    """
    shapes = stored_shapes(folder)
    widest = max((size for shape in shapes.values() for size in shape), default=0)
    problems = []
    for key, value in _settings(folder / "config.json"):
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        limit = len(shapes) if _COUNTS.fullmatch(key) else widest if _SIZES.fullmatch(key) else None
        if limit is not None and value > limit:
            found = f"{value}; the weights have {len(shapes)} tensors, no side of them longer than {widest}"
            repair = "fetch the folder again; weights of another model do not fit this config.json"
            problems.append(Problem(f"{folder / 'config.json'}: {key}", found, f"at most {limit}", repair))
    if problems:
        raise ModelError(problems)


def stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of ``model.safetensors`` or its shards, from the headers of the files alone."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in _weight_files(folder):
        try:
            with safe_open(path, framework="numpy") as file:
                shapes.update({name: tuple(file.get_slice(name).get_shape()) for name in file.keys()})  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            found = f"the weights cannot be loaded: {str(error).splitlines()[0]}"
            expected = "safetensors that fit config.json"
            raise ModelError(Problem(str(path), found, expected, "fetch the folder again")) from error
    return shapes


def _entries(folder: Path) -> Iterator[Path]:
    """Yield what lies in the folder and in its folders, one level down, as modules of sentence-transformers do."""
    for path in sorted(folder.iterdir()):
        yield path
        if path.is_dir() and not path.name.startswith("."):
            yield from sorted(path.iterdir())


def _file_problems(path: Path) -> Iterator[Problem]:
    if path.name == ADAPTER:
        found = "an adapter, which transformers would load by itself, and which can name code to import"
        repair = "merge the adapter into the weights with peft (merge_and_unload), or remove this file"
        yield Problem(str(path), found, "a model without an adapter beside it", repair)
    if _DISTRIBUTED.fullmatch(path.name):
        found = f"a part of a distributed checkpoint, which transformers would load in place of {_WEIGHTS}"
        yield Problem(str(path), found, f"the weights in {_WEIGHTS} or its shards", "remove this file")
    if path.exists() and not path.is_file() and not path.is_dir():
        expected = "files and folders, nothing that reading could wait for"
        yield Problem(str(path), "a pipe, a socket or a device", expected, "fetch the folder again")


def _setting_problems(path: Path) -> Iterator[Problem]:
    for key, value in _settings(path):
        if key in _LOADS_MORE and value is not None:
            found = "a setting that makes transformers load more than the weights"
            yield Problem(f"{path}: {key}", found, "an encoder in full precision", "take another model")
        if key in _ATTENTION and value not in _PLAIN_ATTENTION:
            found, expected = f"{value!r:.80}", "eager, sdpa or null: other kernels are code"
            yield Problem(f"{path}: {key}", found, expected, "remove this line")


def _settings(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the keys of ``config.json`` and of the objects in it, with their values; loading names what is no JSON."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from value.items()
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _weight_files(folder: Path) -> list[Path]:
    """Return the files of the weights: one, or those that the index of shards names."""
    if (folder / _WEIGHTS).is_file():
        return [folder / _WEIGHTS]
    index = folder / f"{_WEIGHTS}.index.json"
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        outside = [name for name in names if Path(name).name != name]
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        found = f"not readable: {type(error).__name__}: {error}"
        raise ModelError(Problem(str(index), found, "the index of the shards", "fetch the folder again")) from error
    if outside:
        found = f"the files {listed(map(repr, outside), 4)}"
        raise ModelError(Problem(str(index), found, "files beside it", "fetch the folder again"))
    return [folder / name for name in names]
