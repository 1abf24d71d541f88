"""Training data in memory (data frames, Arrow tables, data sets, pairs): written to files, as every run reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mtl.base.errors import ConfigError, Problem
from mtl.base.files import replacing
from mtl.base.run_folder import DATA

if TYPE_CHECKING:
    import pyarrow as pa

KINDS: Final = "a data frame, an Arrow table, (text, label) pairs, a Dataset or DatasetDict of `datasets`, or a file"
_FILES: Final = ("train", "val", "test", "path")
_DATASET: Final = "dataset"


@dataclass(frozen=True, slots=True)
class Unwritten:
    """Rows in memory, which a setting of a task will name as a file."""

    task: str
    key: str  # the setting: ``train``, ``val``, ``test``, ``path`` or ``dataset``
    name: str  # the name of the file, or of the folder of a data set
    rows: Any  # an Arrow table, a `datasets.Dataset` or a `datasets.DatasetDict`


def task_sources(data: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], list[Unwritten]]:
    """Return the settings of ``data.tasks`` for the data of all tasks, and the rows to be written.

    For rows in memory the settings name the files that `write_all` will write. Rows that several tasks share, such as a
    frame with a label column for each of them, become one file, so that they are split alike.

    Args:
        data: By task its rows or file; or a mapping of settings of ``data.tasks.<task>``, in which ``train``, ``val``,
            ``test`` and ``path`` can be rows as well.

    Raises:
        ConfigError: Something is no data; all problems together.
    """
    tasks: dict[str, dict[str, Any]] = {}
    unwritten: list[Unwritten] = []
    names: dict[int, str] = {}  # of files, by the identity of their rows
    problems: list[Problem] = []
    for task, value in data.items():
        place = f"data.tasks.{task}"
        has_settings = isinstance(value, Mapping) and not _is_dataset(value)
        settings = dict(value) if has_settings else {_DATASET if _is_dataset(value) else "path": value}
        parts = {key: settings[key] for key in _FILES if not isinstance(settings.get(key), str | PathLike | None)}
        parts |= {_DATASET: settings[_DATASET]} if _is_dataset(settings.get(_DATASET)) else {}
        if parts and all(map(_is_dataset, parts.values())) and _DATASET not in parts:
            from datasets import DatasetDict

            settings = {key: part for key, part in settings.items() if key not in parts}
            parts = {_DATASET: parts["path"] if list(parts) == ["path"] else DatasetDict(parts)}
        for key, part in parts.items():
            at = f"{place}.{key}" if has_settings else place
            try:
                rows = part if key == _DATASET else _table(part, settings, at)
            except ConfigError as error:
                problems += error.problems
                continue
            suffix = "" if key == "path" else f"_{key}"
            name = names.setdefault(id(part), f"{task}{suffix}" + (".parquet" if key != _DATASET else ""))
            settings[key] = f"{DATA}/{name}"
            unwritten.append(Unwritten(str(task), key, name, rows))
        tasks[str(task)] = settings
    if problems:
        raise ConfigError(problems)
    return tasks, unwritten


def _is_dataset(value: Any) -> bool:
    """Whether a value is a `datasets.Dataset` or a `datasets.DatasetDict`, without importing `datasets`."""
    kind = type(value)
    return kind.__module__.partition(".")[0] == "datasets" and kind.__name__ in ("Dataset", "DatasetDict")


def _write(part: Unwritten, path: Path) -> None:
    """Write rows as Parquet, a data set as ``save_to_disk`` does, without a progress bar."""
    if part.key != _DATASET:
        import pyarrow.parquet as pq  # here and below: a command line without rows in memory needs no pyarrow

        with replacing(path) as temporary:
            pq.write_table(part.rows, temporary)
        return
    import datasets

    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        part.rows.save_to_disk(path)
    finally:
        if shown:
            datasets.enable_progress_bars()


def _table(rows: Any, settings: Mapping[str, Any], place: str) -> pa.Table:
    """Return rows as an Arrow table."""
    import pyarrow as pa

    if isinstance(rows, pa.Table):
        return rows
    if _is_dataset(rows):
        found = f"a {type(rows).__name__} beside other kinds of data"
        repair = f"give the DatasetDict as the task itself, or a Dataset for every split of {place.rpartition('.')[0]}"
        raise ConfigError(Problem(place, found, "one kind of data for the splits of a task", repair))
    if type(rows).__module__.partition(".")[0] == "pandas" and hasattr(rows, "columns"):
        return _of_columns({str(name): rows.iloc[:, at] for at, name in enumerate(rows.columns)}, settings, place)
    if hasattr(rows, "to_arrow"):  # polars
        return _table(rows.to_arrow(), settings, place)
    if isinstance(rows, Iterable) and not isinstance(rows, Mapping | bytes) and not hasattr(rows, "columns"):
        texts, labels = _pairs(rows, place)
        columns = {settings.get("text_column", "text"): texts, settings.get("label_column", "label"): labels}
        return _of_columns(columns, settings, place)
    raise ConfigError(Problem(place, f"a value of type {type(rows).__name__}", KINDS))


def _pairs(rows: Iterable[Any], place: str) -> tuple[list[Any], list[Any]]:
    """Return the texts and the labels of pairs."""
    pairs = list(rows)
    wrong = [at for at, pair in enumerate(pairs) if not isinstance(pair, tuple | list) or len(pair) != 2]
    if wrong:
        more = f", and {len(wrong) - 1:,} more that are none" if len(wrong) > 1 else ""
        found = f"item {wrong[0] + 1} is {pairs[wrong[0]]!r:.80}{more}"
        raise ConfigError(Problem(place, found, "(text, label) pairs", f"or give {KINDS}"))
    return [text for text, _ in pairs], [label for _, label in pairs]


def _of_columns(columns: Mapping[str, Any], settings: Mapping[str, Any], place: str) -> pa.Table:
    """Return a table of the columns that Arrow can hold; those that the task reads must be among them."""
    import pyarrow as pa

    read = {settings.get("text_column", "text"), settings.get("label_column", "label"), *settings.get("slices", ())}
    arrays: dict[str, Any] = {}
    problems = []
    for name, values in columns.items():
        try:
            arrays[name] = pa.array(values, from_pandas=True)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            if name in read:
                reason = next(iter(str(error).splitlines()), type(error).__name__)
                problems.append(Problem(place, f"column {name!r}: {reason}", "values of one type", "make them strings"))
    if problems:
        raise ConfigError(problems)
    return pa.table(arrays)


def write_all(unwritten: Iterable[Unwritten], folder: Path) -> dict[str, dict[str, Any]]:
    """Write rows into the folder `DATA` of a run folder and return the path of each, by task and setting."""
    paths: dict[str, dict[str, Any]] = {}
    written: set[Path] = set()
    for part in unwritten:
        path = folder / DATA / part.name
        if path not in written:
            _write(part, path)
            written.add(path)
        paths.setdefault(part.task, {})[part.key] = str(path)
    return paths
