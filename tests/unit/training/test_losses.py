"""Losses, against figures worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from mtl.training.losses import TaskLosses

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


def test_the_combined_loss_is_the_weighted_sum() -> None:
    losses = {"mood": torch.tensor(2.0), "topic": torch.tensor(5.0), "other": torch.tensor(1.0)}
    assert TaskLosses().combine(losses).item() == 8.0
    assert TaskLosses({"topic": 0.1, "other": 3.0}).combine(losses).item() == pytest.approx(5.5)
    assert TaskLosses({"topic": 0.1}).combine({"topic": losses["topic"]}).item() == pytest.approx(0.5)


def test_weights_leave_the_losses_of_the_tasks_as_they_are() -> None:
    losses = TaskLosses({"mood": 7.0})(LOGITS, LABELS)
    assert losses["mood"].item() == pytest.approx(1.5 * math.log(2))


def test_label_smoothing_spreads_a_share_over_all_classes() -> None:
    """With a share of 0.3 the target of three classes is 0.1, 0.1, 0.8."""
    loss = TaskLosses(label_smoothing=0.3)({"topic": LOGITS["topic"]}, LABELS)["topic"]
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
    losses = TaskLosses({"topic": 2.0})
    torch.autograd.backward(losses.combine(losses(logits, LABELS)))
    assert logits["mood"].grad is not None
    assert logits["topic"].grad is not None
    assert logits["mood"].grad.tolist() == [pytest.approx([-0.25, 0.25]), pytest.approx([0.375, -0.375])]
    assert logits["topic"].grad.tolist() == [pytest.approx([0.5, 0.5, -1.0])]
