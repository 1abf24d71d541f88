"""Broken-off runs: the scenarios in which they are resumed, and what they must have in common with unbroken ones."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_FINAL = "callbacks.keep_best=false"
"""What is compared are the weights of the last step, which depend on everything before."""
SCENARIOS = {
    "all": ["freeze=all"],
    "none": ["freeze=none", _FINAL],
    "backbone": ["freeze=backbone", _FINAL],
    "classification_head": ["freeze=classification_head", _FINAL, "data.interleave=round_robin"],
    "sentiment_head": ["freeze=sentiment_head", "trainer.val_check_interval=2"],
    "lower_layers": ["freeze=lower_layers", "freeze.train_layers=1", "trainer.accumulate_grad_batches=2"],
    "gradual": ["freeze=gradual", "callbacks=average", "callbacks.average.decay=0.8", "trainer.val_check_interval=2"],
    "gradual_by_steps": [
        _FINAL,
        "freeze=gradual",
        "freeze.gradual.unit=steps",
        "freeze.gradual.start=2",
        "freeze.gradual.every=3",
        "freeze.gradual.warmup=2",
    ],
    "lora": ["freeze=lora", _FINAL, "loss=uncertainty"],
    "famo": ["loss=famo", _FINAL, "callbacks.gradients.every_n_steps=2"],
    "dwa": ["loss=dwa", "loss.dwa.window=3", _FINAL],
    "oversampled": [
        _FINAL,
        "data.tasks.classification.oversample=0.5",
        "data.interleave=proportional",
        "loss.consistency=0.5",
    ],
    "stopped_early": ["callbacks=early_stopping", "callbacks.early_stopping.patience=1", "trainer.min_epochs=3"],
    "by_steps": ["trainer.max_epochs=null", "trainer.max_steps=13", "data.interleave=temperature"],
    "last_validation": ["trainer.check_val_every_n_epoch=3", "callbacks=average"],
    "uneven_validation": ["trainer.max_epochs=null", "trainer.max_steps=13", "trainer.val_check_interval=0.35"],
    "sparse_validation": ["trainer.check_val_every_n_epoch=2", "callbacks=average", "callbacks.keep_best=false"],
}
"""What each scenario has beside `COMMON`: every way to freeze, and everything that a resumed run has to remember."""
COMMON = [
    "trainer.max_epochs=4",
    "trainer.log_every_n_steps=1",
    "logger=csv",
    "optimizer.warmup=2",
    "callbacks.save_every_steps=3",
]
_TIMES = ("train_seconds", "sentences_per_second", "peak_memory_bytes")
"""What differs between any two runs."""


def differences(run: Path, unbroken: Path) -> list[str]:
    """Return the files in which a run is not, bit for bit, what the unbroken one is, but for times."""
    names = {
        path.relative_to(unbroken).as_posix()
        for pattern in ("model/**/*", "predictions/*", "errors/*", "logs/*")
        for path in unbroken.glob(pattern)
        if path.is_file()
    }
    found = [name for name in sorted(names) if _content(run / name) != _content(unbroken / name)]
    if figures(run) != figures(unbroken):
        found.append("metrics.json")
    return found + [str(path.relative_to(run)) for path in run.rglob(".*") if path.name != ".hydra"]


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def figures(run: Path) -> dict[str, Any]:
    """Return what metrics.json holds, without times."""
    metrics: dict[str, Any] = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    del metrics["checksum"]  # which is also that of the times
    metrics["cost"] = {name: value for name, value in metrics["cost"].items() if name not in _TIMES}
    return metrics
