"""Whole runs train the word embeddings in use alone, and leave the model that training all of them leaves."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest
import torch

from mtl.evaluation.run_metrics import read_metrics
from mtl.model.saved import load_model
from mtl.training.compact import CompactEmbedding
from tests.support.runs import Probe, data, probed, run

if TYPE_CHECKING:
    from pathlib import Path

    from mtl.training.module import MultiTaskModule

PLAIN = "mtl.training.fit.compact_embeddings"
CHOSEN = ["trainer.max_epochs=3", "optimizer.weight_decay=5", "learning_rates=uniform", "learning_rates.backbone=0.01"]
AVERAGED = ["callbacks.average.decay=0.9"]


class Look:
    """Notes whether the word embeddings are compact in each step."""

    def __init__(self) -> None:
        self.seen: set[bool] = set()
        self.probe = Probe(before_batch=self._look)

    def _look(self, module: MultiTaskModule, _: Any) -> None:
        words = module.network.encoder.backbone.get_input_embeddings()
        self.seen.add(isinstance(words, CompactEmbedding))


@pytest.mark.parametrize(
    ("flags", "compact"),
    [
        (["callbacks.keep_best=false"], True),
        (["callbacks.keep_best=true"], True),
        (["callbacks.keep_best=false", *AVERAGED], True),
        (["callbacks.keep_best=true", *AVERAGED], True),
        (["freeze=gradual"], False),
    ],
    ids=["last", "best", "average", "best average", "gradual"],
)
def test_it_leaves_the_same_model(
    flags: list[str], compact: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = data(tmp_path, ["sentiment"])
    seen = {}
    for name in ("ours", "plain"):
        look = Look()
        with monkeypatch.context() as patch:
            probed(patch, look.probe)
            if name == "plain":
                patch.setattr(PLAIN, lambda *_: nullcontext())
            run(tmp_path / name, *files, *CHOSEN, *flags)
        seen[name] = look.seen
    assert seen == {"ours": {compact}, "plain": {False}}
    ours, plain = (load_model(tmp_path / name).network.state_dict() for name in ("ours", "plain"))
    assert ours.keys() == plain.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, plain[name], rtol=1e-4, atol=1e-6)
    table = next(name for name in ours if "word_embeddings" in name)
    torch.testing.assert_close(ours[table].norm(dim=1), plain[table].norm(dim=1), rtol=1e-5, atol=0)
    assert scores(tmp_path / "ours") == scores(tmp_path / "plain")


def scores(folder: Path) -> dict[str, tuple[float, float]]:
    """Return accuracy and macro-F1 of each split."""
    found = read_metrics(folder / "metrics.json").tasks["sentiment"]
    return {split: (each.accuracy, each.macro_f1) for split, each in found.items()}


def test_the_figures_count_all_parameters(tmp_path: Path) -> None:
    run(tmp_path / "run", *data(tmp_path, ["sentiment"]), "trainer.max_epochs=1")
    cost = read_metrics(tmp_path / "run" / "metrics.json").cost
    assert cost is not None
    assert cost.trainable_parameters == cost.total_parameters
    assert cost.total_parameters == sum(each.numel() for each in load_model(tmp_path / "run").network.parameters())
