"""What a trained network makes of the validation and test rows: logits, calibrated heads, figures and predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mtl.activations.frozen import FrozenActivations
from mtl.data.datamodule import EncodedSplit
from mtl.evaluation.calibrate import calibrate
from mtl.evaluation.scoring import Scored, logits_of, score
from mtl.model.saved import TaskHead
from mtl.training.plan import Setting

Splits = dict[str, dict[str, EncodedSplit]]
Logits = dict[str, dict[str, NDArray[np.float32]]]


def logits_of_all(setting: Setting, splits: Splits, activations: FrozenActivations) -> Logits:
    """Return the logits of all validation and test rows, each computed once."""
    frozen = activations.at("embedding") if setting.plan.encoder_is_frozen else None
    return {
        name: {
            split: logits_of(
                setting.start.network,
                name,
                splits[name][split],
                setting.encoding,
                None if frozen is None else frozen[name, split].gather(np.arange(len(task.splits[split])))[0],
            )
            for split in ("val", "test")
            if len(task.splits[split])
        }
        for name, task in setting.tasks.items()
    }


def calibrated(setting: Setting, splits: Splits, logits: Logits) -> tuple[dict[str, TaskHead], list[str]]:
    """Return the heads with what was fitted on their validation rows, and what a reader must know of it.

    A head that is kept without data keeps its calibration, unless what lies below it was trained.
    """
    chosen, notes = setting.config.calibration, []
    heads = dict(setting.start.heads)
    for name in setting.start.kept:
        if setting.learns(name):
            heads[name] = replace(heads[name], temperature=1.0, bias=None, tau=0.0, stale=True)
    for name in setting.tasks:
        head = heads[name]
        classes = len(head.labels)
        found, warnings_of_task = calibrate(
            logits[name].get("val", np.empty((0, classes), dtype=np.float32)),
            splits[name]["val"].labels,
            np.bincount(splits[name]["train"].labels, minlength=classes),
            temperature=chosen.temperature,
            tuned_prior=chosen.prior == "tuned",
            seed=setting.config.seed,
        )
        bias = None if found.bias is None else list(found.bias)
        heads[name] = replace(head, temperature=found.temperature, bias=bias, tau=found.tau)
        notes += [f"{name}: {text}" for text in warnings_of_task]
    return heads, notes


def scored_splits(
    setting: Setting, splits: Splits, logits: Logits, heads: Mapping[str, TaskHead]
) -> dict[str, dict[str, Scored]]:
    """Return the figures and predictions of each task and split."""
    return {
        name: {
            split: score(
                rows,
                tuple(heads[name].labels),
                splits[name][split].labels,
                setting.tasks[name].splits[split],
                heads[name].calibration,
                setting.config.calibration.bins,
            )
            for split, rows in found.items()
        }
        for name, found in logits.items()
    }
