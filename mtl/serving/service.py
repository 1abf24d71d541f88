"""The served model: what is loaded now, and another one in its place after a reload that worked."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mtl
from mtl.base.errors import ModelError
from mtl.base.run_folder import find_model
from mtl.inference.models import MultiTaskModel

if TYPE_CHECKING:
    from mtl.activations.encoding import Precision
    from mtl.serving.metrics import Metrics

log = logging.getLogger(__name__)


class Service:
    """A saved model that can be loaded again while the old one answers.

    Args:
        path: A run folder or a saved model.
        device: As in `MultiTaskModel.from_pretrained`.
        precision: As in `MultiTaskModel.predict`.
        metrics: Counts the reloads.

    Attributes:
        model: The model to answer the next request with.
        name: The name of the folder that holds the model; of a run folder, its own.

    Raises:
        ModelError: There is no saved model, or it is damaged.
    """

    def __init__(self, path: Path, device: str | None, precision: Precision, metrics: Metrics) -> None:
        self._path = path
        self._device = device
        self._precision: Precision = precision
        self._metrics = metrics
        self._reloading = threading.Lock()
        folder = find_model(path).resolve()
        self.name = folder.parent.name if folder.name == "model" else folder.name
        self.model = self._load()

    def reload(self) -> None:
        """Load the folder again; a model that cannot be loaded or gives no finite numbers leaves the old one."""
        with self._reloading:
            try:
                model = self._load()
            except (ModelError, OSError) as error:
                self._metrics.reload("refused")
                log.error("the model is not reloaded, the old one stays\n%s", error)
                return
            self.model = model
            self._metrics.reload("loaded")
            log.warning("the model was reloaded from %s", self._path)

    def info(self) -> dict[str, Any]:
        """Return what clients may want to know about the model."""
        model = self.model
        return {
            "model": self.name,
            "version": mtl.__version__,
            "tasks": {task: list(labels) for task, labels in model.labels.items()},
            "dimension": model.encoder.dimension,
            "max_length": model.encoder.max_length,
            "precision": self._precision,
            "device": str(next(model.encoder.encoder.parameters()).device),
        }

    def _load(self) -> MultiTaskModel:
        """Load the model, its files verified, and predict a sentence with it."""
        model = MultiTaskModel.from_pretrained(self._path, device=self._device)
        model.predict("A sentence to try the model with.", precision=self._precision)
        return model
