"""Losses, against figures worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mtl.config.checks import load
from mtl.training.combination import Weighted
from mtl.training.losses import FocalLoss, TaskLoss, TaskLosses, divergence, make_loss
from tests.support.configs import changed

LOGITS = {
    "mood": torch.tensor([[0.0, 0.0], [math.log(3), 0.0]]),  # probabilities 1/2, 1/2 and 3/4, 1/4
    "topic": torch.tensor([[0.0, 0.0, math.log(2)]]),  # 1/4, 1/4, 1/2
}
LABELS = {"mood": torch.tensor([0, 1]), "topic": torch.tensor([2])}


def test_the_loss_of_a_task_is_the_mean_over_its_rows() -> None:
    losses = TaskLosses()(LOGITS, LABELS)
    assert losses.keys() == {"mood", "topic"}
    assert losses["mood"].item() == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert losses["topic"].item() == pytest.approx(math.log(2))


def test_label_smoothing_spreads_a_share_over_all_classes() -> None:
    """With a share of 0.3 the target of three classes is 0.1, 0.1, 0.8."""
    loss = TaskLosses(tasks={"topic": TaskLoss(label_smoothing=0.3)})({"topic": LOGITS["topic"]}, LABELS)["topic"]
    assert loss.item() == pytest.approx(0.2 * math.log(4) + 0.8 * math.log(2))


def test_a_task_without_rows_costs_nothing_and_stays_in_the_graph() -> None:
    logits = torch.zeros(0, 3, requires_grad=True)
    loss = TaskLosses()({"topic": logits}, {"topic": torch.zeros(0, dtype=torch.int64)})["topic"]
    torch.autograd.backward(loss)
    assert loss.item() == 0.0
    assert logits.grad is not None


def test_logits_in_bf16_give_a_loss_in_float32() -> None:
    losses = TaskLosses()({"mood": LOGITS["mood"].bfloat16()}, LABELS)
    assert losses["mood"].dtype == torch.float32
    assert losses["mood"].item() == pytest.approx(1.5 * math.log(2), rel=1e-2)


def test_each_task_gets_the_gradient_of_its_own_rows() -> None:
    """The gradient of a mean cross-entropy is (probabilities - target) / rows, here times the task's weight."""
    logits = {task: values.clone().requires_grad_() for task, values in LOGITS.items()}
    torch.autograd.backward(Weighted(("mood", "topic"), {"topic": 2.0})(TaskLosses()(logits, LABELS)))
    assert logits["mood"].grad is not None
    assert logits["topic"].grad is not None
    assert logits["mood"].grad.tolist() == [pytest.approx([-0.25, 0.25]), pytest.approx([0.375, -0.375])]
    assert logits["topic"].grad.tolist() == [pytest.approx([0.5, 0.5, -1.0])]


def probabilities(*rows: list[float]) -> torch.Tensor:
    """Return logits whose softmax are these rows."""
    return torch.tensor(rows).log()


def test_weights_count_rows_and_divide_by_their_number() -> None:
    logits = probabilities([0.5, 0.25, 0.25], [0.1, 0.1, 0.8])
    loss = TaskLoss(weights=[1.0, 2.0, 5.0])(logits, torch.tensor([1, 2]))
    assert loss.item() == pytest.approx((2 * math.log(4) + 5 * math.log(1 / 0.8)) / 2)


def test_a_batch_of_one_class_is_weighted_too() -> None:
    logits, labels = probabilities([0.5, 0.5], [0.25, 0.75]), torch.tensor([0, 0])
    assert TaskLoss(weights=[3.0, 1.0])(logits, labels).item() == pytest.approx(3 * TaskLoss()(logits, labels).item())


def test_focal_loss_by_hand() -> None:
    logits = probabilities([0.5, 0.5], [0.9, 0.1])
    labels = torch.tensor([0, 0])
    expected = (0.5**2 * math.log(2) + 0.1**2 * math.log(1 / 0.9)) / 2
    assert FocalLoss(gamma=2.0)(logits, labels).item() == pytest.approx(expected)
    weighted = FocalLoss(gamma=2.0, weights=[4.0, 1.0])(logits, labels)
    assert weighted.item() == pytest.approx(4 * expected)


def test_focal_loss_with_smoothed_labels_by_hand() -> None:
    logits = probabilities([0.6, 0.3, 0.1])
    terms = [(1 - p) * -math.log(p) for p in (0.6, 0.3, 0.1)]
    expected = 0.7 * terms[1] + 0.3 * sum(terms) / 3
    loss = FocalLoss(gamma=1.0, label_smoothing=0.3)(logits, torch.tensor([1]))
    assert loss.item() == pytest.approx(expected)


def test_only_focal_loss_has_a_gamma() -> None:
    logits, labels = LOGITS["mood"], LABELS["mood"]
    settings = load(changed({"loss.default.gamma": 5.0})).loss.default
    assert make_loss(settings, np.array([1, 1]))(logits, labels) == TaskLoss()(logits, labels)
    focal = make_loss(replace(settings, kind="focal"), np.array([1, 1]))
    assert focal(logits, labels) == FocalLoss(gamma=5.0)(logits, labels)


def test_logit_adjustment_by_hand_with_its_gradient() -> None:
    logits = torch.zeros(1, 3, requires_grad=True)
    offsets = [math.log(0.6), math.log(0.3), math.log(0.1)]
    loss = TaskLoss(offsets=offsets)(logits, torch.tensor([2]))
    assert loss.item() == pytest.approx(math.log(10))
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([0.6, 0.3, 0.1 - 1])  # softmax less target


def test_each_task_has_its_own_loss() -> None:
    losses = TaskLosses(tasks={"mood": TaskLoss(weights=[2.0, 2.0])})(LOGITS, LABELS)
    plain = TaskLosses()(LOGITS, LABELS)
    assert losses["mood"].item() == pytest.approx(2 * plain["mood"].item())
    assert losses["topic"] == plain["topic"]


def test_weights_are_no_state_of_a_checkpoint() -> None:
    assert TaskLosses(tasks={"mood": TaskLoss(weights=[2.0, 2.0], offsets=[0.0, 1.0])}).state_dict() == {}


def test_the_divergence_of_two_predictions_by_hand() -> None:
    even, uneven = LOGITS["mood"][:1], LOGITS["mood"][1:]  # 1/2, 1/2 and 3/4, 1/4
    assert divergence(even, uneven).item() == pytest.approx(math.log(3) / 8)
    assert divergence(uneven, even).item() == pytest.approx(math.log(3) / 8)
    assert divergence(torch.cat([even, even]), torch.cat([uneven, even])).item() == pytest.approx(math.log(3) / 16)


def test_the_divergence_is_the_mean_of_both_kullback_leibler_divergences() -> None:
    first, second = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    both = [
        torch.nn.functional.kl_div(one, other, log_target=True, reduction="batchmean")
        for one, other in ((first, second), (second, first))
    ]
    assert divergence(first, second).item() == pytest.approx(torch.stack(both).mean().item(), rel=1e-5)


def test_the_loss_of_two_passes_is_their_mean_and_the_weighted_divergence() -> None:
    other = {"mood": LOGITS["mood"].flip(0), "topic": LOGITS["topic"]}
    losses = TaskLosses(consistency=2.0).of_two_passes(LOGITS, other, LABELS)
    first, second = TaskLosses()(LOGITS, LABELS), TaskLosses()(other, LABELS)
    mean = (first["mood"] + second["mood"]).item() / 2
    assert losses["mood"].item() == pytest.approx(mean + 2 * math.log(3) / 8)
    assert losses["topic"].item() == pytest.approx(math.log(2))  # the same prediction twice


def test_two_passes_without_rows_cost_nothing_and_stay_in_the_graph() -> None:
    logits = {"topic": torch.zeros(0, 3, requires_grad=True)}
    losses = TaskLosses(consistency=1.0).of_two_passes(logits, logits, {"topic": torch.zeros(0, dtype=torch.int64)})
    torch.autograd.backward(losses["topic"])
    assert losses["topic"].item() == 0.0
    assert logits["topic"].grad is not None
