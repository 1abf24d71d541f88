"""The attention masks of transformers, imported without torch's compiler, which takes longer than all the rest.

``transformers.masking_utils`` imports one class of ``torch._dynamo``, for masks that models define by a function; that
brings all of the compiler, a second of start-up. No encoder here has such a mask. A stand-in takes the place of the
class while the module is imported, and makes the real one if anybody calls for it after all.
"""

from __future__ import annotations

import importlib
import sys
from contextlib import suppress
from types import ModuleType
from typing import Any

_COMPILER = "torch._dynamo"
_MODULE = f"{_COMPILER}._trace_wrapped_higher_order_op"
_CLASS = "TransformGetItemToIndex"
_MASKS = "transformers.masking_utils"


def _real(*arguments: Any, **options: Any) -> Any:
    """Return an object of the class that this stands for."""
    return getattr(importlib.import_module(_MODULE), _CLASS)(*arguments, **options)


def _import_masks() -> None:
    """Import transformers' masks with the stand-in, where neither they nor the compiler are there already."""
    import transformers.cache_utils
    import transformers.configuration_utils  # noqa: F401 - what the masks import, imported as it is

    if _MASKS in sys.modules or _COMPILER in sys.modules:
        return
    compiler, module = ModuleType(_COMPILER), ModuleType(_MODULE)
    setattr(module, _CLASS, _real)
    sys.modules.update({_COMPILER: compiler, _MODULE: module})
    try:
        with suppress(ImportError, AttributeError):  # a release that needs more of the compiler is imported as it is
            importlib.import_module(_MASKS)
    finally:
        del sys.modules[_COMPILER], sys.modules[_MODULE]


_import_masks()

from transformers import AttentionInterface  # noqa: E402 - brings the masks, too
from transformers.masking_utils import AttentionMaskInterface, create_bidirectional_mask, sdpa_mask  # noqa: E402

__all__ = ["AttentionInterface", "AttentionMaskInterface", "create_bidirectional_mask", "sdpa_mask"]
