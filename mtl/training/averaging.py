"""Average the weights: a running average of the weights in training is validated and saved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mtl.data.batch import Batch
from mtl.training.module import MultiTaskModule
from mtl.training.sharding import laid_out_as, whole


class AveragedWeights(Callback):
    r"""Keep an exponential moving average of all trained weights (Polyak & Juditsky 1992; Tarvainen 2017).

    .. math:: \bar w_t = d_t \bar w_{t-1} + (1 - d_t) w_t, \quad d_t = \min(d, t / (t + 9))

    after the ``t``-th optimizer step. The decay rises to ``d``, so that the initial weights do not dominate a short
    training. Each layer counts its own steps, from the one at which it unfreezes.

    The averages replace the weights for validation, and so in the best checkpoint, and at the end of training. Training
    continues with its own weights, which ``last.ckpt`` holds together with the averages. Lightning's `WeightAveraging`
    copies the whole module with frozen layers and metrics, and would save training's own weights in the best
    checkpoint: it replaces them in ``on_save_checkpoint``, which Lightning 2.6 does not call for weights-only ones.

    With a ``decay`` of ``d`` the average spans about ``1 / (1 - d)`` steps.
    """

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._averages: dict[str, Tensor] = {}
        self._steps: dict[str, int] = {}
        self._seen = 0
        self._in_place = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start from the current weights, or from the averages of a checkpoint."""
        for layer, name, parameter in _trained(pl_module):
            self._steps.setdefault(layer, 0)
            known = laid_out_as(parameter, self._averages.get(name, parameter.detach()))
            self._averages[name] = known.to(parameter.device, copy=True)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count steps from here on: a resumed trainer knows their number only now."""
        self._seen = trainer.global_step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        """Restore training's own weights after a validation."""
        self.show(pl_module, averages=False)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Update the averages after an optimizer step."""
        if trainer.global_step == self._seen:  # gradients are still being accumulated
            return
        self._seen = trainer.global_step
        assert isinstance(pl_module, MultiTaskModule)  # noqa: S101 - narrows for mypy
        trained = pl_module.freezing.trainable(self._seen - 1)  # in the last step
        for layer in trained:
            self._steps[layer] += 1
        with torch.no_grad():
            for layer, name, parameter in _trained(pl_module):
                if layer in trained:
                    decay = min(self._decay, self._steps[layer] / (self._steps[layer] + 9))
                    self._averages[name].lerp_(parameter, 1.0 - decay)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the averages, which stay in place until the best checkpoint is written."""
        self.show(pl_module, averages=True)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore training's own weights before ``last.ckpt`` is written."""
        self.show(pl_module, averages=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the averages as the result of training."""
        self.show(pl_module, averages=True)

    def show(self, module: LightningModule, *, averages: bool) -> None:
        """Swap weights and averages, unless the wanted ones are in place."""
        if averages == self._in_place:
            return
        for _, name, parameter in _trained(module):
            if isinstance(parameter, DTensor):  # whose memory FSDP2 knows
                weights = parameter.detach().clone()
                parameter.data.copy_(self._averages[name])
                self._averages[name] = weights
            else:
                parameter.data, self._averages[name] = self._averages[name], parameter.data
        self._in_place = averages

    def state_dict(self) -> dict[str, Any]:
        """Return the averages and the steps of each layer; training's own weights must be in place."""
        averages = {name: whole(average) for name, average in self._averages.items()}
        return {"averages": averages, "steps": dict(self._steps)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the saved state."""
        self._averages = dict(state_dict["averages"])
        self._steps = dict(state_dict["steps"])


def _trained(module: LightningModule) -> Iterator[tuple[str, str, nn.Parameter]]:
    """Yield layer, full name and value of each parameter that is trained at any time."""
    assert isinstance(module, MultiTaskModule)  # noqa: S101 - narrows for mypy
    named = module.network.named_by_layer()
    for layer in module.freezing.first:
        for name, parameter in named[layer]:
            yield layer, name, parameter
