"""The saved model: what is written is what is loaded, damage is named file by file, and nothing is ever half there."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from mtl.base.errors import ModelError
from mtl.base.files import write_sealed_json
from mtl.base.run_folder import find_model
from mtl.model.encoder import Encoder
from mtl.model.loading import load_tokenizer
from mtl.model.saved import HeadSpec, TaskHead, build_network, load_model, save_model
from tests.support.networks import batch

if TYPE_CHECKING:
    from collections.abc import Callable

    from mtl.model.network import MultiTaskNetwork

TASKS = {
    "topic": TaskHead(
        ["price", "größe", "other"], HeadSpec("mlp", dropout=0.2, hidden=7), 1.5, [0.5, -0.125, 0.0], 0.5
    ),
    "mood": TaskHead(["0", "1"], HeadSpec("linear", dropout=0.1)),
}


@pytest.fixture(scope="module")
def made(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[MultiTaskNetwork, Path]:
    """A network and the folder that it was saved in. Do not write into it."""
    torch.manual_seed(1)
    network = build_network(Encoder.from_folder(tiny_folder), TASKS)
    folder = tmp_path_factory.mktemp("saved") / "run" / "model"
    save_model(folder, network, load_tokenizer(tiny_folder), TASKS, "# A card\n")
    return network, folder


@pytest.fixture
def copy(made: tuple[MultiTaskNetwork, Path], tmp_path: Path) -> Path:
    """A copy of the saved model to damage."""
    return Path(shutil.copytree(made[1], tmp_path / "model"))


def problem_of(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(folder)
    return str(caught.value)


def test_the_loaded_model_has_every_bit_of_the_saved_one(made: tuple[MultiTaskNetwork, Path]) -> None:
    network, folder = made
    saved = load_model(folder)
    expected, found = network.state_dict(), saved.network.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    assert saved.tasks == TASKS
    assert saved.folder == folder
    assert not any(module.training for module in saved.network.modules())
    assert saved.network.encoder.layout == network.encoder.layout
    rows = batch({"topic": 3, "mood": 2})
    logits = network.eval()(rows)
    assert all(torch.equal(logits[task], found) for task, found in saved.network(rows).items())


def test_the_tokenizer_comes_with_it(made: tuple[MultiTaskNetwork, Path], tiny_folder: Path) -> None:
    texts = ["A great phone!", "", "naïve 中文"]
    assert load_model(made[1]).tokenizer(texts)["input_ids"] == load_tokenizer(tiny_folder)(texts)["input_ids"]


def test_a_loaded_model_saved_again_has_the_same_files(made: tuple[MultiTaskNetwork, Path], tmp_path: Path) -> None:
    saved = load_model(made[1])
    save_model(tmp_path / "again", saved.network, saved.tokenizer, saved.tasks, "# A card\n")
    assert contents(tmp_path / "again") == contents(made[1])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_there_is_no_pickle_and_no_code_in_it(made: tuple[MultiTaskNetwork, Path]) -> None:
    assert {Path(name).suffix for name in contents(made[1])} == {".json", ".safetensors", ".md"}


def test_sentence_transformers_gives_the_same_embeddings(made: tuple[MultiTaskNetwork, Path]) -> None:
    from sentence_transformers import SentenceTransformer

    from mtl.inference.models import MultiTaskModel
    from tests.support.texts import TEXTS

    peer = SentenceTransformer(str(made[1]), device="cpu")
    expected = peer.encode(list(TEXTS))
    assert MultiTaskModel.from_pretrained(made[1]).encode(TEXTS) == pytest.approx(expected, abs=1e-6)


def test_a_run_folder_will_do(made: tuple[MultiTaskNetwork, Path]) -> None:
    assert find_model(made[1].parent) == made[1]
    assert load_model(made[1].parent).folder == made[1]


def test_a_folder_of_links_will_do(made: tuple[MultiTaskNetwork, Path], tmp_path: Path) -> None:
    """The hub's client keeps a model as links to files that lie elsewhere."""
    for name in contents(made[1]):
        link = tmp_path / "links" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(made[1] / name)
    assert load_model(tmp_path / "links").tasks == TASKS


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip, truncate])
@pytest.mark.parametrize("name", ["model.safetensors", "heads.safetensors", "tokenizer.json", "1_Pooling/config.json"])
def test_a_damaged_file_is_named(copy: Path, damage: Callable[[Path], None], name: str) -> None:
    damage(copy / name)
    assert problem_of(copy) == (
        "Model: 1 problem\n"
        f"  {copy / name}\n"
        "      found:    a changed or damaged file\n"
        "      expected: the file as it was saved (its checksum differs)\n"
        "      repair:   copy the model again"
    )


def test_all_damage_is_named_together(copy: Path) -> None:
    (copy / "heads.safetensors").unlink()
    truncate(copy / "model.safetensors")
    assert problem_of(copy) == (
        "Model: 2 problems\n"
        f"  {copy / 'heads.safetensors'}\n"
        "      found:    no such file\n"
        "      expected: a file of the saved model\n"
        "      repair:   copy the model again\n"
        f"  {copy / 'model.safetensors'}\n"
        "      found:    a changed or damaged file\n"
        "      expected: the file as it was saved (its checksum differs)\n"
        "      repair:   copy the model again"
    )


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "mtl.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    write_sealed_json(path, content)


@pytest.mark.parametrize("name", ["../secret", "1_Pooling/../../secret", "/etc/hostname"])
def test_a_path_that_leaves_the_folder_is_refused(copy: Path, name: str) -> None:
    edit(copy, lambda content: content["files"].update({name: "0" * 64}))
    assert problem_of(copy) == (
        "Model: 1 problem\n"
        f"  {copy / 'mtl.json'}\n"
        f"      found:    the file {name!r}\n"
        "      expected: files in the model's own folder"
    )


def test_a_manifest_without_the_heads(copy: Path) -> None:
    edit(copy, lambda content: content["files"].pop("heads.safetensors"))
    assert problem_of(copy) == (
        "Model: 1 problem\n"
        f"  {copy / 'mtl.json'}\n"
        "      found:    no heads.safetensors\n"
        "      expected: the weights of the heads"
    )


def test_labels_in_another_order_are_noticed(copy: Path) -> None:
    path = copy / "mtl.json"
    text = path.read_text(encoding="utf-8")
    swapped = text.replace('"price"', '"x"').replace('"other"', '"price"').replace('"x"', '"other"')
    assert swapped != text
    path.write_text(swapped, encoding="utf-8")
    assert problem_of(copy) == (
        f"Model: 1 problem\n  {path}\n"
        "      found:    a changed or damaged file\n"
        "      expected: the file as it was saved (its checksum differs)\n"
        "      repair:   copy the model again"
    )


def test_heads_that_are_not_those_of_the_manifest(copy: Path) -> None:
    edit(copy, lambda content: content["tasks"]["mood"]["labels"].append("2"))
    assert problem_of(copy) == (
        "Model: 2 problems\n"
        f"  {copy / 'heads.safetensors'}: mood_.out.bias\n"
        "      found:    [2]\n"
        "      expected: [3], as mtl.json describes the heads\n"
        "      repair:   copy the model again or train it again\n"
        f"  {copy / 'heads.safetensors'}: mood_.out.weight\n"
        "      found:    [2, 32]\n"
        "      expected: [3, 32], as mtl.json describes the heads\n"
        "      repair:   copy the model again or train it again"
    )


def test_a_head_that_misses(copy: Path) -> None:
    edit(copy, lambda content: content["tasks"].pop("topic"))
    edit(copy, lambda content: content["tasks"].update(tone=content["tasks"]["mood"]))
    found, heads = problem_of(copy), copy / "heads.safetensors"
    assert found.startswith("Model: 6 problems\n")
    assert f"{heads}: tone_.out.bias\n      found:    no such tensor\n      expected: [2], as mtl.json" in found
    assert f"{heads}: topic_.out.bias\n      found:    [3]\n      expected: no such tensor, as mtl.json" in found


@pytest.mark.parametrize(
    ("content", "place", "found", "expected", "repair"),
    [
        (
            "{",
            "",
            "not readable: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
            "JSON",
            "copy the model again or train it again",
        ),
        ("[]", "", "no object", "format 1", "load it with the version of mtl that wrote it"),
        ('{"format": 2}', "", "format 2", "format 1", "load it with the version of mtl that wrote it"),
        (
            '{"format": 1, "tasks": {}}',
            ": files",
            "nothing",
            "a value",
            "copy the model again or train it again",
        ),
    ],
)
def test_a_manifest_that_is_none(copy: Path, content: str, place: str, found: str, expected: str, repair: str) -> None:
    (copy / "mtl.json").write_text(content)
    assert problem_of(copy) == (
        f"Model: 1 problem\n  {copy / 'mtl.json'}{place}\n"
        f"      found:    {found}\n      expected: {expected}\n      repair:   {repair}"
    )


@pytest.mark.parametrize(
    ("change", "key", "found", "expected"),
    [
        ({"temperature": 0}, "temperature", "0", "greater than or equal to 0.01"),
        ({"temperature": -1.5}, "temperature", "-1.5", "greater than or equal to 0.01"),
        ({"temperature": 1e-320}, "temperature", "1e-320", "greater than or equal to 0.01"),
        ({"temperature": 1e300}, "temperature", "1e+300", "less than or equal to 100"),
        ({"bias": [1e308, 0.0]}, "bias.0", "1e+308", "less than or equal to 1000000"),
        ({"labels": [], "bias": []}, "labels", "[]", "at least 1 values"),
        ({"labels": ["0", "0"]}, "labels", "labels that stand more than once: '0'", "each label once"),
        ({"temperature": "warm"}, "temperature", "'warm'", "a number"),
        ({"bias": [0.5]}, "bias", "a list of 1", "null, or a list of 2 numbers, one for each label"),
        ({"bias": []}, "bias", "a list of 0", "null, or a list of 2 numbers, one for each label"),
        ({"bias": [0.5, None]}, "bias.1", "null", "a number"),
        (
            {"outcomes": {"true": [[0.5]], "right": [0.5], "wrong": []}},
            "outcomes.true",
            "a list of 1",
            "a list of 2, one for each label",
        ),
        (
            {"outcomes": {"true": [[0.5], [1.5]], "right": [0.5], "wrong": []}},
            "outcomes.true.1.0",
            "1.5",
            "less than or equal to 1",
        ),
    ],
)
def test_a_calibration_that_is_none(copy: Path, change: dict[str, Any], key: str, found: str, expected: str) -> None:
    edit(copy, lambda content: content["tasks"]["mood"].update(change))
    assert problem_of(copy) == (
        f"Model: 1 problem\n  {copy / 'mtl.json'}: tasks.mood.{key}\n"
        f"      found:    {found}\n      expected: {expected}\n"
        "      repair:   copy the model again or train it again"
    )


@pytest.mark.parametrize(
    ("change", "key", "found", "expected"),
    [
        ({"dropout": 5}, "dropout", "5", "less than 1"),
        ({"dropout": -0.5}, "dropout", "-0.5", "greater than or equal to 0"),
        ({"hidden": -1}, "hidden", "-1", "greater than or equal to 1"),
        ({"hidden": 2**31}, "hidden", "2147483648", "less than or equal to 65536"),
        ({"scale": 0}, "scale", "0", "greater than 0"),
    ],
)
def test_a_head_that_is_none(copy: Path, change: dict[str, Any], key: str, found: str, expected: str) -> None:
    edit(copy, lambda content: content["tasks"]["topic"]["head"].update(change))
    assert problem_of(copy) == (
        f"Model: 1 problem\n  {copy / 'mtl.json'}: tasks.topic.head.{key}\n"
        f"      found:    {found}\n      expected: {expected}\n"
        "      repair:   copy the model again or train it again"
    )


def test_the_heads_are_compared_before_they_are_built(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest of a few kilobytes could ask for gigabytes."""

    def never(*_: object) -> None:
        raise AssertionError("a network was built")

    monkeypatch.setattr("mtl.model.saved.build_network", never)
    edit(copy, lambda content: content["tasks"]["topic"]["head"].update(hidden=65_536))
    place = f"{copy / 'heads.safetensors'}: topic_.hidden.bias"
    assert f"{place}\n      found:    [7]\n      expected: [65536], as mtl.json" in problem_of(copy)


@pytest.mark.parametrize("name", ["../../elsewhere", "/etc/x", "a\x1b[31mb", "[/]", "a\0b", "", "all", "x" * 61])
def test_a_task_name_that_training_would_refuse(copy: Path, name: str) -> None:
    """`evaluate` writes files that are called after the tasks."""
    edit(copy, lambda content: content["tasks"].update({name: content["tasks"]["mood"]}))
    with pytest.raises(ModelError) as caught:
        load_model(copy)
    (problem,) = caught.value.problems
    assert problem.place == f"{copy / 'mtl.json'}: tasks"
    assert problem.found == f"the task name {name!r}"
    assert problem.expected.startswith("at most 60 letters, digits and underscores, not starting with a digit, and no")
    assert "\x1b" not in str(caught.value)


def test_a_model_without_tasks(copy: Path) -> None:
    edit(copy, lambda content: content["tasks"].clear())
    assert f"{copy / 'mtl.json'}: tasks\n      found:    no task\n" in problem_of(copy)


def test_where_there_is_no_model(tmp_path: Path) -> None:
    expected = "a saved model, a folder with mtl.json, or a run folder with model/"
    (tmp_path / "file").touch()
    for name, found in ("nowhere", "no such folder"), ("file", "a file"):
        assert problem_of(tmp_path / name) == (
            f"Model: 1 problem\n  {tmp_path / name}\n      found:    {found}\n      expected: {expected}\n"
            "      repair:   give the run folder that training printed at its end"
        )
    assert problem_of(tmp_path) == (
        f"Model: 1 problem\n  {tmp_path}\n      found:    a folder that holds file\n      expected: {expected}\n"
        "      repair:   a run writes its model at its end: see its train.log"
    )


def test_saving_replaces_the_whole_folder(copy: Path, made: tuple[MultiTaskNetwork, Path]) -> None:
    (copy / "stale.bin").touch()
    saved = load_model(made[1])
    save_model(copy, saved.network, saved.tokenizer, saved.tasks, "# Another card\n")
    assert (copy / "README.md").read_text() == "# Another card\n"
    assert not (copy / "stale.bin").exists()
    assert load_model(copy).tasks == TASKS
    assert [path.name for path in copy.parent.iterdir()] == ["model"]


@pytest.mark.parametrize(
    "step", ["mtl.model.saved.save_file", "mtl.model.saved.write_sealed_json", "mtl.model.saved.content_checksum"]
)
def test_a_model_that_could_not_be_written_leaves_the_old_one(
    copy: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    before, saved = contents(copy), load_model(copy)

    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(step, fail)
    with pytest.raises(OSError, match=r"^no space left$"):
        save_model(copy, saved.network, saved.tokenizer, saved.tasks, "")
    assert contents(copy) == before
    assert [path.name for path in copy.parent.iterdir()] == ["model"]


def test_the_old_model_comes_back_if_the_new_one_cannot_take_its_place(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, saved, rename = contents(copy), load_model(copy), Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name.startswith(".partial-"):
            raise OSError("not permitted")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match=r"^not permitted$"):
        save_model(copy, saved.network, saved.tokenizer, saved.tasks, "")
    assert contents(copy) == before
    assert [path.name for path in copy.parent.iterdir()] == ["model"]


def test_heads_that_are_no_safetensors(copy: Path) -> None:
    """Somebody has changed the file and written its checksum down."""
    (copy / "heads.safetensors").write_bytes(b"no safetensors")
    manifest = json.loads((copy / "mtl.json").read_text(encoding="utf-8"))
    manifest["files"]["heads.safetensors"] = hashlib.sha256(b"no safetensors").hexdigest()
    write_sealed_json(copy / "mtl.json", manifest)
    reason = re.search(r"not readable: (Error while deserializing header: .+)\n", text := problem_of(copy))
    assert reason is not None  # in the words of the installed safetensors
    assert text == (
        "Model: 1 problem\n"
        f"  {copy}/heads.safetensors\n"
        f"      found:    not readable: {reason[1]}\n"
        "      expected: safetensors\n"
        "      repair:   copy the model again"
    )


def test_a_manifest_that_is_nested_too_deeply(copy: Path) -> None:
    (copy / "mtl.json").write_text("[" * 100_000, encoding="utf-8")
    assert "mtl.json\n      found:    not readable: maximum recursion depth exceeded" in problem_of(copy)
