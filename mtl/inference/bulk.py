"""Predict or encode many sentences from file to file, in constant memory."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TextIO, TypedDict, Unpack

import numpy as np
import torch

from mtl.base.errors import ConfigError, Problem
from mtl.base.files import replacing
from mtl.evaluation.predictions import guarded
from mtl.inference.models import MultiTaskModel, SentenceEncoder
from mtl.inference.prediction import Prediction
from mtl.inference.sentences import chunks, named_part

if TYPE_CHECKING:
    from mtl.activations.encoding import Precision

Predictions = dict[str, list[Prediction]]


class PredictOptions(TypedDict, total=False):
    """Keyword arguments of `MultiTaskModel.predict` that hold for all chunks."""

    precision: Precision
    calibrated: bool
    prompt_name: str | None
    coverage: float | None
    max_risk: float | None


Writer = Callable[[list[str], Predictions], None]
"""Writes sentences with their predictions, chunk after chunk."""


def _title(action: str, part: str, texts: Sequence[str]) -> str:
    return f"{action} {part} of {len(texts):,}" if part else action


def predict_to_file(
    model: MultiTaskModel,
    texts: Sequence[str],
    path: Path,
    *,
    progress: bool = True,
    **options: Unpack[PredictOptions],
) -> None:
    """Write the predictions of all tasks for every text, in order, whole or not at all.

    Args:
        model: The saved model.
        texts: The sentences.
        path: ``.csv``, ``.jsonl`` or ``.parquet``; see `check_output`.
        progress: Whether to show the progress of every chunk.
        options: As in `MultiTaskModel.predict`.
    """
    columns = list(_columns(model, options))
    if path.suffix == ".parquet":
        with replacing(path) as temporary, _parquet_writer(temporary, columns) as write:
            _predict_chunks(model, texts, write, options, progress=progress)
        return
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        write = _csv_writer(file, columns) if path.suffix == ".csv" else _json_writer(file)
        _predict_chunks(model, texts, write, options, progress=progress)


def predict_lines(model: MultiTaskModel, texts: Sequence[str], file: TextIO, **options: Unpack[PredictOptions]) -> None:
    """Write the predictions as JSON Lines to an open file, such as standard output; see `predict_to_file`."""
    _predict_chunks(model, texts, _json_writer(file), options)


def _predict_chunks(
    model: MultiTaskModel, texts: Sequence[str], write: Writer, options: PredictOptions, *, progress: bool = True
) -> None:
    for chunk, part in chunks(texts):
        with named_part(part):
            predictions = model.predict(chunk, progress=progress and _title("predicting", part, texts), **options)
        write(chunk, predictions)


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
    return guarded(value) if isinstance(value, str) else round(value, 6)


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
    """Return a writer of one object per line: the text, and for each task its label, probabilities, coarse class."""

    def write(texts: list[str], predictions: Predictions) -> None:
        for at, text in enumerate(texts):
            row: dict[str, Any] = {"text": _encodable(text)}
            for task, rows in predictions.items():
                probabilities = {label: round(value, 6) for label, value in rows[at].probabilities.items()}
                row[task] = {"label": rows[at].label, "probabilities": probabilities}
                if (coarse := rows[at].coarse) is not None:
                    shares = {name: round(value, 6) for name, value in coarse.probabilities.items()}
                    row[task] |= {"coarse": {"label": coarse.label, "probabilities": shares}}
                if (label_set := rows[at].label_set) is not None:
                    row[task]["set"] = label_set
                if (abstain := rows[at].abstain) is not None:
                    row[task]["abstain"] = abstain
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

    return write


def _encodable(text: str) -> str:
    """Return the text with lone surrogates, which UTF-8 does not have, replaced."""
    return text.encode("utf-8", "replace").decode("utf-8")


def encode_to_file(
    encoder: SentenceEncoder,
    texts: Sequence[str],
    path: Path,
    precision: Precision,
    prompt_name: str | None = None,
    *,
    progress: bool = True,
) -> np.ndarray:
    """Write the embeddings of the texts, in order, as a ``.npy`` file, whole or not at all.

    Args:
        encoder: The encoder.
        texts: ``N`` sentences.
        path: The file to write.
        precision: As in `SentenceEncoder.encode`.
        prompt_name: As in `SentenceEncoder.encode`.
        progress: Whether to show the progress of every chunk.

    Returns:
        The embeddings ``(N, E)``, float32, mapped from the file.
    """
    # Written, not mapped: a full disk raises an error when writing, but kills the process when a page is mapped.
    with replacing(path) as temporary, temporary.open("wb") as file:
        _begin_npy(file, (len(texts), encoder.dimension))
        for chunk, part in chunks(texts):
            with named_part(part):
                title = progress and _title("encoding", part, texts)
                embeddings = encoder.encode(chunk, precision=precision, progress=title, prompt_name=prompt_name)
                file.write(embeddings.data)
    written: np.ndarray = np.load(path, mmap_mode="r")
    return written


def _begin_npy(file: BinaryIO, shape: tuple[int, int]) -> None:
    """Write the header of a ``.npy`` file of float32 rows."""
    described = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, described)


def load_predictor(
    device: str | None, threads: int, *, model: str, tasks: Sequence[str] | None, options: PredictOptions
) -> Callable[[Sequence[str], Path], None]:
    """Load a model, to run in that many threads on a CPU, and return `predict_to_file` with it, without progress."""
    torch.set_num_threads(threads)
    loaded = MultiTaskModel.from_pretrained(model, device=device, tasks=tasks)
    loaded.predict("options that the model lacks are refused before anything is written", **options)
    return partial(predict_to_file, loaded, progress=False, **options)


def load_encoder(
    device: str | None, threads: int, *, model: str, precision: Precision, prompt_name: str | None
) -> Callable[[Sequence[str], Path], np.ndarray]:
    """Load an encoder, to run in that many threads on a CPU, and return `encode_to_file` with it, without progress."""
    torch.set_num_threads(threads)
    loaded = SentenceEncoder.from_pretrained(model, device=device)
    loaded.encode(
        "a prompt that the model does not have is refused before anything is written", prompt_name=prompt_name
    )
    return partial(encode_to_file, loaded, precision=precision, prompt_name=prompt_name, progress=False)


def check_output(path: Path, suffixes: Sequence[str], source: Path | None = None) -> None:
    """Check before any work that ``path`` can be written.

    Raises:
        ConfigError: Its suffix is not one of ``suffixes``, its folder is missing, or it is a folder or the ``source``.
    """
    problems = []
    if path.suffix not in suffixes:
        problems.append(Problem("output", str(path), f"a file that ends in {' or '.join(suffixes)}"))
    if path.is_dir():
        problems.append(Problem("output", f"{path}, a folder", "a file"))
    elif not path.absolute().parent.is_dir():
        problems.append(Problem("output", f"no folder {path.absolute().parent}", "a file in a folder that is there"))
    elif source is not None and path.exists() and source.exists() and path.samefile(source):
        problems.append(Problem("output", f"{path}, which is the input", "another file: the input would be lost"))
    if problems:
        raise ConfigError(problems)
