"""One training run, from a checked configuration to its folder: model, figures, predictions, report."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import yaml

from mtl import facts
from mtl.analysis import analyse_errors
from mtl.bad_steps import BadSteps
from mtl.build_combination import gradient_watch
from mtl.config import Config
from mtl.data.datamodule import EncodedSplit
from mtl.data.pairs import Pairs
from mtl.data.tokenization import UNLIMITED, tokenize
from mtl.evaluation.retention import pair_correlation
from mtl.evaluation.retention_figures import Retention
from mtl.evaluation.scoring import Scored
from mtl.features import FrozenActivations
from mtl.files import write_text_atomically
from mtl.fitting import fit
from mtl.inputs import absolute, load_inputs
from mtl.results import Run, show, write
from mtl.scores import Splits, calibrated, logits_of_all, scored_splits
from mtl.sentence_maps import SentenceMaps
from mtl.setting import Setting, settle
from mtl.stage_scores import with_stages
from mtl.training import callbacks

log = logging.getLogger(__name__)


def train(config: Config, folder: Path, choices: Mapping[str, str] | None = None) -> dict[str, dict[str, Scored]]:
    """Train, evaluate on val and test, save the model, and write everything that a run leaves.

    Args:
        config: The checked configuration.
        folder: The run folder.
        choices: The choice made in each configuration group, for the report.

    Returns:
        For each task and split its figures and predictions.

    Raises:
        MtlError: Data, weights or flags cannot be used; nothing was trained.
    """
    _quiet()
    inputs = load_inputs(config)
    setting = settle(config, folder, inputs)
    write_text_atomically(folder / "config.yaml", yaml.safe_dump(asdict(absolute(config)), sort_keys=False))
    splits = _tokenize(setting)
    activations = _frozen(setting, splits)
    ability = _ability(setting, inputs.pairs)
    frozen = activations.at("embedding") if setting.plan.encoder_is_frozen else None
    maps = SentenceMaps.begin(setting, splits, frozen)
    history = callbacks.History()
    bad_steps = BadSteps(setting)
    watch = gradient_watch(config)
    cost = fit(setting, splits, activations, history, bad_steps, watch)
    logits = logits_of_all(setting, splits, activations)
    heads, notes = calibrated(setting, splits, logits)
    scored = with_stages(scored_splits(setting, splits, logits, heads), heads)
    run = Run(
        folder=folder,
        config=config,
        choices=dict(choices or {}),
        tasks=setting.tasks,
        start=replace(setting.start, heads=heads),
        groups=facts.group_rows(setting),
        cost=cost,
        scored=scored,
        facts=facts.facts(setting),
        losses=facts.losses(setting),
        warnings=[*facts.warnings(setting), *bad_steps.warnings(), *notes],
        retention=_retention(setting, inputs.pairs, ability),
        errors=analyse_errors(setting, splits, scored, frozen),
        epochs=history.epochs,
        maps=maps.end(setting, splits, frozen),
        gradients=None if watch is None else watch.figures,
    )
    write(run)
    show(run)
    return scored


def _tokenize(setting: Setting) -> Splits:
    """Turn all rows into token ids, once."""
    length = setting.start.network.encoder.max_length or UNLIMITED
    return {
        name: {
            split: EncodedSplit(tokenize(rows.texts, setting.start.tokenizer, length), task.labels.ids(rows))
            for split, rows in task.splits.items()
        }
        for name, task in setting.tasks.items()
    }


def _ability(setting: Setting, pairs: Pairs | None) -> float | None:
    """Return how well the encoder, as it is now, ranks sentence pairs by their similarity."""
    if pairs is None:
        return None
    how = setting.encoding
    return pair_correlation(
        setting.start.network.encoder, setting.start.tokenizer, pairs, pad_id=how.pad_id, batch_size=how.batch_size
    )


def _retention(setting: Setting, pairs: Pairs | None, before: float | None) -> Retention | None:
    after = _ability(setting, pairs)
    if pairs is None or before is None or after is None:
        return None
    return Retention(before, after, len(pairs))


def _frozen(setting: Setting, splits: Splits) -> FrozenActivations:
    """Return what will compute, once, the activations of every row that the run runs through frozen layers."""
    whole = setting.plan.encoder_is_frozen  # then evaluation needs no encoder either
    tables = {
        (name, split): each.table
        for name, found in splits.items()
        for split, each in found.items()
        if (split == "train" and setting.learns(name)) or split == "val" or (split == "test" and whole)
    }
    encoder = setting.start.network.encoder
    return FrozenActivations(encoder, tables, setting.encoding, cached=setting.config.cache.activations)


def _quiet() -> None:
    """Silence what Lightning says about itself on every start."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*")
    warnings.filterwarnings("ignore", message=r".*in eval mode at the start of training.*")  # frozen parts: meant
