"""What ``predict`` and ``encode`` have in common on the command line: where texts come from, and where results go."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import field
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Literal

from pydantic.dataclasses import dataclass

from mtl.base import schema
from mtl.base.cli import STANDARD
from mtl.base.errors import ConfigError, DataError, MtlError, Problem
from mtl.base.schema import Count, Name

if TYPE_CHECKING:
    from mtl.inference.workers import Write

INPUT_USAGE: Final = """\
  input=FILE          CSV, TSV, JSON Lines or Parquet with a column of sentences, or .txt with one per line
                      (blank lines are left out); - reads such lines from standard input
                      a folder or a pattern ("reviews/*.csv") of such files: output= is a folder then
  text_column=NAME    that column (default: text)"""
FOLDER_USAGE: Final = """\
  rows=65536          the most rows of an output in a folder
  processes=1         processes that work on a folder, on a GPU each if there are several
  engine=ray          on a Ray cluster; processes= is the number of models then (default: one per GPU or machine)
  shard=3/16          the third of 16 jobs that work on a folder, each on a part of its own"""


@dataclass(config=schema.STRICT)
class Arguments:
    """The arguments that both commands take; `INPUT_USAGE` and `FOLDER_USAGE` describe them to users."""

    model: Name
    input: Name | None = None
    text_column: Name = "text"
    output: Name | None = None
    rows: Count | None = None
    processes: Count | None = None
    shard: Name | None = None
    engine: Literal["processes", "ray"] | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    prompt_name: Name | None = None
    device: Literal["cpu", "cuda", "mps"] | None = None
    sentences: list[str] = field(default_factory=list)

    @property
    def to_folder(self) -> bool:
        """Whether outputs go to a folder."""
        if self.input is None or self.input == STANDARD:
            return False
        from mtl.inference.folders import goes_to_folder

        return goes_to_folder(self.input, self.output)

    def check(self, *only_for_folders: str) -> None:
        """Check that there is one source of sentences, and without an output folder no argument that is only for one.

        ``only_for_folders`` names more arguments of that kind than there are here.
        """
        if (self.input is None) == (not self.sentences):
            found = "neither input= nor sentences" if self.input is None else "both input= and sentences"
            raise ConfigError(Problem("input", found, "a file or sentences", 'input=reviews.csv, or "a sentence"'))
        numbered = enumerate(self.sentences, 1)
        problems = [Problem(f"sentence {at}", repr(text), "a text") for at, text in numbered if not text.strip()]
        if not problems and not self.to_folder:
            expected = "only with a folder or a pattern as input=, or a folder as output="
            names = (*only_for_folders, "rows", "processes", "shard", "engine")
            given = {name: value for name in names if (value := getattr(self, name)) is not None}
            problems = [Problem(name, str(value), expected, "give output=FOLDER/") for name, value in given.items()]
        if problems:
            raise ConfigError(problems)

    def texts(self, *suffixes: str, to_standard: bool = False) -> Sequence[str]:
        """Check that the output can be written, with one of the suffixes or to ``-``; then return the sentences."""
        if self.output is not None and not (to_standard and self.output == STANDARD):
            source = None if self.input in (None, STANDARD) else Path(self.input)
            _check_output(Path(self.output), suffixes, source)
        if self.input is None:
            return self.sentences
        if self.input == STANDARD:
            return _lines(sys.stdin.buffer)
        from mtl.data.examples import read_texts

        return read_texts(Path(self.input), self.text_column).texts

    def fill_folder(
        self,
        command: Literal["predict", "encode"],
        load: Callable[..., Write],
        checksum: Callable[[str], str],
        suffix: str,
        **own: Any,
    ) -> str:
        """Make what is missing in the output folder, and return a line about it.

        Args:
            command: The command.
            load: With the model's name and the settings a `mtl.inference.workers.Load`.
            checksum: What tells one model from another.
            suffix: The format of the outputs.
            own: The settings that only this command has.
        """
        from mtl.inference.folders import ROWS, Settings, collected, planned
        from mtl.inference.models import settled_precision
        from mtl.inference.on_ray import engine
        from mtl.inference.workers import complete, in_processes

        errors: list[MtlError] = []
        settings = Settings(
            command,
            input=str(self.input),
            model=collected(errors, checksum, self.model) or "",
            text_column=self.text_column,
            suffix=suffix,
            rows=self.rows or ROWS,
            precision=collected(errors, settled_precision, self.precision, self.device) or "fp32",
            prompt_name=self.prompt_name,
            **own,
        )
        make = collected(errors, engine, self.engine) or in_processes
        outputs, parts = planned(self.output, settings, self.shard, errors)
        loads = partial(load, model=self.model, settings=settings)
        return complete(parts, outputs, loads, device=self.device, processes=self.processes, make=make)


def _lines(stream: IO[bytes]) -> list[str]:
    """Return the lines of a stream that are not blank."""
    texts, problems = [], []
    for at, line in enumerate(stream, 1):
        try:
            texts.append(line.decode("utf-8-sig" if at == 1 else "utf-8").strip())
        except UnicodeDecodeError as error:
            problems.append(Problem(f"standard input:{at}", f"bytes that are not UTF-8: {error.reason}", "UTF-8"))
    if problems:
        raise DataError(problems)
    if not any(texts):
        raise DataError(Problem("standard input", "no sentence", "one sentence per line"))
    return [text for text in texts if text]


def _check_output(path: Path, suffixes: Sequence[str], source: Path | None) -> None:
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
