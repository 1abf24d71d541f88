"""Export of every family of encoders, with each pooling, Dense modules, prompts, and merged adapters."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest
import torch

from mtl import MultiTaskModel
from mtl.base.pooling import POOLINGS
from mtl.inference.export import export_encoder, export_graph
from mtl.model.encoder import Encoder
from mtl.model.loading import load_tokenizer
from mtl.model.saved import HeadSpec, TaskHead, build_network, save_model
from tests.support.checkpoints import CHECKPOINTS, write_checkpoint
from tests.support.runs import data, run
from tests.unit.inference.test_export import answers

if TYPE_CHECKING:
    from pathlib import Path

TASKS = {"mood": TaskHead(["bad", "good", "so-so"], HeadSpec("linear"), temperature=0.7)}
in_each_runtime = pytest.mark.parametrize("runtime", ["onnx", "openvino"])
QUICK = ("mpnet", "bert-dense", "qwen3")
TEXTS = ("Great phone", "The battery died after a week.", "long " * 300, "größe")


def saved_model(folder: Path, weights: Path, pooling: str = "auto") -> Path:
    torch.manual_seed(1)
    encoder = Encoder.from_folder(weights, pooling=pooling)
    save_model(folder, build_network(encoder, TASKS), load_tokenizer(weights), TASKS, "")
    return folder


def assert_exported(model: Path, output: Path, runtime: Literal["onnx", "openvino"]) -> None:
    if find_spec("openvino") is None and runtime == "openvino":
        pytest.skip("openvino is not installed")
    exported = export_graph(model, output, runtime)
    assert all(agreement.holds for agreement in exported.agreements)
    ours, prompt = MultiTaskModel.from_pretrained(model, device="cpu"), Encoder.from_folder(model).layout.prompt()
    found = answers(output, [prompt + text for text in TEXTS])
    for task, probabilities in ours.predict_proba(TEXTS).items():
        np.testing.assert_allclose(found.probabilities[task], probabilities, atol=1e-4)
        assert np.ptp(probabilities, axis=0).max() > 1e-3


@in_each_runtime
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CHECKPOINTS]
)
def test_every_family(name: str, tmp_path: Path, runtime: Literal["onnx", "openvino"]) -> None:
    weights = write_checkpoint(CHECKPOINTS[name], tmp_path / "weights")
    assert_exported(saved_model(tmp_path / "model", weights), tmp_path / "out", runtime)


@in_each_runtime
def test_all_poolings_together(tmp_path: Path, runtime: Literal["onnx", "openvino"]) -> None:
    plain = replace(CHECKPOINTS["bert"], normalize=False)
    weights = write_checkpoint(plain, tmp_path / "weights")
    assert_exported(saved_model(tmp_path / "model", weights, "+".join(POOLINGS)), tmp_path / "out", runtime)


def test_a_run_with_adapters_and_a_tuned_decision_rule(tmp_path: Path) -> None:
    """The test rows of a whole run, whose files are not needed any more."""
    files = data(tmp_path / "files", train=8, other=4)
    scored = run(tmp_path / "run", *files, "freeze=lora", "calibration=tuned_prior", "trainer.max_epochs=1")
    for path in (tmp_path / "files").iterdir():
        path.unlink()
    exported = export_graph(tmp_path / "run", tmp_path / "out")
    rows = {(figures.task, figures.split): figures for figures in exported.figures}
    assert rows.keys() == {(task, split) for task, splits in scored.items() for split in splits}
    for (task, split), figures in rows.items():
        assert figures.exported == figures.ours == pytest.approx(scored[task][split].report.macro_f1, abs=1e-6)
    assert export_encoder(tmp_path / "run", tmp_path / "encoder").agreements[0].rows > 20
