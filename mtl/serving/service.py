"""What is served: the model that is loaded now, and another one in its place after a reload that worked."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mtl
from mtl.base.errors import MtlError
from mtl.base.run_folder import find_model
from mtl.inference.models import MultiTaskModel
from mtl.serving.examples import ExampleRows, NearestRows

if TYPE_CHECKING:
    from mtl.activations.encoding import Precision
    from mtl.serving.metrics import Metrics

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Served:
    """A model, and the examples as it encodes them if the server has any."""

    model: MultiTaskModel
    nearest: NearestRows | None


@dataclass(eq=False)
class Service:
    """A saved model that can be loaded again while the old one answers.

    Raises:
        ConfigError: There is a ``coverage`` or ``max_risk``, and a task without outcomes of validation rows.
        ModelError: There is no saved model, or it is damaged.
    """

    path: Path  # a run folder or a saved model
    device: str | None
    precision: Precision
    metrics: Metrics  # counts the reloads
    coverage: float | None = None  # what holds for requests without their own, as in `MultiTaskModel.predict`
    max_risk: float | None = None  # the same
    examples: ExampleRows | None = None  # the rows to find the nearest of

    def __post_init__(self) -> None:
        folder = find_model(self.path).resolve()
        self.name = folder.parent.name if folder.name == "model" else folder.name
        self.served = self._load()
        self._reloading = threading.Lock()

    def reload(self) -> None:
        """Load the folder again; a model that cannot be loaded or gives no finite numbers leaves the old one."""
        with self._reloading:
            try:
                self.served = self._load()
            except (MtlError, OSError) as error:
                self.metrics.reload("refused")
                log.error("the model is not reloaded, the old one stays\n%s", error)
                return
            self.metrics.reload("loaded")
            log.warning("the model was reloaded from %s", self.path)

    def info(self) -> dict[str, Any]:
        """Return what clients may want to know about the model."""
        model, nearest = self.served.model, self.served.nearest
        return {
            "model": self.name,
            "version": mtl.__version__,
            "tasks": {task: list(labels) for task, labels in model.labels.items()},
            "can_abstain": {task: outcomes is not None for task, outcomes in model.outcomes.items()},
            "coverage": self.coverage,
            "max_risk": self.max_risk,
            "examples": 0 if nearest is None else len(nearest.rows.texts),
            "dimension": model.encoder.dimension,
            "max_length": model.encoder.max_length,
            "precision": self.precision,
            "device": str(next(model.encoder.encoder.parameters()).device),
        }

    def _load(self) -> Served:
        """Load the model, its files verified, predict a sentence with it, and encode the examples."""
        model = MultiTaskModel.from_pretrained(self.path, device=self.device)
        text = "A sentence to try the model with."
        model.predict(text, precision=self.precision, coverage=self.coverage, max_risk=self.max_risk)
        return Served(model, None if self.examples is None else NearestRows(self.examples, model, self.precision))
