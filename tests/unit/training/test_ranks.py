"""Which of several processes this one is, and what it does without the others."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import torch
import torch.distributed as dist

from mtl.base.errors import ConfigError
from mtl.training import ranks
from mtl.training.ranks import Group, LostPeersError, Process, for_processes, is_launched, of_launcher
from tests.support.runs import config

if TYPE_CHECKING:
    from pathlib import Path

VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_WORLD_SIZE")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Variables without a launcher, restored after the test with those that it sets."""
    for name in (*VARIABLES, *ranks.QUIET, "SLURM_NTASKS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


def test_a_launcher_of_one_process_is_none() -> None:
    """Also not where a job was given several processes, and its script starts one."""
    assert not is_launched({"WORLD_SIZE": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "8", "PMI_SIZE": ""})
    assert is_launched({"OMPI_COMM_WORLD_SIZE": "2"})


def test_the_variables_of_srun_become_those_of_torchrun(environment: pytest.MonkeyPatch) -> None:
    variables = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", "SLURM_PROCID": "3"}
    variables |= {"SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_NODELIST": "gpu[3-4]", "SLURM_JOB_ID": "120007"}
    for name, value in variables.items():
        environment.setenv(name, value)
    ranks._set_variables_of_torchrun([])
    assert ranks._process() == Process(rank=3, world_size=4, local_rank=1, local_size=2)
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("gpu3", "15007")


def test_a_number_of_processes_alone_is_no_launcher(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError) as caught:
        ranks.join(["data=files", "data.path=my file.csv"])
    assert str(caught.value) == (
        "Configuration: 1 problem\n"
        "  launcher\n"
        "      found:    WORLD_SIZE=2: one of several processes\n"
        "      expected: torchrun, srun, jsrun, mpirun with mpi4py, or the variables RANK, WORLD_SIZE, LOCAL_RANK, "
        "MASTER_ADDR, MASTER_PORT\n"
        "      repair:   for a single process: env -u WORLD_SIZE python -m mtl.train data=files "
        "'data.path=my file.csv'"
    )


@pytest.mark.parametrize(
    ("process", "overrides", "devices", "nodes"),
    [
        (Process(0, 2, 0, 2), [], 2, None),
        (Process(0, 4, 0, 2), [], 2, 2),
        (Process(0, 4, 0, 2), ["trainer=ddp", "+trainer.num_nodes=2"], 2, 2),
        (Process(0, 2, 0, 2), ["trainer.devices=[3,1]"], [3, 1], None),
        (Process(0, 4, 0, 1), [], 1, 4),
    ],
)
def test_the_launcher_gives_the_number_of_processes(
    process: Process, overrides: list[str], devices: object, nodes: int | None
) -> None:
    trainer = of_launcher(config(*overrides), process).trainer
    assert (trainer.devices, trainer.num_nodes) == (devices, nodes)


def test_another_number_of_processes_than_the_launcher_has_started() -> None:
    with pytest.raises(ConfigError) as caught:
        of_launcher(config("trainer.devices=3"), Process(0, 4, 0, 2))
    (problem,) = caught.value.problems
    assert (problem.place, problem.found) == ("trainer", "devices=3, num_nodes=1")
    assert problem.expected == "devices=2, num_nodes=2, as the launcher has started, or neither"


def test_what_excludes_several_processes_excludes_a_launcher() -> None:
    with pytest.raises(ConfigError) as caught:
        of_launcher(config("loss.combine=upgrad"), Process(0, 2, 0, 1))
    assert [problem.place for problem in caught.value.problems] == ["trainer.devices"]


def test_a_process_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ranks, "_TIMEOUT", timedelta(seconds=1))
    group = Group(Process(0, 2, 0, 2), dist.FileStore(str(tmp_path / "store"), 2))  # type: ignore[attr-defined]
    with pytest.raises(LostPeersError) as caught, group.joined(torch.device("cpu"), tmp_path):
        pass
    (problem,) = caught.value.problems
    assert problem.place == "process 0 of 0 to 1"
    assert problem.found.startswith("another one has ended or does not answer: ")
    assert problem.repair.endswith(f"resume={tmp_path}")


def test_other_errors_are_not_explained_by_the_other_processes(tmp_path: Path) -> None:
    group = Group(Process(), dist.FileStore(str(tmp_path / "store"), 1))  # type: ignore[attr-defined]
    with pytest.raises(ZeroDivisionError), group.joined(torch.device("cpu"), tmp_path):
        raise ZeroDivisionError
    assert not dist.is_initialized()


def test_a_run_is_resumed_in_another_number_of_processes_with_the_same_steps() -> None:
    before = config("trainer.devices=2", "data.batch_size=6", "data.max_tokens=300")
    after = for_processes(before, 3)
    assert (after.data.batch_size, after.data.max_tokens, after.trainer.devices) == (4, 200, 3)
    assert for_processes(before, 2) == for_processes(after, 2) == before
    with pytest.raises(ConfigError) as caught:
        for_processes(before, 5)
    assert str(caught.value) == (
        "Configuration: 1 problem\n"
        "  data.batch_size\n"
        "      found:    12 in 2 processes, 5 now\n"
        "      expected: a divisor of 12 processes"
    )
