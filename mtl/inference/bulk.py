"""Predict or encode many sentences from file to file, in constant memory."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO, Unpack

import numpy as np
import torch

from mtl.base.files import replacing
from mtl.evaluation.predictions import guarded
from mtl.inference.models import EncodeOptions, MultiTaskModel, PredictOptions, SentenceEncoder
from mtl.inference.prediction import Prediction, as_json
from mtl.inference.sentences import chunks, named_part

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mtl.inference.folders import Settings

Predictions = dict[str, list[Prediction]]
_DECIMALS: Final = 6
Writer = Callable[[list[str], Predictions], None]
"""Writes sentences with their predictions, chunk after chunk."""


def predict_to_file(model: MultiTaskModel, texts: Sequence[str], path: Path, **options: Unpack[PredictOptions]) -> None:
    """Write the predictions of all tasks for every text, in order, whole or not at all.

    The file is ``.csv``, ``.jsonl`` or ``.parquet``. The progress is shown by default.
    """
    columns = list(_columns(model, options))
    if path.suffix == ".parquet":
        with replacing(path) as temporary, _parquet_writer(temporary, columns) as write:
            _predict_chunks(model, texts, write, options)
        return
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        write = _csv_writer(file, columns) if path.suffix == ".csv" else _json_writer(file)
        _predict_chunks(model, texts, write, options)


def predict_lines(model: MultiTaskModel, texts: Sequence[str], file: TextIO, **options: Unpack[PredictOptions]) -> None:
    """Write the predictions as JSON Lines to an open file, such as standard output; see `predict_to_file`."""
    _predict_chunks(model, texts, _json_writer(file), options)


def _predict_chunks(model: MultiTaskModel, texts: Sequence[str], write: Writer, options: PredictOptions) -> None:
    progress = options.get("progress", True)
    for chunk, part in chunks(texts):
        title = progress and _title("predicting", part, texts)
        with named_part(part):
            predictions = model.predict(chunk, **(options | {"progress": title}))
        write(chunk, predictions)


def _title(action: str, part: str, texts: Sequence[str]) -> str:
    return f"{action} {part} of {len(texts):,}" if part else action


@dataclass(frozen=True, slots=True)
class _Column:
    """A column after the text: its name, its task, its value of a prediction, and its type in Arrow."""

    name: str
    task: str
    value: Callable[[Prediction], str | float | bool]
    type: Literal["string", "float", "bool"] = "string"


def _columns(model: MultiTaskModel, options: PredictOptions) -> Iterator[_Column]:
    """Yield for each task its label, its set of labels and whether to abstain if asked for, and the probabilities."""
    for task, labels in model.labels.items():
        yield _Column(task, task, lambda row: row.label)
        if options.get("coverage") is not None:
            yield _Column(f"{task} set", task, lambda row: " | ".join(row.label_set or ()))
        if options.get("max_risk") is not None:
            yield _Column(f"{task} abstain", task, lambda row: bool(row.abstain), "bool")
        for label in labels:
            yield _Column(f"p({task}={label})", task, partial(_probability, label), "float")


def _probability(label: str, row: Prediction) -> float:
    return row.probabilities[label]


def _csv_writer(file: TextIO, columns: Sequence[_Column]) -> Writer:
    """Return a writer of the text and the columns.

    Texts are quoted, so that spreadsheets that separate cells by semicolons do not split them.
    """
    writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow([guarded(name) for name in ("text", *(column.name for column in columns))])

    def write(texts: list[str], predictions: Predictions) -> None:
        for at, text in enumerate(texts):
            values = (column.value(predictions[column.task][at]) for column in columns)
            writer.writerow([guarded(_encodable(text)), *map(_cell, values)])

    return write


def _cell(value: str | float | bool) -> str | float:
    if isinstance(value, bool):
        return "true" if value else "false"
    return guarded(value) if isinstance(value, str) else round(value, _DECIMALS)


@contextmanager
def _parquet_writer(path: Path, columns: Sequence[_Column]) -> Iterator[Writer]:
    """Provide a writer of the same columns as in CSV, with float32 probabilities and true or false."""
    import pyarrow as pa
    from pyarrow import parquet

    fields = pa.schema([("text", "string"), *((column.name, column.type) for column in columns)])
    with parquet.ParquetWriter(path, fields) as writer:

        def write(texts: list[str], predictions: Predictions) -> None:
            values: list[list[Any]] = [[_encodable(text) for text in texts]]
            values += [[column.value(row) for row in predictions[column.task]] for column in columns]
            arrays = [pa.array(column, field.type) for column, field in zip(values, fields, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=fields))

        yield write


def _json_writer(file: TextIO) -> Writer:
    """Return a writer of one object per line: the text, and the prediction of each task as `as_json` gives it."""

    def write(texts: list[str], predictions: Predictions) -> None:
        for at, text in enumerate(texts):
            found = {task: as_json(rows[at], _DECIMALS) for task, rows in predictions.items()}
            file.write(json.dumps({"text": _encodable(text)} | found, ensure_ascii=False) + "\n")

    return write


def _encodable(text: str) -> str:
    """Return the text with lone surrogates, which UTF-8 does not have, replaced."""
    return text.encode("utf-8", "replace").decode("utf-8")


def encode_to_file(
    encoder: SentenceEncoder, texts: Sequence[str], path: Path, **options: Unpack[EncodeOptions]
) -> NDArray[np.float32]:
    """Write the embeddings of ``N`` texts, in order, as a ``.npy`` file, whole or not at all.

    The progress is shown by default.

    Returns:
        The embeddings ``(N, E)``, mapped from the file.
    """
    progress = options.get("progress", True)
    # Written, not mapped: a full disk raises an error when writing, but kills the process when a page is mapped.
    header = {"descr": np.dtype(np.float32).str, "fortran_order": False, "shape": (len(texts), encoder.dimension)}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for chunk, part in chunks(texts):
            title = progress and _title("encoding", part, texts)
            with named_part(part):
                file.write(encoder.encode(chunk, **(options | {"progress": title})).data)
    written: NDArray[np.float32] = np.load(path, mmap_mode="r")
    return written


def load_predictor(
    device: str | None, threads: int, *, model: str, settings: Settings
) -> Callable[[Sequence[str], Path], None]:
    """Load a model, to run in that many threads on a CPU, and return `predict_to_file` with it, without progress."""
    torch.set_num_threads(threads)
    loaded = MultiTaskModel.from_pretrained(model, device=device, tasks=settings.tasks)
    options: PredictOptions = {
        "precision": settings.precision,
        "prompt_name": settings.prompt_name,
        "calibrated": settings.calibrated,
        "coverage": settings.coverage,
        "max_risk": settings.max_risk,
        "progress": False,
    }
    loaded.predict("options that the model lacks are refused before anything is written", **options)
    return partial(predict_to_file, loaded, **options)


def load_encoder(
    device: str | None, threads: int, *, model: str, settings: Settings
) -> Callable[[Sequence[str], Path], object]:
    """Load an encoder, to run in that many threads on a CPU, and return `encode_to_file` with it, without progress."""
    torch.set_num_threads(threads)
    loaded = SentenceEncoder.from_pretrained(model, device=device)
    options: EncodeOptions = {
        "precision": settings.precision,
        "prompt_name": settings.prompt_name,
        "progress": False,
    }
    loaded.encode("a prompt that the model lacks is refused before anything is written", **options)
    return partial(encode_to_file, loaded, **options)
