"""The LightningModule: the loss of a step, the figures of a validation, the optimizer, clipping, checkpoints."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from mtl.data.batch import Batch, Boundary
from mtl.training.combination import Weighted
from mtl.training.freezing import FreezePlan
from mtl.training.losses import TaskLosses
from tests.support.modules import logged, module
from tests.support.networks import TASKS, batch

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from mtl.training.module import MultiTaskModule


def test_the_loss_of_a_step_is_the_weighted_sum_of_the_tasks_losses(tiny_folder: Path) -> None:
    trained = module(tiny_folder, combination=Weighted(tuple(TASKS), {"mood": 0.5}))
    rows = batch()
    total = trained.training_step(rows, 0)

    assert rows.ids is not None
    assert rows.mask is not None
    embeddings = trained.network.encoder(rows.ids, rows.mask)
    expected = {}
    for task in TASKS:
        head: Any = trained.network.head(task)
        scores = embeddings[rows.slices[task]] @ head.out.weight.T + head.out.bias
        picked = scores.log_softmax(-1)[torch.arange(len(scores)), rows.labels[task]]
        expected[task] = -picked.mean().item()
    assert trained.step_log.figures == {
        "train/topic/loss": pytest.approx(expected["topic"]),
        "train/mood/loss": pytest.approx(expected["mood"]),
        "train/loss": pytest.approx(expected["topic"] + 0.5 * expected["mood"]),
    }
    assert total.item() == trained.step_log.figures["train/loss"]


def test_a_step_runs_the_encoder_once_over_the_rows_of_all_tasks(tiny_folder: Path) -> None:
    trained = module(tiny_folder)
    shapes: list[tuple[int, ...]] = []
    trained.network.encoder.register_forward_hook(lambda *call: shapes.append(tuple(call[2].shape)))
    trained.training_step(batch(rows=4), 0)
    assert shapes == [(8, 32)]


def test_consistency_runs_the_rows_twice_with_dropout_of_their_own(tiny_folder: Path) -> None:
    """Heads without dropout predict the same twice, and nothing is added; with dropout they do not."""
    passes: dict[tuple[float, float], int] = {}
    losses: dict[tuple[float, float], float] = {}
    for dropout in (0.0, 0.5):
        for consistency in (0.0, 1.0):
            trained = module(tiny_folder, losses=TaskLosses(consistency=consistency), dropout=dropout)
            trained.network.encoder.eval()
            trained.network.heads.train()
            shapes: list[tuple[int, ...]] = []
            trained.network.encoder.register_forward_hook(lambda *call, found=shapes: found.append(call[2].shape))
            torch.manual_seed(1)
            trained.training_step(batch(), 0)
            passes[dropout, consistency] = len(shapes)
            losses[dropout, consistency] = float(trained.step_log.figures["train/loss"])
    assert passes == {(0.0, 0.0): 1, (0.0, 1.0): 2, (0.5, 0.0): 1, (0.5, 1.0): 2}
    assert losses[0.0, 1.0] == pytest.approx(losses[0.0, 0.0])
    assert losses[0.5, 1.0] != pytest.approx(losses[0.5, 0.0], rel=1e-3)


def test_a_step_of_one_task_leaves_the_others_alone(tiny_folder: Path) -> None:
    trained = module(tiny_folder)
    torch.autograd.backward(trained.training_step(batch({"mood": 2}), 0))
    assert trained.step_log.figures.keys() == {"train/mood/loss", "train/loss"}
    assert all(parameter.grad is None for parameter in trained.network.head("topic").parameters())
    assert all(parameter.grad is not None for parameter in trained.network.head("mood").parameters())


def test_a_step_that_can_teach_nothing_has_gradients_of_0(tiny_folder: Path) -> None:
    """Gradual unfreezing with a frozen head: round-robin steps of its task come before the encoder thaws."""
    trained = module(tiny_folder, FreezePlan({"layer.2": 1, "heads.topic": 0}))
    trained.on_train_epoch_start()
    loss = trained.training_step(batch({"mood": 2}), 0)
    torch.autograd.backward(loss)
    gradients = [parameter.grad for parameter in trained.parameters() if parameter.grad is not None]
    assert loss.item() > 0
    assert all(not gradient.any() for gradient in gradients)


def test_freezing_follows_the_step(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = module(tiny_folder, FreezePlan({"layer.2": 1, "heads.topic": 0}))
    trained.on_fit_start()
    assert trainable(trained) == {"heads.topic_.out.weight", "heads.topic_.out.bias"}
    monkeypatch.setattr(type(trained), "global_step", 1)
    trained.on_train_batch_start(batch(), 0)
    assert {name.split(".layer.")[-1][:2] for name in trainable(trained) if "encoder" in name} == {"2."}


@pytest.mark.parametrize(("boundary", "refused"), [("embedding", "embedding"), (2, "2"), (1, None)])
def test_a_batch_that_stands_for_a_layer_that_learns_is_refused(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, boundary: Boundary, refused: str | None
) -> None:
    trained = module(tiny_folder, FreezePlan({"layer.2": 2, "layer.1": 4, "heads.topic": 0}))
    trained.on_fit_start()
    rows = batch()
    assert rows.mask is not None
    early = replace(rows, ids=None, features=torch.zeros(*rows.mask.shape, 32), boundary=boundary)
    for step in (0, 3):  # at first the whole encoder is frozen, then layers 0 and 1
        monkeypatch.setattr(type(trained), "global_step", step)
        if step == 0 or boundary != "embedding":
            trained.on_train_batch_start(early, 0)
    monkeypatch.setattr(type(trained), "global_step", 4)
    if refused is None:
        trained.on_train_batch_start(early, 0)
        return
    with pytest.raises(RuntimeError) as caught:
        trained.on_train_batch_start(early, 0)
    assert str(caught.value) == f"step 4: a batch of activations at {refused}, but layers from 1 on are trained"


def trainable(trained: MultiTaskModule) -> set[str]:
    return {name for name, parameter in trained.network.named_parameters() if parameter.requires_grad}


def validate(trained: MultiTaskModule, task: str, labels: list[int], predicted: list[int]) -> None:
    """Show the module rows of features which its head is set to predict as given."""
    head: Any = trained.network.head(task)
    nn.init.zeros_(head.out.bias)
    nn.init.zeros_(head.out.weight)
    with torch.no_grad():
        head.out.weight[: TASKS[task], : TASKS[task]] = torch.eye(TASKS[task])
    features = nn.functional.one_hot(torch.tensor(predicted), 32).float()
    rows = torch.arange(len(labels))
    shown = Batch(
        None,
        None,
        {task: slice(0, len(labels))},
        {task: torch.tensor(labels)},
        {task: rows},
        features=features,
        boundary="embedding",
    )
    trained.validation_step(shown, 0)


def test_a_validation_logs_each_task_and_the_mean(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = module(tiny_folder).eval()
    figures = logged(trained, monkeypatch)
    validate(trained, "topic", [0, 0, 1], [0, 1, 1])
    validate(trained, "topic", [2], [1])  # a second batch of the same task
    validate(trained, "mood", [0, 1, 1, 1], [0, 1, 1, 0])
    trained.on_validation_epoch_end()
    # topic: F1 2/3, 1/2, 0 with 2, 1, 1 rows; mood: 2/3 and 4/5 with 1 and 3 rows.
    expected = {
        "val/topic/accuracy": 2 / 4,
        "val/topic/macro_f1": (2 / 3 + 1 / 2) / 3,
        "val/topic/weighted_f1": (2 * 2 / 3 + 1 / 2) / 4,
        "val/mood/accuracy": 3 / 4,
        "val/mood/macro_f1": (2 / 3 + 4 / 5) / 2,
        "val/mood/weighted_f1": (2 / 3 + 3 * 4 / 5) / 4,
    }
    means = {
        f"val/{name}": (expected[f"val/topic/{name}"] + expected[f"val/mood/{name}"]) / 2
        for name in ("accuracy", "macro_f1", "weighted_f1")
    }
    assert figures == pytest.approx({**expected, **means})


def test_a_validation_begins_from_zero(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = module(tiny_folder).eval()
    figures = logged(trained, monkeypatch)
    for predicted, accuracy in ([1, 0], 0.0), ([0, 1], 1.0):
        for task in TASKS:
            validate(trained, task, [0, 1], predicted)
        trained.on_validation_epoch_end()
        assert figures["val/accuracy"] == accuracy


def test_the_scheduler_steps_with_the_optimizer(tiny_folder: Path) -> None:
    made: Any = module(tiny_folder).configure_optimizers()
    assert made["lr_scheduler"]["interval"] == "step"
    assert made["lr_scheduler"]["scheduler"].optimizer is made["optimizer"]


def with_gradients(trained: MultiTaskModule, values: list[float]) -> tuple[torch.optim.Optimizer, list[Tensor]]:
    made: Any = trained.configure_optimizers()
    optimizer: torch.optim.Optimizer = made["optimizer"]
    parameters = [group["params"][0] for group in optimizer.param_groups][: len(values)]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.grad = torch.zeros_like(parameter)
        parameter.grad.view(-1)[0] = value
    return optimizer, [parameter.grad for parameter in parameters]


@pytest.mark.parametrize(
    ("limit", "algorithm", "expected"),
    [
        (1.0, None, [0.6, -0.8]),
        (1.0, "norm", [0.6, -0.8]),
        (10.0, "norm", [3.0, -4.0]),
        (3.5, "value", [3.0, -3.5]),
        (None, None, [3.0, -4.0]),
        (0.0, "norm", [3.0, -4.0]),
    ],
)
def test_gradients_are_clipped_over_all_groups(
    tiny_folder: Path, limit: float | None, algorithm: str | None, expected: list[float]
) -> None:
    trained = module(tiny_folder)
    optimizer, gradients = with_gradients(trained, [3.0, -4.0])
    trained.configure_gradient_clipping(optimizer, limit, algorithm)
    optimizer.step()  # a fused one clips to a norm within its step
    assert [gradient.view(-1)[0].item() for gradient in gradients] == pytest.approx(expected, rel=1e-5)


def test_a_checkpoint_leaves_out_what_never_learns(tiny_folder: Path) -> None:
    trained = module(tiny_folder, FreezePlan({"layer.2": 3, "heads.topic": 0}))
    checkpoint: dict[str, Any] = {"state_dict": trained.state_dict(), "global_step": 0}
    trained.on_save_checkpoint(checkpoint)
    names = set(checkpoint["state_dict"])
    assert {"network.heads.topic_.out.weight", "network.heads.topic_.out.bias"} <= names
    assert all(".layer.2." in name or ".topic_." in name for name in names)
    assert sum(".layer.2." in name for name in names) == 16

    other = module(tiny_folder, FreezePlan({"layer.2": 3, "heads.topic": 0}))
    with torch.no_grad():
        other.network.head("topic").get_parameter("out.weight").fill_(math.pi)
    other.on_load_checkpoint(checkpoint)
    other.load_state_dict(checkpoint["state_dict"])
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in trained.state_dict().items())
