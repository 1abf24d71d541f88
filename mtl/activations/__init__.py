"""Cached activations of frozen layers, kept on disk from run to run."""

from mtl.activations.fingerprint import Source, tensors_fingerprint
from mtl.activations.layout import row_key, row_keys
from mtl.activations.segments import Rows
from mtl.activations.space import cache_limit, default_folder
from mtl.activations.store import ActivationStore

__all__ = [
    "ActivationStore",
    "Rows",
    "Source",
    "cache_limit",
    "default_folder",
    "row_key",
    "row_keys",
    "tensors_fingerprint",
]
