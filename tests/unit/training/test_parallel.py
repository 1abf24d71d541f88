"""What the processes of a training send to each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
import torch.distributed as dist

from mtl.base.errors import TrainingError
from mtl.training import parallel
from mtl.training.checkpoints import from_json, random_state, to_json
from mtl.training.parallel import gather_json
from tests.support.ranks import unpickles_nothing

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A group of one process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("value", [None, True, "a", "ä\n", [1, 0.1, 1e-300], {"a": [None]}, ""])
def test_what_is_gathered_arrives_as_it_was(group: None, value: object) -> None:
    with unpickles_nothing():
        assert gather_json(value, torch.device("cpu")) == [value]


def test_a_path_arrives_as_a_string(group: None) -> None:
    assert gather_json(Path("a/b"), torch.device("cpu")) == [str(Path("a/b"))]


def test_a_random_state_survives_json() -> None:
    torch.randn(3)
    state = random_state()
    state["cuda"] = [torch.arange(16, dtype=torch.uint8)]  # as of a card
    state["mps"] = torch.arange(4, dtype=torch.uint8)
    arrived = from_json(json.loads(json.dumps(to_json(state))))
    (name, keys, *rest), (arrived_name, arrived_keys, *arrived_rest) = state.pop("numpy"), arrived.pop("numpy")
    assert (arrived_name, arrived_rest) == (name, rest)
    tensors = {"keys": keys, **state}
    torch.testing.assert_close({"keys": arrived_keys, **arrived}, tensors, rtol=0, atol=0)


def test_processes_with_other_rows_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    identity = {"rows": {"mood, train": "a"}, "weights": "b", "versions": {"torch": "2"}}
    monkeypatch.setattr(parallel, "gather_json", lambda own, _: [own, own])
    parallel.check_same_inputs(identity, torch.device("cpu"))
    monkeypatch.setattr(parallel, "gather_json", lambda own, _: [own, {**own, "rows": "another checksum"}])
    with pytest.raises(TrainingError) as caught:
        parallel.check_same_inputs(identity, torch.device("cpu"))
    assert str(caught.value) == (
        "Training: 1 problem\n"
        "  process 1 of 0 to 1\n"
        "      found:    other rows than in process 0\n"
        "      expected: the same data files, weights and versions on all machines"
    )
