"""How many processes train together, where, and in which precision."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

from mtl.base.errors import ConfigError
from mtl.config.trainer import TrainerConfig
from mtl.inference.models import choose_device
from mtl.training import hardware
from mtl.training.inputs import Inputs
from mtl.training.plan import make_plan
from tests.support.runs import config

if TYPE_CHECKING:
    from pathlib import Path


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
    assert hardware.count_processes(TrainerConfig(accelerator=accelerator, devices=devices)) == processes


def test_each_process_has_its_card(monkeypatch: pytest.MonkeyPatch) -> None:
    with_cards(monkeypatch, 4)
    flags = TrainerConfig(accelerator="gpu", devices=[3, 1])
    assert [hardware.choose_device(flags, rank) for rank in (0, 1)] == [torch.device("cuda:3"), torch.device("cuda:1")]


@pytest.mark.parametrize(("devices", "card"), [(1, 0), ([2], 2), ([3, 1], 3)])
def test_a_run_computes_on_its_card(
    monkeypatch: pytest.MonkeyPatch, devices: Any, card: int, tmp_path: Path, tiny_folder: Path
) -> None:
    """Not on the first one, and what asks for the card in use, as libraries do, gets the same."""
    with_cards(monkeypatch, 4)
    assert hardware.choose_device(TrainerConfig(accelerator="gpu", devices=devices)) == torch.device("cuda", card)

    class ChosenError(Exception):
        pass

    def choose(device: torch.device) -> None:
        raise ChosenError(device)

    monkeypatch.setattr(torch.cuda, "set_device", choose)
    flags = [f"trainer.devices={devices}".replace(" ", ""), "trainer.accelerator=gpu"]
    with pytest.raises(ChosenError) as chosen:
        make_plan(config(*flags), tmp_path, Inputs({}, tiny_folder))
    assert chosen.value.args == (torch.device("cuda", card),)


def test_training_needs_no_pytorch_with_distributed() -> None:
    """Up to its imports, with the extension module of such a build missing."""
    lines = "import sys, torch, lightning.pytorch, torchmetrics; "
    lines += "sys.modules['torch._C._distributed_c10d'] = None; import mtl.training.run, mtl.training.rank"
    subprocess.run([sys.executable, "-c", lines], check=True, timeout=300)


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(1, True, "cuda"), (0, True, "mps"), (0, False, "cpu"), (1, False, "cuda")]
)
def test_commands_take_the_gpu_there_is(monkeypatch: pytest.MonkeyPatch, cuda: int, mps: bool, expected: str) -> None:
    """As training does."""
    with_cards(monkeypatch, cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert choose_device(None).type == hardware.choose_device(TrainerConfig()).type == expected
    assert choose_device("cpu").type == "cpu"


@pytest.mark.parametrize(("devices", "expected"), [(3, "at most 2"), ([1, 2], "numbers below 2")])
def test_more_cards_than_there_are(monkeypatch: pytest.MonkeyPatch, devices: Any, expected: str) -> None:
    with_cards(monkeypatch, 2)
    with pytest.raises(ConfigError) as caught:
        hardware.count_processes(TrainerConfig(accelerator="gpu", devices=devices))
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
    monkeypatch.setattr(hardware, "native_bf16", lambda _: native)
    found = hardware.choose_precision(TrainerConfig(precision=flag), torch.device("cpu"), heads_alone=heads_alone)
    expected = {("auto", False): "bf16-mixed" if native else "32-true", ("auto", True): "32-true"}
    assert found == expected.get((flag, heads_alone), flag)


def test_processes_that_cannot_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("Cannot assign requested address")

    monkeypatch.setattr(socket, "create_server", refuse)
    assert hardware.count_processes(TrainerConfig(accelerator="cpu", devices=1)) == 1
    with pytest.raises(ConfigError) as caught:
        hardware.count_processes(TrainerConfig(accelerator="cpu", devices=3))
    assert str(caught.value) == (
        "Configuration: 1 problem\n"
        "  trainer.devices\n"
        "      found:    3 processes, and the loopback interface is down\n"
        "      expected: processes that connect\n"
        "      repair:   give trainer.devices=1, or enable the interface: ip link set lo up"
    )
