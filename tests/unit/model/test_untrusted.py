"""Model folders that would make transformers load or build more than the model: refused before it sees them."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from mtl.base.errors import ModelError
from mtl.inference.models import MultiTaskModel, SentenceEncoder
from mtl.model.encoder import Encoder
from mtl.model.loading import load_backbone, load_tokenizer
from mtl.model.sources import BackboneSpec, locate

if TYPE_CHECKING:
    from collections.abc import Callable

ADAPTER = {
    "peft_type": "LORA",
    "target_modules": ["q"],
    "megatron_config": {"a": 1},
    "megatron_core": "megatron.core",
}
"""With peft installed transformers loads this by itself, and peft imports the module."""


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that importing ``megatron.core`` would write: a package of that name lies in the working folder."""
    marker = tmp_path / "marker"
    package = tmp_path / "working" / "megatron"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "core.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.delitem(sys.modules, "megatron", raising=False)
    return marker


def add_adapter(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    save_file({"x": np.zeros(1, dtype=np.float32)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER))
    return folder / "adapter_config.json"


def set_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def text_of(load: Callable[[], object]) -> str:
    with pytest.raises(ModelError) as caught:
        load()
    return str(caught.value)


def test_an_adapter_is_refused_and_its_code_is_not_run(folder: Path, marker: Path) -> None:
    pytest.importorskip("peft")
    path = add_adapter(folder)
    expected = (
        "Model: 1 problem\n"
        f"  {path}\n"
        "      found:    an adapter, which transformers would load by itself, and which can name code to import\n"
        "      expected: a model without an adapter beside it\n"
        "      repair:   merge the adapter into the weights with peft (merge_and_unload), or remove this file"
    )
    assert text_of(lambda: Encoder.from_folder(folder)) == expected
    assert text_of(lambda: load_tokenizer(folder)) == expected
    assert text_of(lambda: locate(BackboneSpec(path=str(folder)))) == expected
    assert text_of(lambda: SentenceEncoder.from_pretrained(folder)) == expected
    assert not marker.exists()


def test_transformers_itself_would_have_run_it(folder: Path, marker: Path) -> None:
    """What the test above holds is worth something."""
    pytest.importorskip("peft")
    from transformers import MPNetModel

    add_adapter(folder)
    with pytest.raises(AttributeError, match="tensor_parallel"):
        MPNetModel.from_pretrained(folder)
    assert marker.exists()


@pytest.mark.parametrize("name", ["1_Pooling/adapter_config.json", "adapter_config.json"])
def test_an_adapter_in_a_snapshot_of_the_hub(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, marker: Path
) -> None:
    add_adapter((folder / name).parent)
    monkeypatch.setattr("mtl.model.hub.fetch", lambda *_: folder)
    assert f"  {folder / name}\n" in text_of(lambda: locate(BackboneSpec(name="owner/name")))
    assert not marker.exists()


@pytest.mark.parametrize("load", [MultiTaskModel.from_pretrained, SentenceEncoder.from_pretrained])
def test_an_adapter_in_a_saved_model(saved_model: Path, marker: Path, load: Callable[[Path], object]) -> None:
    path = add_adapter(saved_model)
    assert text_of(lambda: load(saved_model)) == (
        "Model: 2 problems\n"
        f"  {path}\n"
        "      found:    a file that was not saved with the model\n"
        "      expected: those of mtl.json\n"
        "      repair:   remove it\n"
        f"  {saved_model / 'adapter_model.safetensors'}\n"
        "      found:    a file that was not saved with the model\n"
        "      expected: those of mtl.json\n"
        "      repair:   remove it"
    )
    assert not marker.exists()


def test_an_adapter_that_the_manifest_lists(saved_model: Path, marker: Path) -> None:
    """Whoever gives the folder away can write its checksums, too."""
    from mtl.base.files import content_checksum, write_sealed_json

    path = add_adapter(saved_model)
    manifest = json.loads((saved_model / "mtl.json").read_text())
    for name in (path.name, "adapter_model.safetensors"):
        manifest["files"][name] = content_checksum(saved_model / name)
    write_sealed_json(saved_model / "mtl.json", manifest)
    assert text_of(lambda: MultiTaskModel.from_pretrained(saved_model)).startswith(
        f"Model: 1 problem\n  {path}\n      found:    an adapter"
    )
    assert not marker.exists()


@pytest.fixture
def saved_model(tiny_folder: Path, tmp_path: Path) -> Path:
    from mtl.model.saved import HeadSpec, TaskHead, build_network, save_model

    tasks = {"mood": TaskHead(["0", "1"], HeadSpec("linear"))}
    network = build_network(Encoder.from_folder(tiny_folder), tasks)
    save_model(tmp_path / "saved", network, load_tokenizer(tiny_folder), tasks, "")
    return tmp_path / "saved"


def test_what_the_hub_and_file_managers_leave_is_no_problem(saved_model: Path) -> None:
    (saved_model / ".gitattributes").touch()
    (saved_model / ".cache" / "huggingface").mkdir(parents=True)
    (saved_model / ".cache" / "huggingface" / "trace.json").touch()
    assert MultiTaskModel.from_pretrained(saved_model).labels == {"mood": ("0", "1")}


def test_a_distributed_checkpoint_does_not_take_the_place_of_the_weights(folder: Path) -> None:
    path = folder / "shard-00001-model-00001-of-00001.safetensors"
    shutil.copy(folder / "model.safetensors", path)
    assert text_of(lambda: load_backbone(folder)).startswith(
        f"Model: 1 problem\n  {path}\n      found:    a part of a distributed checkpoint"
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("quantization_config", {"quant_method": "gptq", "bits": 4}),
        ("transformers_weights", "other.safetensors"),
        ("fusion_config", {"a": 1}),
        ("attn_implementation", "kernels-community/flash-attn"),
        ("_attn_implementation", "flash_attention_2"),
    ],
)
def test_settings_that_load_more_than_the_weights(folder: Path, key: str, value: object) -> None:
    set_config(folder, **{key: value})
    assert text_of(lambda: load_backbone(folder)).startswith(f"Model: 1 problem\n  {folder / 'config.json'}: {key}\n")


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "modules.json"])
@pytest.mark.skipif(os.name == "nt", reason="no named pipes in the file system")
def test_a_pipe_is_not_waited_for(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    assert text_of(lambda: SentenceEncoder.from_pretrained(folder)) == (
        "Model: 1 problem\n"
        f"  {folder / name}\n"
        "      found:    a pipe, a socket or a device\n"
        "      expected: files and folders, nothing that reading could wait for\n"
        "      repair:   fetch the folder again"
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 1_000_000),
        ("num_hidden_layers", 10**18),
        ("hidden_size", 2**31),
        ("vocab_size", 2**40),
        ("intermediate_size", 10**9),
        ("num_labels", 10**9),
        ("num_attention_heads", 10**9),
    ],
)
def test_sizes_are_compared_with_the_header_of_the_weights(folder: Path, key: str, value: int) -> None:
    set_config(folder, **{key: value})
    limit = 53 if key == "num_hidden_layers" else "[0-9]+"
    pattern = (
        rf"Model: 1 problem\n  {re.escape(str(folder))}/config.json: {key}\n"
        rf"      found:    {value}; the weights have 53 tensors, no side of them longer than [0-9]+\n"
        rf"      expected: at most {limit}\n"
        "      repair:   fetch the folder again; weights of another model do not fit this config.json"
    )
    assert re.fullmatch(pattern, text_of(lambda: load_backbone(folder)))
    assert re.fullmatch(pattern, text_of(lambda: locate(BackboneSpec(path=str(folder)))))


@pytest.mark.parametrize("changes", [{"max_position_embeddings": 2**31}, {"relative_attention_num_buckets": 2**31}])
def test_other_sizes_take_no_memory_either(folder: Path, changes: dict[str, int]) -> None:
    set_config(folder, **changes)
    tracemalloc.start()
    try:
        text = text_of(lambda: load_backbone(folder))
        assert tracemalloc.get_traced_memory()[1] < 100_000_000
    finally:
        tracemalloc.stop()
    assert "weights of another shape for 1 of the parameters of MPNetModel: " in text


@pytest.mark.parametrize("changes", [{"hidden_size": -1}, {"num_attention_heads": 0}, {"intermediate_size": -5}])
def test_sizes_that_are_none(folder: Path, changes: dict[str, int]) -> None:
    set_config(folder, **changes)
    assert f"  {folder / 'config.json'}\n" in text_of(lambda: load_backbone(folder))


def test_shards_elsewhere(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
    index = {"metadata": {}, "weight_map": {"x": "../elsewhere.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert text_of(lambda: load_backbone(folder)) == (
        "Model: 1 problem\n"
        f"  {folder / 'model.safetensors.index.json'}\n"
        "      found:    the files '../elsewhere.safetensors'\n"
        "      expected: files beside it\n"
        "      repair:   fetch the folder again"
    )
