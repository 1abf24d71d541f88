"""What can be wrong with the settings of a sampler, or with a saved position that is to be resumed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mtl.base.errors import Problem, did_you_mean, listed
from mtl.data.interleaving import MODES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# What must be the same for a saved position to mean the same steps, and the configuration key that sets it.
IDENTITY_KEYS = {
    "mode": "data.interleave",
    "batch_size": "data.batch_size",
    "max_tokens": "data.max_tokens",
    "temperature": "data.temperature",
    "seed": "seed",
    "world_size": "trainer.devices",
}


def setting_problems(identity: Mapping[str, Any], rank: int) -> Iterator[Problem]:
    """Yield what is out of range in the settings, under the keys of `IDENTITY_KEYS`, and in the process's number."""
    mode, temperature, world_size = identity["mode"], identity["temperature"], identity["world_size"]
    if mode not in MODES:
        yield Problem("data.interleave", repr(mode), f"one of {listed(MODES)}", did_you_mean(str(mode), MODES))
    for key in ("batch_size", "max_tokens", "world_size"):
        value = identity[key]
        if value is not None and value < 1:
            yield Problem(IDENTITY_KEYS[key], str(value), "1 or more")
    if temperature is not None and temperature <= 0:
        yield Problem("data.temperature", str(temperature), "a number above 0")
    if not 0 <= rank < max(world_size, 1):
        yield Problem("rank", str(rank), f"0 to {max(world_size, 1) - 1}: a process of {max(world_size, 1)}")


def task_problems(rows: Mapping[str, NDArray[np.int64]]) -> Iterator[Problem]:
    """Yield what is missing: tasks, or rows of a task; ``rows`` has their lengths by task."""
    if not rows:
        yield Problem("data.tasks", "no tasks", "at least one task")
    for name, values in rows.items():
        if not len(values):
            yield Problem(f"data.tasks.{name}.train", "no rows", "at least one training row")


def changed_setting(key: str, found: Any, saved: Any) -> Problem:
    """Return the problem of a setting, a key of `IDENTITY_KEYS`, that is not the one of the checkpoint."""
    place = IDENTITY_KEYS[key]
    shown = "null" if saved is None else saved
    repair = f"set {place}={shown}, or start a new run"
    return Problem(place, "null" if found is None else str(found), f"{shown}, as in the checkpoint", repair)


def changed_names(found: list[str], saved: list[str]) -> Iterator[Problem]:
    """Yield the problem of tasks that are not those of the checkpoint; both sorted."""
    if found != saved:
        repair = "resume with the tasks the run began with, or start a new run"
        yield Problem("data.tasks", listed(found), f"{listed(saved)}, as in the checkpoint", repair)


def changed_rows(name: str, found: Mapping[str, int], saved: Mapping[str, int]) -> Iterator[Problem]:
    """Yield the problem of a task whose rows are not those of the checkpoint, by the states of its stream."""
    place = f"data.tasks.{name}.train"
    if found["rows"] != saved["rows"]:
        repair = "resume with the files the run began with, or start a new run"
        yield Problem(place, f"{found['rows']} rows", f"{saved['rows']} rows, as in the checkpoint", repair)
    elif found["lengths"] != saved["lengths"]:
        repair = "resume with the files and the backbone (its tokenizer and max_length) the run began with"
        yield Problem(place, "rows with other numbers of tokens", "the rows of the checkpoint", repair)


def not_a_state(missing: list[str]) -> Problem:
    """Return the problem of a state without the given keys."""
    repair = "resume from a checkpoint that this program wrote"
    return Problem("checkpoint", f"a loader state without {listed(missing)}", "the position of a training run", repair)
