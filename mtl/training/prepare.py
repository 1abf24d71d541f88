"""Prepare a run: read and check everything, decide on the plan, and make what trains it. Nothing expensive runs yet."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mtl.activations.encoding import token_table
from mtl.activations.frozen import FrozenActivations
from mtl.base.errors import ConfigError
from mtl.base.run_folder import CHECKPOINTS, begin, find_model, remove_leftovers, reopen
from mtl.config.fields import Config
from mtl.data.datamodule import Splits, TokenizedSplit
from mtl.data.pairs import Pairs
from mtl.training.fingerprint import changes, fingerprint, version_changes
from mtl.training.inputs import load_inputs
from mtl.training.plan import RunPlan, make_plan
from mtl.training.ranks import Process
from mtl.training.resume_points import Point, ResumePoints, last_point
from mtl.training.stopping import Stop
from mtl.training.trainer import Training, make_data, make_training

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Prepared:
    """A run before its first step."""

    plan: RunPlan
    splits: Splits
    pairs: Pairs | None  # sentence pairs that measure the encoder's retention
    stop: Stop
    resume: bool  # whether it continues a run
    point: Point | None  # where it continues; None if it starts from the first step
    fingerprint: Mapping[str, Any]  # what it depends on
    activations: FrozenActivations  # computed when they are first needed
    training: Training | None  # None if everything is frozen, and after training


def prepare(
    config: Config,
    folder: Path,
    choices: Mapping[str, str],
    stop: Stop,
    process: Process,
    *,
    resume: bool,
) -> Prepared:
    """Prepare a run and its folder."""
    run = prepare_process(config, folder, stop, process, resume=resume)
    _check_same(run.fingerprint, run.point, folder, resume=resume)
    remove_leftovers(folder)
    if not resume:
        keep = find_model(Path(config.model.init_from)) if config.model.init_from else None
        begin(folder, choices, asdict(config), keep=keep)
    elif run.point is not None and run.point.inputs["config"] != run.fingerprint["config"]:
        reopen(folder, asdict(config))
    return run


def prepare_process(config: Config, folder: Path, stop: Stop, process: Process, *, resume: bool) -> Prepared:
    """Prepare one process of a run and leave its folder alone; see `prepare`."""
    point = last_point(folder / CHECKPOINTS) if resume else None
    inputs = load_inputs(config)
    plan = make_plan(config, folder, inputs, process)
    splits = _tokenize(plan)
    depends_on = fingerprint(plan, splits)
    activations = _frozen_activations(plan, splits, point)
    training = None
    if plan.groups:
        points = ResumePoints(folder / CHECKPOINTS, config.callbacks, stop, depends_on, activations.used)
        training = make_training(plan, make_data(plan, splits, activations), activations, points, point)
    return Prepared(plan, splits, inputs.pairs, stop, resume, point, depends_on, activations, training)


def _tokenize(plan: RunPlan) -> Splits:
    tokenizer, encoder = plan.start.tokenizer, plan.start.network.encoder
    return {
        name: {
            split: TokenizedSplit(token_table(rows.texts, tokenizer, encoder), task.labels.ids(rows))
            for split, rows in task.splits.items()
        }
        for name, task in plan.tasks.items()
    }


def _frozen_activations(plan: RunPlan, splits: Splits, point: Point | None) -> FrozenActivations:
    """Return the activations of all rows that the run passes through frozen layers."""
    passed = {"train", "val"}  # in training
    if plan.freezing.encoder_is_frozen:
        passed.add("test")  # evaluation needs no encoder either
    tables = {
        (task, split): rows.table
        for task, parts in splits.items()
        for split, rows in parts.items()
        if split in passed and (split != "train" or task in plan.trained)
    }
    encoder, cached = plan.start.network.encoder, plan.config.cache.activations
    before = None if point is None else point.activations
    return FrozenActivations(encoder, tables, plan.encoding, cached=cached, before=before)


def _check_same(now: Mapping[str, Any], point: Point | None, folder: Path, *, resume: bool) -> None:
    """Refuse to resume with other data, weights or settings than the run was started with."""
    if point is None:
        if resume:
            log.info("resuming %s from its start: it has no checkpoint yet", folder)
        return
    if problems := changes(point.inputs, now, folder):
        raise ConfigError(problems)
    if changed := version_changes(point.inputs, now):
        log.warning("the result may differ from that of an unbroken run: %s", changed)
    before, epochs = (values["config"]["trainer"]["max_epochs"] for values in (point.inputs, now))
    if epochs != before:
        text = "training for %s epochs instead of %s: learning rates follow the longer schedule from here on"
        log.info(text, epochs, before)
    log.info("resuming %s after step %d, from %s", folder, point.log_step, point.path.name)
