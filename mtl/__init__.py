"""Multi-task fine-tuning of one shared sentence encoder."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtl.inference.models import MultiTaskModel, Prediction, SentenceEncoder

__version__ = "0.1.0"
__all__ = ["MultiTaskModel", "Prediction", "SentenceEncoder"]


def __getattr__(name: str) -> Any:
    """Import the public classes on first use, so that ``import mtl`` and the command lines start without torch."""
    if name in __all__:
        return getattr(import_module("mtl.inference.models"), name)
    raise AttributeError(f"module 'mtl' has no attribute {name!r}; it has {', '.join(__all__)}")
