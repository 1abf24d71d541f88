"""Layout of a folder: old and new spellings of sentence-transformers, plain encoders, and what is not supported."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from mtl.base.errors import ModelError, Problem
from mtl.model.layout import DenseSpec, SentenceLayout, dense_folders, layout, layout_files

if TYPE_CHECKING:
    from pathlib import Path

OLD = "sentence_transformers.models."
NEW = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
}
PLAIN = "fine-tune the bare encoder: copy the folder without modules.json (mean pooling, no normalisation)"
EXPECTED = (
    "Transformer and Pooling, then any number of Dense, and Normalize or not, in this order, all of "
    "sentence-transformers"
)


def _write(folder: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def _modules(*types: str) -> list[dict[str, Any]]:
    paths = ["", *(f"{index}_{name.rsplit('.')[-1]}" for index, name in enumerate(types) if index)]
    return [
        {"idx": i, "name": str(i), "path": path, "type": name}
        for i, (path, name) in enumerate(zip(paths, types, strict=True))
    ]


def test_folder_of_all_minilm(minilm_folder: Path) -> None:
    assert layout(minilm_folder) == SentenceLayout("mean", normalize=True, max_length=256, do_lower_case=False)


def test_plain_encoder(tmp_path: Path) -> None:
    assert layout(tmp_path) == SentenceLayout("mean", normalize=False, max_length=None, do_lower_case=False)


@pytest.mark.parametrize("mode", ["mean", "cls"])
@pytest.mark.parametrize(
    "spelling",
    [
        lambda mode: {
            f"pooling_mode_{mode}_token{'s' if mode == 'mean' else ''}": True,
            "pooling_mode_max_tokens": False,
        },
        lambda mode: {"embedding_dimension": 8, "pooling_mode": mode, "include_prompt": True},
        lambda mode: {"pooling_mode": [mode]},
    ],
)
@pytest.mark.parametrize(
    "types", [[OLD + kind for kind in NEW], list(NEW.values()), [OLD + "Transformer", OLD + "Pooling"]]
)
def test_old_and_new_spellings(tmp_path: Path, mode: str, spelling: Any, types: list[str]) -> None:
    folder = _write(tmp_path, {"modules.json": _modules(*types), "1_Pooling/config.json": spelling(mode)})
    assert layout(folder) == SentenceLayout(mode, normalize=len(types) == 3)


def test_pooling_without_a_mode_is_mean(tmp_path: Path) -> None:
    files = {"modules.json": _modules(*NEW.values()), "1_Pooling/config.json": {"word_embedding_dimension": 8}}
    assert layout(_write(tmp_path, files)).pooling == "mean"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"sentence_bert_config.json": {"max_seq_length": 384}, "tokenizer_config.json": {"model_max_length": 512}},
            384,
        ),
        ({"sentence_bert_config.json": {}, "tokenizer_config.json": {"model_max_length": 512}}, 512),
        ({"sentence_roberta_config.json": {"max_seq_length": 128}}, 128),
        ({"sentence_bert_config.json": {"max_seq_length": None}}, None),
        ({"tokenizer_config.json": {"model_max_length": 1000000000000000019884624838656}}, None),
        ({"tokenizer_config.json": {"model_max_length": 1e30}}, None),
    ],
)
def test_longest_input(tmp_path: Path, files: dict[str, Any], expected: int | None) -> None:
    assert layout(_write(tmp_path, files)).max_length == expected


def test_lower_casing(tmp_path: Path) -> None:
    assert layout(_write(tmp_path, {"sentence_bert_config.json": {"do_lower_case": True}})).do_lower_case


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("max_length", [None, 77])
def test_written_layout_is_read_back(tmp_path: Path, pooling: str, normalize: bool, max_length: int | None) -> None:
    said = SentenceLayout(pooling, normalize, max_length, do_lower_case=normalize)
    assert layout(_write(tmp_path, layout_files(said, 8))) == said


@pytest.mark.parametrize(
    ("types", "shown"),
    [
        ((*NEW.values(), "sentence_transformers.base.modules.dense.Dense"), "Transformer, Pooling, Normalize, Dense"),
        ((OLD + "Transformer", OLD + "Pooling", OLD + "LayerNorm"), "Transformer, Pooling, LayerNorm"),
        ((OLD + "Transformer", OLD + "Dense", OLD + "Pooling"), "Transformer, Dense, Pooling"),
        ((OLD + "Transformer",), "Transformer"),
        ((OLD + "StaticEmbedding", OLD + "Pooling"), "StaticEmbedding, Pooling"),
        (("own_code.Transformer", OLD + "Pooling"), "own_code.Transformer, Pooling"),
    ],
)
def test_other_modules_are_refused(tmp_path: Path, types: tuple[str, ...], shown: str) -> None:
    _write(tmp_path, {"modules.json": _modules(*types), "1_Pooling/config.json": {"pooling_mode": "mean"}})
    with pytest.raises(ModelError) as caught:
        layout(tmp_path)
    assert str(caught.value) == (
        "Model: 1 problem\n"
        f"  {tmp_path / 'modules.json'}\n"
        f"      found:    the modules {shown}\n"
        f"      expected: {EXPECTED}\n"
        f"      repair:   {PLAIN}"
    )


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pooling_mode": "max"}, "max"),
        ({"pooling_mode": ["mean", "cls"]}, "mean+cls"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, "cls+mean"),
        ({"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}, "lasttoken"),
        ({"pooling_mode_weightedmean_tokens": True}, "weightedmean"),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, "mean_sqrt_len_tokens"),
    ],
)
def test_other_poolings(tmp_path: Path, config: dict[str, Any], expected: str) -> None:
    _write(tmp_path, {"modules.json": _modules(*NEW.values()), "1_Pooling/config.json": config})
    assert layout(tmp_path).pooling == expected
    _write(tmp_path, layout_files(layout(tmp_path), 8))
    assert layout(tmp_path).pooling == expected


@pytest.mark.parametrize(
    ("config", "shown"), [({"pooling_mode": "median"}, "median"), ({"pooling_mode": ["mean", 3]}, "mean + 3")]
)
def test_unknown_poolings_are_refused(tmp_path: Path, config: dict[str, Any], shown: str) -> None:
    _write(tmp_path, {"modules.json": _modules(*NEW.values()), "1_Pooling/config.json": config})
    with pytest.raises(ModelError) as caught:
        layout(tmp_path)
    assert str(caught.value) == (
        "Model: 1 problem\n"
        f"  {tmp_path / '1_Pooling' / 'config.json'}\n"
        f"      found:    the pooling {shown}\n"
        "      expected: one or several of cls, max, mean, mean_sqrt_len_tokens, weightedmean, lasttoken\n"
        f"      repair:   {PLAIN}"
    )


# --- Dense modules --------------------------------------------------------------------------------------------------

DENSE = {"in_features": 8, "out_features": 4, "activation_function": "torch.nn.modules.activation.Tanh"}


def _with_dense(folder: Path, *configs: dict[str, Any]) -> Path:
    types = [OLD + "Transformer", OLD + "Pooling", *[OLD + "Dense"] * len(configs), OLD + "Normalize"]
    files: dict[str, Any] = {"modules.json": _modules(*types), "1_Pooling/config.json": {"pooling_mode": "mean"}}
    for number, config in enumerate(configs, 2):
        files |= {f"{number}_Dense/config.json": config, f"{number}_Dense/model.safetensors": ""}
    return _write(folder, files)


def test_dense_modules(tmp_path: Path) -> None:
    identity = "torch.nn.modules.linear.Identity"
    second = {"in_features": 4, "out_features": 8, "bias": False, "activation_function": identity}
    found = layout(_with_dense(tmp_path, DENSE, second))
    assert found == SentenceLayout(
        normalize=True, dense=(DenseSpec(8, 4, bias=True, activation="tanh"), DenseSpec(4, 8, False, "identity"))
    )
    assert [spec.path for spec in found.dense] == ["2_Dense", "3_Dense"] == dense_folders(found)
    _write(tmp_path, layout_files(found, 8))
    assert layout(tmp_path) == found


@pytest.mark.parametrize(
    ("config", "shown"),
    [
        ({"activation_function": "os.system"}, "the activation 'os.system'"),
        ({"activation_function": None}, "the activation None"),
        ({"in_features": 0}, "in_features 0 and out_features 4"),
        ({"use_residual": True}, "use_residual: true"),
        ({"module_input_name": "token_embeddings"}, "module_input_name: 'token_embeddings'"),
        ({"module_output_name": "other"}, "module_output_name: 'other'"),
    ],
)
def test_other_dense_modules_are_refused(tmp_path: Path, config: dict[str, Any], shown: str) -> None:
    with pytest.raises(ModelError) as caught:
        layout(_with_dense(tmp_path, DENSE | config))
    (problem,) = caught.value.problems
    assert (problem.place, problem.found) == (str(tmp_path / "2_Dense" / "config.json"), shown)


def test_weights_of_a_dense_module_that_miss(tmp_path: Path) -> None:
    folder = _with_dense(tmp_path, DENSE)
    (folder / "2_Dense" / "model.safetensors").unlink()
    with pytest.raises(ModelError) as caught:
        layout(folder)
    place, expected = str(tmp_path / "2_Dense"), "the weights of a Dense module"
    assert caught.value.problems == (Problem(place, "no model.safetensors", expected, "fetch the file again"),)
    (folder / "2_Dense" / "pytorch_model.bin").touch()
    with pytest.raises(ModelError, match=r"no model\.safetensors, only a pickle, which can run code when it is loaded"):
        layout(folder)


# --- plain folders, prompts, and what sentence-transformers 6 writes ------------------------------------------------


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"architectures": ["BertModel"]}, "mean"),
        ({"architectures": ["Qwen3ForCausalLM"]}, "lasttoken"),
        ({"architectures": ["Qwen3ForCausalLM"], "is_causal": False}, "mean"),
        ({}, "mean"),
    ],
)
def test_pooling_of_a_plain_folder_is_that_of_sentence_transformers(
    tmp_path: Path, config: dict[str, Any], expected: str
) -> None:
    assert layout(_write(tmp_path, {"config.json": config})).pooling == expected


@pytest.mark.parametrize(
    "files", [{"chat_template.jinja": "{{ x }}"}, {"tokenizer_config.json": {"chat_template": "x"}}]
)
def test_plain_folder_with_a_chat_template_is_refused(tmp_path: Path, files: dict[str, Any]) -> None:
    with pytest.raises(ModelError) as caught:
        layout(_write(tmp_path, files))
    (problem,) = caught.value.problems
    assert problem.place == str(tmp_path / next(iter(files)))
    assert problem.found == "a chat template, through which sentence-transformers would put each sentence"


PROMPTS = {"query": "query: ", "document": ""}


def test_prompts(tmp_path: Path) -> None:
    found = layout(_write(tmp_path, {"config_sentence_transformers.json": {"prompts": PROMPTS}}))
    assert (found.prompts, found.default_prompt, found.prompt()) == (PROMPTS, None, "")
    assert found.prompt("query") == "query: "
    chosen = replace(found, default_prompt="query")
    assert chosen.prompt() == "query: "
    assert chosen.prompt("document") == ""
    assert layout(_write(tmp_path / "again", layout_files(chosen, 8))) == chosen


def test_prompt_that_there_is_not() -> None:
    with pytest.raises(ModelError) as caught:
        SentenceLayout().prompt("query")
    expected = "none: the model has no prompts"
    assert caught.value.problems == (Problem("prompt_name", "'query'", expected),)


def test_prompt_that_pooling_leaves_out(tmp_path: Path) -> None:
    files = {
        "modules.json": _modules(*NEW.values()),
        "1_Pooling/config.json": {"pooling_mode": "mean", "include_prompt": False},
        "config_sentence_transformers.json": {"prompts": PROMPTS},
    }
    found = layout(_write(tmp_path, files))
    assert found.prompt() == found.prompt("document") == ""
    with pytest.raises(ModelError) as caught:
        found.prompt("query")
    assert caught.value.problems[0].found == (
        "'query', in a model whose pooling leaves out the tokens of a prompt (include_prompt: false)"
    )
    assert layout(_write(tmp_path, layout_files(found, 8))) == found


@pytest.mark.parametrize(
    ("config", "key", "shown"),
    [
        ({"model_type": "SparseEncoder"}, "model_type", "'SparseEncoder'"),
        ({"truncate_dim": 64}, "truncate_dim", "64"),
        ({"prompts": {"query": 3}}, "prompts", "{'query': 3}"),
        ({"prompts": PROMPTS, "default_prompt_name": "topic"}, "default_prompt_name", "'topic'"),
    ],
)
def test_what_would_make_other_embeddings_is_refused(
    tmp_path: Path, config: dict[str, Any], key: str, shown: str
) -> None:
    path = tmp_path / "config_sentence_transformers.json"
    with pytest.raises(ModelError) as caught:
        layout(_write(tmp_path, {path.name: config}))
    assert [(each.place, each.found) for each in caught.value.problems] == [(f"{path}: {key}", shown)]


TEXT = {"method": "forward", "method_output_name": "last_hidden_state"}


def test_settings_as_sentence_transformers_6_writes_them(tmp_path: Path) -> None:
    settings = {
        "transformer_task": "feature-extraction",
        "modality_config": {"text": TEXT},
        "module_output_name": "token_embeddings",
    }
    assert layout(_write(tmp_path, {"sentence_bert_config.json": settings})) == SentenceLayout()


@pytest.mark.parametrize(
    ("settings", "key", "shown"),
    [
        ({"transformer_task": "fill-mask"}, "transformer_task", "'fill-mask'"),
        ({"processing_kwargs": {"text": {"max_length": 3}}}, "processing_kwargs", "{'text': {'max_length': 3}}"),
        ({"tokenizer_name_or_path": "other"}, "tokenizer_name_or_path", "'other'"),
        ({"modality_config": {"image": {}}}, "modality_config", "no text"),
        (
            {"modality_config": {"text": {**TEXT, "method_output_name": "pooler_output"}}},
            "modality_config",
            "text through 'forward' to 'pooler_output'",
        ),
        (
            {"modality_config": {"text": TEXT, "message": TEXT}},
            "modality_config",
            "message: each sentence goes through a chat template",
        ),
    ],
)
def test_settings_that_change_embeddings_are_refused(
    tmp_path: Path, settings: dict[str, Any], key: str, shown: str
) -> None:
    path = tmp_path / "sentence_bert_config.json"
    with pytest.raises(ModelError) as caught:
        layout(_write(tmp_path, {path.name: settings}))
    assert [(each.place, each.found) for each in caught.value.problems] == [(f"{path}: {key}", shown)]


def test_transformer_in_a_folder_of_its_own(tmp_path: Path) -> None:
    modules = _modules(*NEW.values())
    modules[0]["path"] = "0_Transformer"
    with pytest.raises(ModelError) as caught:
        layout(_write(tmp_path, {"modules.json": modules}))
    assert str(caught.value) == (
        "Model: 1 problem\n"
        f"  {tmp_path / 'modules.json'}\n"
        "      found:    the transformer in 0_Transformer/\n"
        "      expected: the transformer beside it\n"
        "      repair:   move the files of that folder up, beside modules.json, and set its path to an empty text"
    )


def test_missing_pooling_config(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        layout(_write(tmp_path, {"modules.json": _modules(*NEW.values())}))
    assert str(caught.value) == (
        "Model: 1 problem\n"
        f"  {tmp_path / '1_Pooling' / 'config.json'}\n"
        "      found:    no such file, or no object in it\n"
        "      expected: a pooling mode\n"
        "      repair:   fetch it again"
    )


def test_all_damaged_files_are_reported_together(tmp_path: Path) -> None:
    names = ("modules.json", "sentence_bert_config.json", "tokenizer_config.json")
    with pytest.raises(ModelError) as caught:
        layout(_write(tmp_path, dict.fromkeys(names, "{")))
    damage = "not valid JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"
    assert str(caught.value) == "Model: 3 problems\n" + "\n".join(
        f"  {tmp_path / name}\n      found:    {damage}\n      expected: JSON\n      repair:   fetch the file again"
        for name in names
    )


@pytest.mark.parametrize("content", [{}, [1], [{"type": "x"}]])
def test_modules_of_another_shape(tmp_path: Path, content: Any) -> None:
    with pytest.raises(ModelError) as caught:
        layout(_write(tmp_path, {"modules.json": content}))
    assert caught.value.problems[0].found == "not a list of modules with a type and a path"


@pytest.mark.parametrize("path", ["../secret", "/etc", "a/../../b", 3, None, "a\0b"])
def test_paths_that_leave_the_folder_are_refused(tmp_path: Path, path: Any) -> None:
    modules = [
        {"type": "sentence_transformers.models.Transformer", "path": ""},
        {"type": "sentence_transformers.models.Pooling", "path": path},
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    with pytest.raises(ModelError) as error:
        layout(tmp_path)
    expected = Problem(
        str(tmp_path / "modules.json"), f"the path {str(path)!r}", "paths in the model's own folder", "fetch it again"
    )
    assert error.value.problems == (expected,)


@pytest.mark.parametrize("limit", ["128", -1, True, 1.5, {"a": 1}])
def test_a_longest_input_that_is_no_number(tmp_path: Path, limit: Any) -> None:
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": limit}), encoding="utf-8")
    with pytest.raises(ModelError) as error:
        layout(tmp_path)
    place = f"{tmp_path}/sentence_bert_config.json: max_seq_length"
    expected = Problem(place, repr(limit), "a number of tokens from 1 on, or null", "fetch the file again")
    assert error.value.problems == (expected,)


def test_json_that_is_nested_too_deeply(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(ModelError, match=r"modules\.json\n +found: +not valid JSON: maximum recursion depth exceeded"):
        layout(tmp_path)
