"""One training run, from a checked configuration to its folder: model, figures, predictions, report."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from mtl.activations.encoding import token_table
from mtl.activations.frozen import FrozenActivations
from mtl.base.errors import ConfigError
from mtl.base.run_folder import (
    CHECKPOINTS,
    CONFIG,
    begin,
    check,
    find_model,
    full_disk_explained,
    in_use,
    is_finished,
    remove_leftovers,
    reopen,
)
from mtl.config.fields import Config
from mtl.data.datamodule import EncodedSplit, Splits
from mtl.data.pairs import Pairs
from mtl.data.tokens import UNLIMITED
from mtl.evaluation.records import Retention
from mtl.evaluation.retention import pair_correlation
from mtl.evaluation.scoring import Scored
from mtl.evaluation.stages import with_stages
from mtl.training import callbacks, facts
from mtl.training.analysis import SentenceMaps, analyse_errors
from mtl.training.bad_steps import BadSteps, left_out_warnings
from mtl.training.build_losses import gradient_watch
from mtl.training.companions import Connect, companions
from mtl.training.fit import Progress, announce, fit, training_data
from mtl.training.inputs import absolute, load_inputs
from mtl.training.parallel import ALONE, Place
from mtl.training.plan import Setting, changes, identity, settle, version_changes
from mtl.training.results import Run, calibrated, logits_of_all, scored_splits, show, write
from mtl.training.resume_points import PREVIOUS, Point, last_point
from mtl.training.stopping import Stop, stopping

log = logging.getLogger(__name__)


def train(
    config: Config,
    folder: Path,
    choices: Mapping[str, str] | None = None,
    *,
    resume: bool = False,
    brief: bool = False,
) -> dict[str, dict[str, Scored]]:
    """Train, evaluate on val and test, save the model, and write everything that a run leaves.

    Args:
        config: The checked configuration.
        folder: The run folder.
        choices: The choice made in each configuration group, for the report.
        resume: Whether to go on with the run in the folder, from its last checkpoint if there is one.
        brief: Whether to print one table of results only, as for a job of a sweep.

    Returns:
        For each task and split its figures and predictions.

    Raises:
        MtlError: Data, weights or flags cannot be used, and nothing was trained; the disk is full; a checkpoint to
            resume from is damaged, or of other data, weights or settings.
        Terminated: The process was told to end.
    """
    _quiet()
    check(folder)
    with in_use(folder), full_disk_explained(folder), stopping(_advice(folder)) as stop:
        try:
            return _train(absolute(config), folder, dict(choices or {}), stop, resume=resume, brief=brief)
        except KeyboardInterrupt:
            if (folder / CONFIG).is_file() and not is_finished(folder):
                log.info(_advice(folder))
            raise


def _advice(folder: Path) -> str:
    return f"to go on: python -m mtl.train resume={folder}"


def _train(
    config: Config, folder: Path, choices: dict[str, str], stop: Stop, *, resume: bool, brief: bool
) -> dict[str, dict[str, Scored]]:
    point = last_point(folder / CHECKPOINTS) if resume else None
    inputs = load_inputs(config)
    setting = settle(config, folder, inputs)
    splits = _tokenize(setting)
    progress = Progress(stop, identity(setting, splits), point)
    _check_same(progress, folder, resume=resume)
    remove_leftovers(folder)
    if resume:
        _reopen_if_longer(config, folder, point)
    else:
        keep = find_model(Path(config.model.init_from)) if config.model.init_from else None
        begin(folder, choices, asdict(config), keep=keep)
    place = setting.place if setting.groups else ALONE
    with companions(place, folder, stop, *(["resume"] if resume else [])) as connect:
        activations = _frozen(setting, splits, point)
        progress = replace(progress, activations=activations.used)
        data = training_data(setting, splits, activations)
        known = [*facts.warnings(setting), *facts.cut_texts(splits, _most_tokens(setting))]
        announce(setting, data)
        if kept := facts.kept_heads(setting):
            log.info("kept from %s: %s", config.model.init_from, kept)
        for warning in known:
            log.warning("warning: %s", warning)
        ability = _ability(setting, inputs.pairs)
        frozen = activations.at("embedding") if setting.plan.encoder_is_frozen else None
        maps = SentenceMaps.begin(setting, splits, frozen)
        history = callbacks.History()
        groups = facts.group_rows(setting)  # before adapters are merged
        unfreezing = facts.stage_rows(setting)
        watch = gradient_watch(config)
        cost = fit(setting, data, activations, history, progress, BadSteps(setting), watch, connect)
    logits = logits_of_all(setting, splits, activations)
    heads, notes = calibrated(setting, splits, logits)
    scored = with_stages(scored_splits(setting, splits, logits, heads), heads)
    run = Run(
        folder=folder,
        config=config,
        choices=choices,
        tasks=setting.tasks,
        start=replace(setting.start, heads=heads),
        groups=groups,
        unfreezing=unfreezing,
        cost=cost,
        scored=scored,
        facts=facts.facts(setting),
        losses=facts.losses(setting),
        warnings=known,
        notes=[*left_out_warnings(cost.skipped_steps), *notes],
        retention=_retention(setting, inputs.pairs, ability),
        errors=analyse_errors(setting, splits, scored, frozen),
        epochs=history.epochs,
        maps=maps.end(setting, splits, frozen),
        gradients=None if watch is None else watch.figures,
    )
    write(run)
    (folder / CHECKPOINTS / PREVIOUS).unlink(missing_ok=True)  # of no use any more, and as large as training's state
    show(run, brief=brief)
    return scored


def follow(config: Config, folder: Path, place: Place, connect: Connect, *, resume: bool = False) -> None:
    """Train as another process than the first: with its share of the rows, and without leaving anything.

    Args:
        config: The configuration of the run.
        folder: The run folder.
        place: Which process this is.
        connect: Joins the group of all processes.
        resume: Whether to go on from the last checkpoint in the folder, if there is one.

    Raises:
        MtlError: As `train` does.
        Terminated: The processes were told to end.
    """
    _quiet()
    with stopping(_advice(folder)) as stop:
        point = last_point(folder / CHECKPOINTS) if resume else None
        setting = settle(config, folder, load_inputs(config), place.rank)
        splits = _tokenize(setting)
        progress = Progress(stop, identity(setting, splits), point)
        activations = _frozen(setting, splits, point)
        progress = replace(progress, activations=activations.used)
        data = training_data(setting, splits, activations)
        bad_steps, watch = BadSteps(setting), gradient_watch(config)
        fit(setting, data, activations, callbacks.History(), progress, bad_steps, watch, connect)


def _check_same(progress: Progress, folder: Path, *, resume: bool) -> None:
    """Refuse to go on with other data, weights or settings than the run began with."""
    if progress.point is None:
        if resume:
            log.info("resuming %s from its start: it has no checkpoint yet", folder)
        return
    then, now = progress.point.inputs, progress.inputs
    if problems := changes(then, now, folder):
        raise ConfigError(problems)
    if changed := version_changes(then, now):
        log.warning("the result may differ from that of an unbroken run: %s", changed)
    epochs = [values["config"]["trainer"]["max_epochs"] for values in (then, now)]
    if epochs[0] != epochs[1]:
        told = "training for %s epochs in place of %s: from here on the rates are those of the longer schedule"
        log.info(told, epochs[1], epochs[0])
    log.info("resuming %s behind step %d, from %s", folder, progress.point.log_step, progress.point.path.name)


def _reopen_if_longer(config: Config, folder: Path, point: Point | None) -> None:
    """Keep the configuration of a run that is to train for more epochs than it was started with."""
    if point is not None and point.inputs["config"]["trainer"]["max_epochs"] != config.trainer.max_epochs:
        reopen(folder, asdict(config))


def _tokenize(setting: Setting) -> Splits:
    """Turn all rows into token ids, once."""
    start = setting.start
    return {
        name: {
            split: EncodedSplit(token_table(rows.texts, start.tokenizer, start.network.encoder), task.labels.ids(rows))
            for split, rows in task.splits.items()
        }
        for name, task in setting.tasks.items()
    }


def _most_tokens(setting: Setting) -> int:
    return setting.start.network.encoder.max_length or UNLIMITED


def _ability(setting: Setting, pairs: Pairs | None) -> float | None:
    """Return how well the encoder, as it is now, ranks sentence pairs by their similarity."""
    if pairs is None:
        return None
    how = setting.encoding
    return pair_correlation(
        setting.start.network.encoder, setting.start.tokenizer, pairs, pad_id=how.pad_id, batch_size=how.batch_size
    )


def _retention(setting: Setting, pairs: Pairs | None, before: float | None) -> Retention | None:
    after = before if setting.plan.encoder_is_frozen else _ability(setting, pairs)
    if pairs is None or before is None or after is None:
        return None
    return Retention(before, after, len(pairs))


def _frozen(setting: Setting, splits: Splits, point: Point | None) -> FrozenActivations:
    """Return what will compute, once, the activations of every row that the run runs through frozen layers."""
    whole = setting.plan.encoder_is_frozen  # then evaluation needs no encoder either
    tables = {
        (name, split): each.table
        for name, found in splits.items()
        for split, each in found.items()
        if (split == "train" and setting.learns(name)) or split == "val" or (split == "test" and whole)
    }
    encoder = setting.start.network.encoder
    before = None if point is None else point.activations
    return FrozenActivations(encoder, tables, setting.encoding, cached=setting.config.cache.activations, before=before)


def _quiet() -> None:
    """Silence what Lightning says about itself on every start."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*")
    warnings.filterwarnings("ignore", message=r"It is recommended to use `self\.log\(.*sync_dist=True")  # equal already
    warnings.filterwarnings("ignore", message=r".*in eval mode at the start of training.*")  # frozen parts: meant
    warnings.filterwarnings("ignore", message=r"Checkpoint directory .* exists and is not empty")  # of a resumed run
