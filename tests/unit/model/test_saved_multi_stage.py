"""The saved model with heads of two stages: every bit comes back, and a description that does not hold is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from mtl.base.errors import ModelError
from mtl.base.files import write_sealed_json
from mtl.model.encoder import Encoder
from mtl.model.head_specs import FirstStageSpec, MultiStageSpec
from mtl.model.loading import load_tokenizer
from mtl.model.saved import HeadSpec, TaskHead, build_network, load_model, save_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TREE = {"bad": ["late", "lost"], "good": ["fine"]}
TASKS = {
    "topic": TaskHead(["late", "fine", "lost"], MultiStageSpec("multi_stage", TREE, "mlp", dropout=0.1, hidden=7)),
    "reason": TaskHead(
        ["late", "fine", "lost"],
        MultiStageSpec("multi_stage", TREE, "linear", first_stage=FirstStageSpec("mood", {"good": "well"})),
    ),
    "mood": TaskHead(["bad", "well"], HeadSpec("linear", dropout=0.1)),
}
REPAIR = "copy the model again or train it again"


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    torch.manual_seed(1)
    network = build_network(Encoder.from_folder(tiny_folder), TASKS)
    save_model(tmp_path / "model", network, load_tokenizer(tiny_folder), TASKS, "")
    return tmp_path / "model"


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "mtl.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content["tasks"])
    write_sealed_json(path, content)


def test_the_loaded_model_has_every_bit_of_the_saved_one(folder: Path, tiny_folder: Path) -> None:
    saved = load_model(folder)
    assert saved.tasks == TASKS
    torch.manual_seed(1)
    expected = build_network(Encoder.from_folder(tiny_folder), TASKS).eval()
    embeddings = torch.randn(3, 32)
    for task in TASKS:
        assert torch.equal(saved.network.head(task)(embeddings), expected.head(task)(embeddings))


def test_weights_of_other_shapes_are_refused(folder: Path) -> None:
    edit(folder, lambda tasks: tasks["topic"]["head"].update(hidden=8))
    with pytest.raises(ModelError) as caught:
        load_model(folder)
    assert [each.place.rpartition(" ")[2] for each in caught.value.problems] == [
        "topic_.first.hidden.bias",
        "topic_.first.hidden.weight",
        "topic_.first.out.weight",
        "topic_.second.hidden.bias",
        "topic_.second.hidden.weight",
        "topic_.second.out.weight",
    ]


def test_a_description_that_does_not_hold(folder: Path) -> None:
    edit(folder, lambda tasks: tasks["topic"]["head"]["tree"]["bad"].remove("lost"))
    edit(folder, lambda tasks: tasks.pop("mood"))
    with pytest.raises(ModelError) as caught:
        load_model(folder)
    place = f"{folder / 'mtl.json'}: tasks"
    assert str(caught.value) == (
        "Model: 3 problems\n"
        f"  {place}.topic.head.tree\n"
        "      found:    a single label in each branch, so that no second stage is left\n"
        "      expected: a branch with two labels or more\n"
        f"      repair:   {REPAIR}\n"
        f"  {place}.topic.head.tree\n"
        "      found:    no branch for the label 'lost'\n"
        "      expected: each label of topic in one branch\n"
        f"      repair:   {REPAIR}\n"
        f"  {place}.reason.head.first_stage.task\n"
        "      found:    the task 'mood'\n"
        "      expected: topic\n"
        f"      repair:   {REPAIR}"
    )


def test_heads_that_borrow_from_each_other(folder: Path) -> None:
    edit(folder, lambda tasks: tasks["topic"]["head"].update(first_stage={"task": "topic"}))
    with pytest.raises(ModelError) as caught:
        load_model(folder)
    assert [(each.place, each.found) for each in caught.value.problems] == [
        (f"{folder / 'mtl.json'}: tasks.topic.head.first_stage.task", "'topic', the task itself")
    ]
