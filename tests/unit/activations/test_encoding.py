"""Encoding many rows equals encoding each by itself, in the order given, and leaves the encoder as it was."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from mtl.activations import encoding
from mtl.activations.encoding import Encoding, Precision, autocast, encode_table, native_bf16, tracked
from mtl.base.errors import ConfigError, Problem
from mtl.data.tokens import TokenTable, tokenize
from mtl.model.encoder import Encoder
from mtl.model.loading import load_tokenizer
from tests.support.texts import TEXTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

CPU = torch.device("cpu")


@pytest.fixture
def encoder(tiny_folder: Path) -> Encoder:
    return Encoder.from_folder(tiny_folder)


def table_of(folder: Path, texts: tuple[str, ...] = TEXTS) -> TokenTable:
    return tokenize(texts, load_tokenizer(folder), 64)


def pad_id(folder: Path) -> int:
    return int(load_tokenizer(folder).pad_token_id or 0)


@pytest.mark.parametrize(("batch_size", "max_tokens"), [(128, 16_384), (3, 16_384), (128, 70), (1, 1)])
def test_batches_give_what_single_rows_give(
    tiny_folder: Path, encoder: Encoder, batch_size: int, max_tokens: int
) -> None:
    table = table_of(tiny_folder)
    found = encode_table(encoder, table, Encoding(pad_id(tiny_folder), batch_size=batch_size, max_tokens=max_tokens))
    with torch.inference_mode():
        ids = [torch.from_numpy(table.row(at).astype(np.int64))[None] for at in range(len(table))]
        expected = torch.cat([encoder(row, torch.ones_like(row, dtype=torch.bool)) for row in ids])
    assert found.dtype == np.float32
    assert found == pytest.approx(expected.numpy(), abs=1e-6)


def test_weights_and_memory_are_kept_for_many_batches_alone(
    tiny_folder: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    @contextmanager
    def prepared(self: Encoder) -> Iterator[None]:
        asked.append("weights")
        yield

    @contextmanager
    def kept() -> Iterator[None]:
        asked.append("memory")
        yield

    monkeypatch.setattr(Encoder, "prepared", prepared)
    monkeypatch.setattr(encoding, "freed_memory_kept", kept)
    table = table_of(tiny_folder, tuple(f"{number}" for number in range(8)))
    encode_table(encoder, table.select(np.arange(7)), Encoding(pad_id(tiny_folder), batch_size=1))
    assert asked == []
    encode_table(encoder, table, Encoding(pad_id(tiny_folder), batch_size=1))
    assert asked == ["memory", "weights"]


def test_equal_rows_are_encoded_once_wherever_they_stand(tiny_folder: Path, encoder: Encoder) -> None:
    texts = ("one", "two", "a third one", "four", "and a fifth") * 3
    counted: list[int] = []
    hook = encoder.backbone.embeddings.register_forward_hook(lambda _, __, output: counted.append(len(output)))
    how = Encoding(pad_id(tiny_folder), batch_size=2)
    found = encode_table(encoder, table_of(tiny_folder, texts), how)
    hook.remove()
    assert sum(counted) == len(set(texts))
    assert found == pytest.approx(np.tile(encode_table(encoder, table_of(tiny_folder, texts[:5]), how), (3, 1)))


@pytest.mark.parametrize("rows", [0, 1, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_rows_without_any_token(rows: int, precision: Precision, encoder: Encoder) -> None:
    table = TokenTable(np.empty(0, dtype=np.int32), np.zeros(rows + 1, dtype=np.int64))
    found = encode_table(encoder, table, Encoding(1, precision=precision))
    assert np.array_equal(found, np.zeros((rows, encoder.hidden_size), dtype=np.float32))


def test_what_cannot_be_is_refused_together() -> None:
    with pytest.raises(ConfigError) as error:
        Encoding(1, batch_size=0, max_tokens=-1, precision="fp16")  # type: ignore[arg-type]
    assert error.value.problems == (
        Problem("batch_size", "0", "at least 1"),
        Problem("max_tokens", "-1", "at least 1"),
        Problem("precision", "'fp16'", "fp32 or bf16 or auto"),
    )


def test_no_rows(tiny_folder: Path, encoder: Encoder) -> None:
    assert encode_table(encoder, table_of(tiny_folder, ()), Encoding(0, progress="encoding")).shape == (0, 32)


def test_dropout_is_off_and_the_modes_are_put_back(tiny_folder: Path, encoder: Encoder) -> None:
    table, how = table_of(tiny_folder), Encoding(pad_id(tiny_folder))
    expected = encode_table(encoder, table, how)
    encoder.layer_modules("layer.2")[0].train()
    modes = {name: module.training for name, module in encoder.named_modules()}
    assert np.array_equal(encode_table(encoder, table, how), expected)
    assert {name: module.training for name, module in encoder.named_modules()} == modes
    assert any(modes.values())


def test_the_modes_are_put_back_after_an_error(tiny_folder: Path, encoder: Encoder) -> None:
    encoder.train()
    table = table_of(tiny_folder)
    broken = TokenTable(table.ids + 1_000_000, table.offsets)
    with pytest.raises(IndexError):
        encode_table(encoder, broken, Encoding(pad_id(tiny_folder)))
    assert all(module.training for module in encoder.modules())


def test_bf16_is_near(tiny_folder: Path, encoder: Encoder) -> None:
    table = table_of(tiny_folder)
    exact = encode_table(encoder, table, Encoding(1, precision="fp32"))
    near = encode_table(encoder, table, Encoding(1, precision="bf16"))
    assert near.dtype == np.float32
    assert not np.array_equal(exact, near)
    assert cosines(exact, near).min() > 0.9995


def cosines(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    found: NDArray[np.float32] = (one * other).sum(axis=1) / lengths
    return found


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_bf16_where_it_is_native(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    monkeypatch.setattr("mtl.activations.encoding.native_bf16", lambda _: native)
    found = []
    for each in (autocast(CPU, "auto"), autocast(CPU, "fp32"), autocast(CPU, "bf16")):
        with each:
            found.append(torch.is_autocast_enabled("cpu"))
    assert found == [native, False, True]


@pytest.mark.parametrize(
    ("capabilities", "native"),
    [
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx512_f": True, "avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": True}, True),
        ({"architecture": "arm64", "bf16": True}, False),  # not measured there
    ],
)
def test_which_cpus_have_bf16(monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, Any], native: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert native_bf16(CPU) is native


@pytest.mark.parametrize(("capability", "native"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_which_gpus_have_bf16(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], native: bool) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert native_bf16(torch.device("cuda")) is native
    assert not native_bf16(torch.device("mps"))


@pytest.mark.parametrize("title", [None, "encoding"])
def test_short_work_yields_all_items_and_prints_nothing_without_a_terminal(
    title: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(tracked(range(5), title, 5)) == [0, 1, 2, 3, 4]
    assert capsys.readouterr() == ("", "")


def test_without_a_terminal_long_work_prints_a_line_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, *(4.0 * step for step in range(8))])  # an item takes four seconds
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    assert list(tracked(range(8), "encoding mood train", 8)) == list(range(8))
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "encoding mood train: 3 of 8 (38%), 12 s\nencoding mood train: 6 of 8 (75%), 24 s\n"


def test_fp32_is_fp32_within_a_callers_autocast(tiny_folder: Path) -> None:
    encoder = Encoder.from_folder(tiny_folder)
    table = TokenTable(np.array([0, 17, 18, 2], dtype=np.int32), np.array([0, 4]))
    expected = encode_table(encoder, table, Encoding(pad_id=1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert np.array_equal(encode_table(encoder, table, Encoding(pad_id=1)), expected)
