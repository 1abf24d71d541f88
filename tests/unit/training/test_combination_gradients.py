"""Aggregation of gradients: against gradients worked out by hand, against TorchJD's own, and in a module's step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from mtl.training.combination import GradientAggregation, gramian, torchjd_weighting
from mtl.training.freezing import FreezePlan
from tests.support.modules import module
from tests.support.networks import TASKS, batch

if TYPE_CHECKING:
    from pathlib import Path

    from mtl.training.module import MultiTaskModule

NAMES = ("upgrad", "pcgrad", "mgda", "aligned_mtl")


def ones(products: Tensor) -> Tensor:
    return torch.ones(len(products))


def aggregated(how: GradientAggregation, first: list[float], second: list[float]) -> list[float]:
    """Return what a shared vector gets whose gradients for the two tasks are these."""
    shared = nn.Parameter(torch.zeros(len(first)))
    losses = {"topic": torch.tensor(first) @ shared + 1, "mood": torch.tensor(second) @ shared + 2}
    total = how(losses)
    how.backward(total, [shared], [])
    assert shared.grad is not None
    return list(shared.grad.tolist())


def gradients(trained: MultiTaskModule) -> dict[str, Tensor]:
    return {name: each.grad.clone() for name, each in trained.network.named_parameters() if each.grad is not None}


def step(trained: MultiTaskModule, scale: float = 1.0) -> dict[str, Tensor]:
    """Return the gradients after the backward pass of a step."""
    trained.zero_grad()
    trained.backward(trained.training_step(batch(), 0) * scale)
    return gradients(trained)


def test_weights_of_1_give_the_gradients_of_the_sum(tiny_folder: Path) -> None:
    plain, combined = module(tiny_folder), module(tiny_folder, combination=GradientAggregation(tuple(TASKS), ones))
    for each in (plain, combined):
        each.eval()
    expected, found = step(plain, 0.5), step(combined, 0.5)  # scaled, as for accumulated batches
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, atol=1e-6), name


def test_weights_count_for_the_encoder_alone(tiny_folder: Path) -> None:
    plain = module(tiny_folder)
    combined = module(
        tiny_folder, combination=GradientAggregation(tuple(TASKS), lambda products: 3 * torch.ones(len(products)))
    )
    for each in (plain, combined):
        each.eval()
    expected, found = step(plain), step(combined)
    for name, gradient in expected.items():
        factor = 3 if name.startswith("encoder.") else 1
        assert torch.allclose(found[name], factor * gradient, atol=1e-6), name


def test_the_gramian_has_the_products_over_all_parameters() -> None:
    rows: list[list[Tensor | None]] = [
        [torch.tensor([1.0, 2.0]), torch.tensor([[3.0]])],
        [torch.tensor([-1.0, 0.5]), None],
    ]
    assert gramian(rows).tolist() == [[14.0, 0.0], [0.0, 1.25]]


def test_frozen_layers_are_no_part_of_it(tiny_folder: Path) -> None:
    """Before the encoder thaws the tasks share nothing: heads learn on, a task that can learn nothing is left out."""
    how = GradientAggregation(tuple(TASKS), ones)
    trained = module(tiny_folder, FreezePlan({"layer.2": 1, "heads.topic": 0}), combination=how)
    trained.on_fit_start()
    assert {name.partition(".out")[0] for name in step(trained)} == {"heads.topic_"}


def test_what_is_not_finite_is_not_weighted() -> None:
    def refuses(_: Tensor) -> Tensor:
        raise AssertionError

    assert aggregated(GradientAggregation(("topic", "mood"), refuses), [float("inf"), 0.0], [1.0, 1.0])[1] == 1.0


@pytest.mark.parametrize("name", ["upgrad", "pcgrad"])
def test_without_a_conflict_it_is_the_sum(name: str) -> None:
    pytest.importorskip("torchjd")
    how = GradientAggregation(("topic", "mood"), torchjd_weighting(name))
    assert how({"topic": torch.tensor(1.0), "mood": torch.tensor(2.0)}).item() == 3.0
    assert aggregated(how, [1.0, 0.0], [1.0, 2.0]) == pytest.approx([2.0, 2.0], abs=1e-3)


@pytest.mark.parametrize("name", ["upgrad", "pcgrad"])
def test_with_a_conflict_each_task_loses_what_hurts_the_other(name: str) -> None:
    """Of g = (1, 0) and h = (-1, 1): g without its part along h is (1/2, 1/2), h without its part along g (0, 1)."""
    pytest.importorskip("torchjd")
    how = GradientAggregation(("topic", "mood"), torchjd_weighting(name))
    assert aggregated(how, [1.0, 0.0], [-1.0, 1.0]) == pytest.approx([0.5, 1.5], abs=1e-3)


def test_mgda_is_the_shortest_vector_between_them() -> None:
    """Between (1, 0) and (-1, 1) lies the foot of the perpendicular from 0: (1/5, 2/5)."""
    pytest.importorskip("torchjd")
    how = GradientAggregation(("topic", "mood"), torchjd_weighting("mgda"))
    assert aggregated(how, [1.0, 0.0], [-1.0, 1.0]) == pytest.approx([0.2, 0.4], abs=1e-2)


@pytest.mark.parametrize("name", NAMES)
def test_it_agrees_with_the_backward_pass_of_torchjd(name: str) -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    autojac = pytest.importorskip("torchjd.autojac")
    makers = {
        "upgrad": lambda: aggregation.UPGrad(torch.ones(2)),
        "pcgrad": aggregation.PCGrad,
        "mgda": aggregation.MGDA,
        "aligned_mtl": lambda: aggregation.AlignedMTL(torch.ones(2)),
    }
    torch.manual_seed(0)
    found = []
    for theirs in (False, True):
        torch.manual_seed(1)
        trunk, heads = nn.Linear(5, 4), [nn.Linear(4, 1), nn.Linear(4, 1)]
        features = torch.tanh(trunk(torch.randn(6, 5)))
        losses = {str(at): (head(features) - 3 * at).pow(2).mean() for at, head in enumerate(heads)}
        if theirs:
            autojac.mtl_backward(list(losses.values()), features, parallel_chunk_size=1)
            autojac.jac_to_grad(trunk.parameters(), makers[name]())
        else:
            how = GradientAggregation(tuple(losses), torchjd_weighting(name))
            how.backward(how(losses), trunk.parameters(), [each for head in heads for each in head.parameters()])
        found.append([each.grad for part in (trunk, *heads) for each in part.parameters()])
    for ours, other in zip(*found, strict=True):
        assert ours is not None
        assert other is not None
        assert torch.allclose(ours, other, atol=1e-5)


def test_a_backward_pass_needs_a_forward_pass() -> None:
    with pytest.raises(RuntimeError, match=r"^backward must be called once after each forward$"):
        GradientAggregation(("topic",), ones).backward(torch.ones(()), [], [])
