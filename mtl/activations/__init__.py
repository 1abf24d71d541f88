"""The cache of frozen activations: what a frozen encoder gives for a text, kept on disk from run to run."""

from mtl.activations.fingerprint import Source, tensors_fingerprint
from mtl.activations.keys import row_key, row_keys
from mtl.activations.limits import cache_limit
from mtl.activations.rows import Rows
from mtl.activations.sources import default_folder
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
