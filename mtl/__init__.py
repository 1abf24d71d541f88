"""Multi-task fine-tuning of one shared sentence encoder.

This is the public interface; all else may change from one version to the next.

- `train`: train a model, from data in memory or files, with the settings of the command line.
- `Run`: the run that `train` returns, or the folder of an earlier one: figures, model, files.
- `MultiTaskModel`: a saved model; its `Prediction` has a label and the probabilities of all labels.
- `SentenceEncoder`: an encoder by itself.
- `MtlError`: what all of them raise for what a user can correct; `mtl.base.errors` has its kinds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtl.base.errors import MtlError
    from mtl.inference.models import MultiTaskModel, SentenceEncoder
    from mtl.inference.prediction import Prediction
    from mtl.training.interface import Run, train

__version__ = "0.1.0"
__all__ = ["MtlError", "MultiTaskModel", "Prediction", "Run", "SentenceEncoder", "train"]
_MODULES = {"MtlError": "mtl.base.errors", "Prediction": "mtl.inference.prediction", "Run": "mtl.training.interface"}


def __getattr__(name: str) -> Any:
    """Import what is public on first use, so that ``import mtl`` and the command lines start without torch."""
    if name == "train":  # a module that can be called: importing the command does not hide the function
        return import_module("mtl.train")
    if name in __all__:
        return getattr(import_module(_MODULES.get(name, "mtl.inference.models")), name)
    raise AttributeError(f"module 'mtl' has no attribute {name!r}; it has {', '.join(__all__)}")
