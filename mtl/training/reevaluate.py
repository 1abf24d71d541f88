"""Evaluate a saved model again, on its run's data or on another labelled file."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from mtl.activations.encoding import Encoding, Precision, token_table
from mtl.base.errors import ConfigError, Problem, did_you_mean, listed
from mtl.base.files import read_yaml
from mtl.base.run_folder import METRICS
from mtl.config.checks import load
from mtl.config.fields import Config
from mtl.config.short_forms import section
from mtl.data.datamodule import TokenizedSplit
from mtl.data.examples import Examples, read_examples
from mtl.data.labels import LabelSet
from mtl.data.problems import ProblemLog
from mtl.data.tasks import load_tasks
from mtl.evaluation.calibration import BINS
from mtl.evaluation.predictions import predictions_path, write_predictions
from mtl.evaluation.run_metrics import RunMetrics, checksums, write_metrics
from mtl.evaluation.scoring import Scored, logits_of, reports_of, score
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
    """Evaluate a run's saved model on the data that its configuration names; ``all`` is validation and test.

    The device is by default the GPU if there is one; precision and calibration are those of `MultiTaskModel.predict`.
    """
    config = read_config(Path(run))
    saved = load_model(Path(run))
    saved.network.to(choose_device(device))
    specs = [
        replace(spec, labels=tuple(saved.tasks[spec.name].labels))
        for spec in task_specs(config.data)
        if spec.name in saved.tasks
    ]
    wanted = ("val", "test") if split == "all" else (split,)
    examples = {
        name: {part: task.splits[part] for part in wanted if len(task.splits[part])}
        for name, task in load_tasks(specs, config.seed).items()
    }
    return _score(saved, examples, precision, calibrated, config.calibration.bins, fitted_on="val")


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
    """Evaluate a saved model, or that of a run folder, on a labelled file of a task, as `evaluate_run` does.

    The task need not be named if the model has one.
    """
    saved = load_model(Path(model))
    saved.network.to(choose_device(device))
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
    return _score(saved, {name: {Path(file).stem: examples}}, precision, calibrated, BINS)


def _score(
    saved: SavedModel,
    examples: Mapping[str, Mapping[str, Examples]],
    precision: Precision,
    calibrated: bool,
    bins: int,
    fitted_on: str | None = None,
) -> AllScored:
    """Score the examples of each task and split, of which the calibration was fitted on one."""
    scored: AllScored = {}
    for task, splits in examples.items():
        head = saved.tasks[task]
        labels = LabelSet(tuple(head.labels))
        how = Encoding(saved.tokenizer.pad_token_id or 0, precision=precision, progress=f"evaluating {task}")
        scored[task] = {}
        for split, rows in splits.items():
            encoded = TokenizedSplit(token_table(rows.texts, saved.tokenizer, saved.network.encoder), labels.ids(rows))
            logits = logits_of(saved.network, task, encoded, how)
            calibration = head.calibration if calibrated else Calibration()
            outcomes = head.outcomes if calibrated and split != fitted_on else None
            scored[task][split] = score(logits, labels.names, encoded.labels, rows, calibration, bins, outcomes)
    return with_stages(scored, saved.tasks)


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
    for task in section(values, "data", "tasks").values():
        if isinstance(task, dict):
            task.setdefault("split_with", [])  # before there was this key, each task had a split of its own
    return load(values if isinstance(values, dict) else {})


def write_scored(folder: str | Path, scored: AllScored) -> None:
    """Write ``metrics.json`` and the predictions."""
    for task, splits in scored.items():
        for split, scores in splits.items():
            write_predictions(predictions_path(folder, task, split), scores.predictions)
    write_metrics(Path(folder) / METRICS, RunMetrics(reports_of(scored), files=checksums(Path(folder))))
