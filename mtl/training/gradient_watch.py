"""Watch the tasks' gradients: their size at the embeddings, and whether they conflict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from mtl.evaluation.task_gradients import GradientFigures, summarised
from mtl.model.network import MultiTaskNetwork
from mtl.training.module import MultiTaskModule
from mtl.training.parallel import sum_over_processes


class GradientWatch(Callback):
    """Measure the tasks' gradients every so many steps before the backward pass, without changing training.

    - The norm of ``d L_t / d E`` at the embeddings ``E`` of the task's rows, by a backward pass through a head.
    - The cosine between the gradients of two tasks over the parameters of the highest trained layer of the encoder, by
      a backward pass through that layer for each task: with the six layers of MiniLM a sixth of a whole backward pass,
      which the gradients of all shared parameters would take. All that a task changes below passes through this layer.

    Nothing is measured while the encoder is frozen: the tasks then share nothing that is trained.
    """

    def __init__(self, every_n_steps: int) -> None:
        self._every = every_n_steps
        self._last = -1  # the optimizer step that was measured last
        self._layer = ""
        self._steps = 0
        self._norms: dict[str, list[float]] = {}
        self._cosines: dict[tuple[str, str], list[float]] = {}

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Measure a step if one is due; of accumulated batches the first."""
        assert isinstance(pl_module, MultiTaskModule)  # noqa: S101 - narrows for mypy
        step = pl_module.step
        if step is None or trainer.global_step % self._every or trainer.global_step == self._last:
            return
        layer = top_layer(pl_module.network)
        if layer is None or step.batch.boundary == "embedding":  # the encoder is frozen
            return
        self._last = trainer.global_step
        self._layer, parameters = layer
        norms, cosines = measure_gradients(step.losses, step.embeddings, parameters, trainer.world_size)
        self._steps += 1
        for task, norm in norms.items():
            self._norms.setdefault(task, []).append(norm)
        for pair, cosine in cosines.items():
            self._cosines.setdefault(pair, []).append(cosine)
        figures = {f"train/{task}/gradient_norm": norm for task, norm in norms.items()}
        figures |= {f"train/cosine/{first}_{second}": value for (first, second), value in cosines.items()}
        for logger in trainer.loggers:  # `log` would wait for the interval of the loggers
            logger.log_metrics({**figures, "epoch": trainer.current_epoch}, step=trainer.global_step)

    @property
    def figures(self) -> GradientFigures | None:
        """The measurements, if there are any."""
        return summarised(self._layer, self._norms, self._cosines, self._steps) if self._steps else None

    def state_dict(self) -> dict[str, Any]:
        """Return the measurements."""
        cosines = [[*pair, values] for pair, values in self._cosines.items()]
        return {
            "last": self._last,
            "layer": self._layer,
            "steps": self._steps,
            "norms": self._norms,
            "cosines": cosines,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the measurements."""
        self._last, self._layer, self._steps = (state_dict[name] for name in ("last", "layer", "steps"))
        self._norms = {task: list(values) for task, values in state_dict["norms"].items()}
        self._cosines = {(first, second): list(values) for first, second, values in state_dict["cosines"]}


def top_layer(network: MultiTaskNetwork) -> tuple[str, list[nn.Parameter]] | None:
    """Return the highest layer of the encoder that is trained now, with its trained parameters."""
    named = network.encoder.named_by_layer()
    for name in reversed(network.encoder.layer_names):
        trained = [parameter for _, parameter in named[name] if parameter.requires_grad]
        if trained:
            return name, trained
    return None


def measure_gradients(
    losses: Mapping[str, Tensor],
    embeddings: Sequence[Tensor],
    parameters: Sequence[nn.Parameter],
    processes: int = 1,
) -> tuple[dict[str, float], dict[tuple[str, str], float]]:
    """Return the norm of each task's gradient at the embeddings, and the cosine of each pair over the parameters.

    Pairs with a gradient of 0, which has no direction, are left out.

    Args:
        losses: The loss of each task, with its graph, which is kept.
        embeddings: The embeddings ``(B, H)`` from which they were computed.
        parameters: Parameters below the embeddings.
        processes: How many share the rows, see `mtl.training.parallel.over_processes`.
    """
    norms: dict[str, Tensor] = {}
    directions: dict[str, Tensor] = {}
    for task, loss in losses.items():
        wanted = [*embeddings, *parameters]
        computed = torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True)
        gradients = [
            torch.zeros_like(tensor) if gradient is None else gradient / processes
            for tensor, gradient in zip(wanted, computed, strict=True)
        ]
        squares = torch.stack([gradient.float().square().sum() for gradient in gradients[: len(embeddings)]])
        norms[task] = squares.sum()
        directions[task] = torch.cat([gradient.float().flatten() for gradient in gradients[len(embeddings) :]])
        if processes > 1:
            sum_over_processes(norms[task])
            sum_over_processes(directions[task])
    pairs = list(combinations(losses, 2))
    known = [directions[first].any() & directions[second].any() for first, second in pairs]
    cosines = [torch.cosine_similarity(directions[first], directions[second], dim=0) for first, second in pairs]
    figures = torch.stack([*(square.sqrt() for square in norms.values()), *(flag.float() for flag in known), *cosines])
    values = iter(figures.tolist())  # the only synchronisation with the device
    shown = {task: next(values) for task in norms}
    has_direction = [bool(next(values)) for _ in pairs]
    return shown, {pair: cosine for pair, has, cosine in zip(pairs, has_direction, values, strict=True) if has}
