"""freeze=lora: adapters and heads learn, the encoder stays as it is, and what is saved is a plain merged model."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mtl import MultiTaskModel
from mtl.base.errors import ConfigError, MtlError
from mtl.evaluation.run_metrics import read_metrics
from mtl.model.encoder import Encoder
from mtl.model.saved import load_model
from mtl.training.run import train
from tests.support.networks import batch
from tests.support.runs import Probe, config, data, probed, run

if TYPE_CHECKING:
    from pathlib import Path

    from mtl.training.module import MultiTaskModule

HEADS = {"heads.classification", "heads.sentiment"}
LORA = ["freeze=lora", "learning_rates.lora=0.05", "learning_rates.heads=0.01", "callbacks.keep_best=false"]


class Watch:
    """Keeps what learns before a step, and what the network gives with its adapters after the last one."""

    def __init__(self) -> None:
        self.learning: set[str] = set()
        self.trained: set[str] = set()
        self.names: set[str] = set()
        self.logits: dict[str, torch.Tensor] = {}
        self.start: dict[str, torch.Tensor] = {}
        self.end: dict[str, torch.Tensor] = {}
        self.probe = Probe(on_start=self._begin, before_step=self._look, after_batch=self._after)

    def _begin(self, module: MultiTaskModule) -> None:
        self.start = {name: value.detach().clone() for name, value in module.network.named_parameters()}

    def _look(self, module: MultiTaskModule) -> None:
        network = module.network
        for layer in network.layer_names:
            states = {parameter.requires_grad for _, parameter in network.layer_parameters(layer)}
            modes = {part.training for each in network.layer_modules(layer) for part in each.children()}
            assert len(states) == 1, layer
            if states == {True}:
                self.learning.add(layer)
                assert modes <= {True}, layer
            elif f"lora.{layer[-1]}" not in network.layer_names:
                assert True not in modes, layer

    def _after(self, module: MultiTaskModule, _: Any) -> None:
        network = module.network
        self.end = {name: value.detach().clone() for name, value in network.named_parameters()}
        rows = batch({"classification": 3, "sentiment": 2})
        modes = [(each, each.training) for each in network.modules()]
        with torch.no_grad():
            self.logits = {task: logits.clone() for task, logits in network.eval()(rows).items()}
        for each, mode in modes:
            each.training = mode

    @property
    def changed(self) -> set[str]:
        return {name for name, value in self.start.items() if not torch.equal(value, self.end[name])}


@pytest.mark.parametrize(
    ("flags", "adapters"),
    [
        ([], {"lora.0", "lora.1", "lora.2"}),
        (["freeze.train_layers=1", "freeze.lora.targets=[value,feed_forward]"], {"lora.2"}),
        (["freeze.train_layers=0.5", "freeze.heads=[sentiment]"], {"lora.1", "lora.2"}),
    ],
    ids=["all", "top", "half"],
)
def test_adapters_and_heads_learn_and_the_saved_model_is_the_merged_one(
    flags: list[str], adapters: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path
) -> None:
    watch = Watch()
    probed(monkeypatch, watch.probe)
    run(tmp_path / "run", *data(tmp_path), *LORA, *flags, "trainer.max_epochs=2")
    heads = HEADS - ({"heads.sentiment"} if "freeze.heads=[sentiment]" in flags else set())
    assert watch.learning == adapters | heads
    assert all(".lora_" in name or "heads." in name for name in watch.changed)
    assert {name for name in watch.start if ".lora_" in name} <= watch.changed

    plain = Encoder.from_folder(tiny_folder).state_dict()
    saved = load_model(tmp_path / "run").network
    assert saved.encoder.state_dict().keys() == plain.keys()
    touched = {name for name, value in saved.encoder.state_dict().items() if not torch.equal(value, plain[name])}
    assert {f"lora.{name.partition('.layer.')[2][0]}" for name in touched} == adapters
    with torch.no_grad():
        for task, logits in saved(batch({"classification": 3, "sentiment": 2})).items():
            torch.testing.assert_close(logits, watch.logits[task], rtol=0, atol=1e-5)

    cost = read_metrics(tmp_path / "run" / "metrics.json").cost
    learned = sum(value.numel() for name, value in watch.start.items() if ".lora_" in name)
    learned += sum(value.numel() for task in heads for value in saved.head(task[6:]).parameters())
    assert cost.trainable_parameters == learned
    assert cost.total_parameters == sum(value.numel() for value in watch.start.values())


def test_the_saved_model_encodes_and_predicts_without_peft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "run", *data(tmp_path), *LORA, "trainer.max_epochs=1")
    monkeypatch.setitem(__import__("sys").modules, "peft", None)  # an import of it fails
    model = MultiTaskModel.from_pretrained(str(tmp_path / "run"))
    assert np.isfinite(model.encode(["cheap money", "late order"])).all()
    assert set(model.predict(["cheap money"])) == {"classification", "sentiment"}
    assert not [name for name in load_file(tmp_path / "run/model/model.safetensors") if "lora" in name]


@pytest.mark.parametrize("flags", [["callbacks.keep_best=true"], ["callbacks=average", "callbacks.keep_best=true"]])
def test_the_best_checkpoint_holds_adapters_and_heads_alone_and_comes_back(flags: list[str], tmp_path: Path) -> None:
    found = run(tmp_path / "run", *data(tmp_path), *LORA[:-1], *flags, "trainer.max_epochs=3", "calibration=none")
    kept = torch.load(tmp_path / "run/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    assert all(".lora_" in name or ".heads." in name for name in kept)
    assert sum(".lora_" in name for name in kept) == 3 * 6 * 2  # A and B of six linear layers in three layers
    saved = load_model(tmp_path / "run").network
    for task in saved.tasks:
        expected = kept[f"network.heads.{task}_.out.weight"]
        assert torch.equal(saved.head(task).get_parameter("out.weight"), expected)
    base = "encoder.backbone.encoder.layer.2.attention.attn.v"
    low = [kept[f"network.{base}.lora_{part}.default.weight"] for part in "AB"]
    fresh = Encoder.from_folder(config_folder()).state_dict()
    merged = fresh[f"{base.removeprefix('encoder.')}.weight"] + 2 * low[1] @ low[0]  # alpha / r = 2
    torch.testing.assert_close(saved.state_dict()[f"{base}.weight"], merged, rtol=0, atol=1e-6)
    assert found["sentiment"]["val"].report.rows == 8


def config_folder() -> Path:
    from mtl.model.sources import BackboneSpec, locate

    return locate(BackboneSpec(random=True))


def test_training_goes_as_with_the_layers_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [*data(tmp_path), *LORA, "freeze.lora.dropout=0", "heads.default.dropout=0", "optimizer.eps=1e-5"]
    run(tmp_path / "packed", *files, "trainer.max_epochs=2")
    monkeypatch.setattr(Encoder, "_packable", lambda *_: False)
    run(tmp_path / "plain", *files, "trainer.max_epochs=2")
    packed, plain = (load_model(tmp_path / name).network.state_dict() for name in ("packed", "plain"))
    for name, value in packed.items():
        if "attn.k." not in name:  # softmax is blind to what moves all keys alike, so rounding errors move it
            torch.testing.assert_close(value, plain[name], rtol=0, atol=1e-4, msg=name)


def test_bf16_learns_the_same_task(tmp_path: Path) -> None:
    flags = ["trainer.precision=bf16-mixed", "trainer.max_epochs=1"]
    run(tmp_path / "run", *data(tmp_path), *LORA, *flags)
    saved = load_model(tmp_path / "run").network
    assert {value.dtype for value in saved.state_dict().values() if value.is_floating_point()} == {torch.float32}
    assert all(value.isfinite().all() for value in saved.state_dict().values())


def test_more_layers_than_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        run(tmp_path / "run", *data(tmp_path), *LORA, "freeze.train_layers=9")
    assert str(caught.value) == (
        "Configuration: 1 problem\n"
        "  freeze.train_layers\n"
        "      found:    9\n"
        "      expected: at most the encoder's 3 layers, or a share of them below 1"
    )


def test_a_missing_peft_is_told_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> Any:
        return None if name == "peft" else original(name, package)

    chosen = config(*data(tmp_path), *LORA)
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", without)
        with pytest.raises(MtlError) as caught:
            train(chosen, tmp_path / "run")
    assert str(caught.value) == (
        "Configuration: 1 problem\n"
        "  freeze.backbone\n"
        "      found:    lora, and the Python package peft is not installed\n"
        "      expected: peft, which makes the adapters\n"
        "      repair:   pip install 'mtl[lora]', or pip install peft"
    )
    assert not list((tmp_path / "run").glob("**/*"))


def test_a_rank_above_that_of_the_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        run(tmp_path / "run", *data(tmp_path), "freeze=lora", "freeze.lora.r=33")
    assert str(caught.value) == (
        "Configuration: 1 problem\n  freeze.lora.r\n      found:    33\n"
        "      expected: at most 32, the encoder's hidden size: no update of its weights has a higher rank\n"
        "      repair:   give freeze.lora.r=8"
    )
