"""Load a data set by name with `datasets`: from the hub, from a local folder, or as `save_to_disk` wrote it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mtl.base import hub
from mtl.base.errors import DataError, Problem, did_you_mean, listed
from mtl.base.files import expanded
from mtl.data.problems import Columns, ProblemLog, check_columns
from mtl.data.readers import ARROW_ROWS, Row, arrow_rows, has_types
from mtl.data.row_checks import is_missing
from mtl.data.table import checksum

if TYPE_CHECKING:
    from datasets import Dataset

_USUAL_NAMES: Final = {"train": ("train",), "val": ("validation", "valid", "val", "dev"), "test": ("test",)}
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class DatasetSpec:
    """A data set by name."""

    # A data set's id on the hub (``stanfordnlp/sst2``), a folder that `datasets.load_dataset` understands, or one that
    # `save_to_disk` wrote. A folder is preferred to an id of the same name.
    name: str
    config: str | None = None  # one of its configurations, if it has several
    revision: str | None = None  # a branch, a tag or a commit on the hub; ``None`` for the main branch
    # Its split for ``train``, ``val`` and ``test``, ``None`` for none. A key that is missing stands for the split with
    # a usual name, for ``train`` also for the only one.
    splits: Mapping[Any, str | None] = field(default_factory=dict)
    config_key: str = ""  # where this is configured (``data.tasks.sentiment``), for error messages

    def key(self, name: str) -> str:
        """Return the full key of a setting."""
        return f"{self.config_key}.{name}".removeprefix(".")


class DatasetSplit:
    """One split of a data set, to be read as a data file is."""

    def __init__(self, path: Path, rows: Dataset) -> None:
        self.path = path  # in place of a file's path in error messages and warnings: ``stanfordnlp/sst2[train]``
        self._rows = rows

    def classes(self, column: str) -> tuple[str, ...]:
        """Return the names of a column's classes in their order; none if it is no `datasets.ClassLabel`."""
        return tuple(getattr(self._rows.features.get(column), "names", None) or ())

    def is_labelled(self, column: str) -> bool:
        """Tell whether a row has a label, or there is no such column; class -1 stands for none."""
        if column not in self._rows.column_names:
            return True
        unlabelled = {-1} if self.classes(column) else set()
        values = (value for batch in self._batches([column]) for value in batch.column(column).unique().to_pylist())
        return any(not is_missing(value) and value not in unlabelled for value in values)

    def content(self, columns: Columns) -> list[str]:
        """Check these columns, and return what tells their values from others, for the name of the cache file."""
        log = ProblemLog(self.path)
        if not check_columns(self._rows.column_names, columns, log, None):
            has_types(self._rows.features.arrow_schema, columns, log)
        log.raise_if_any()
        classes = [name for column in columns.by_role.values() for name in self.classes(column)]
        return [checksum(self._batches(columns.names)), "dataset", *classes]

    def rows(self, columns: Columns, log: ProblemLog) -> Iterator[Row]:
        """Yield the rows, labels of a column of classes by their names; `content` has checked the columns."""
        del log
        rows = arrow_rows(self._batches(columns.names), columns)
        column = columns.by_role.get("label", "")
        if not (classes := self.classes(column)):
            return rows
        names: dict[Any, Any] = {-1: None, **dict(enumerate(classes))}
        return ((number, {**row, column: names.get(row[column], row[column])}) for number, row in rows)

    def _batches(self, columns: list[str]) -> Iterator[Any]:
        """Yield the columns as Arrow record batches."""
        for table in self._rows.select_columns(columns).with_format("arrow").iter(ARROW_ROWS):
            yield from table.combine_chunks().to_batches()


def load_splits(spec: DatasetSpec) -> dict[str, DatasetSplit]:
    """Return the splits of a data set for train, val and test, as far as it has them.

    Raises:
        DataError: There is no such data set, configuration or split, or the hub cannot be reached (said within 8
            seconds) and the data set is not in its cache.
    """
    loaded = _loaded(spec)
    splits = dict(loaded) if isinstance(loaded, dict) else {str(loaded.split or "train"): loaded}
    config = f"{spec.config}," if spec.config else ""
    return {
        split: DatasetSplit(Path(f"{spec.name.rstrip('/')}[{config}{name}]"), splits[name])
        for split, name in _chosen(spec, list(splits)).items()
    }


def _chosen(spec: DatasetSpec, names: Sequence[str]) -> dict[str, str]:
    """Return the name of the data set's split for train, val and test, those that it has."""
    problems = []
    chosen: dict[str, str] = {}
    for split, usual in _USUAL_NAMES.items():
        if split in spec.splits:
            name = spec.splits[split]
        else:
            free = [name for name in usual if name in names and name not in chosen.values()]
            name = free[0] if free else names[0] if split == "train" and len(names) == 1 else None
        if name is not None and name not in names:
            problems.append(Problem(spec.key(f"splits.{split}"), repr(name), listed(names), did_you_mean(name, names)))
        elif name is not None:
            chosen[split] = name
        elif split == "train":
            repair = f"give {spec.key('splits.train')}={names[0] if names else '<split>'}"
            expected = f"a split to train on: {listed(names)}"
            problems.append(
                Problem(spec.key("splits.train"), f"none, and {spec.name} has no 'train'", expected, repair)
            )
    if problems:
        raise DataError(problems)
    return chosen


def _loaded(spec: DatasetSpec) -> Any:
    """Return a `datasets.Dataset` or a mapping of them by split."""
    import datasets  # half a second to import, and most runs do without

    folder = expanded(spec.name)
    try:
        if not folder.is_dir():
            return _from_hub(spec)
        if spec.revision is not None:
            expected = "null: a folder has no revisions"
            raise DataError(Problem(spec.key("revision"), repr(spec.revision), expected))
        saved = (datasets.config.DATASETDICT_JSON_FILENAME, datasets.config.DATASET_STATE_JSON_FILENAME)
        if not any((folder / name).is_file() for name in saved):
            return _loaded_within(folder, spec)
        if spec.config is not None:
            expected = "null: a data set that save_to_disk wrote has one configuration"
            raise DataError(Problem(spec.key("config"), repr(spec.config), expected))
        loaded = datasets.load_from_disk(folder, keep_in_memory=False)
        parts = loaded.values() if isinstance(loaded, dict) else [loaded]
        _check_own(spec, folder, (file["filename"] for part in parts for file in part.cache_files))
        return loaded
    except DataError:
        raise
    except Exception as error:  # pandas, pyarrow, fsspec and the hub's client have errors of their own
        raise DataError(_refused(spec, error)) from error


def _loaded_within(folder: Path | None, spec: DatasetSpec) -> Any:
    """Return the data set of a local folder, or of the hub, unless its ``README.md`` names other files.

    `datasets` would read them: a data set of somebody else could bring private files into a report.
    """
    import datasets

    name = spec.name if folder is None else str(folder)
    with _without_addresses(spec):
        builder = datasets.load_dataset_builder(name, spec.config, revision=spec.revision)
    _check_own(spec, folder, (path for files in (builder.config.data_files or {}).values() for path in files))
    builder.download_and_prepare()
    return builder.as_dataset()


@contextmanager
def _without_addresses(spec: DatasetSpec) -> Iterator[None]:
    """Refuse addresses among the files that a data set names, before `datasets` asks fsspec for them.

    Protocols of fsspec read other files (``local://``) and other machines, and ``reference://`` renders templates of a
    file, which ran any code before fsspec put them into a sandbox.
    """
    from datasets import data_files

    resolve = data_files.resolve_pattern

    def checked(pattern: str, base_path: str, *arguments: Any, **options: Any) -> list[str]:
        if re.search("::|://", f"{base_path}/{pattern}".removeprefix("hf://")):
            raise DataError(_elsewhere(spec, [pattern]))
        found: list[str] = resolve(pattern, base_path, *arguments, **options)
        return found

    data_files.resolve_pattern = checked
    try:
        yield
    finally:
        data_files.resolve_pattern = resolve


def _check_own(spec: DatasetSpec, folder: Path | None, paths: Iterable[str]) -> None:
    """Refuse a data set with files outside its folder, or of the hub with such that are not there."""
    outside = {str(path) for path in paths if not _is_own(folder, str(path))}
    if outside:
        raise DataError(_elsewhere(spec, sorted(outside)))


def _is_own(folder: Path | None, path: str) -> bool:
    if folder is None:
        return path.startswith("hf://") and ".." not in path.split("/")
    return Path(os.path.abspath(path)).is_relative_to(folder.absolute())  # noqa: PTH100 - a snapshot of the hub has links


def _elsewhere(spec: DatasetSpec, places: Sequence[str]) -> Problem:
    found = f"{spec.name}, which names {listed(places, 4)}"
    return Problem(spec.key("dataset"), found, "a data set that names files of its own only")


def _from_hub(spec: DatasetSpec) -> Any:
    """Return the data set from the hub, or from its local cache if the hub cannot be reached."""
    import datasets
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    if not _HUB_ID.fullmatch(spec.name):
        found = f"{spec.name}, {'a file' if expanded(spec.name).exists() else 'and no such folder'}"
        repair = f"a file goes to {spec.key('path')}, one for each split to {spec.key('train')}, val and test"
        raise DataError(Problem(spec.key("dataset"), found, "a data set's id on the hub, or a folder", repair))
    if constants.HF_HUB_OFFLINE:
        return _from_cache(spec, "HF_HUB_OFFLINE is set")
    endpoint = datasets.config.HF_ENDPOINT
    api, seconds = HfApi(endpoint=endpoint), hub.PROBE_SECONDS - 1
    try:
        hub.answer(lambda: api.dataset_info(spec.name, revision=spec.revision, timeout=seconds))
    except RevisionNotFoundError as error:
        expected = f"a branch, a tag or a commit of {endpoint}/datasets/{spec.name}"
        raise DataError(Problem(spec.key("revision"), repr(spec.revision), expected)) from error
    except RepositoryNotFoundError as error:
        found = f"{endpoint} shows no data set {spec.name}: there is none, or it is private or gated"
        repair = "check the spelling; for a private or gated data set run `hf auth login` first"
        raise DataError(Problem(spec.key("dataset"), found, "a data set that you may read", repair)) from error
    except Exception as error:  # noqa: BLE001 - of the client, of httpx, or of the operating system
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return _from_cache(spec, f"{endpoint} cannot be reached ({reason})")
    return _loaded_within(None, spec)


def _from_cache(spec: DatasetSpec, reason: str) -> Any:
    """Return the data set from the hub's local cache."""
    import datasets

    online = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True  # otherwise it asks the hub for half a minute
    try:
        loaded = datasets.load_dataset(spec.name, spec.config)
    except ConnectionError as error:
        found = f"{spec.name} is not in the cache {datasets.config.HF_DATASETS_CACHE}, and {reason}"
        repair = (
            f"{spec.key('dataset')}=<folder> with a copy of it, made on a machine with access to the hub by\n"
            f"      hf download {spec.name} --repo-type dataset --local-dir <folder>"
        )
        expected = "a data set in the cache, or a hub that can be reached"
        raise DataError(Problem(spec.key("dataset"), found, expected, repair)) from error
    finally:
        datasets.config.HF_HUB_OFFLINE = online
    commit = Path(next(iter(loaded.values())).cache_files[0]["filename"]).parent.name
    if spec.revision not in (None, commit):
        found = f"{spec.revision!r}, while the cache {datasets.config.HF_DATASETS_CACHE} has {commit}, and {reason}"
        raise DataError(Problem(spec.key("revision"), found, "the commit in the cache, or a hub that can be reached"))
    return loaded


def _refused(spec: DatasetSpec, error: Exception) -> Problem:
    """Return the problem of a data set that `datasets` cannot load."""
    reason = " ".join(str(error).split()) or "no reason given"
    if isinstance(error, ValueError) and ("BuilderConfig" in reason or "onfig" in reason.partition(".")[0]):
        found = f"{'nothing' if spec.config is None else repr(spec.config)} ({reason})"
        return Problem(spec.key("config"), found, f"a configuration of {spec.name}")
    found = f"{spec.name}, which cannot be loaded ({type(error).__name__}: {reason})"
    return Problem(spec.key("dataset"), found, "a data set that `datasets` can load")
