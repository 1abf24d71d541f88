"""How losses are combined: what does not go together, with the whole text of what is said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import pytest

from mtl.base.errors import ConfigError, Problem
from mtl.base.task_names import RESERVED
from mtl.config.checks import load
from mtl.config.loss import Combine, LossName, WeightingName
from mtl.config.short_forms import SECTIONS
from mtl.training import build, combination
from mtl.training.combination import (
    COMBINATIONS,
    Combination,
    DynamicWeightAverage,
    Famo,
    GradientAggregation,
    Uncertainty,
    Weighted,
)
from mtl.training.freezing import FreezePlan
from mtl.training.losses import LOSSES, WEIGHTINGS
from tests.support.configs import changed, composed
from tests.support.networks import network

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"loss.weights": {"sentiment": 0.5, "classification": 2}},
            Problem(
                "loss.weights",
                "sentiment: 0.5, classification: 2 beside loss.combine=sum, where they mean nothing",
                "loss.combine=weighted",
                "give loss.combine=weighted",
            ),
        ),
        (
            {"loss.combine": "famo", "data.interleave": "round_robin"},
            Problem(
                "data.interleave",
                "round_robin beside loss.combine=famo: a step has rows of one task, and nothing to combine",
                "paired",
                "give data.interleave=paired, or loss.combine=sum",
            ),
        ),
        (
            {"loss.combine": "pcgrad", "trainer.accumulate_grad_batches": 2},
            Problem(
                "trainer.accumulate_grad_batches",
                "2 beside loss.combine=pcgrad, which combines the gradients of whole steps",
                "1",
                "give trainer.accumulate_grad_batches=1 and a larger data.batch_size",
            ),
        ),
        (
            {"loss.combine": "upgrad", "trainer.precision": "16-mixed"},
            Problem(
                "trainer.precision",
                "16-mixed beside loss.combine=upgrad, whose products of gradients overflow there",
                "auto, 32-true or bf16-mixed",
                "give trainer.precision=auto",
            ),
        ),
        (
            {"loss.combine": "mgda", "freeze.backbone": "all"},
            Problem(
                "freeze.backbone",
                "all beside loss.combine=mgda: nothing that the tasks share learns, so there are no gradients to "
                "combine",
                "an encoder that learns, or loss.combine=sum",
                "give loss.combine=sum",
            ),
        ),
        ({"loss.dwa.temperature": 0}, Problem("loss.dwa.temperature", "0", "greater than 0")),
        (
            {"callbacks.gradients.every_n_steps": 0},
            Problem("callbacks.gradients.every_n_steps", "0", "greater than or equal to 1"),
        ),
    ],
)
def test_what_does_not_go_together(changes: dict[str, Any], problem: Problem) -> None:
    with pytest.raises(ConfigError) as caught:
        load(changed(changes))
    assert list(caught.value.problems) == [problem]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sum", Combination),
        ("weighted", Weighted),
        ("uncertainty", Uncertainty),
        ("dwa", DynamicWeightAverage),
        ("famo", Famo),
        ("upgrad", GradientAggregation),
        ("pcgrad", GradientAggregation),
        ("mgda", GradientAggregation),
        ("aligned_mtl", GradientAggregation),
    ],
)
def test_the_file_and_the_key_choose_the_same(name: str, kind: type[Combination]) -> None:
    if kind is GradientAggregation:
        pytest.importorskip("torchjd")
    by_file, by_key = load(composed(f"loss={name}")), load(composed(f"loss.combine={name}"))
    assert by_file == by_key
    assert type(build.make_combination(by_file, ["classification", "sentiment"])) is kind


@pytest.mark.parametrize(
    ("names", "registry"), [(LossName, LOSSES), (WeightingName, WEIGHTINGS), (Combine, COMBINATIONS)]
)
def test_the_configuration_allows_the_names_of_the_registries(names: Any, registry: dict[str, Any]) -> None:
    assert list(get_args(names)) == list(registry)


def test_no_task_has_the_name_of_a_key_beside_tasks() -> None:
    assert {key for keys in SECTIONS.values() for key in keys} == RESERVED


def test_only_what_learns_with_the_network_has_a_group(tiny_folder: Path) -> None:
    config = load(changed({"loss.combine": "uncertainty", "loss.uncertainty.rate": 0.5}))
    net = network(tiny_folder)
    learning, frozen = FreezePlan({"heads.mood": 0}), FreezePlan({})
    uncertainty = build.make_combination(config, ("a", "b"))
    *_, group = build.make_groups(config, net, learning, uncertainty)
    assert (group.name, group.rate, group.weight_decay) == ("combination", 0.5, 0.0)
    assert list(group.parameters) == ["combination.log_variances.a_", "combination.log_variances.b_"]
    without = build.make_groups(config, net, learning, Famo(("a", "b"), rate=0.1, decay=0.0))
    assert "combination" not in {each.name for each in without}
    assert build.make_groups(config, net, frozen, uncertainty) == []


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError("No module named 'torchjd'")

    monkeypatch.setattr(combination, "torchjd_weighting", missing)
    with pytest.raises(ConfigError) as caught:
        build.make_combination(load(changed({"loss.combine": "upgrad"})), ())
    assert str(caught.value) == (
        "Configuration: 1 problem\n"
        "  loss.combine\n"
        "      found:    upgrad, which needs TorchJD: No module named 'torchjd'\n"
        "      expected: sum, weighted, uncertainty, dwa or famo, or TorchJD\n"
        "      repair:   pip install 'mtl[gradients]'"
    )
    build.make_combination(load(changed({"loss.combine": "famo"})), ())


def test_torchjd_is_imported_only_where_it_is_used() -> None:
    assert "torchjd" not in vars(combination)
