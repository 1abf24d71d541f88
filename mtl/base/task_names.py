"""Valid names of tasks, which become part of file names, columns and configuration keys."""

from __future__ import annotations

import re

from mtl.base.errors import listed

RESERVED = frozenset({"combine", "consistency", "default", "dwa", "famo", "tasks", "uncertainty", "weights"})
"""Keys beside those of tasks in configuration sections with settings of single tasks."""
_NO_TASKS = ("all", *sorted(RESERVED))
_LONGEST = 60  # characters of up to 4 bytes each: the name is a part of file names, which may have 255 bytes
TASK_NAMES = (
    f"at most {_LONGEST} letters, digits and underscores, not starting with a digit, and none of {listed(_NO_TASKS)}"
)


def is_task_name(name: str) -> bool:
    """Tell whether a task may have this name, see `TASK_NAMES`."""
    return name.isidentifier() and name not in _NO_TASKS and len(name) <= _LONGEST


def as_task_name(name: str) -> str:
    """Return the valid task name nearest to ``name``, or an empty text."""
    near = re.sub(r"\W+", "_", name).strip("_")[:_LONGEST]
    near = f"task_{near}" if near[:1].isdigit() else near
    return near if is_task_name(near) else ""
