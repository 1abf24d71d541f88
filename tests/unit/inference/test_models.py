"""The Python face: whatever the sentences are, there is one embedding and one prediction for each."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import mtl
from mtl import MultiTaskModel, Prediction, SentenceEncoder
from mtl.base.errors import ConfigError, DataError, ModelError, Problem
from mtl.inference.bulk import predict_to_file
from mtl.model.conformal import Outcomes
from mtl.model.cpu.packed import PackedLayer
from mtl.model.encoder import Encoder
from mtl.model.loading import load_tokenizer
from mtl.model.saved import HeadSpec, TaskHead, build_network, save_model
from tests.support.texts import TEXTS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from mtl.activations.encoding import Precision

LABELS = {"topic": ("price", "größe", "other"), "mood": ("0", "1")}
KINDS: dict[str, Callable[[list[str]], Any]] = {
    "tuple": tuple,
    "generator": lambda texts: (text for text in texts),
    "series": pd.Series,
    "array of objects": lambda texts: np.array(texts, dtype=object),
    "array of str": np.array,
    "Arrow array": pa.array,
    "chunked Arrow array": lambda texts: pa.chunked_array([texts[:1], texts[1:]]),
}
ODD = ("", " ", "\n", "\x00", "\ud800", "a\udfffb", "👩‍👩‍👧‍👦 🇪🇺", "\u202eright to left", "\ufeff", "ﬁ ①", "a" * 300)


@pytest.fixture(scope="module")
def run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a saved model. Do not write into it."""
    torch.manual_seed(1)
    tasks = {name: TaskHead(list(labels), HeadSpec("linear", dropout=0.5)) for name, labels in LABELS.items()}
    folder = tmp_path_factory.mktemp("run")
    network = build_network(Encoder.from_folder(tiny_folder), tasks)
    save_model(folder / "model", network, load_tokenizer(tiny_folder), tasks, "")
    return folder


@pytest.fixture(scope="module")
def model(run: Path) -> MultiTaskModel:
    return MultiTaskModel.from_pretrained(run, device="cpu")


def test_a_prediction_has_the_most_probable_label_and_all_probabilities(model: MultiTaskModel) -> None:
    predictions = model.predict(TEXTS)
    probabilities = model.predict_proba(TEXTS)
    assert predictions.keys() == LABELS.keys()
    for task, found in predictions.items():
        assert [tuple(each.probabilities) for each in found] == [LABELS[task]] * len(TEXTS)
        assert [each.label for each in found] == [LABELS[task][best] for best in probabilities[task].argmax(axis=1)]
        assert [list(each.probabilities.values()) for each in found] == probabilities[task].tolist()
        assert [sum(each.probabilities.values()) for each in found] == pytest.approx([1.0] * len(TEXTS), abs=1e-6)
        assert probabilities[task].dtype == np.float32


def test_labels(model: MultiTaskModel) -> None:
    assert model.labels == LABELS


def test_one_sentence(model: MultiTaskModel) -> None:
    assert model.encode("Great phone").shape == (32,)
    assert np.array_equal(model.encode("Great phone"), model.encode(["Great phone"])[0])
    together = model.predict(["Great phone"])
    assert model.predict("Great phone") == {task: predictions[0] for task, predictions in together.items()}
    assert {task: rows.shape for task, rows in model.predict_proba("Great phone").items()} == {
        "topic": (3,),
        "mood": (2,),
    }


@pytest.fixture(scope="module")
def cautious(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> MultiTaskModel:
    """A model that knows from validation rows when not to answer in the task ``mood``, but not in ``topic``."""
    torch.manual_seed(1)
    outcomes = Outcomes(true=[[0.5] * 20, [0.48] * 20], right=[0.6] * 100, wrong=[0.3] * 20)
    tasks = {
        "mood": TaskHead(list(LABELS["mood"]), HeadSpec("linear", scale=3.0), outcomes=outcomes),
        "topic": TaskHead(list(LABELS["topic"]), HeadSpec("linear")),
    }
    folder = tmp_path_factory.mktemp("cautious")
    network = build_network(Encoder.from_folder(tiny_folder), tasks)
    save_model(folder, network, load_tokenizer(tiny_folder), tasks, "")
    return MultiTaskModel.from_pretrained(folder, device="cpu", tasks=["mood"])


def test_sets_and_abstention(cautious: MultiTaskModel) -> None:
    plain = cautious.predict(TEXTS)["mood"]
    assert {(row.label_set, row.abstain) for row in plain} == {(None, None)}
    rows = cautious.predict(TEXTS, coverage=0.9, max_risk=0.1)["mood"]
    assert [(row.label, row.probabilities) for row in rows] == [(row.label, row.probabilities) for row in plain]
    for row in rows:
        zero, one = row.probabilities.values()
        assert row.label_set == tuple(label for label, held in (("0", zero >= 0.5), ("1", one >= 0.48)) if held)
        assert row.abstain == (max(zero, one) < 0.6)
    assert len({row.label_set for row in rows}) > 1
    assert len({row.abstain for row in rows}) == 2
    assert cautious.predict(TEXTS[0], coverage=0.9)["mood"].label_set == rows[0].label_set
    assert all(row.abstain for row in cautious.predict(TEXTS, max_risk=0.001)["mood"])


def test_levels_that_cannot_be_kept(model: MultiTaskModel, cautious: MultiTaskModel) -> None:
    with pytest.raises(ConfigError) as caught:
        cautious.predict("a", coverage=1.0, max_risk=-0.5, calibrated=False)
    assert [(problem.place, problem.found) for problem in caught.value.problems] == [
        ("coverage", "1"),
        ("coverage", "calibrated=false"),
        ("max_risk", "-0.5"),
        ("max_risk", "calibrated=false"),
    ]
    with pytest.raises(ConfigError) as caught:
        model.predict("a", coverage=0.9)
    assert str(caught.value) == (
        "Configuration: 1 problem\n"
        "  coverage\n"
        "      found:    no outcomes of validation rows in the model for topic, mood\n"
        "      expected: a model that keeps them\n"
        "      repair:   train it again with validation rows: models of older versions and stale heads have none"
    )


def test_sets_and_abstention_in_files(cautious: MultiTaskModel, tmp_path: Path) -> None:
    expected = cautious.predict(TEXTS, coverage=0.9, max_risk=0.1)["mood"]
    for name in ("x.csv", "x.jsonl", "x.parquet"):
        predict_to_file(cautious, TEXTS, tmp_path / name, coverage=0.9, max_risk=0.1)
    with (tmp_path / "x.csv").open(encoding="utf-8", newline="") as file:
        header, *cells = csv.reader(file)
    assert header == ["text", "mood", "mood set", "mood abstain", "p(mood=0)", "p(mood=1)"]
    lines = [json.loads(line)["mood"] for line in (tmp_path / "x.jsonl").read_text(encoding="utf-8").splitlines()]
    table = pq.read_table(tmp_path / "x.parquet").to_pylist()
    for row, cell, line, record in zip(expected, cells, lines, table, strict=True):
        labels = " | ".join(row.label_set or ())
        assert cell[2:4] == [labels, "true" if row.abstain else "false"]
        assert (record["mood set"], record["mood abstain"]) == (labels, row.abstain)
        assert (tuple(line["set"]), line["abstain"]) == (row.label_set, row.abstain)


def test_some_tasks_alone(model: MultiTaskModel, run: Path) -> None:
    alone = MultiTaskModel.from_pretrained(run, device="cpu", tasks=["mood"])
    assert alone.labels == {"mood": LABELS["mood"]}
    assert alone.predict(TEXTS) == {"mood": model.predict(TEXTS)["mood"]}
    with pytest.raises(ConfigError) as error:
        MultiTaskModel.from_pretrained(run, tasks=["mod", "mood"])
    assert error.value.problems == (Problem("task", "'mod'", "topic, mood", "did you mean mood?"),)


def test_a_sentence_that_is_no_string_is_named(model: MultiTaskModel) -> None:
    for call in (model.encode, model.predict, model.predict_proba):
        with pytest.raises(DataError) as error:
            call(["good", None, 3])  # type: ignore[list-item]
        assert error.value.problems == (Problem("sentence 2", "None (NoneType), and 1 more that are none", "a string"),)


@pytest.mark.parametrize("kind", KINDS)
def test_any_iterable_of_strings(kind: str, model: MultiTaskModel) -> None:
    texts = [text for text in TEXTS if "\ud800" not in text]  # no UTF-8, so Arrow cannot hold it
    expected = model.predict_proba(texts)
    for task, found in model.predict_proba(KINDS[kind](texts)).items():
        assert np.array_equal(found, expected[task])
    assert model.predict(KINDS[kind](texts)) == model.predict(texts)
    assert np.array_equal(model.encode(KINDS[kind](texts)), model.encode(texts))


@pytest.mark.parametrize("table", [pd.DataFrame({"text": ["a"]}), pa.table({"text": ["a"]}), {"text": ["a"]}])
def test_a_whole_table_is_refused(table: Any, model: MultiTaskModel) -> None:
    """Its iterator yields the names of its columns, which would be predicted."""
    expected = Problem(
        "texts", f"a whole {type(table).__name__}", "an iterable of strings", "give one column: table['text']"
    )
    for call in (model.encode, model.predict, model.predict_proba):
        with pytest.raises(DataError) as error:
            call(table)
        assert error.value.problems == (expected,)


@pytest.mark.parametrize("count", [0, 1, 4, 5, 8])
def test_a_generator_is_read_in_chunks(count: int, model: MultiTaskModel, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"a phone {number}" for number in range(count)]
    expected = model.predict_proba(texts)
    monkeypatch.setattr("mtl.inference.sentences.CHUNK", 4)
    sizes: list[int] = []
    encode = SentenceEncoder.encode

    def counted(self: SentenceEncoder, texts: list[str], **how: Any) -> NDArray[np.float32]:
        sizes.append(len(texts))
        found: NDArray[np.float32] = encode(self, texts, **how)
        return found

    monkeypatch.setattr(SentenceEncoder, "encode", counted)
    for task, found in model.predict_proba(text for text in texts).items():
        assert found == pytest.approx(expected[task], abs=1e-6)
    assert sizes == ([4] * (count // 4) + [count % 4] * (count % 4 > 0) or [0])


def test_a_sentence_of_a_later_chunk_that_is_no_string_is_named(
    model: MultiTaskModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtl.inference.sentences.CHUNK", 2)
    with pytest.raises(DataError) as error:
        model.predict(text for text in ("a", "b", "c", None))  # type: ignore[misc]
    assert error.value.problems == (Problem("sentence 4", "None (NoneType)", "a string"),)


def test_no_sentence(model: MultiTaskModel) -> None:
    assert model.encode([]).shape == (0, 32)
    assert model.predict([]) == {"topic": [], "mood": []}
    assert {task: found.shape for task, found in model.predict_proba([]).items()} == {"topic": (0, 3), "mood": (0, 2)}


@pytest.mark.parametrize("text", ODD)
def test_odd_sentences(model: MultiTaskModel, text: str) -> None:
    embedding = model.encode(text)
    assert np.isfinite(embedding).all()
    assert np.linalg.norm(embedding) == pytest.approx(1.0, abs=1e-5)  # the tiny encoder normalises
    together = model.encode([*TEXTS, text])
    assert together[-1] == pytest.approx(embedding, abs=1e-6)
    assert all(sum(found.probabilities.values()) == pytest.approx(1.0) for found in model.predict(text).values())


def test_a_sentence_of_a_megabyte_is_cut(model: MultiTaskModel) -> None:
    """What is beyond the longest input makes no difference."""
    long = "good " * 200_000
    assert len(long) == 1_000_000
    assert np.array_equal(model.encode(long), model.encode("good " * 500))
    assert model.predict(long) == model.predict("good " * 500)


def test_order_and_batches_make_no_difference(model: MultiTaskModel) -> None:
    expected = model.encode(TEXTS)
    assert model.encode(TEXTS[::-1])[::-1] == pytest.approx(expected, abs=1e-6)
    assert model.encode(TEXTS, batch_size=2) == pytest.approx(expected, abs=1e-6)
    assert model.encode(tuple(TEXTS), progress=True) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["tiny", "minilm"])
def test_bf16_is_near(name: str) -> None:
    encoder = SentenceEncoder.from_pretrained(name, device="cpu")
    texts = [text for text in TEXTS if text.strip()]
    exact, near = encoder.encode(texts), encoder.encode(texts, precision="bf16")
    assert near.dtype == np.float32
    assert cosines(exact, near).min() >= 0.9995


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_calls_that_share_prepared_weights(precision: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    def noted(layer: PackedLayer, dtype: torch.dtype) -> PackedLayer:
        made.append(dtype)
        return make(layer, dtype)

    made: list[torch.dtype] = []
    make = PackedLayer.made_ready
    monkeypatch.setattr(PackedLayer, "made_ready", noted)
    encoder = SentenceEncoder.from_pretrained("tiny", device="cpu")
    expected = encoder.encode(TEXTS, precision=precision)
    with encoder.prepared(precision):
        found = [encoder.encode(text, precision=precision) for text in TEXTS]
    assert cosines(np.stack(found), expected).min() >= 0.9995
    assert made == [{"fp32": torch.float32, "bf16": torch.bfloat16}[precision]] * encoder.encoder.num_layers
    assert np.array_equal(encoder.encode(TEXTS, precision=precision), expected)
    with pytest.raises(ConfigError, match="fp16"), encoder.prepared("fp16"):  # type: ignore[arg-type]
        pass


def cosines(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    found: NDArray[np.float32] = (one * other).sum(axis=1) / lengths
    return found


def test_the_encoder_of_a_run_folder_of_a_saved_model_and_of_a_backbone(
    run: Path, tiny_folder: Path, model: MultiTaskModel
) -> None:
    expected = model.encode(TEXTS)
    for name in (run, run / "model", str(tiny_folder), "tiny"):
        encoder = SentenceEncoder.from_pretrained(name)
        assert np.array_equal(encoder.encode(TEXTS), expected)
        assert encoder.dimension == 32
        assert encoder.max_length == 128


def test_a_model_that_is_none() -> None:
    with pytest.raises(ModelError) as caught:
        SentenceEncoder.from_pretrained("minilmm")
    assert str(caught.value) == (
        "Model: 1 problem\n"
        "  model\n"
        "      found:    'minilmm'\n"
        "      expected: a backbone (minilm, mpnet, tiny), a run folder, a folder in the hub's layout, or a hub id "
        "owner/name\n"
        "      repair:   did you mean minilm?"
    )


def test_the_package_offers_the_public_classes_and_nothing_else() -> None:
    assert mtl.__all__ == ["MtlError", "MultiTaskModel", "Prediction", "Run", "SentenceEncoder", "train"]
    assert all(getattr(mtl, name).__doc__ for name in mtl.__all__)
    assert mtl.Prediction is Prediction
    with pytest.raises(AttributeError) as caught:
        _ = mtl.Model
    assert str(caught.value) == (
        "module 'mtl' has no attribute 'Model'; "
        "it has MtlError, MultiTaskModel, Prediction, Run, SentenceEncoder, train"
    )


def test_the_table_shows_the_coarse_class_behind_the_label(capsys: pytest.CaptureFixture[str]) -> None:
    from mtl.predict import _show

    coarse = Prediction("bad", {"bad": 0.6, "good": 0.4})
    found = Prediction("fine", {"late": 0.3, "fine": 0.4, "lost": 0.3}, coarse)
    _show(["a phone"], {"topic": [found], "mood": [Prediction("0", {"0": 0.75, "1": 0.25})]})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["sentence", "topic", "mood"],
        ["a", "phone", "fine", "0.400", "(bad", "0.600)", "0", "0.750"],
    ]
