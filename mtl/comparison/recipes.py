"""The recipe of a run: the settings that change its metrics, without the seed. Replicates have the same recipe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mtl.base.errors import DataError
from mtl.base.run_folder import CONFIG
from mtl.config.short_forms import reduced, section
from mtl.evaluation.runs import Record, read_plain_config

_CHECKPOINTS = "checkpoints to resume from: a resumed run ends as an unbroken one does"
IDLE: Final[Mapping[str, str]] = {
    "logger": "where curves are written",
    "cache": "cached activations equal computed ones",
    "study": "the name of a sweep; its epochs are copied into trainer.max_epochs",
    "data.tasks.*.missing": "refuses rows without a label, or leaves them out: a finished run trained on the others",
    "backbone.fast_rates": "copied into learning_rates by those who use them",
    "backbone.sha256": "a check of the weights, which are the same or refused",
    "callbacks.progress": "what the terminal shows",
    "callbacks.save_last": _CHECKPOINTS,
    "callbacks.save_every_minutes": _CHECKPOINTS,
    "callbacks.save_every_steps": _CHECKPOINTS,
    "trainer.log_every_n_steps": "how often curves are written",
    "trainer.profiler": "measures training",
    "trainer.detect_anomaly": "checks training",
    "trainer.num_sanity_val_steps": "a trial before the first step, whose metrics are discarded",
}
"""Keys that change no metric of a run, each with the reason. A ``*`` matches any name."""
MEASURED: Final[Mapping[str, str]] = {
    "retention": "measured on the trained encoder",
    "evaluation": "what the report shows",
    "callbacks.gradients": "measured during training, which it leaves as it is",
    "data.tasks.*.slices": "columns that the error analysis divides the rows by",
}
"""Keys that change what is reported but not what is trained: replicates may differ in them."""
_OF_SEVERAL = (
    "task",  # which says that one is trained alone
    "data.interleave",
    "data.temperature",
    "loss.combine",
    "loss.weights",
    "loss.uncertainty",
    "loss.dwa",
    "loss.famo",
)
"""Keys without effect where one task is trained alone."""
_CHAIN = 8  # the most runs, each the start of the next, that are followed back


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration without the seed and without the keys of `IDLE` and `MEASURED`."""
    return without(config, ("seed", *IDLE, *MEASURED))


def recipe(record: Record) -> str:
    """Return a checksum of the settings and the number of training rows of a run: equal in replicates."""
    return _checksum([_recipe(record.config), record.size])


def recipe_of(record: Record, task: str) -> str:
    """Return a checksum of the settings and training rows that concern one task, without the seed and other tasks.

    It is equal for a run of several tasks and for one that trained this task alone in the same way.
    """
    values = without(reduced(_recipe(record.config), task), _OF_SEVERAL)
    return _checksum([values, record.facts.training_rows.get(task)])


def without(config: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Return a configuration without keys such as ``callbacks.progress`` or whole sections; ``*`` matches any name."""
    remaining = dict(config)
    for key in keys:
        remaining = _without(remaining, key.split("."))
    return remaining


def _without(values: Mapping[str, Any], path: Sequence[str]) -> dict[str, Any]:
    first, *rest = path
    if not rest:
        return {key: value for key, value in values.items() if first not in (key, "*")}
    return {
        key: _without(value, rest) if first in (key, "*") and isinstance(value, Mapping) else value
        for key, value in values.items()
    }


def _checksum(content: list[Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _recipe(config: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    values = settings(config)
    model = section(config, "model")
    if model.get("init_from") is not None:
        values["model"] = {**model, "init_from": _origin(Path(str(model["init_from"])), depth)}
    return values


def _origin(start: Path, depth: int) -> Any:
    """Return the recipe of the run that another one starts from, or its path where there is none.

    Replicates may start from replicates: seed 2 from the model of seed 2.
    """
    for folder in (start, start.parent):
        if depth < _CHAIN and (folder / CONFIG).is_file():
            try:
                return _recipe(read_plain_config(folder), depth + 1)
            except DataError:
                break
    return str(start)
