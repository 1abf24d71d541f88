"""How a folder turns token states into an embedding: its sentence-transformers files, read without torch."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mtl.errors import ModelError, Problem, listed

SUPPORTED_POOLINGS: Final = ("mean", "cls")
_MODULES: Final = ("Transformer", "Pooling", "Normalize")
_EXPECTED_MODULES: Final = "Transformer and Pooling, and Normalize or not, in this order, all of sentence-transformers"
_PLAIN: Final = "fine-tune the bare encoder: copy the folder without modules.json (mean pooling, no normalisation)"

# sentence-transformers up to 5 wrote one flag a mode; 6 writes `pooling_mode` with a name or a list of names
# (sentence_transformers/sentence_transformer/modules/pooling.py).
_POOLING_FLAGS: Final = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True, slots=True)
class SentenceLayout:
    """What a folder says about the way from hidden states to an embedding.

    Attributes:
        pooling: "mean" or "cls".
        normalize: Whether embeddings are scaled to length 1.
        max_length: Longest input in tokens, with the special ones; None where the folder does not say.
        do_lower_case: Whether text is lower-cased before it reaches the tokenizer.
    """

    pooling: str = "mean"
    normalize: bool = False
    max_length: int | None = None
    do_lower_case: bool = False


def layout(folder: Path) -> SentenceLayout:
    """Read ``modules.json`` and the files that it names; a folder without it is a plain encoder with mean pooling.

    Prompts (``config_sentence_transformers.json``) are not applied: a fine-tuned model learns its own inputs.

    Args:
        folder: A folder in the hub's layout.

    Returns:
        Its layout.

    Raises:
        ModelError: A file is not valid JSON, or asks for a module or a pooling that is not supported; all at once.
    """
    problems: list[Problem] = []
    modules = _read(folder / "modules.json", problems)
    settings = _transformer_settings(folder, problems)
    pooling, normalize = "mean", False
    if modules is not None:
        problems += _module_problems(folder, modules)
    if modules is not None and not problems:
        pooling = _pooling(folder / modules[1]["path"] / "config.json", problems)
        normalize = len(modules) == len(_MODULES)
    limit = _stated_limit(folder, settings, problems) or _tokenizer_limit(folder, problems)
    if problems:
        raise ModelError(problems)
    return SentenceLayout(pooling, normalize, limit, bool(settings.get("do_lower_case", False)))


def layout_files(said: SentenceLayout, hidden_size: int) -> dict[str, Any]:
    """Return the files that ``layout`` reads back, in the spelling that sentence-transformers reads from 2 to 6.

    Args:
        said: The layout to write down.
        hidden_size: Size of the hidden states.

    Returns:
        The content of each JSON file, by its path in the folder.
    """
    files: dict[str, Any] = {
        "sentence_bert_config.json": {"max_seq_length": said.max_length, "do_lower_case": said.do_lower_case},
        "1_Pooling/config.json": {
            "word_embedding_dimension": hidden_size,
            "pooling_mode_cls_token": said.pooling == "cls",
            "pooling_mode_mean_tokens": said.pooling == "mean",
        },
    }
    if said.normalize:
        files["2_Normalize/config.json"] = {}
    paths = ["", "1_Pooling", "2_Normalize"][: 3 if said.normalize else 2]
    files["modules.json"] = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(zip(paths, _MODULES, strict=False))
    ]
    return files


def _read(path: Path, problems: list[Problem]) -> Any:
    """Return the JSON in ``path``, or None when there is no such file or it is damaged, which is a problem."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError, RecursionError) as error:  # brackets thousands of levels deep
        problems.append(Problem(str(path), f"not valid JSON: {error}", "JSON", "fetch the file again"))
        return None


def _module_problems(folder: Path, modules: Any) -> list[Problem]:
    """Say what in ``modules.json`` leads away from transformer, pooling and perhaps normalisation."""
    place = str(folder / "modules.json")
    if not isinstance(modules, list) or not all(isinstance(m, dict) and {"type", "path"} <= m.keys() for m in modules):
        return [Problem(place, "not a list of modules with a type and a path", _EXPECTED_MODULES, "fetch it again")]
    outside = [str(module["path"]) for module in modules if not _stays_inside(module["path"])]
    if outside:
        return [Problem(place, f"the path {outside[0]!r}", "paths in the model's own folder", "fetch it again")]
    types = [str(module["type"]) for module in modules]
    kinds = [name.rsplit(".", 1)[-1] if name.startswith("sentence_transformers.") else name for name in types]
    if kinds not in (list(_MODULES), list(_MODULES[:2])):
        return [Problem(place, f"the modules {listed(kinds)}", _EXPECTED_MODULES, _PLAIN)]
    if modules[0]["path"]:
        repair = "move the files of that folder up, beside modules.json, and set its path to an empty text"
        return [Problem(place, f"the transformer in {modules[0]['path']}/", "the transformer beside it", repair)]
    return []


def _stays_inside(path: Any) -> bool:
    """Whether a path of ``modules.json`` is one, and leads nowhere but into the folder."""
    plain = isinstance(path, str) and "\0" not in path
    return plain and not Path(path).is_absolute() and ".." not in re.split(r"[/\\]", path)


def _pooling(path: Path, problems: list[Problem]) -> str:
    """Return the one pooling that the file asks for, in the old or in the new spelling."""
    config = _read(path, problems)
    if not isinstance(config, dict):
        if not problems:
            problems.append(Problem(str(path), "no such file, or no object in it", "a pooling mode", "fetch it again"))
        return "mean"
    named = config.get("pooling_mode") or [mode for flag, mode in _POOLING_FLAGS.items() if config.get(flag)]
    modes = (named or ["mean"]) if isinstance(named, list) else [named]  # the peer's default, too
    if len(modes) != 1 or modes[0] not in SUPPORTED_POOLINGS:
        expected = f"one of {', '.join(SUPPORTED_POOLINGS)}"
        problems.append(Problem(str(path), f"the pooling {' + '.join(map(str, modes))}", expected, _PLAIN))
    return str(modes[0])


def _transformer_settings(folder: Path, problems: list[Problem]) -> dict[str, Any]:
    """Return ``sentence_bert_config.json``, or its sibling that old releases named after another family."""
    for path in sorted(
        folder.glob("sentence_*_config.json"), key=lambda path: path.name != "sentence_bert_config.json"
    ):
        settings = _read(path, problems)
        return settings if isinstance(settings, dict) else {}
    return {}


def _stated_limit(folder: Path, settings: dict[str, Any], problems: list[Problem]) -> int | None:
    """Return ``max_seq_length``, None where it is not stated."""
    limit = settings.get("max_seq_length")
    if limit is None or (isinstance(limit, int) and not isinstance(limit, bool) and limit > 0):
        return limit
    place = f"{folder / 'sentence_bert_config.json'}: max_seq_length"
    problems.append(Problem(place, repr(limit), "a number of tokens from 1 on, or null", "fetch the file again"))
    return None


def _tokenizer_limit(folder: Path, problems: list[Problem]) -> int | None:
    """Return the tokenizer's limit, where sentence-transformers 6 keeps it; "no limit" is written as a huge number."""
    settings = _read(folder / "tokenizer_config.json", problems)
    limit = settings.get("model_max_length") if isinstance(settings, dict) else None
    return int(limit) if isinstance(limit, int | float) and 0 < limit < 1_000_000 else None
