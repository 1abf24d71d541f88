"""Group runs that differ only in the seed into scenarios, each with the shortest name that distinguishes it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mtl.comparison.recipes import recipe, settings
from mtl.evaluation.runs import Record

_MOST_KEYS = 3  # that a name lists
_BY_TASK = ("loss.default.", "loss.tasks.", "heads.default.", "heads.tasks.")


@dataclass(frozen=True)
class Scenario:
    """Runs with the same recipe."""

    name: str  # the shortest that distinguishes it
    runs: tuple[Record, ...]  # by seed

    @property
    def tasks(self) -> list[str]:
        """The tasks that its runs were tested on."""
        return list(dict.fromkeys(task for run in self.runs for task in run.outcomes))

    @property
    def size(self) -> int | None:
        """Training rows of all tasks together, or None where the runs do not record them."""
        return self.runs[0].size


def scenarios(records: Iterable[Record]) -> tuple[list[Scenario], list[str]]:
    """Return the scenarios of finished runs, in order of appearance, and notes on runs that were left out.

    Of runs with the same seed only the last counts: as replicates they would pretend certainty.
    """
    groups: dict[str, dict[int | None, Record]] = defaultdict(dict)
    notes = []
    for record in records:
        group = groups[recipe(record)]
        if record.seed in group:
            first = group[record.seed].folder
            notes.append(f"{first} is left out: {record.folder} repeats it with the same seed, {record.seed}")
        group[record.seed] = record
    replicates = [tuple(sorted(group.values(), key=lambda run: run.seed or 0)) for group in groups.values()]
    names = _names([runs[0] for runs in replicates])
    return [Scenario(name, runs) for name, runs in zip(names, replicates, strict=True)], notes


def _names(records: Sequence[Record]) -> list[str]:
    """Return a name for each: the name of the run, then what distinguishes it from others of that name."""
    names = [record.name for record in records]
    for describe in (_size, _choices, _values):
        names = list(_distinguished(names, records, describe))
    counts, numbers = Counter(names), Counter[str]()
    for at, name in enumerate(names):
        if counts[name] > 1:
            numbers[name] += 1
            names[at] = f"{name} #{numbers[name]}"
    return names


def _distinguished(
    names: Sequence[str], records: Sequence[Record], describe: Callable[[Record], dict[str, str]]
) -> Iterator[str]:
    for at, name in enumerate(names):
        same = [other for other, other_name in enumerate(names) if other_name == name]
        if len(same) == 1:
            yield name
            continue
        descriptions = [describe(records[other]) for other in same]
        own = descriptions[same.index(at)]
        usual = describe is not _size  # no size goes without saying
        keys = [key for key in own if _distinctive(own[key], [other.get(key) for other in descriptions], usual=usual)]
        yield ", ".join([name, *_enough(own, keys, descriptions)])


def _enough(own: Mapping[str, str], keys: Iterable[str], descriptions: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the values of the first keys that no other description shares, at most `_MOST_KEYS`."""
    values: list[str] = []
    alike = [other for other in descriptions if other is not own]
    for key in keys:
        if not alike or len(values) == _MOST_KEYS:
            break
        values.append(own[key])
        alike = [other for other in alike if other.get(key) == own[key]]
    return values


def _distinctive(value: str, values: Sequence[str | None], *, usual: bool) -> bool:
    """Tell whether not all have this value, and with ``usual`` not most of three or more either."""
    count, most = values.count(value), len(values) // 2
    return count < len(values) and (not usual or len(values) < 3 or count <= most)


def _size(record: Record) -> dict[str, str]:
    return {} if record.size is None else {"size": f"{record.size:,} rows"}


def _choices(record: Record) -> dict[str, str]:
    named = record.name.partition("=")[0]
    return {group: f"{group}={choice}" for group, choice in record.facts.choices.items() if group != named}


def _values(record: Record) -> dict[str, str]:
    flat = _per_task(dict(_flat(settings(record.config))), record.outcomes)
    return {key: f"{key}={value}" for key, value in flat.items()}


def _per_task(flat: Mapping[str, Any], tasks: Iterable[str]) -> dict[str, Any]:
    """Return the values with the settings of each task, its own or the defaults, as a user writes them.

    So ``loss.sentiment.gamma`` does not name a task whose own settings equal the defaults.
    """
    values = {key: value for key, value in flat.items() if not key.startswith(_BY_TASK)}
    for group, task in ((group, task) for group in ("loss", "heads") for task in tasks):
        own, default = f"{group}.tasks.{task}.", f"{group}.default."
        of_task = {key.removeprefix(default): value for key, value in flat.items() if key.startswith(default)}
        of_task |= {key.removeprefix(own): value for key, value in flat.items() if key.startswith(own)}
        values |= {f"{group}.{task}.{key}": value for key, value in of_task.items()}
    return values


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
