"""Diagnose the data of a run: embed its rows with the encoder that it started from, and write the findings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtl.activations.encoding import Encoding, Precision, native_bf16, token_table
from mtl.activations.frozen import FrozenActivations
from mtl.activations.layers import inner_layers, layer_embeddings
from mtl.base.errors import ConfigError, DataError, Problem, did_you_mean, listed
from mtl.config.fields import Config
from mtl.data.tasks import SPLITS, TaskData
from mtl.diagnosis.cross_validation import joined_views
from mtl.diagnosis.data_need import ClassNeed
from mtl.diagnosis.report import write_csv_files, write_diagnosis, write_findings
from mtl.diagnosis.task import TaskDiagnosis, diagnose_task
from mtl.inference.models import SentenceEncoder, choose_device
from mtl.model.loading import load_tokenizer
from mtl.reporting.charts import learning_curve
from mtl.reporting.page import Chart
from mtl.reporting.svg import write_svg
from mtl.training.build import pretrained_encoder
from mtl.training.inputs import Inputs, load_inputs
from mtl.training.reevaluate import read_config

LEAST_ROWS = 20
"""Training rows that the diagnosis of a task needs."""

MOST_CURVES = 12
"""Learning curves in the picture, of the classes with the largest gains; ``diagnosis.json`` has all."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """The embeddings of one task."""

    splits: dict[str, NDArray[np.float32]]  # embeddings of each split's rows ``(N, H)``
    views: list[NDArray[np.float32]]  # of the training rows, from each inner layer, see `joined_views`


def diagnose_run(
    run: str | Path,
    output: str | Path,
    *,
    task: str | None = None,
    encoder: str | None = None,
    more: int = 50,
    similar: float = 0.95,
    precision: Precision = "auto",
    device: str | None = None,
) -> list[TaskDiagnosis]:
    """Diagnose the data of a run, of which ``config.yaml`` is all that is needed, and write the findings to a folder.

    The rows are embedded by the encoder that the run started from. The trained encoder has seen the training rows with
    their labels, and has moved rows of a class together: with it every learning curve is flat, and every label looks
    right. `mtl.diagnose` explains the arguments.

    Raises:
        MtlError: The run, its data or its weights cannot be read, or there is no such task, or it has too few rows.
    """
    config = read_config(Path(run))
    names = list(config.data.tasks)
    if task is not None and task not in names:
        raise ConfigError(Problem("task", repr(task), listed(names), did_you_mean(task, names)))
    inputs = load_inputs(config, to_train=False)
    tasks = {name: data for name, data in inputs.tasks.items() if task in (None, name)}
    _check_rows(tasks)
    embedded = embed(inputs.tasks, encoder_of(config, inputs, encoder, device), config, precision)
    diagnoses = [
        diagnose_task(data, embedded[name].splits, embedded[name].views, more=more, similar=similar, seed=config.seed)
        for name, data in tasks.items()
    ]
    used = encoder or f"{inputs.weights}, which the run started from"
    if encoder is None and config.model.init_from is not None:
        used += ", a saved model: if it was trained on these rows, it underestimates gains and suspects"
    _write(Path(output), {"run": str(run), "encoder": used, "seed": str(config.seed)}, diagnoses)
    return diagnoses


def _check_rows(tasks: dict[str, TaskData]) -> None:
    problems = [
        Problem(
            f"data.tasks.{name}.train",
            f"{len(data.train)} training rows",
            f"{LEAST_ROWS} at least, to say anything about them",
            "name another task with task=…, or collect rows of any class",
        )
        for name, data in tasks.items()
        if len(data.train) < LEAST_ROWS
    ]
    if problems:
        raise DataError(problems)


def encoder_of(config: Config, inputs: Inputs, name: str | None = None, device: str | None = None) -> SentenceEncoder:
    """Return the encoder that a run started from, or the one called ``name``."""
    if name is not None:
        return SentenceEncoder.from_pretrained(name, device=device)
    if config.model.init_from is not None:
        return SentenceEncoder.from_pretrained(inputs.weights, device=device)
    encoder = pretrained_encoder(config, inputs.weights)
    return SentenceEncoder(encoder.to(choose_device(device)), load_tokenizer(inputs.weights))


def embed(
    tasks: dict[str, TaskData], encoder: SentenceEncoder, config: Config, precision: Precision
) -> dict[str, Embedded]:
    """Return the embeddings of each task and split, from the cache where a run has stored them."""
    if precision == "auto":
        precision = "bf16" if native_bf16(next(encoder.encoder.parameters()).device) else "fp32"
    how = Encoding(
        pad_id=encoder.tokenizer.pad_token_id or 0,
        batch_size=config.data.eval_batch_size,
        max_tokens=2 * config.data.max_tokens,
        precision=precision,
        progress="encoding",
    )
    tables = {
        (name, split): token_table(rows.texts, encoder.tokenizer, encoder.encoder)
        for name, data in tasks.items()
        for split, rows in data.splits.items()
        if len(rows)
    }
    rows = FrozenActivations(encoder.encoder, tables, how, cached=config.cache.activations).at("embedding")
    assert rows is not None  # noqa: S101 - narrows for mypy: embeddings are always kept
    nothing = np.empty((0, encoder.dimension), dtype=np.float32)
    splits = {name: dict.fromkeys(SPLITS, nothing) for name in tasks}
    for (name, split), table in tables.items():
        splits[name][split] = rows[name, split].gather(np.arange(len(table)))[0]
    layers = inner_layers(encoder.encoder)
    labels = {name: data.labels.ids(data.train) for name, data in tasks.items()}
    inner = {name: layer_embeddings(encoder.encoder, tables[name, "train"], layers, how) for name in tasks}
    views = [joined_views({name: of_task[layer] for name, of_task in inner.items()}, labels) for layer in layers]
    return {name: Embedded(splits[name], [of_layer[name] for of_layer in views]) for name in tasks}


def _write(folder: Path, facts: dict[str, str], diagnoses: list[TaskDiagnosis]) -> None:
    files = {}
    for diagnosis in diagnoses:
        picture = folder / f"learning_curves_{diagnosis.task}.svg"
        write_svg(picture, [_curve(need) for need in diagnosis.needs[:MOST_CURVES]], columns=3, width=230)
        files[diagnosis.task] = [picture, *write_csv_files(folder, diagnosis)]
    write_findings(folder / "diagnosis.json", facts, diagnoses)
    write_diagnosis(folder / "diagnosis.md", facts, diagnoses, files)


def _curve(need: ClassNeed) -> Chart:
    points = zip(need.curve_rows.tolist(), *need.curve.tolist(), strict=True)
    rows = [dict(zip(("x", "y", "low", "high"), point, strict=True)) for point in points]
    known = [row for row in rows if math.isfinite(row["y"])]
    return learning_curve(need.label, known, "training rows of the class", "F1", "band: 90 % interval")
