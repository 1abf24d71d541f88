"""All files of a folder or a pattern, cut into parts whose outputs are written whole, so that a killed run continues.

A part is up to ``rows`` rows of one input file: one output file, and a record of what it was made from. Parts depend on
neither the number of processes nor that of jobs, so any of them may make any part, and a finished one stays as it is.

    predictions/
      _settings.json                     what all outputs have in common, see `Settings`
      _parts/reviews.csv-00000.json      the record of a finished part
      reviews.csv-00000.parquet          its output
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, ParamSpec, TypeVar

from pydantic.dataclasses import dataclass as checked

from mtl.base import schema
from mtl.base.errors import ConfigError, DataError, MtlError, Problem, listed
from mtl.base.files import content_checksum, expanded, obstacle, sealed_json, write_json

SETTINGS: Final = "_settings.json"
RECORDS: Final = "_parts"
ROWS: Final = 65_536
"""Rows of a part: a killed process loses few, and they are a multiple of `mtl.inference.sentences.CHUNK`."""
_WILDCARDS: Final = "*?["
_SUFFIXES: Final = (".csv", ".jsonl", ".parquet", ".npy")

P = ParamSpec("P")
T = TypeVar("T")


@checked(config=schema.STRICT)
class Settings:
    """What all outputs of a folder have in common."""

    command: Literal["predict", "encode"]
    input: str  # as it was given
    model: str  # its checksum
    text_column: str
    suffix: str  # the outputs' format
    rows: int  # the most rows of a part
    precision: Literal["fp32", "bf16"]  # of the matrix products, on every machine
    prompt_name: str | None = None
    tasks: list[str] | None = None  # None for all
    calibrated: bool = True
    coverage: float | None = None
    max_risk: float | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of an input file."""

    source: Path  # the input file
    checksum: str  # the SHA-256 of its content
    total: int  # how many rows it has
    file: str  # the name of the output without its suffix, and of the record, relative to their folders
    start: int  # the first row, from 0
    stop: int  # the row after the last one


@dataclass(frozen=True, slots=True)
class Outputs:
    """An output folder, which may be missing, and the settings of the command that writes to it."""

    folder: Path
    settings: Settings

    def file(self, part: Part) -> Path:
        """Return the output of a part."""
        return self.folder / f"{part.file}{self.settings.suffix}"

    def record(self, part: Part) -> Path:
        """Return the record of a part."""
        return self.folder / RECORDS / f"{part.file}.json"

    def has(self, part: Part) -> bool:
        """Whether a part is finished: made with these settings of rows with this content, and still whole."""
        try:
            known = json.loads(self.record(part).read_text(encoding="utf-8"))
            return bool(known == self._facts(part))
        except (OSError, ValueError, RecursionError):
            return False

    def note(self, part: Part) -> None:
        """Write the record of a part, whose output has been written."""
        write_json(self.record(part), self._facts(part))

    def _facts(self, part: Part) -> dict[str, Any]:
        settings = hashlib.sha256(sealed_json(asdict(self.settings)).encode()).hexdigest()
        rows = {"start": part.start, "stop": part.stop, "total": part.total}
        return {"settings": settings, "input": part.checksum, **rows, "bytes": self.file(part).stat().st_size}

    def check(self, *, compared: bool = True) -> None:
        """Refuse a folder with an obstacle, with files of another program, or, if ``compared``, with other settings."""
        expected = "a new or empty folder, or one that the same command has begun"
        if self.folder.suffix in _SUFFIXES and not self.folder.is_dir():
            raise ConfigError(Problem("output", str(self.folder), "a folder: an output for every input file"))
        if reason := obstacle(self.folder):
            raise ConfigError(Problem("output", f"{self.folder}, and {reason}", expected))
        names = sorted(path.name for path in self.folder.glob("[!.]*"))
        if names and SETTINGS not in names:
            found = f"{self.folder}, which holds {listed(names, most=5)} and no {SETTINGS}"
            raise ConfigError(Problem("output", found, expected))
        if names and compared and (problems := self._differences()):
            raise ConfigError(problems)

    def _differences(self) -> list[Problem]:
        path, repair = self.folder / SETTINGS, "give the settings that made its outputs, or another output folder"
        try:
            values = dict(json.loads(path.read_text(encoding="utf-8")))
        except (TypeError, ValueError, RecursionError) as error:
            return [Problem(str(path), f"not readable: {error}", "the settings of the outputs", repair)]
        known, problems = schema.check(Settings, values)
        if known is None:
            return [replace(problem, place=f"{path}: {problem.place}", repair=repair) for problem in problems]
        before, now = asdict(known), asdict(self.settings)
        return [
            Problem(f"{path}: {name}", schema.shown(before[name]), f"{schema.shown(now[name])}, as here", repair)
            for name in now
            if before[name] != now[name]
        ]

    def begin(self) -> None:
        """Write the settings, unless they are there."""
        if not (self.folder / SETTINGS).exists():
            write_json(self.folder / SETTINGS, asdict(self.settings))

    def remove_behind(self, part: Part) -> None:
        """Remove the outputs behind the end of the file of its first part: it was longer in an earlier command."""
        name, records = part.file.removesuffix("-00000"), self.folder / RECORDS
        for record in records.glob(f"{glob.escape(name)}-*.json"):
            before, _, number = record.relative_to(records).with_suffix("").as_posix().rpartition("-")
            if before == name and number.isdecimal() and int(number) * self.settings.rows >= part.total:
                record.unlink(missing_ok=True)
                (self.folder / f"{name}-{number}{self.settings.suffix}").unlink(missing_ok=True)


def goes_to_folder(source: str, output: str | None) -> bool:
    """Whether files go to a folder: the input is a folder or a pattern, or the output is a folder."""
    if expanded(source).is_dir() or _is_pattern(source):
        return True
    return output is not None and (output.endswith(("/", os.sep)) or expanded(output).is_dir())


def _is_pattern(source: str) -> bool:
    return any(mark in source for mark in _WILDCARDS) and not expanded(source).exists()


def shard_of(text: str | None) -> tuple[int, int]:
    """Return the number of a job, from 0, and the number of jobs, from ``3/16``; without a text the only job."""
    number, _, count = (text or "1/1").partition("/")
    if number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count) <= schema.MOST:
        return int(number) - 1, int(count)
    raise ConfigError(Problem("shard", repr(text), "one job of several, from 1/16 to 16/16"))


def input_files(source: str) -> dict[str, Path]:
    """Return the files of a path or a pattern by their names below its folder, sorted.

    Of a folder these are all files in it and below it whose suffix tells a format that is read. Names that begin with a
    dot or an underscore are passed over, as Arrow and Spark do.
    """
    from mtl.data.readers import TEXT_READERS

    path = expanded(source)
    if path.is_dir():
        base, paths = path, [file for file in _files_below(path) if file.suffix.lower() in TEXT_READERS]
    elif _is_pattern(source):
        first = next(at for at, part in enumerate(path.parts) if any(mark in part for mark in _WILDCARDS))
        if ".." in path.parts[first:]:
            raise ConfigError(Problem("input", repr(source), "a pattern without .. behind its first wildcard"))
        base, paths = Path(*path.parts[:first]), [Path(name) for name in glob.glob(str(path), recursive=True)]  # noqa: PTH207
    else:
        return {path.name: path}  # what is wrong with it is told when it is read
    names = {file.relative_to(base): file for file in paths if file.is_file()}
    visible = {name.as_posix(): file for name, file in names.items() if not any(map(_is_hidden, name.parts))}
    if not visible:
        found = f"no file in {source}" if path.is_dir() else f"no file that matches {source}"
        raise ConfigError(Problem("input", found, f"files: {listed(TEXT_READERS)}", "check the path or the pattern"))
    return dict(sorted(visible.items()))


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and below it, but not in hidden folders, such as a virtual environment."""
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        yield from (Path(where, name) for name in names)


def _is_hidden(name: str) -> bool:
    return name[0] in "._"


def parts_of(files: Mapping[str, Path], settings: Settings, shard: tuple[int, int]) -> list[Part]:
    """Return the parts of a job, after all rows of its files have been checked.

    Where there are at least as many files as jobs, a job takes whole files, every n-th, and reads no others. Otherwise
    it takes every n-th part.

    Raises:
        DataError: Files cannot be used: all problems of all files.
    """
    from mtl.activations.encoding import tracked
    from mtl.data.examples import read_texts

    job, jobs = shard
    whole_files = len(files) >= jobs
    own = [entry for entry in enumerate(files.items()) if not whole_files or entry[0] % jobs == job]
    parts, problems = list[Part](), list[Problem]()
    for number, (name, path) in tracked(own, "reading", len(own)):
        try:
            total = len(read_texts(path, settings.text_column))
        except DataError as error:
            problems += error.problems
            continue
        checksum = content_checksum(path)
        for at, start in enumerate(range(0, total, settings.rows)):
            if whole_files or (number + at) % jobs == job:
                stop = min(start + settings.rows, total)
                parts.append(Part(path, checksum, total, f"{name}-{at:05d}", start, stop))
    if problems:
        raise DataError(problems)
    return parts


def planned(
    output: str | None, settings: Settings, shard: str | None, errors: list[MtlError]
) -> tuple[Outputs, list[Part]]:
    """Check the input files and the output folder, and return the folder and the parts of this job.

    Raises:
        MtlError: All problems together, with those of ``errors``, which have been found already.
    """
    if output is None:
        errors.append(ConfigError(Problem("output", "nothing", "a folder for the outputs", "give output=FOLDER/")))
    outputs = Outputs(expanded(output or "."), settings)
    job = collected(errors, shard_of, shard) or (0, 1)
    files = collected(errors, input_files, settings.input) or {}
    parts = collected(errors, parts_of, files, settings, job) or []
    if output is not None:
        collected(errors, _check_apart, settings.input, files, outputs.folder)
        collected(errors, outputs.check, compared=not errors)
    if errors:
        kinds = {type(error) for error in errors}
        raise (kinds.pop() if len(kinds) == 1 else MtlError)(problem for error in errors for problem in error.problems)
    return outputs, parts


def collected(errors: list[MtlError], call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """Return what a call returns; an `MtlError` that it raises is added to ``errors`` instead."""
    try:
        return call(*args, **kwargs)
    except MtlError as error:
        errors.append(error)
        return None


def _check_apart(source: str, files: Mapping[str, Path], output: Path) -> None:
    """Refuse an output folder whose files a later command would read as inputs."""
    folder, place = output.resolve(), expanded(source)
    inside = place.is_dir() and folder.is_relative_to(place.resolve())
    if inside or any(file.resolve().is_relative_to(folder) for file in files.values()):
        expected = "a folder apart from the input files, or they would be mixed with the outputs"
        raise ConfigError(Problem("output", f"{output}, with input={source}", expected))
