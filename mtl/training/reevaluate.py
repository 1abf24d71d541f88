"""Evaluate a saved model again, on its run's data or on another labelled file."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from mtl.activations.encoding import Encoding, Precision, token_table
from mtl.base.errors import ConfigError, Problem, did_you_mean, listed
from mtl.base.files import read_yaml
from mtl.config.checks import load
from mtl.config.fields import Config
from mtl.data.datamodule import EncodedSplit
from mtl.data.examples import Examples, read_examples
from mtl.data.labels import LabelSet
from mtl.data.problems import ProblemLog
from mtl.data.tasks import load_tasks
from mtl.evaluation.calibration import BINS
from mtl.evaluation.predictions import predictions_path, write_predictions
from mtl.evaluation.run_metrics import RunMetrics, checksums, write_metrics
from mtl.evaluation.scoring import Scored, logits_of, score
from mtl.evaluation.stages import with_stages
from mtl.inference.models import choose_device
from mtl.model.decision import Calibration
from mtl.model.saved import SavedModel, load_model
from mtl.training.inputs import task_specs

log = logging.getLogger(__name__)

AllScored = dict[str, dict[str, Scored]]


def evaluate_run(
    run: str | Path,
    split: Literal["val", "test", "all"] = "all",
    *,
    precision: Precision = "auto",
    device: str | None = None,
    calibrated: bool = True,
) -> AllScored:
    """Evaluate a run's saved model on the data that its configuration names.

    Args:
        run: The run folder.
        split: The split, or all but the training rows.
        precision: ``fp32``, ``bf16``, or ``auto``: bf16 where the hardware computes it natively.
        device: ``cpu`` or ``cuda``; by default the GPU if there is one.
        calibrated: As in `MultiTaskModel.predict`.

    Returns:
        For each task and split its figures and predictions.

    Raises:
        MtlError: The run, its model or its data cannot be read.
    """
    config = read_config(Path(run))
    saved = _on_device(load_model(Path(run)), device)
    specs = [
        replace(spec, labels=tuple(saved.tasks[spec.name].labels))
        for spec in task_specs(config.data)
        if spec.name in saved.tasks
    ]
    tasks = load_tasks(specs, config.seed)
    wanted = ("val", "test") if split == "all" else (split,)
    bins = config.calibration.bins
    scored = {
        name: {
            part: _score(saved, name, task.splits[part], precision, calibrated, bins, is_fitted_on=part == "val")
            for part in wanted
            if len(task.splits[part])
        }
        for name, task in tasks.items()
    }
    return with_stages(scored, saved.tasks)


def evaluate_file(
    model: str | Path,
    file: str | Path,
    task: str | None = None,
    *,
    text_column: str = "text",
    label_column: str = "label",
    precision: Precision = "auto",
    device: str | None = None,
    calibrated: bool = True,
) -> AllScored:
    """Evaluate a saved model on a labelled file.

    Args:
        model: A run folder or a saved model.
        file: The labelled file.
        task: The task of its labels; optional if the model has one task.
        text_column: Its column of sentences.
        label_column: Its column of labels.
        precision: ``fp32``, ``bf16``, or ``auto``: bf16 where the hardware computes it natively.
        device: ``cpu`` or ``cuda``; by default the GPU if there is one.
        calibrated: As in `MultiTaskModel.predict`.

    Raises:
        MtlError: The model or the file cannot be read, or the model does not know the task or a label.
    """
    saved = _on_device(load_model(Path(model)), device)
    names = list(saved.tasks)
    name = names[0] if task is None and len(names) == 1 else task
    if name not in saved.tasks:
        found = "nothing" if task is None else repr(task)
        raise ConfigError(Problem("task", found, listed(names), did_you_mean(task or "", names)))
    examples = read_examples(Path(file), text_column, label_column, missing="skip")
    if examples.without_label:
        log.warning("%d rows of %s have no label in %r and are left out", examples.without_label, file, label_column)
    problems = ProblemLog(Path(file))
    LabelSet(tuple(saved.tasks[name].labels)).note_unknown(examples, problems)
    problems.raise_if_any()
    scored = _score(saved, name, examples, precision, calibrated, BINS)
    return with_stages({name: {Path(file).stem: scored}}, saved.tasks)


def _score(
    saved: SavedModel,
    task: str,
    examples: Examples,
    precision: Precision,
    calibrated: bool,
    bins: int,
    *,
    is_fitted_on: bool = False,
) -> Scored:
    labels = LabelSet(tuple(saved.tasks[task].labels))
    encoder = saved.network.encoder
    split = EncodedSplit(token_table(examples.texts, saved.tokenizer, encoder), labels.ids(examples))
    how = Encoding(saved.tokenizer.pad_token_id or 0, precision=precision, progress=f"evaluating {task}")
    logits = logits_of(saved.network, task, split, how)
    head = saved.tasks[task]
    calibration = head.calibration if calibrated else Calibration()
    outcomes = head.outcomes if calibrated and not is_fitted_on else None
    return score(logits, labels.names, split.labels, examples, calibration, bins, outcomes)


def _on_device(saved: SavedModel, device: str | None) -> SavedModel:
    saved.network.to(choose_device(device))
    return saved


def read_config(run: Path) -> Config:
    """Return the configuration of a run.

    Raises:
        ConfigError: The run has none, or it is invalid.
    """
    path = run / "config.yaml"
    try:
        values = read_yaml(path)
    except (OSError, ValueError) as error:
        found = "no such file" if isinstance(error, FileNotFoundError) else f"not readable: {error}"
        expected = "the configuration of a run, in its folder"
        raise ConfigError(Problem(str(path), found, expected, "give a run folder: run=outputs/<date>/<time>")) from None
    return load(_as_split(values) if isinstance(values, dict) else {})


def _as_split(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values with the splits that the run had: before the key ``split_with`` each task had its own."""
    data = values.get("data")
    tasks = data.get("tasks") if isinstance(data, dict) else None
    for task in tasks.values() if isinstance(tasks, dict) else ():
        if isinstance(task, dict):
            task.setdefault("split_with", [])
    return values


def write_scored(folder: str | Path, scored: AllScored) -> None:
    """Write ``metrics.json`` and the predictions."""
    for task, splits in scored.items():
        for split, scores in splits.items():
            write_predictions(predictions_path(folder, task, split), scores.predictions)
    reports = {task: {split: scores.report for split, scores in splits.items()} for task, splits in scored.items()}
    files = checksums(Path(folder))
    write_metrics(Path(folder) / "metrics.json", RunMetrics(reports, files=files))
