"""The multi-stage head: by hand, in bf16, over trees in any order, and on the head of another task."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from mtl.base.label_tree import LabelTree
from mtl.model.encoder import Encoder
from mtl.model.head_specs import FirstStageSpec, MultiStageSpec, build_multi_stage
from mtl.model.heads import BorrowedStage, MultiStageHead
from mtl.model.saved import HeadSpec, TaskHead, build_network

if TYPE_CHECKING:
    from pathlib import Path

    from mtl.model.network import MultiTaskNetwork

LABELS = ["late", "fine", "lost", "rude"]
TREE = {"bad": ["late", "lost", "rude"], "good": ["fine"]}


def spec(**settings: object) -> MultiStageSpec:
    values: dict[str, object] = {"kind": "multi_stage", "tree": TREE, "stage_kind": "linear", **settings}
    return MultiStageSpec(**values)  # type: ignore[arg-type]


def test_the_log_probabilities_by_hand() -> None:
    head = build_multi_stage(spec(), LABELS, in_features=5)
    embeddings = torch.randn(6, 5)
    first, second = torch.softmax(head.first(embeddings), 1), torch.softmax(head.second(embeddings), 1)
    expected = [first[:, 0] * second[:, 0], first[:, 1], first[:, 0] * second[:, 1], first[:, 0] * second[:, 2]]
    assert head(embeddings).exp().detach().numpy() == pytest.approx(torch.stack(expected, 1).detach().numpy(), abs=1e-6)


def test_no_rows() -> None:
    assert build_multi_stage(spec(), LABELS, in_features=5)(torch.zeros(0, 5)).shape == (0, 4)


@pytest.mark.parametrize(("kind", "hidden", "size"), [("linear", None, 5), ("mlp", None, 5), ("mlp", 3, 3)])
def test_stages_of_each_kind(kind: str, hidden: int | None, size: int) -> None:
    head = build_multi_stage(spec(stage_kind=kind, hidden=hidden), LABELS, in_features=5)
    shapes = {name: tuple(value.shape) for name, value in head.state_dict().items()}
    assert (shapes["first.out.weight"], shapes["second.out.weight"]) == ((2, size), (3, size))
    assert len(shapes) == (4 if kind == "linear" else 8)


def test_dropout_in_both_stages() -> None:
    head = build_multi_stage(spec(dropout=0.25), LABELS, in_features=5)
    assert [each.p for each in head.modules() if isinstance(each, nn.Dropout)] == [0.25, 0.25]


def test_under_autocast_the_stages_are_bf16_and_the_log_probabilities_fp32() -> None:
    head = build_multi_stage(spec(), LABELS, in_features=5)
    embeddings = torch.randn(6, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head.second(embeddings).dtype == torch.bfloat16
        found = head(embeddings)
    assert found.dtype == torch.float32
    assert found.exp().sum(1).detach().numpy() == pytest.approx(1.0, abs=1e-6)
    assert head.double()(embeddings.double()).dtype == torch.float64


def test_the_order_of_the_tree_does_not_matter_within_a_branch() -> None:
    shuffled = {"bad": ["rude", "late", "lost"], "good": ["fine"]}
    assert LabelTree.over(LABELS, shuffled) == LabelTree.over(LABELS, TREE)


def network(folder: Path, dropout: float = 0.0) -> MultiTaskNetwork:
    """Return a network of a task that borrows the head of `mood`, which has one more class than are needed."""
    torch.manual_seed(1)
    lender = FirstStageSpec("mood", {"bad": "unhappy", "good": "happy"})
    tasks = {
        "topic": TaskHead(LABELS, spec(first_stage=lender)),
        "mood": TaskHead(["happy", "so-so", "unhappy"], HeadSpec("linear", dropout=dropout)),
    }
    return build_network(Encoder.from_folder(folder), tasks)


def test_a_borrowed_first_stage_has_the_logits_of_the_lender_in_the_order_of_the_branches(tiny_folder: Path) -> None:
    net = network(tiny_folder)
    embeddings = torch.randn(3, 32)
    probabilities = torch.softmax(net.head("mood")(embeddings)[:, [2, 0]], 1)
    found = net.head("topic").eval()(embeddings).exp()
    assert found[:, 1].detach().numpy() == pytest.approx(probabilities[:, 1].detach().numpy(), abs=1e-6)
    assert net.tasks == ("topic", "mood")


def test_the_lender_owns_its_parameters(tiny_folder: Path) -> None:
    net = network(tiny_folder)
    names = [name for layer in net.layer_names for name, _ in net.layer_parameters(layer)]
    assert sorted(names) == sorted(name for name, _ in net.named_parameters())
    assert len(names) == len(set(names))
    assert {name for name, _ in net.layer_parameters("heads.topic")} == {
        "heads.topic_.second.out.weight",
        "heads.topic_.second.out.bias",
    }
    assert net.head_layers("topic") == ("heads.topic", "heads.mood")
    assert net.head_layers("mood") == ("heads.mood",)


def test_a_head_in_eval_mode_has_one_output_whatever_mode_the_lender_is_in(tiny_folder: Path) -> None:
    net = network(tiny_folder, dropout=0.5)
    topic, mood, embeddings = net.head("topic"), net.head("mood"), torch.randn(3, 32)
    net.train()
    assert not torch.equal(topic(embeddings)[:, 1], topic(embeddings)[:, 1])
    topic.eval()
    assert torch.equal(topic(embeddings), topic(embeddings))
    assert mood.training
    assert not torch.equal(mood(embeddings), mood(embeddings))


def test_a_copy_borrows_the_copied_head(tiny_folder: Path) -> None:
    net = network(tiny_folder)
    copied = deepcopy(net)
    head = copied.head("topic")
    assert isinstance(head, MultiStageHead)
    assert isinstance(head.first, BorrowedStage)
    assert head.first.head is copied.head("mood")
    assert head.first.head is not net.head("mood")
    assert copied.double().head("topic")(torch.randn(2, 32).double()).dtype == torch.float64


def test_heads_may_be_borrowed_along_a_chain(tiny_folder: Path) -> None:
    tasks = {
        "fine": TaskHead(
            ["a1", "a2", "b"], spec(tree={"a": ["a1", "a2"], "b": ["b"]}, first_stage=FirstStageSpec("middle"))
        ),
        "middle": TaskHead(
            ["a", "b", "c"], spec(tree={"x": ["a", "b"], "y": ["c"]}, first_stage=FirstStageSpec("top"))
        ),
        "top": TaskHead(["x", "y"], HeadSpec("linear")),
    }
    net = build_network(Encoder.from_folder(tiny_folder), tasks)
    assert net.head_layers("fine") == ("heads.fine", "heads.middle", "heads.top")
    probabilities = net.eval().head("fine")(torch.randn(2, 32)).exp()
    assert probabilities.sum(1).detach().numpy() == pytest.approx(1.0, abs=1e-6)
