"""Multi-stage heads over any tree: probabilities that sum to 1, a loss that is that of both stages, honest reports."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mtl.base.label_tree import LabelTree, branches_by, label_problems, tree_problems
from mtl.evaluation.stages import coarse_probabilities, stage_reports
from mtl.model.heads import MultiStageHead


@st.composite
def trees(draw: st.DrawFn) -> LabelTree:
    """Draw a tree of 2 to 6 branches, at least one of which has several labels; labels of a branch lie anywhere."""
    sizes = draw(st.lists(st.integers(1, 5), min_size=2, max_size=6).filter(lambda sizes: max(sizes) > 1))
    labels = draw(st.permutations([f"label {at}" for at in range(sum(sizes))]))
    stops = np.cumsum([0, *sizes]).tolist()
    branches = {f"branch {at}": labels[stops[at] : stops[at + 1]] for at in range(len(sizes))}
    return LabelTree.over(sorted(labels), branches)


class Given(nn.Module):
    """A stage whose logits are given, whatever the embeddings are."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, embeddings: Tensor) -> Tensor:
        return self.logits


@st.composite
def heads(draw: st.DrawFn, magnitude: float) -> tuple[MultiStageHead, Tensor]:
    """Draw a head whose stages give logits up to a magnitude for some rows, and true labels of the rows."""
    tree, rows = draw(trees()), draw(st.integers(1, 4))
    outputs = sum(map(len, tree.divided.values()))
    logit = st.floats(-magnitude, magnitude, width=32)

    def logits(columns: int) -> Tensor:
        return torch.tensor(
            draw(st.lists(st.lists(logit, min_size=columns, max_size=columns), min_size=rows, max_size=rows))
        )

    head = MultiStageHead(tree, Given(logits(len(tree.branches))), Given(logits(outputs)))
    label = st.integers(0, len(tree.labels) - 1)
    return head, torch.tensor(draw(st.lists(label, min_size=rows, max_size=rows)))


def both(magnitudes: tuple[float, ...]) -> st.SearchStrategy[tuple[MultiStageHead, Tensor]]:
    return st.one_of([heads(magnitude) for magnitude in magnitudes])


ANY = both((5.0, 80.0, 1e4, 2.0**100))


@given(ANY)
@settings(deadline=None)
def test_probabilities_sum_to_one_and_softmax_gives_them_back(drawn: tuple[MultiStageHead, Tensor]) -> None:
    head, labels = drawn
    with torch.no_grad():
        log_probabilities = head(torch.zeros(len(labels), 1))
    assert log_probabilities.dtype == torch.float32
    assert torch.isfinite(log_probabilities).all()
    probabilities = log_probabilities.exp()
    assert probabilities.sum(dim=1).numpy() == pytest.approx(1.0, abs=1e-6)
    assert torch.softmax(log_probabilities, dim=1).sum(dim=1).numpy() == pytest.approx(1.0, abs=1e-6)
    assert torch.softmax(log_probabilities, dim=1).numpy() == pytest.approx(probabilities.numpy(), abs=1e-6)


def stage_losses(head: MultiStageHead, labels: Tensor) -> Tensor:
    """Return the loss of the first stage plus that of the second within the true branch, a mean over the rows."""
    tree, nothing = head.tree, torch.zeros(0)
    branches = torch.tensor([tree.branch_of[label] for label in labels.tolist()])
    total = nn.functional.cross_entropy(head.first(nothing), branches, reduction="sum")
    start = 0
    for ids in tree.divided.values():
        logits = head.second(nothing)[:, start : start + len(ids)]
        start += len(ids)
        for row, label in enumerate(labels.tolist()):
            if label in ids:
                total = total + nn.functional.cross_entropy(logits[row], torch.tensor(ids.index(label)))
    return total / len(labels)


@given(ANY)
@settings(deadline=None)
def test_the_flat_loss_is_the_sum_of_the_losses_of_both_stages(drawn: tuple[MultiStageHead, Tensor]) -> None:
    head, labels = drawn
    flat = nn.functional.cross_entropy(head(torch.zeros(len(labels), 1)), labels)
    assert flat.item() == pytest.approx(stage_losses(head, labels).item(), rel=1e-5, abs=1e-5)


@given(heads(20.0))
@settings(deadline=None)
def test_so_are_its_gradients(drawn: tuple[MultiStageHead, Tensor]) -> None:
    head, labels = drawn
    parameters = list(head.parameters())
    flat = torch.autograd.grad(nn.functional.cross_entropy(head(torch.zeros(len(labels), 1)), labels), parameters)
    parts = torch.autograd.grad(stage_losses(head, labels), parameters, allow_unused=True, materialize_grads=True)
    for one, other in zip(flat, parts, strict=True):
        assert one.numpy() == pytest.approx(other.numpy(), abs=1e-5)


@given(heads(8.0))
@settings(deadline=None)
def test_the_reports_of_the_stages_agree_with_the_head(drawn: tuple[MultiStageHead, Tensor]) -> None:
    head, labels = drawn
    tree = head.tree
    with torch.no_grad():
        probabilities = head(torch.zeros(len(labels), 1)).double().exp().numpy()
        coarse = torch.softmax(head.first(torch.zeros(0)).double(), dim=1).numpy()
    assert coarse_probabilities(tree, probabilities) == pytest.approx(coarse, abs=1e-5)
    reports = stage_reports(tree, probabilities, labels.numpy())
    assert reports.first.labels == tuple(tree.branches)
    assert reports.first.rows == len(labels)
    assert {name: report.labels for name, report in reports.second.items()} == {
        name: tree.branches[name] for name in tree.divided
    }
    assert reports.second_rows == sum(label in ids for label in labels.tolist() for ids in tree.divided.values())
    loss = -np.log(probabilities[np.arange(len(labels)), labels.numpy()]).mean()
    assert reports.first_loss + reports.second_loss == pytest.approx(loss, rel=1e-5, abs=1e-6)
    assert reports.first_loss + reports.second_loss == pytest.approx(stage_losses(head, labels).item(), abs=1e-4)


@given(trees())
def test_a_tree_holds_each_label_once(tree: LabelTree) -> None:
    assert not list(tree_problems("tree", tree.branches))
    assert not list(label_problems("tree", tree.branches, "task", tree.labels))
    assert sorted(leaf for leaves in tree.branches.values() for leaf in leaves) == sorted(tree.labels)
    names = list(tree.branches)
    assert all(label in tree.branches[names[at]] for label, at in zip(tree.labels, tree.branch_of, strict=True))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.none() | st.sampled_from("xyz")), min_size=1, unique=True))
def test_a_separator_finds_the_tree_that_the_labels_were_made_of(parts: list[tuple[str, str | None]]) -> None:
    labels = {coarse if fine is None else f"{coarse}: {fine}": coarse for coarse, fine in parts}
    found = branches_by(":", list(labels))
    assert {leaf: name for name, leaves in found.items() for leaf in leaves} == labels
