"""The state of all random generators of a process, as plain values that a checkpoint can hold without pickled code."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """Return the state of Python's, NumPy's and PyTorch's global generators."""
    version, numbers, gauss = random.getstate()
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - the global one, which libraries use
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
    }


def to_json(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state as numbers that JSON can hold."""
    name, keys, *rest = state["numpy"]
    cards = [card.tolist() for card in state["cuda"]]
    mps = None if state["mps"] is None else state["mps"].tolist()
    numbers = {"numpy": [name, keys.tolist(), *rest], "torch": state["torch"].tolist(), "cuda": cards, "mps": mps}
    return {**state, **numbers}


def from_json(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state that `to_json` was given."""
    name, keys, *rest = state["numpy"]
    generator, cards, mps = (_generators(state[key]) for key in ("torch", "cuda", "mps"))
    return {**state, "numpy": [name, torch.tensor(keys), *rest], "torch": generator, "cuda": cards, "mps": mps}


def _generators(numbers: Any) -> Any:
    """Return the state of a generator, of one for each card, or of none."""
    if numbers is None or numbers == []:
        return numbers
    if isinstance(numbers[0], list):
        return [_generators(card) for card in numbers]
    return torch.tensor(numbers, dtype=torch.uint8)


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Go on with what `random_state` returned."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002 - as above
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    if state.get("mps") is not None and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])
