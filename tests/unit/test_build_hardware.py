"""How many processes train together, where, and in which precision."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import torch

from mtl import build_hardware
from mtl.config import TrainerConfig
from mtl.errors import ConfigError


def with_cards(patch: pytest.MonkeyPatch, count: int) -> None:
    patch.setattr(torch.cuda, "is_available", lambda: count > 0)
    patch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    ("cards", "accelerator", "devices", "processes"),
    [
        (0, "auto", 1, 1),
        (0, "auto", 3, 3),
        (0, "cpu", "auto", 1),
        (4, "cpu", 2, 2),
        (4, "auto", 1, 1),
        (4, "gpu", 2, 2),
        (4, "gpu", -1, 4),
        (4, "gpu", "auto", 4),
        (4, "gpu", [3, 1], 2),
        (4, "gpu", [2], 1),
    ],
)
def test_one_process_for_each_device(
    monkeypatch: pytest.MonkeyPatch, cards: int, accelerator: Any, devices: Any, processes: int
) -> None:
    with_cards(monkeypatch, cards)
    assert build_hardware.processes(TrainerConfig(accelerator=accelerator, devices=devices)) == processes


def test_each_process_has_its_card(monkeypatch: pytest.MonkeyPatch) -> None:
    with_cards(monkeypatch, 4)
    flags = TrainerConfig(accelerator="gpu", devices=[3, 1])
    assert [build_hardware.device(flags, rank) for rank in (0, 1)] == [torch.device("cuda:3"), torch.device("cuda:1")]


@pytest.mark.parametrize(("devices", "expected"), [(3, "at most 2"), ([1, 2], "numbers below 2")])
def test_more_cards_than_there_are(monkeypatch: pytest.MonkeyPatch, devices: Any, expected: str) -> None:
    with_cards(monkeypatch, 2)
    with pytest.raises(ConfigError) as caught:
        build_hardware.processes(TrainerConfig(accelerator="gpu", devices=devices))
    assert str(caught.value) == (
        "Configuration: 1 problem\n"
        "  trainer.devices\n"
        f"      found:    {devices}, and PyTorch finds 2 CUDA devices\n"
        f"      expected: {expected}\n"
        "      repair:   give trainer.devices=-1 for all"
    )


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(("flag", "heads_alone"), [("auto", False), ("auto", True), ("bf16-mixed", True)])
def test_heads_alone_learn_in_fp32_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, native: bool, flag: Any, heads_alone: bool
) -> None:
    monkeypatch.setattr(build_hardware, "native_bf16", lambda _: native)
    found = build_hardware.precision(TrainerConfig(precision=flag), torch.device("cpu"), heads_alone=heads_alone)
    expected = {("auto", False): "bf16-mixed" if native else "32-true", ("auto", True): "32-true"}
    assert found == expected.get((flag, heads_alone), flag)


def test_processes_that_cannot_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("Cannot assign requested address")

    monkeypatch.setattr(socket, "create_server", refuse)
    assert build_hardware.processes(TrainerConfig(accelerator="cpu", devices=1)) == 1
    with pytest.raises(ConfigError) as caught:
        build_hardware.processes(TrainerConfig(accelerator="cpu", devices=3))
    assert str(caught.value) == (
        "Configuration: 1 problem\n"
        "  trainer.devices\n"
        "      found:    3 processes, and the loopback interface is down\n"
        "      expected: processes that connect\n"
        "      repair:   give trainer.devices=1, or enable the interface: ip link set lo up"
    )
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"3 processes, and PyTorch \S+ is built without torch\.distributed"):
        build_hardware.processes(TrainerConfig(accelerator="cpu", devices=3))
