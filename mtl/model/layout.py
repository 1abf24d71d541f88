"""How a model folder turns a sentence into an embedding: its sentence-transformers files, read without torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mtl.base.errors import ModelError, Problem, did_you_mean, listed
from mtl.base.pooling import POOLINGS

DENSE_WEIGHTS: Final = "model.safetensors"
_EXPECTED_MODULES: Final = (
    "Transformer and Pooling, then any number of Dense, and Normalize or not, in this order, all of "
    "sentence-transformers"
)
_PLAIN: Final = "fine-tune the bare encoder: copy the folder without modules.json (mean pooling, no normalisation)"
_PROMPTS: Final = "config_sentence_transformers.json"
_AGAIN: Final = "fetch the file again"

ACTIVATIONS: Final = {
    "identity": "torch.nn.modules.linear.Identity",
    "tanh": "torch.nn.modules.activation.Tanh",
    "relu": "torch.nn.modules.activation.ReLU",
    "gelu": "torch.nn.modules.activation.GELU",
    "silu": "torch.nn.modules.activation.SiLU",
    "sigmoid": "torch.nn.modules.activation.Sigmoid",
}
"""How sentence-transformers spells the activations of a Dense module; their names are also those in ``torch.nn``."""

# What can be set in sentence-transformers for the transformer beside its longest input, and the values that do nothing.
_NEUTRAL_SETTINGS: Final[dict[str, tuple[Any, ...]]] = {
    "transformer_task": ("feature-extraction",),
    "module_output_name": ("token_embeddings",),
    "tokenizer_name_or_path": (None,),
    **dict.fromkeys(("processing_kwargs", "tokenizer_args", "processor_kwargs"), (None, {})),
    **dict.fromkeys(("model_args", "model_kwargs", "config_args", "config_kwargs"), (None, {})),
}


@dataclass(frozen=True, slots=True)
class DenseSpec:
    """A linear layer and an activation behind the pooling."""

    in_features: int  # size of what comes in
    out_features: int  # size of what goes out
    bias: bool = True  # whether the linear layer has a bias
    activation: str = "tanh"  # a key of `ACTIVATIONS`
    path: str = field(default="", compare=False)  # the folder of its weights, in the model's folder


@dataclass(frozen=True, slots=True)
class SentenceLayout:
    """What a folder says about the way from a sentence to an embedding."""

    pooling: str = "mean"  # a key of `mtl.base.pooling.POOLINGS`, or several joined by ``+``
    normalize: bool = False  # whether embeddings are scaled to length 1
    max_length: int | None = None  # longest input in tokens, with the special ones; None where the folder does not say
    do_lower_case: bool = False  # whether text is lower-cased before it reaches the tokenizer
    dense: tuple[DenseSpec, ...] = ()  # the Dense modules between pooling and normalisation
    prompts: Mapping[str, str] = field(default_factory=dict)  # texts to put before a sentence, by their names
    default_prompt: str | None = None  # the name of the prompt that is used where none is asked for; None for none
    include_prompt: bool = True  # whether the tokens of a prompt count in the pooling

    def prompt(self, name: str | None = None, place: str = "prompt_name") -> str:
        """Return the text of a prompt, the default one without a name; empty where there is none.

        ``place`` says where the name comes from, for errors.

        Raises:
            ModelError: There is no prompt of this name, or its tokens would have to be left out of the pooling.
        """
        name = self.default_prompt if name is None else name
        if name is None:
            return ""
        if name not in self.prompts:
            expected = listed(self.prompts, most=40) or "none: the model has no prompts"
            raise ModelError(Problem(place, repr(name), expected, did_you_mean(name, list(self.prompts))))
        if self.prompts[name] and not self.include_prompt:
            found = f"{name!r}, in a model whose pooling leaves out the tokens of a prompt (include_prompt: false)"
            raise ModelError(Problem(place, found, "a model that pools over the prompt too, or no prompt"))
        return self.prompts[name]


def layout(folder: Path) -> SentenceLayout:
    """Read ``modules.json`` and the files that it names.

    A folder without it is a plain encoder: as in sentence-transformers its embedding is the mean of its tokens, or the
    last token where the model was made to continue texts.

    Raises:
        ModelError: A file is not valid JSON, or asks for something that would be done differently from
            sentence-transformers: a module, a pooling, a chat template; all at once.
    """
    problems: list[Problem] = []
    modules = _read(folder / "modules.json", problems)
    settings = _transformer_settings(folder, problems)
    prompts, default_prompt = _prompts(folder / _PROMPTS, problems)
    pooling, include_prompt = "mean", True
    dense: tuple[DenseSpec, ...] = ()
    normalize = False
    if modules is None:
        if not problems:
            pooling = _plain_pooling(folder, problems)
    elif wrong := _module_problems(folder, modules):
        problems += wrong
    else:
        kinds = [_kind(module) for module in modules]
        pooling, include_prompt = _pooling(folder / modules[1]["path"] / "config.json", problems)
        dense = tuple(
            spec
            for module, kind in zip(modules, kinds, strict=True)
            if kind == "Dense" and (spec := _dense(folder, module["path"], problems)) is not None
        )
        normalize = kinds[-1] == "Normalize"
        if normalize:
            place = folder / modules[-1]["path"] / "config.json"
            _check_embedding_only(place, _read(place, problems), problems)
    limit = _longest_input(folder, settings, problems)
    if problems:
        raise ModelError(problems)
    lower = bool(settings.get("do_lower_case", False))
    return SentenceLayout(pooling, normalize, limit, lower, dense, prompts, default_prompt, include_prompt)


def layout_files(layout: SentenceLayout, hidden_size: int) -> dict[str, Any]:
    """Return the files that `layout` reads back, in the spelling that sentence-transformers reads from 2 to 6.

    They are the content of each JSON file by its path in the folder. The weights of Dense modules are not among them;
    their folders are those of `dense_folders`.
    """
    files: dict[str, Any] = {
        "sentence_bert_config.json": {"max_seq_length": layout.max_length, "do_lower_case": layout.do_lower_case},
        "1_Pooling/config.json": _pooling_config(layout, hidden_size),
    }
    for path, spec in zip(dense_folders(layout), layout.dense, strict=True):
        files[f"{path}/config.json"] = {
            "in_features": spec.in_features,
            "out_features": spec.out_features,
            "bias": spec.bias,
            "activation_function": ACTIVATIONS[spec.activation],
        }
    paths = ["", "1_Pooling", *dense_folders(layout)]
    if layout.normalize:
        paths.append(f"{len(paths)}_Normalize")
        files[f"{paths[-1]}/config.json"] = {}
    files["modules.json"] = [
        {
            "idx": index,
            "name": str(index),
            "path": path,
            "type": f"sentence_transformers.models.{path.partition('_')[2] or 'Transformer'}",
        }
        for index, path in enumerate(paths)
    ]
    if layout.prompts:
        files[_PROMPTS] = {"prompts": dict(layout.prompts), "default_prompt_name": layout.default_prompt}
    return files


def dense_folders(layout: SentenceLayout) -> list[str]:
    """Return the folders of the Dense modules in a saved model."""
    return [f"{index}_Dense" for index in range(2, 2 + len(layout.dense))]


def _pooling_config(layout: SentenceLayout, hidden_size: int) -> dict[str, Any]:
    modes = layout.pooling.split("+")
    config: dict[str, Any] = {"word_embedding_dimension": hidden_size}
    if modes == [mode for mode in POOLINGS if mode in modes]:
        config |= {pooling.flag: mode in modes for mode, pooling in POOLINGS.items()}
    else:  # flags cannot express another order
        config["pooling_mode"] = modes
    return config if layout.include_prompt else {**config, "include_prompt": False}


def _read(path: Path, problems: list[Problem]) -> Any:
    """Return the JSON in ``path``, or None when there is no such file or it is damaged, which is a problem."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError, RecursionError) as error:  # brackets thousands of levels deep
        problems.append(Problem(str(path), f"not valid JSON: {error}", "JSON", _AGAIN))
        return None


def _module_problems(folder: Path, modules: Any) -> list[Problem]:
    """Say what in ``modules.json`` leads away from transformer, pooling and perhaps normalisation."""
    place = str(folder / "modules.json")
    if not isinstance(modules, list) or not all(isinstance(m, dict) and {"type", "path"} <= m.keys() for m in modules):
        return [Problem(place, "not a list of modules with a type and a path", _EXPECTED_MODULES, "fetch it again")]
    outside = [str(module["path"]) for module in modules if not stays_inside(module["path"])]
    if outside:
        return [Problem(place, f"the path {outside[0]!r}", "paths in the model's own folder", "fetch it again")]
    kinds = [_kind(module) for module in modules]
    behind = kinds[2:-1] if kinds[-1:] == ["Normalize"] else kinds[2:]
    if kinds[:2] != ["Transformer", "Pooling"] or set(behind) - {"Dense"}:
        return [Problem(place, f"the modules {listed(kinds)}", _EXPECTED_MODULES, _PLAIN)]
    if modules[0]["path"]:
        repair = "move the files of that folder up, beside modules.json, and set its path to an empty text"
        return [Problem(place, f"the transformer in {modules[0]['path']}/", "the transformer beside it", repair)]
    return []


def _kind(module: Mapping[str, Any]) -> str:
    """Return what a module is, by the name of its class; the whole path of one that is not of sentence-transformers."""
    name = str(module["type"])
    return name.rsplit(".", 1)[-1] if name.startswith("sentence_transformers.") else name


def stays_inside(path: Any) -> bool:
    """Whether a value from a model's files is a path, and leads nowhere but into the model's own folder."""
    plain = isinstance(path, str) and "\0" not in path
    return plain and not Path(path).is_absolute() and ".." not in re.split(r"[/\\]", path)


def _pooling(path: Path, problems: list[Problem]) -> tuple[str, bool]:
    """Return the poolings that the file asks for, and whether tokens of a prompt count.

    It has a flag for each pooling, or from sentence-transformers 6 on their names.
    """
    config = _object(path, "a pooling mode", problems)
    if config is None:
        return "mean", True
    named = config.get("pooling_mode") or [mode for mode, pooling in POOLINGS.items() if config.get(pooling.flag)]
    modes = list(map(str, (named or ["mean"]) if isinstance(named, list) else [named]))  # mean: the peer's default, too
    if not set(modes) <= set(POOLINGS):
        expected = f"one or several of {', '.join(POOLINGS)}"
        problems.append(Problem(str(path), f"the pooling {' + '.join(modes)}", expected, _PLAIN))
    return "+".join(modes), config.get("include_prompt", True) is not False


def _plain_pooling(folder: Path, problems: list[Problem]) -> str:
    """Return how sentence-transformers pools the tokens of a folder without modules."""
    tokenizer = _read(folder / "tokenizer_config.json", [])
    templates = [folder / name for name in ("chat_template.jinja", "chat_template.json") if (folder / name).exists()]
    if templates or (isinstance(tokenizer, dict) and tokenizer.get("chat_template")):
        place = str(templates[0] if templates else folder / "tokenizer_config.json")
        found = "a chat template, through which sentence-transformers would put each sentence"
        repair = "copy the folder without it, and take the key chat_template out of tokenizer_config.json"
        problems.append(Problem(place, found, "an encoder of plain sentences", repair))
    config = _read(folder / "config.json", [])  # loading the encoder says what is wrong with it
    if not isinstance(config, dict) or not config.get("is_causal", True):
        return "mean"
    names = config.get("architectures")
    causal = isinstance(names, list) and bool(names) and str(names[0]).endswith("ForCausalLM")
    return "lasttoken" if causal else "mean"


def _dense(folder: Path, path: str, problems: list[Problem]) -> DenseSpec | None:
    """Return a Dense module; None where something is wrong with it."""
    place = folder / path / "config.json"
    before = len(problems)
    config = _object(place, "sizes and an activation", problems)
    if config is None:
        return None
    sizes = [config.get(name) for name in ("in_features", "out_features")]
    if not all(map(_is_count, sizes)):
        found = f"in_features {sizes[0]!r} and out_features {sizes[1]!r}"
        problems.append(Problem(str(place), found, "two numbers from 1 on", _AGAIN))
    spelled = config.get("activation_function", ACTIVATIONS["tanh"])
    activation = next((name for name, known in ACTIVATIONS.items() if known == spelled), None)
    if activation is None:
        problems.append(Problem(str(place), f"the activation {spelled!r}", listed(ACTIVATIONS.values()), _PLAIN))
    if config.get("use_residual"):
        problems.append(Problem(str(place), "use_residual: true", "a Dense module without a residual", _PLAIN))
    _check_embedding_only(place, config, problems)
    if not (folder / path / DENSE_WEIGHTS).is_file():
        problems.append(_no_dense_weights(folder / path))
    if len(problems) > before or activation is None:
        return None
    return DenseSpec(config["in_features"], config["out_features"], config.get("bias", True), activation, path)


def _no_dense_weights(folder: Path) -> Problem:
    pickle = ", only a pickle, which can run code when it is loaded" if (folder / "pytorch_model.bin").exists() else ""
    repair = "load the model with sentence-transformers and save it again with save_pretrained" if pickle else _AGAIN
    return Problem(str(folder), f"no {DENSE_WEIGHTS}{pickle}", "the weights of a Dense module", repair)


def _check_embedding_only(path: Path, config: Any, problems: list[Problem]) -> None:
    """Refuse a module that works on something else than the sentence's embedding."""
    for key in ("module_input_name", "module_output_name"):
        name = config.get(key) if isinstance(config, dict) else None
        if name not in (None, "sentence_embedding"):
            problems.append(Problem(str(path), f"{key}: {name!r}", "sentence_embedding", _PLAIN))


def _object(path: Path, expected: str, problems: list[Problem]) -> dict[str, Any] | None:
    """Return the JSON object in a file that has to be there, or nothing, which is a problem."""
    before = len(problems)
    config = _read(path, problems)
    if isinstance(config, dict):
        return config
    if len(problems) == before:
        problems.append(Problem(str(path), "no such file, or no object in it", expected, "fetch it again"))
    return None


def _prompts(path: Path, problems: list[Problem]) -> tuple[dict[str, str], str | None]:
    """Return the prompts and the name of the default one; refuse what would make other embeddings."""
    config = _read(path, problems)
    if config is None:
        return {}, None
    if not isinstance(config, dict):
        problems.append(Problem(str(path), "no object", "an object", _AGAIN))
        return {}, None
    kind = config.get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        problems.append(Problem(f"{path}: model_type", repr(kind), "SentenceTransformer", _PLAIN))
    if config.get("truncate_dim") is not None:
        expected = "null: embeddings at their full size"
        problems.append(Problem(f"{path}: truncate_dim", repr(config["truncate_dim"]), expected, _PLAIN))
    prompts = config.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        problems.append(Problem(f"{path}: prompts", repr(prompts), "texts by name", _AGAIN))
        return {}, None
    default = config.get("default_prompt_name")
    if default in (None, *prompts):
        return prompts, default
    if default not in ("query", "document"):  # these two are empty in sentence-transformers unless they are saved
        problems.append(Problem(f"{path}: default_prompt_name", repr(default), listed(prompts) or "null", _AGAIN))
    return prompts, None


def _transformer_settings(folder: Path, problems: list[Problem]) -> dict[str, Any]:
    """Return ``sentence_bert_config.json``, or its sibling that old releases named after another family."""
    paths = sorted(folder.glob("sentence_*_config.json"), key=lambda path: path.name != "sentence_bert_config.json")
    settings = _read(paths[0], problems) if paths else None
    if not isinstance(settings, dict):
        return {}
    problems += _setting_problems(paths[0], settings)
    return settings


def _setting_problems(path: Path, settings: Mapping[str, Any]) -> list[Problem]:
    """Say what in the settings of the transformer makes sentence-transformers compute something else."""
    problems = [
        Problem(f"{path}: {key}", repr(settings[key]), listed(map(repr, neutral)), _PLAIN)
        for key, neutral in _NEUTRAL_SETTINGS.items()
        if key in settings and settings[key] not in neutral
    ]
    inputs = settings.get("modality_config")
    if inputs is None:
        return problems
    place = f"{path}: modality_config"
    if not isinstance(inputs, dict) or not isinstance(text := inputs.get("text"), dict):
        problems.append(Problem(place, "no text", "an encoder of sentences", _PLAIN))
    elif (text.get("method"), text.get("method_output_name")) != ("forward", "last_hidden_state"):
        found = f"text through {text.get('method')!r} to {text.get('method_output_name')!r}"
        problems.append(Problem(place, found, "text through 'forward' to 'last_hidden_state'", _PLAIN))
    elif "message" in inputs:
        found = "message: each sentence goes through a chat template"
        problems.append(Problem(place, found, "an encoder of plain sentences", f"take the key out of {path.name}"))
    return problems


def _longest_input(folder: Path, settings: dict[str, Any], problems: list[Problem]) -> int | None:
    """Return the limit in the settings, or else that of the tokenizer, where sentence-transformers 6 keeps it."""
    limit: Any = settings.get("max_seq_length")
    if _is_count(limit):
        return int(limit)
    if limit is not None:
        place = f"{folder / 'sentence_bert_config.json'}: max_seq_length"
        problems.append(Problem(place, repr(limit), "a number of tokens from 1 on, or null", _AGAIN))
    tokenizer = _read(folder / "tokenizer_config.json", problems)
    limit = tokenizer.get("model_max_length") if isinstance(tokenizer, dict) else None
    # "no limit" is written as a huge number
    return int(limit) if isinstance(limit, int | float) and 0 < limit < 1_000_000 else None


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0
