"""What ``predict`` and ``encode`` have in common on the command line: where texts come from, and where results go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic.dataclasses import dataclass

from mtl.base import schema
from mtl.base.errors import MtlError
from mtl.base.schema import Count, Name
from mtl.inference.folders import ROWS, Settings, check_unused, collected, goes_to_folder, planned
from mtl.inference.sentences import STANDARD, check_sources, sentences_of

if TYPE_CHECKING:
    from mtl.inference.workers import Load

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
        return goes_to_folder(self.input, self.output)

    def check(self, *only_for_folders: str) -> None:
        """Check that there is one source of sentences, and no argument without a meaning.

        Args:
            only_for_folders: More arguments than those here that have a meaning only where outputs go to a folder.

        Raises:
            ConfigError: There is no source, or two; or such an argument is given without a folder.
        """
        check_sources(self.input, self.sentences)
        if not self.to_folder:
            names = (*only_for_folders, "rows", "processes", "shard", "engine")
            check_unused(**{name: getattr(self, name) for name in names})

    def texts(self, *suffixes: str, to_standard: bool = False) -> Sequence[str]:
        """Check the output, then return the sentences.

        Args:
            suffixes: Those that the output may have.
            to_standard: Whether it may be standard output.

        Raises:
            MtlError: The output cannot be written, or the input cannot be used.
        """
        from mtl.inference.bulk import check_output

        if self.output is not None and not (to_standard and self.output == STANDARD):
            source = None if self.input in (None, STANDARD) else Path(str(self.input))
            check_output(Path(self.output), suffixes, source)
        return sentences_of(self.input, self.text_column, self.sentences)

    def settings(
        self,
        errors: list[MtlError],
        command: Literal["predict", "encode"],
        checksum: Callable[[str], str],
        suffix: str,
        **own: Any,
    ) -> Settings:
        """Return what the outputs in a folder have in common.

        Args:
            errors: Problems are added to them.
            command: The command.
            checksum: What tells one model from another.
            suffix: The format of the outputs.
            own: The settings that only this command has.
        """
        from mtl.inference.models import settled_precision

        return Settings(
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

    def complete(self, errors: list[MtlError], settings: Settings, load: Load) -> str:
        """Make what is missing in the output folder, and return a line about it.

        Args:
            errors: The problems that have been found already.
            settings: What the outputs have in common.
            load: Loads the model in a process.

        Raises:
            MtlError: All problems together.
        """
        from mtl.inference.on_ray import engine
        from mtl.inference.workers import complete

        make = collected(errors, engine, self.engine)
        outputs, parts = planned(self.output, settings, self.shard, errors)
        return complete(parts, outputs, load, device=self.device, processes=self.processes, make=make)
