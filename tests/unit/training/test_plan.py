"""How a plan says that training obtains the activations of frozen layers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mtl.training.freezing import FreezePlan
from mtl.training.plan import plan_activations

LAYERS = ["embeddings", "layer.0", "layer.1", "layer.2"]
HEADS = {"heads.mood": 0}


def planned(first: dict[str, int], *, cached: bool = True, supports_split: bool = True, unit: Any = "steps") -> Any:
    encoder = SimpleNamespace(layer_names=LAYERS, supports_split=supports_split)
    return SimpleNamespace(
        start=SimpleNamespace(network=SimpleNamespace(encoder=encoder)),
        freezing=FreezePlan({**first, **HEADS}, unit),
        config=SimpleNamespace(cache=SimpleNamespace(activations=cached)),
    )


@pytest.mark.parametrize(
    ("plan", "lines"),
    [
        (
            planned({}),
            ["from step 1: embeddings of the frozen encoder, computed once and read from the cache on disk"],
        ),
        (
            planned({}, cached=False),
            ["from step 1: embeddings of the frozen encoder, computed once and kept in memory"],
        ),
        (
            planned({"layer.2": 0}),
            ["from step 1: activations up to layer.1, computed once and read from the cache on disk"],
        ),
        (planned({"layer.2": 0}, cached=False), ["from step 1: activations up to layer.1, computed in every step"]),
        (
            planned({"layer.2": 0}, supports_split=False),
            ["from step 1: activations up to layer.1, computed in every step"],
        ),
        (planned(dict.fromkeys(LAYERS, 0)), ["from step 1: all activations, computed in every step"]),
        (
            planned({"layer.2": 1, "layer.1": 2, "layer.0": 3, "embeddings": 3}, unit="epochs"),
            [
                "from step 1: embeddings of the frozen encoder, computed once and read from the cache on disk",
                "from step 11: activations up to layer.1, computed once and read from the cache on disk",
                "from step 21: activations up to layer.0, computed once and read from the cache on disk",
                "from step 31: all activations, computed in every step",
            ],
        ),
    ],
)
def test_the_plan_names_the_source_of_activations(plan: Any, lines: list[str]) -> None:
    assert [str(phase) for phase in plan_activations(plan, steps_per_epoch=10, total_steps=40)] == lines


def test_what_would_follow_the_last_step_is_not_planned() -> None:
    phases = plan_activations(planned({"layer.2": 1}, unit="epochs"), steps_per_epoch=10, total_steps=10)
    assert [phase.boundary for phase in phases] == ["embedding"]
