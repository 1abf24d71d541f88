"""Frozen activations: every distinct row is computed once, and each gets what the frozen layers give it by itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtl.activations import ActivationStore
from mtl.activations.encoding import Encoding, Precision, encode_table
from mtl.activations.frozen import FrozenActivations
from mtl.base.errors import ModelError
from mtl.data.batch import Boundary
from mtl.data.tokens import TokenTable
from mtl.model.encoder import Encoder

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

HOW = Encoding(pad_id=1, batch_size=4)
ROWS = ([0, 17, 2], [0, 2], [0, 17, 18, 2], [0, 18, 17, 2], [0, 99, 2])
"""Token ids of some rows; two have the same tokens in another order."""
TRAIN, VAL = ("mood", "train"), ("mood", "val")


@pytest.fixture(scope="module")
def encoder(tiny_folder: Path) -> Encoder:
    return Encoder.from_folder(tiny_folder)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, empty."""
    monkeypatch.setenv("MTL_CACHE_DIR", str(tmp_path))
    return tmp_path


def table(*rows: list[int]) -> TokenTable:
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    return TokenTable(np.array([each for row in rows for each in row], dtype=np.int32), offsets)


def by_itself(encoder: Encoder, row: list[int], boundary: Boundary) -> NDArray[np.float32]:
    """Return the embedding of a row ``(1, H)``, or its hidden states ``(S, H)``."""
    ids = torch.tensor([row])
    mask = torch.ones_like(ids, dtype=torch.bool)
    with torch.inference_mode():
        found = encoder(ids, mask) if boundary == "embedding" else encoder.hidden_at(ids, mask, boundary)[0]
    values: NDArray[np.float32] = found.numpy()
    return values


class Counted:
    """Counts the rows that reach an encoder."""

    def __init__(self, encoder: Encoder) -> None:
        self.rows = 0
        self._encoder = encoder

    def __enter__(self) -> Counted:
        self._hook = self._encoder.backbone.embeddings.register_forward_hook(self._count)
        return self

    def _count(self, _: object, __: object, output: torch.Tensor) -> None:
        self.rows += len(output)

    def __exit__(self, *_: object) -> None:
        self._hook.remove()


@pytest.mark.parametrize("boundary", [1, 2, "embedding"])
def test_rows_get_what_the_layers_give_them_by_themselves(encoder: Encoder, cache: Path, boundary: Boundary) -> None:
    given_rows = {TRAIN: [ROWS[0], ROWS[2], ROWS[0], ROWS[1]], VAL: [ROWS[4], ROWS[2]]}
    with Counted(encoder) as counted:
        frozen = FrozenActivations(encoder, {each: table(*rows) for each, rows in given_rows.items()}, HOW)
        found = frozen.at(boundary)
    assert found is not None
    assert counted.rows == 4  # distinct ones
    for each, rows in given_rows.items():
        order = np.arange(len(rows))[::-1]
        values, lengths = found[each].gather(order)
        expected = [by_itself(encoder, rows[at], boundary) for at in order]
        assert values == pytest.approx(np.concatenate(expected), abs=1e-6)
        expected_lengths = None if boundary == "embedding" else [len(rows[at]) for at in order]
        assert (None if lengths is None else lengths.tolist()) == expected_lengths


@pytest.mark.parametrize("boundary", [1, "embedding"])
def test_the_next_run_computes_nothing(encoder: Encoder, cache: Path, boundary: Boundary) -> None:
    FrozenActivations(encoder, {TRAIN: table(*ROWS)}, HOW).at(boundary)
    with Counted(encoder) as counted:
        FrozenActivations(encoder, {VAL: table(ROWS[3], ROWS[0])}, HOW).at(boundary)
    assert counted.rows == 0


def cold(
    encoder: Encoder, splits: dict[tuple[str, str], TokenTable], boundary: Boundary, *, cached: bool = True
) -> float:
    """Return what is said to be the time of a cold start, of a run of its own."""
    frozen = FrozenActivations(encoder, splits, HOW, cached=cached)
    assert frozen.at(boundary) is not None
    assert frozen.seconds_spent > 0
    seconds = frozen.seconds_cold[boundary]
    assert seconds is not None
    return seconds


@pytest.mark.parametrize("boundary", [1, "embedding"])
def test_a_warm_cache_knows_what_a_cold_one_took(encoder: Encoder, cache: Path, boundary: Boundary) -> None:
    splits = {TRAIN: table(*ROWS[:3], ROWS[0]), VAL: table(ROWS[2], ROWS[4])}  # 2 rows come twice
    first = cold(encoder, splits, boundary)
    assert first > 0
    assert cold(encoder, splits, boundary) == first
    of_train = sum(map(len, ROWS[:3]))
    part = cold(encoder, {TRAIN: splits[TRAIN]}, boundary)
    assert part == pytest.approx(first * of_train / (of_train + len(ROWS[4])))


def test_test_rows_are_no_part_of_what_training_costs(encoder: Encoder, cache: Path) -> None:
    splits = {TRAIN: table(*ROWS[:2]), ("mood", "test"): table(*ROWS[2:])}
    first = cold(encoder, splits, "embedding")
    assert cold(encoder, {TRAIN: splits[TRAIN]}, "embedding") == pytest.approx(first)
    of_all = cold(encoder, {TRAIN: table(*ROWS)}, "embedding")
    assert of_all == pytest.approx(first * sum(map(len, ROWS)) / sum(map(len, ROWS[:2])))


def test_several_runs_add_up_in_one_cache(encoder: Encoder, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    for rows in (ROWS[:2], ROWS):
        cold(encoder, {TRAIN: table(*rows)}, "embedding")
    (work,) = cache.rglob("work.json")
    noted = json.loads(work.read_text(encoding="utf-8"))
    assert noted == {"seconds": 2.0, "tokens": sum(map(len, ROWS))}  # the clock goes on by 1 with every look at it


@pytest.mark.parametrize("content", [None, "{", '{"seconds": 1}', '{"seconds": NaN, "tokens": 5}', "[]"])
def test_rows_of_which_nobody_noted_the_time_cost_an_unknown_time(
    content: str | None, encoder: Encoder, cache: Path
) -> None:
    FrozenActivations(encoder, {TRAIN: table(*ROWS)}, HOW).at("embedding")
    (work,) = cache.rglob("work.json")
    work.unlink()
    if content is not None:
        work.write_text(content, encoding="utf-8")
    frozen = FrozenActivations(encoder, {TRAIN: table(*ROWS)}, HOW)
    frozen.at("embedding")
    assert frozen.seconds_cold == {"embedding": None}


def test_without_a_cache_encoding_costs_what_it_took(encoder: Encoder, cache: Path) -> None:
    splits = {TRAIN: table(*ROWS[:3]), VAL: table(*ROWS[3:]), ("mood", "test"): table([0, 55, 2])}
    frozen = FrozenActivations(encoder, splits, HOW, cached=False)
    frozen.at("embedding")
    seconds = frozen.seconds_cold["embedding"]
    assert seconds is not None
    assert 0 < seconds < frozen.seconds_spent
    assert frozen.at(1) is None
    assert 1 not in frozen.seconds_cold  # the frozen layers run in every step, which is part of the training


def test_other_weights_are_computed_anew(tiny_folder: Path, cache: Path) -> None:
    encoder = Encoder.from_folder(tiny_folder)
    FrozenActivations(encoder, {TRAIN: table(*ROWS)}, HOW).at(1)
    with torch.no_grad():
        encoder.layer_parameters("layer.2")[0][1].add_(1.0)
    with Counted(encoder) as counted:
        FrozenActivations(encoder, {TRAIN: table(*ROWS)}, HOW).at(1)
    assert counted.rows == 0  # layer.2 is above the boundary
    with torch.no_grad():
        encoder.layer_parameters("layer.0")[0][1].add_(1.0)
    with Counted(encoder) as counted:
        FrozenActivations(encoder, {TRAIN: table(*ROWS)}, HOW).at(1)
    assert counted.rows == len(ROWS)


@pytest.mark.parametrize("boundary", [1, "embedding"])
def test_what_is_not_finite_is_named_and_not_kept(tiny_folder: Path, cache: Path, boundary: Boundary) -> None:
    encoder = Encoder.from_folder(tiny_folder)
    words = encoder.backbone.get_submodule("embeddings.word_embeddings")
    with torch.no_grad():
        words.weight[99] = float("inf")  # of row 4 alone
    frozen = FrozenActivations(encoder, {TRAIN: table(*ROWS)}, Encoding(pad_id=1, batch_size=1))
    with pytest.raises(ModelError) as error:
        frozen.at(boundary)
    (problem,) = error.value.problems
    assert problem.place == "the frozen layers, mood train"
    assert problem.found.startswith(
        "activations that are NaN or infinite, of 1 of 1 sentences of a batch, the first number 5; "
    )
    with torch.no_grad():
        words.weight[99] = 0.0
    other = Encoder.from_folder(tiny_folder)
    other.load_state_dict(encoder.state_dict())
    found = FrozenActivations(other, {TRAIN: table(*ROWS)}, HOW).at(boundary)
    assert found is not None
    assert np.isfinite(found[TRAIN].gather(np.arange(len(ROWS)))[0]).all()


def test_a_boundary_is_asked_for_many_times_and_computed_once(encoder: Encoder, cache: Path) -> None:
    frozen = FrozenActivations(encoder, {TRAIN: table(*ROWS)}, HOW)
    first = frozen.at(1)
    assert frozen.at(1) is first
    assert frozen.at("embedding") is not first


def test_without_a_cache_embeddings_are_kept_in_memory_and_hidden_states_not_at_all(
    encoder: Encoder, cache: Path
) -> None:
    frozen = FrozenActivations(encoder, {TRAIN: table(*ROWS)}, HOW, cached=False)
    assert frozen.at(1) is None
    found = frozen.at("embedding")
    assert found is not None
    assert found[TRAIN].gather(np.array([2, 0]))[0] == pytest.approx(
        np.concatenate([by_itself(encoder, ROWS[at], "embedding") for at in (2, 0)]), abs=1e-6
    )
    assert not list(cache.iterdir())


@given(drawn=st.lists(st.lists(st.sampled_from(ROWS), min_size=1, max_size=6), min_size=1, max_size=3))
@settings(deadline=None, max_examples=30)
def test_embeddings_equal_plain_encoding(encoder: Encoder, drawn: list[list[list[int]]]) -> None:
    tables = {("mood", str(at)): table(*rows) for at, rows in enumerate(drawn)}
    with Counted(encoder) as counted:
        found = FrozenActivations(encoder, tables, HOW, cached=False).at("embedding")
    assert found is not None
    assert counted.rows == len({tuple(row) for rows in drawn for row in rows})
    for each, rows in tables.items():
        values, _ = found[each].gather(np.arange(len(rows)))
        assert values == pytest.approx(encode_table(encoder, rows, HOW), abs=1e-6)


@pytest.mark.parametrize("limit", ["0", "200B"])
def test_a_cache_that_takes_nothing_costs_no_second_pass(
    limit: str, encoder: Encoder, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MTL_CACHE_LIMIT", limit)
    with Counted(encoder) as counted:
        frozen = FrozenActivations(encoder, {TRAIN: table(*ROWS), VAL: table(ROWS[0], ROWS[1])}, HOW)
        found = frozen.at("embedding")
    assert counted.rows == len(ROWS)
    assert found is not None
    assert found[VAL].gather(np.array([1]))[0] == pytest.approx(by_itself(encoder, ROWS[1], "embedding"), abs=1e-6)
    assert frozen.at(1) is None
    assert ("MTL_CACHE_LIMIT" in caplog.text) == (limit != "0")


def test_an_embedding_takes_the_room_of_one_vector(
    encoder: Encoder, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [[0, *([17 + at] * 60), 2] for at in range(40)]
    monkeypatch.setenv("MTL_CACHE_LIMIT", f"{2 * len(rows) * 4 * encoder.hidden_size}B")
    splits = {TRAIN: table(*rows), VAL: table(*rows)}  # the same rows: they take their room once
    assert FrozenActivations(encoder, splits, HOW).at(1) is None  # 62 vectors a row
    caplog.clear()
    FrozenActivations(encoder, splits, HOW).at("embedding")
    assert not caplog.text
    with Counted(encoder) as counted:
        FrozenActivations(encoder, splits, HOW).at("embedding")
    assert counted.rows == 0


def test_a_cache_without_room_gives_what_it_has(encoder: Encoder, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FrozenActivations(encoder, {TRAIN: table(*ROWS)}, HOW).at("embedding")
    size = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())
    monkeypatch.setenv("MTL_CACHE_LIMIT", f"{size}B")
    with Counted(encoder) as counted:
        FrozenActivations(encoder, {TRAIN: table(*ROWS)}, HOW).at("embedding")
    assert counted.rows == 0


def test_a_cache_that_fills_up_on_the_way_is_not_filled_further(
    encoder: Encoder, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(store: ActivationStore, *_: object) -> None:
        store.keeps = False

    monkeypatch.setattr(ActivationStore, "append", full)
    splits = {TRAIN: table(*ROWS), VAL: table([0, 55, 2])}
    with Counted(encoder) as counted:
        found = FrozenActivations(encoder, splits, HOW).at("embedding")
    assert counted.rows == 4 + len(ROWS) + 1  # the first batch; then all, in memory
    assert found is not None
    assert found[TRAIN].gather(np.array([1]))[0] == pytest.approx(by_itself(encoder, ROWS[1], "embedding"), abs=1e-6)


@pytest.mark.parametrize(("precision", "kept_under"), [("fp32", "fp32"), ("bf16", "bf16 on cpu")])
def test_in_bf16_the_kind_of_device_is_part_of_the_key(
    precision: Precision, kept_under: str, encoder: Encoder, cache: Path
) -> None:
    FrozenActivations(encoder, {TRAIN: table(*ROWS)}, Encoding(pad_id=1, precision=precision)).at("embedding")
    (description,) = cache.rglob("source.json")
    source = json.loads(json.loads(description.read_text(encoding="utf-8"))["source"])
    assert source["precision"] == kept_under
