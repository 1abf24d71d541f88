"""Average the weights: a running average of training is what is validated and saved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from mtl.data.batch import Batch
from mtl.model.network import MultiTaskNetwork
from mtl.training.freezing import FreezePlan


class AveragedWeights(Callback):
    r"""Keeps an exponential moving average of all weights that ever learn (Polyak & Juditsky 1992; Tarvainen 2017).

    .. math:: \bar w_t = d_t \bar w_{t-1} + (1 - d_t) w_t, \quad d_t = \min(d, t / (t + 9))

    after the ``t``-th optimizer step. The decay rises to ``d``, so that a short training is not dominated by what it
    started from. Each layer counts its own steps, so that one that thaws late starts with its first step.

    The averages take the place of the weights for validation, and so in the checkpoint with the best one, and at the
    end of training. Training itself goes on with its own weights; ``last.ckpt`` has those, and the averages beside
    them. Lightning's `WeightAveraging` copies the whole module, with frozen layers and metrics, and a checkpoint of the
    weights alone, as the best one is, would hold training's own: it changes what a checkpoint holds in
    ``on_save_checkpoint``, which Lightning 2.6 does not call on callbacks for those.

    Args:
        decay: ``d``, from 0 to below 1; the average reaches over about ``1 / (1 - d)`` steps.
    """

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._averages: dict[str, Tensor] = {}
        self._steps: dict[str, int] = {}
        self._seen = 0
        self._in_place = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with the weights as they are, or go on with the averages of a checkpoint."""
        del trainer
        for layer, name, parameter in _learning(pl_module):
            self._steps.setdefault(layer, 0)
            known = self._averages.get(name, parameter.detach())
            self._averages[name] = known.to(parameter.device, copy=True)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count steps from here on; only now a resumed trainer knows how many there were."""
        del pl_module
        self._seen = trainer.global_step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        """Go on with training's own weights after a validation."""
        del trainer, batch, batch_idx
        self._show(pl_module, averages=False)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Take the weights after an optimizer step into the averages."""
        del outputs, batch, batch_idx
        if trainer.global_step == self._seen:  # gradients are still being accumulated
            return
        self._seen = trainer.global_step
        learning = _plan(pl_module).trainable(self._seen - 1)  # the step that was done
        for layer in learning:
            self._steps[layer] += 1
        with torch.no_grad():
            for layer, name, parameter in _learning(pl_module):
                if layer in learning:
                    self._averages[name].lerp_(parameter, 1.0 - self._decay_at(self._steps[layer]))

    def _decay_at(self, step: int) -> float:
        return min(self._decay, step / (step + 9))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the averages; they stay until the best checkpoint is written."""
        del trainer
        self._show(pl_module, averages=True)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put training's own weights back before ``last.ckpt`` is written."""
        del trainer
        self._show(pl_module, averages=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the averages as the result of training."""
        del trainer
        self._show(pl_module, averages=True)

    def _show(self, module: LightningModule, *, averages: bool) -> None:
        """Put the averages in the place of the weights, or the other way round."""
        if averages == self._in_place:
            return
        for _, name, parameter in _learning(module):
            parameter.data, self._averages[name] = self._averages[name], parameter.data
        self._in_place = averages

    @contextmanager
    def set_aside(self, module: LightningModule) -> Iterator[None]:
        """Have training's own weights in place inside the block, as a checkpoint needs them."""
        in_place = self._in_place
        self._show(module, averages=False)
        try:
            yield
        finally:
            self._show(module, averages=in_place)

    def state_dict(self) -> dict[str, Any]:
        """Return the averages and the steps of each layer; only while training's own weights are in place."""
        return {"averages": dict(self._averages), "steps": dict(self._steps)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take what `state_dict` returned."""
        self._averages = dict(state_dict["averages"])
        self._steps = dict(state_dict["steps"])


def _plan(module: LightningModule) -> FreezePlan:
    plan = module.freezing
    assert isinstance(plan, FreezePlan)  # noqa: S101 - narrows what any attribute of a module may be, for mypy
    return plan


def _learning(module: LightningModule) -> Iterator[tuple[str, str, nn.Parameter]]:
    """Yield each parameter that ever learns with its layer and its full name."""
    network = module.network
    assert isinstance(network, MultiTaskNetwork)  # noqa: S101 - as above
    for layer in _plan(module).first:
        for name, parameter in network.layer_parameters(layer):
            yield layer, name, parameter
