"""The private loops of Lightning that `mtl.training.resume_points` extends are those that it was written for."""

from __future__ import annotations

import hashlib
import inspect
from typing import Any

import lightning
import pytest
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

KNOWN = {
    "_FitLoop.done": "25f7ad08f1fc",
    "_FitLoop.run": "329141848158",
    "_FitLoop.reset": "ee34bf3662fe",
    "_FitLoop.restarting": "d25512308864",
    "_FitLoop.on_run_start": "3d32268fe5be",
    "_FitLoop.on_advance_start": "eb489cd65209",
    "_FitLoop.on_advance_end": "a87ac6110b43",
    "_TrainingEpochLoop.done": "ba06fbd80fe3",
    "_TrainingEpochLoop.run": "e8393a2170cc",
    "_TrainingEpochLoop.reset": "0014631aabe0",
    "_TrainingEpochLoop.advance": "c7555c016027",
    "_TrainingEpochLoop.on_advance_end": "2d1ddaa4e45e",
    "_TrainingEpochLoop._should_accumulate": "5482f0c6d473",
    "_TrainingEpochLoop._should_check_val_fx": "cf0916b12e18",
    "_TrainingEpochLoop._num_ready_batches_reached": "d51c52199e57",
}
"""The first digits of the SHA-256 of each source in Lightning 2.6.6."""


def checksum(name: str) -> str:
    owner, _, member = name.partition(".")
    found: Any = vars({"_FitLoop": _FitLoop, "_TrainingEpochLoop": _TrainingEpochLoop}[owner]).get(member)
    if found is None:
        return "gone"
    functions = (found.fget, found.fset) if isinstance(found, property) else (found,)
    return hashlib.sha256("".join(inspect.getsource(each) for each in functions if each).encode()).hexdigest()[:12]


@pytest.mark.parametrize("name", KNOWN)
def test_the_loops_are_those_of_lightning_2_6_6(name: str) -> None:
    assert checksum(name) == KNOWN[name], (
        f"Lightning {lightning.__version__} has changed {name}, on which exact resumption depends. Compare it with "
        "2.6.6, adapt mtl/training/resume_points.py, run tests/integration/test_resume.py, and update the checksum"
    )
