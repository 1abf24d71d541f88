"""What is frozen stays as it is, in every scenario: no gradient, no optimizer state, no dropout, the same bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from mtl.evaluation.run_metrics import read_metrics
from mtl.model.saved import load_model
from tests.support.networks import batch, network
from tests.support.runs import Probe, data, probed, run

if TYPE_CHECKING:
    from pathlib import Path

    from mtl.model.network import MultiTaskNetwork
    from mtl.training.module import MultiTaskModule

pytestmark = pytest.mark.usefixtures("whole_embeddings")

Layers = dict[str, dict[str, torch.Tensor]]
"""The tensors of each layer by name."""

ENCODER = {"embeddings", "layer.0", "layer.1", "layer.2"}
HEADS = {"heads.classification", "heads.sentiment"}
EVERYTHING = ENCODER | HEADS
FAST = ["learning_rates=uniform", "learning_rates.heads=0.01", "learning_rates.backbone=0.01"]

SCENARIOS: dict[str, tuple[list[str], list[set[str]]]] = {
    "none": ([], [EVERYTHING] * 2),
    "backbone": ([], [HEADS] * 2),
    "classification_head": ([], [EVERYTHING - {"heads.classification"}] * 2),
    "sentiment_head": ([], [EVERYTHING - {"heads.sentiment"}] * 2),
    "lower_layers": (["freeze.train_layers=2"], [{"layer.1", "layer.2"} | HEADS] * 2),
    "gradual": ([], [HEADS, {"layer.1", "layer.2"} | HEADS, EVERYTHING]),
    "backbone freeze.heads=[sentiment]": ([], [{"heads.classification"}] * 2),
    "gradual freeze.heads=[sentiment]": (
        ["freeze.gradual.every=2", "data.interleave=round_robin"],
        [
            {"heads.classification"},
            *[{"heads.classification", "layer.1", "layer.2"}] * 2,
            ENCODER | {"heads.classification"},
        ],
    ),
}
"""For each scenario further overrides, and the layers that learn in each epoch."""


def layers_of(network: MultiTaskNetwork) -> Layers:
    return {
        layer: {name: value.detach().clone() for name, value in network.layer_parameters(layer)}
        for layer in network.layer_names
    }


class Watch:
    """Looks at a training before each optimizer step and keeps what it has seen."""

    def __init__(self) -> None:
        self.start: Layers = {}
        self.end: Layers = {}
        self.learned: list[set[str]] = []
        self.probe = Probe(on_start=self._begin, before_step=self._look, after_batch=self._after)

    def _begin(self, module: MultiTaskModule) -> None:
        self.start = layers_of(module.network)

    def _look(self, module: MultiTaskModule) -> None:
        network, epoch = module.network, module.current_epoch
        learning = set()
        for layer in network.layer_names:
            states = {parameter.requires_grad for _, parameter in network.layer_parameters(layer)}
            modes = {part.training for each in network.layer_modules(layer) for part in each.modules()}
            assert len(states) == 1, layer
            assert modes == states, layer
            if states == {True}:
                learning.add(layer)
                continue
            assert all(parameter.grad is None for _, parameter in network.layer_parameters(layer)), layer
        if len(self.learned) <= epoch:
            self.learned.append(learning)
        assert self.learned[epoch] == learning

    def _after(self, module: MultiTaskModule, _: Any) -> None:
        self.end = layers_of(module.network)
        network, optimizer = module.network, module.optimizers()
        assert isinstance(optimizer, torch.optim.Optimizer)
        ever = set.union(*self.learned)
        for layer in network.layer_names:
            for name, parameter in network.layer_parameters(layer):
                assert layer in ever or parameter not in optimizer.state, name
        in_optimizer = [each for group in optimizer.param_groups for each in group["params"]]
        assert len(in_optimizer) == len(set(in_optimizer))

    def changed(self) -> set[str]:
        """Return the layers of which a bit has changed in training."""
        return {
            layer
            for layer, tensors in self.start.items()
            if any(not torch.equal(value, self.end[layer][name]) for name, value in tensors.items())
        }


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_what_is_frozen_stays_as_it_is(
    scenario: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path
) -> None:
    overrides, expected = SCENARIOS[scenario]
    watch = Watch()
    probed(monkeypatch, watch.probe)
    epochs = f"trainer.max_epochs={len(expected)}"
    choice = f"freeze={scenario}".split()
    run(tmp_path / "run", *data(tmp_path), *FAST, *choice, *overrides, epochs, "callbacks.keep_best=false")
    ever = set.union(*expected)
    assert watch.learned == expected
    assert watch.changed() == ever

    saved = layers_of(load_model(tmp_path / "run").network)
    assert_same(saved, watch.end)
    pretrained = layers_of(network(tiny_folder, {"classification": 3}))
    assert_same({layer: saved[layer] for layer in ENCODER - ever}, pretrained)
    cost = read_metrics(tmp_path / "run" / "metrics.json").cost
    assert cost.trainable_parameters == sum(value.numel() for layer in ever for value in saved[layer].values())


def assert_same(layers: Layers, expected: Layers) -> None:
    for layer, tensors in layers.items():
        for name, value in tensors.items():
            assert torch.equal(value, expected[layer][name]), name


def test_only_what_has_thawed_counts_as_trained(tmp_path: Path) -> None:
    run(tmp_path / "run", *data(tmp_path), "freeze=gradual", "trainer.max_epochs=1")
    heads = 32 * 3 + 3 + 32 * 2 + 2
    assert read_metrics(tmp_path / "run" / "metrics.json").cost.trainable_parameters == heads


def test_frozen_heads_say_so_when_they_are_untrained(tmp_path: Path) -> None:
    run(tmp_path / "run", *data(tmp_path), "freeze=sentiment_head", "trainer.max_epochs=1", "calibration=none")
    warning = (
        "The heads of sentiment are untrained: they are frozen at random weights, so their figures say nothing about "
        "the task unless the encoder could adapt to them. Start from a trained model with model.init_from=<run folder>."
    )
    assert read_metrics(tmp_path / "run" / "metrics.json").run["warnings"] == [warning]
    report = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert "> **Warning:** The heads of sentiment are untrained" in report


def test_all_frozen_trains_nothing_and_says_that_the_heads_are_untrained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    probe = probed(monkeypatch, Probe())
    run(tmp_path / "run", *data(tmp_path), "freeze=all")
    metrics = read_metrics(tmp_path / "run" / "metrics.json")
    assert probe.optimizer_steps == 0
    assert metrics.cost.trainable_parameters == 0
    assert metrics.cost.train_seconds is None
    assert [(task, split) for task, splits in metrics.tasks.items() for split in splits] == [
        ("classification", "val"),
        ("classification", "test"),
        ("sentiment", "val"),
        ("sentiment", "test"),
    ]
    assert "The heads of classification, sentiment are untrained" in metrics.run["warnings"][0]
    assert any("The heads of classification, sentiment are untrained" in message for message in caplog.messages)
    saved, pretrained = layers_of(load_model(tmp_path / "run").network), layers_of(network(tiny_folder))
    assert_same({layer: saved[layer] for layer in ENCODER}, pretrained)


def test_all_frozen_gives_the_figures_of_the_model_it_starts_from(tmp_path: Path) -> None:
    files = data(tmp_path, other=16)
    first = run(tmp_path / "first", *files, *FAST, "trainer.max_epochs=2")
    again = run(tmp_path / "again", *files, "freeze=all", f"model.init_from={tmp_path / 'first'}")
    assert read_metrics(tmp_path / "again" / "metrics.json").run["warnings"] == []
    for task, splits in first.items():
        for split, scored in splits.items():
            assert again[task][split].report.confusion == scored.report.confusion
            assert again[task][split].predictions.probabilities == pytest.approx(scored.predictions.probabilities)


def passes_that_differ(network: MultiTaskNetwork) -> set[str]:
    """Return the layers whose output differs from one pass to the next, for the same input."""
    rows = batch()
    assert rows.ids is not None
    assert rows.mask is not None
    encoder, found = network.encoder, set()
    with torch.no_grad():
        if not torch.equal(encoder.embed_tokens(rows.ids), encoder.embed_tokens(rows.ids)):
            found.add("embeddings")
        hidden = encoder.embed_tokens(rows.ids)
        for at in range(encoder.num_layers):
            one, other = (encoder._run(hidden, rows.mask, at, at + 1) for _ in range(2))
            if not torch.equal(one, other):
                found.add(f"layer.{at}")
        embeddings = encoder(rows.ids, rows.mask)
        for task in network.tasks:
            if not torch.equal(*(network.head(task)(embeddings) for _ in range(2))):
                found.add(f"heads.{task}")
    return found


@pytest.mark.parametrize(
    ("freeze", "expected"),
    [
        (["freeze=none"], [EVERYTHING] * 2),
        (["freeze=backbone"], [HEADS] * 2),
        (["freeze=sentiment_head"], [EVERYTHING - {"heads.sentiment"}] * 2),
        (["freeze=lower_layers", "freeze.train_layers=1"], [{"layer.2"} | HEADS] * 2),
        (["freeze=gradual"], [HEADS, {"layer.1", "layer.2"} | HEADS]),
    ],
)
def test_dropout_is_on_in_what_learns_and_off_in_what_does_not(
    freeze: list[str], expected: list[set[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[int, set[str]] = {}

    def look(module: MultiTaskModule, _: object) -> None:
        seen[module.current_epoch] = passes_that_differ(module.network)

    probed(monkeypatch, Probe(after_batch=look))
    run(tmp_path / "run", *data(tmp_path), *freeze, "trainer.max_epochs=2")
    assert [seen[0], seen[1]] == expected
