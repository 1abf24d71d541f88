"""The LightningModule: training and validation steps, metrics, optimizer, freezing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mtl.config.checks import VALIDATION_METRICS
from mtl.data.batch import Batch, Boundary
from mtl.evaluation.metrics import TaskMetrics
from mtl.model.network import MultiTaskNetwork
from mtl.training.bad_steps import StepGuard
from mtl.training.combination import Combination, GradientAggregation, task_key
from mtl.training.freezing import FreezePlan, apply_freezing
from mtl.training.learning_rates import NO_DECAY
from mtl.training.losses import TaskLosses
from mtl.training.optimization import clip_norm, clip_values, gradient_norm
from mtl.training.parallel import over_processes
from mtl.training.sharding import ShardedEncoder
from mtl.training.step_records import ForwardPass, Randomness, StepLog

log = logging.getLogger(__name__)


class MultiTaskModule(LightningModule):
    """Train a network on the interleaved batches of all tasks.

    A step runs the encoder once on the rows of all tasks, then each head on its own rows. Its loss is the combination
    of the tasks' losses, each of which is logged.

    Args:
        network: Encoder and heads.
        classes: The number of classes of each validated task.
        losses: The loss of each task.
        combination: How they are combined into the loss of a step.
        freezing: When each layer is trained, by optimizer steps.
        optimizer: Makes the optimizer of all parameters that are trained at any time; those of a sharded network, which
            have taken their place, are given by name.
        scheduler: Makes the scheduler of that optimizer, which is stepped once per optimizer step.
        guard: Checks each optimizer step.
    """

    def __init__(
        self,
        network: MultiTaskNetwork,
        classes: Mapping[str, int],
        losses: TaskLosses,
        combination: Combination,
        freezing: FreezePlan,
        optimizer: Callable[[Mapping[str, nn.Parameter] | None], Optimizer],
        scheduler: Callable[[Optimizer], LRScheduler],
        guard: StepGuard,
    ) -> None:
        super().__init__()
        self.network = network
        self.losses = losses
        self.combination = combination
        self.step: ForwardPass | None = None  # the current training step until the end of its backward pass
        self.freezing = freezing
        self.validation = nn.ModuleDict({task_key(task): TaskMetrics(count) for task, count in classes.items()})
        self.tasks = tuple(classes)
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._times_unfrozen = -1
        self._boundary: Boundary | None = "embedding"
        self.guard = guard
        self.step_log = StepLog()  # what the loggers get of the current or last optimizer step

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the logits ``(B_task, C_task)`` of each task in the batch."""
        logits: dict[str, Tensor] = self.network(batch)
        return logits

    def on_fit_start(self) -> None:
        """Freeze layers before the first step."""
        self._freeze()

    def on_train_start(self) -> None:
        """Freeze again: a resumed trainer knows its step only now, and Lightning skips the start of its epoch."""
        self._freeze()

    def on_train_epoch_start(self) -> None:
        """Freeze or unfreeze layers, and set all modes again, which other callbacks may have changed."""
        self._freeze()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Freeze or unfreeze layers, and refuse activations of a layer that is trained by now: they are out of date."""
        if self.freezing.times_unfrozen(self.global_step) != self._times_unfrozen:
            self._freeze()
        if batch.boundary is not None and not _covers(self._boundary, batch.boundary):
            raise RuntimeError(
                f"step {self.global_step}: a batch of activations at {batch.boundary}, but layers from "
                f"{self._boundary or 0} on are trained"
            )

    def _freeze(self) -> None:
        apply_freezing(self.network, self.freezing, self.global_step)
        self._times_unfrozen = self.freezing.times_unfrozen(self.global_step)
        self._boundary = self.freezing.boundary(self.global_step, self.network.encoder.layer_names)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the combined loss of the tasks in the batch, a scalar."""
        randomness = Randomness(self.device) if self.combination.looks_back else None
        losses, embeddings = self._task_losses(batch)
        self.step = ForwardPass(batch, losses, embeddings, randomness)
        total: Tensor = self.combination(losses)
        self.guard.record(batch, losses, total)
        if self._logs_this_step():
            self._add_to_log(losses, total)
        self.combination.observe(losses)
        if total.requires_grad:
            return total
        # the heads of these tasks are frozen, and so is the encoder at this step: all gradients are 0
        return total + 0.0 * next(parameter for parameter in self.network.parameters() if parameter.requires_grad).sum()

    def _task_losses(self, batch: Batch) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Return the loss of each task, and the embeddings of one pass, or of two with a consistency loss."""
        embeddings, logits = [], []
        for _ in range(2 if self.losses.consistency else 1):
            embeddings.append(self.network.embed(batch))
            logits.append(self.network.classify(embeddings[-1], batch))
        losses: dict[str, Tensor] = (
            self.losses.of_two_passes(logits[0], logits[1], batch.labels)
            if self.losses.consistency
            else self.losses(logits[0], batch.labels)
        )
        return over_processes(losses, batch.shares), embeddings

    def _add_to_log(self, losses: Mapping[str, Tensor], total: Tensor) -> None:
        """Keep what is logged at the end of the step: losses, rates, and task weights that change between steps."""
        weights = self.combination.weights(losses).items()
        figures = {
            **{f"train/{task}/loss": loss.detach() for task, loss in losses.items()},
            "train/loss": total.detach(),
            **{f"train/{task}/weight": weight.detach() for task, weight in weights if isinstance(weight, Tensor)},
        }
        self.step_log.add(self.global_step, figures)
        self.step_log.figures |= {f"rate/{group}": rate for group, rate in self._rates().items()}

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Log an optimizer step."""
        if self.step_log.step == self.global_step - 1:  # not while gradients are accumulated
            self.step_log.write(self.loggers, self.current_epoch)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Compute the gradients of a step; an aggregation of gradients has its own backward pass."""
        if isinstance(self.combination, GradientAggregation):
            self.combination.backward(loss, self.network.encoder.parameters(), self.network.heads.parameters())
        else:
            super().backward(loss, *args, **kwargs)

    def on_after_backward(self) -> None:
        """Release the graph."""
        if not self.combination.looks_back:
            self.step = None

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take an optimizer step, and compute its losses again if the combination learns from their change."""
        super().optimizer_step(*args, **kwargs)
        step, self.step = self.step, None
        if step is not None and step.randomness is not None:
            with torch.no_grad(), step.randomness.again(), self.trainer.precision_plugin.train_step_context():
                after, _ = self._task_losses(step.batch)
            self.combination.update(step.losses, after)

    def _attached(self) -> Trainer | None:
        """Return the trainer; None where the module is used without one."""
        try:
            return self.trainer
        except RuntimeError:
            return None

    def _rates(self) -> dict[str, float]:
        """Return the learning rate of each group; biases and norms have that of the weights in their layers."""
        if self._attached() is None:
            return {}
        optimizer = self.optimizers()
        assert isinstance(optimizer, Optimizer)  # noqa: S101 - narrows for mypy: there is one
        rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
        shown = {name: name.removesuffix(NO_DECAY) for name in rates}
        return {weights: rates[name] for name, weights in shown.items() if weights == name or weights not in rates}

    def _logs_this_step(self) -> bool:
        """Whether this step's figures are logged: collecting them takes as long as a training step of a head alone."""
        trainer = self._attached()
        every: int = 1 if trainer is None else trainer.log_every_n_steps  # type: ignore[attr-defined]
        return (self.global_step + 1) % every == 0

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Update the metrics of the task of the batch."""
        for task, logits in self(batch).items():
            self._metrics(task).update(logits, batch.labels[task])

    def on_validation_epoch_end(self) -> None:
        """Log each task's metrics and their means over the tasks, ``val/<metric>``; NaN if logits are not finite."""
        means: dict[str, list[Tensor]] = {name: [] for name in VALIDATION_METRICS}
        for task in self.tasks:
            scores = self._metrics(task).compute()
            self._metrics(task).reset()
            if bad := int(scores["not_finite"]):
                rows = int(scores["confusion"].sum())
                log.warning("validation of %s: the logits of %d of %d rows are not finite", task, bad, rows)
            for name in VALIDATION_METRICS:
                score = scores[name] * float("nan") if bad else scores[name]
                means[name].append(score)
                self.log(f"val/{task}/{name}", score.float())
        for name, values in means.items():
            self.log(f"val/{name}", torch.stack(values).mean().float())

    def _metrics(self, task: str) -> TaskMetrics:
        metrics = self.validation[task_key(task)]
        assert isinstance(metrics, TaskMetrics)  # noqa: S101 - narrows nn.Module for mypy
        return metrics

    def configure_model(self) -> None:
        """Shard the encoder over the processes, if they train it so."""
        strategy = self.trainer.strategy
        if isinstance(strategy, ShardedEncoder) and not self.network.encoder.is_sharded:
            self.network = strategy.shard(self.network)
            self.guard.network = self.network

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer and its schedule, which is stepped with each optimizer step."""
        sharded = dict(self.network.named_parameters()) if self.network.encoder.is_sharded else None
        optimizer = self._optimizer(sharded)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self._scheduler(optimizer), "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as the trainer's flags say; the guard checks the step by the norm that clipping computes anyway.

        Lightning refuses to clip for a fused optimizer in mixed precision, which may unscale the gradients itself; this
        optimizer is fused only without scaling.
        """
        if gradient_clip_val and gradient_clip_algorithm != "value":
            norm = clip_norm(optimizer, gradient_clip_val)
        else:
            norm = gradient_norm(optimizer)
            if gradient_clip_val:
                clip_values(optimizer, gradient_clip_val)
        self.guard.check_step(optimizer, norm, self.global_step, self.current_epoch)

    def on_validation_start(self) -> None:
        """Report bad steps before metrics and checkpoints are made."""
        self.guard.inspect()

    def on_train_epoch_end(self) -> None:
        """Report bad steps at the end of an epoch without validation."""
        self.guard.inspect()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out what is never trained: it is what training started from, and 400 MB of an MPNet.

        Values that are not finite are not saved: the checkpoint would replace the last good one.
        """
        kept = self._kept()
        checkpoint["state_dict"] = {name: value for name, value in checkpoint["state_dict"].items() if name in kept}
        checkpoint["bad_steps"] = self.guard.state_dict()
        self.guard.check_checkpoint(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what `on_save_checkpoint` left out."""
        kept = self._kept()
        own = {name: value for name, value in self.state_dict().items() if name not in kept}
        checkpoint["state_dict"] = {**own, **checkpoint["state_dict"]}
        if "bad_steps" in checkpoint:
            self.guard.load_state_dict({**checkpoint["bad_steps"], "sound": checkpoint["global_step"]})

    def learning_state(self) -> dict[str, Tensor]:
        """Return the part of the state that a checkpoint holds."""
        kept = self._kept()
        return {name: value for name, value in self.state_dict().items() if name in kept}

    def _kept(self) -> set[str]:
        named = self.network.named_by_layer()
        learning = {f"network.{name}" for layer in self.freezing.first for name, _ in named[layer]}
        return learning | {f"combination.{name}" for name in self.combination.state_dict()}


def _covers(frozen: Boundary | None, boundary: Boundary) -> bool:
    """Whether all layers below ``boundary`` are among the frozen ones."""
    return frozen == "embedding" or (boundary != "embedding" and boundary <= (frozen or 0))
