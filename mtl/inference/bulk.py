"""Predict or encode many sentences from file to file, in constant memory."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

import numpy as np

from mtl.base.errors import ConfigError, Problem
from mtl.base.files import replacing
from mtl.evaluation.predictions import guarded
from mtl.inference.models import CHUNK, MultiTaskModel, Prediction, SentenceEncoder, named_part

if TYPE_CHECKING:
    from mtl.activations.encoding import Precision

Predictions = dict[str, list[Prediction]]
Writer = Callable[[list[str], Predictions], None]
"""Writes sentences with their predictions, chunk after chunk."""


def chunks(texts: Sequence[str]) -> Iterator[tuple[list[str], str]]:
    """Yield the texts in order, `CHUNK` at a time, with the name of each chunk: empty where there is only one."""
    for start in range(0, len(texts), CHUNK):
        chunk = list(texts[start : start + CHUNK])
        yield chunk, f"sentences {start + 1:,} to {start + len(chunk):,}" if len(texts) > CHUNK else ""


def _title(action: str, part: str, texts: Sequence[str]) -> str:
    return f"{action} {part} of {len(texts):,}" if part else action


def predict_to_file(
    model: MultiTaskModel,
    texts: Sequence[str],
    path: Path,
    precision: Precision,
    *,
    calibrated: bool = True,
    prompt_name: str | None = None,
) -> None:
    """Write the predictions of all tasks for every text, in order, whole or not at all.

    Args:
        model: The saved model.
        texts: The sentences.
        path: ``.csv``, ``.jsonl`` or ``.parquet``; see `check_output`.
        precision: As in `MultiTaskModel.predict`.
        calibrated: As in `MultiTaskModel.predict`.
        prompt_name: As in `MultiTaskModel.predict`.
    """
    if path.suffix == ".parquet":
        with replacing(path) as temporary, _parquet_writer(temporary, model) as write:
            _predict_chunks(model, texts, write, precision, calibrated=calibrated, prompt_name=prompt_name)
        return
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        write = _csv_writer(file, model) if path.suffix == ".csv" else _json_writer(file)
        _predict_chunks(model, texts, write, precision, calibrated=calibrated, prompt_name=prompt_name)


def predict_lines(
    model: MultiTaskModel,
    texts: Sequence[str],
    file: TextIO,
    precision: Precision,
    *,
    calibrated: bool = True,
    prompt_name: str | None = None,
) -> None:
    """Write the predictions as JSON Lines to an open file, such as standard output; see `predict_to_file`."""
    _predict_chunks(model, texts, _json_writer(file), precision, calibrated=calibrated, prompt_name=prompt_name)


def _predict_chunks(
    model: MultiTaskModel,
    texts: Sequence[str],
    write: Writer,
    precision: Precision,
    *,
    calibrated: bool,
    prompt_name: str | None,
) -> None:
    for chunk, part in chunks(texts):
        progress = _title("predicting", part, texts)
        with named_part(part):
            predictions = model.predict(
                chunk, precision=precision, progress=progress, calibrated=calibrated, prompt_name=prompt_name
            )
        write(chunk, predictions)


def _columns(model: MultiTaskModel) -> Iterator[tuple[str, str, str | None]]:
    """Yield the columns after the text: name, task, and the label whose probability it holds, or None for the label."""
    for task, labels in model.labels.items():
        yield task, task, None
        yield from ((f"p({task}={label})", task, label) for label in labels)


def _csv_writer(file: TextIO, model: MultiTaskModel) -> Writer:
    """Return a writer of the text and, for each task, its label and ``p(<task>=<label>)`` for each label.

    Texts are quoted, so that spreadsheets that separate cells by semicolons do not split them.
    """
    writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow([guarded(name) for name in ("text", *(name for name, _, _ in _columns(model)))])

    def write(texts: list[str], predictions: Predictions) -> None:
        for at, text in enumerate(texts):
            cells: list[str | float] = [guarded(_encodable(text))]
            for rows in predictions.values():
                cells += [guarded(rows[at].label), *(round(value, 6) for value in rows[at].probabilities.values())]
            writer.writerow(cells)

    return write


@contextmanager
def _parquet_writer(path: Path, model: MultiTaskModel) -> Iterator[Writer]:
    """Provide a writer of the same columns as in CSV, with float32 probabilities."""
    import pyarrow as pa
    from pyarrow import parquet

    columns = list(_columns(model))
    kinds = [(name, pa.string() if label is None else pa.float32()) for name, _, label in columns]
    fields = pa.schema([("text", pa.string()), *kinds])
    with parquet.ParquetWriter(path, fields) as writer:

        def write(texts: list[str], predictions: Predictions) -> None:
            values: list[list[Any]] = [[_encodable(text) for text in texts]]
            values += [
                [row.label if label is None else row.probabilities[label] for row in predictions[task]]
                for _, task, label in columns
            ]
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
) -> np.ndarray:
    """Write the embeddings of the texts, in order, as a ``.npy`` file, whole or not at all.

    Args:
        encoder: The encoder.
        texts: ``N`` sentences.
        path: The file to write.
        precision: As in `SentenceEncoder.encode`.
        prompt_name: As in `SentenceEncoder.encode`.

    Returns:
        The embeddings ``(N, E)``, float32, mapped from the file.
    """
    # Written, not mapped: a full disk raises an error when writing, but kills the process when a page is mapped.
    with replacing(path) as temporary, temporary.open("wb") as file:
        _begin_npy(file, (len(texts), encoder.dimension))
        for chunk, part in chunks(texts):
            with named_part(part):
                title = _title("encoding", part, texts)
                embeddings = encoder.encode(chunk, precision=precision, progress=title, prompt_name=prompt_name)
                file.write(embeddings.data)
    written: np.ndarray = np.load(path, mmap_mode="r")
    return written


def _begin_npy(file: BinaryIO, shape: tuple[int, int]) -> None:
    """Write the header of a ``.npy`` file of float32 rows."""
    described = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, described)


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
