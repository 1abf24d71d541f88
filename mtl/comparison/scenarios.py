"""Group runs that differ only in the seed into scenarios, each with the shortest name that distinguishes it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mtl.comparison.recipes import recipe, settings
from mtl.evaluation.runs import Record

_MOST_KEYS = 3  # that a name lists
_BY_TASK = ("loss.default.", "loss.tasks.", "heads.default.", "heads.tasks.")


@dataclass(frozen=True)
class Scenario:
    """Runs with the same recipe.

    Attributes:
        name: What tells it from the others.
        runs: Its runs, by seed.
    """

    name: str
    runs: tuple[Record, ...]

    @property
    def tasks(self) -> list[str]:
        """The tasks that its runs were tested on."""
        return list(dict.fromkeys(task for run in self.runs for task in run.outcomes))

    @property
    def size(self) -> int | None:
        """Training rows of all tasks together, or None where the runs do not tell."""
        return self.runs[0].size


def scenarios(records: Iterable[Record]) -> tuple[list[Scenario], list[str]]:
    """Return the scenarios of the runs, in the order in which they come, and notes on runs that were passed over.

    Of runs that repeat a seed the last is taken: as replicates they would feign certainty.

    Args:
        records: Finished runs.
    """
    groups: dict[str, dict[int | None, Record]] = defaultdict(dict)
    notes = []
    for record in records:
        group = groups[recipe(record)]
        if record.seed in group:
            first = group[record.seed].folder
            notes.append(f"{first} is left out: {record.folder} repeats it with the same seed, {record.seed}")
        group[record.seed] = record
    found = [tuple(sorted(group.values(), key=lambda run: run.seed or 0)) for group in groups.values()]
    names = _names([runs[0] for runs in found])
    return [Scenario(name, runs) for name, runs in zip(names, found, strict=True)], notes


def _names(records: Sequence[Record]) -> list[str]:
    """Return a name for each: what was run, then what it takes to tell apart those that share that."""
    names = [record.name for record in records]
    for attempt in (_size, _choices, _values):
        names = list(_told_apart(names, records, attempt))
    seen: dict[str, int] = defaultdict(int)
    for name in names:
        seen[name] += 1
    numbers: dict[str, int] = defaultdict(int)
    for at, name in enumerate(names):
        if seen[name] > 1:
            numbers[name] += 1
            names[at] = f"{name} #{numbers[name]}"
    return names


def _told_apart(names: list[str], records: Sequence[Record], attempt: Any) -> Iterator[str]:
    for at, name in enumerate(names):
        same = [other for other, each in enumerate(names) if each == name]
        if len(same) == 1:
            yield name
            continue
        told = [attempt(records[other]) for other in same]
        mine = told[same.index(at)]
        usual = attempt is not _size  # of sizes none goes without saying
        keys = [key for key in mine if _tells(mine[key], [each.get(key) for each in told], usual=usual)]
        yield ", ".join([name, *_enough(mine, keys, told)])


def _enough(mine: Mapping[str, str], keys: Iterable[str], told: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the values of the first keys that together no other of ``told`` has."""
    found: list[str] = []
    alike = [each for each in told if each is not mine]
    for key in keys:
        if not alike or len(found) == _MOST_KEYS:
            break
        found.append(mine[key])
        alike = [each for each in alike if each.get(key) == mine[key]]
    return found


def _tells(value: str, values: Sequence[str | None], *, usual: bool) -> bool:
    """Return whether a value is worth naming: not all have it; with ``usual``, nor most of three or more."""
    count, most = values.count(value), len(values) // 2
    return count < len(values) and (not usual or len(values) < 3 or count <= most)


def _size(record: Record) -> dict[str, str]:
    return {} if record.size is None else {"size": f"{record.size:,} rows"}


def _choices(record: Record) -> dict[str, str]:
    named = record.name.partition("=")[0]
    return {group: f"{group}={choice}" for group, choice in record.choices.items() if group != named}


def _values(record: Record) -> dict[str, str]:
    flat = _per_task(dict(_flat(settings(record))), record.outcomes)
    return {key: f"{key}={value}" for key, value in flat.items()}


def _per_task(flat: Mapping[str, Any], tasks: Iterable[str]) -> dict[str, Any]:
    """Return the values with what each task has, its own or the default, as a user gives it: ``loss.sentiment.gamma``.

    So a task that has settings of its own is not told by those that are the defaults all the same.
    """
    found = {key: value for key, value in flat.items() if not key.startswith(_BY_TASK)}
    for group, task in ((group, task) for group in ("loss", "heads") for task in tasks):
        own, default = f"{group}.tasks.{task}.", f"{group}.default."
        of_task = {key.removeprefix(default): value for key, value in flat.items() if key.startswith(default)}
        of_task |= {key.removeprefix(own): value for key, value in flat.items() if key.startswith(own)}
        found |= {f"{group}.{task}.{key}": value for key, value in of_task.items()}
    return found


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
