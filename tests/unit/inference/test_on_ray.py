"""Making parts on a local Ray: the same outputs as in one process, whole, and continued after a failure."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mtl.base.errors import ConfigError, DataError, ModelError, Problem
from mtl.inference import on_ray
from mtl.inference.on_ray import engine, in_ray
from mtl.inference.workers import complete, in_processes
from tests.unit.inference.test_workers import content, finish, load, plan, source

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["source"]

needs_ray = [
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed"),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.slow,
]


def on_local_ray(test: object) -> object:
    for mark in needs_ray:
        test = mark(test)
    return test


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A local Ray with two processors, whatever this machine has."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80 * 2**20)
    yield
    ray.shutdown()


@on_local_ray
def test_actors_write_what_one_process_writes(source: Path, tmp_path: Path, cluster: None) -> None:
    finish(source, tmp_path / "whole")
    outputs, parts = plan(source, tmp_path / "out")
    line = complete(parts, outputs, load, device=None, processes=2, make=in_ray)
    assert line == f"11 sentences of 2 files -> {tmp_path / 'out'} (6 outputs)"
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    again = complete(parts, outputs, load, device="nowhere", processes=2, make=in_ray)
    assert again.endswith("(6 outputs, 6 of them finished before)")


@on_local_ray
def test_relative_paths_are_those_of_the_command(
    source: Path, tmp_path: Path, cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outputs, parts = plan(Path("in"), Path("out"))
    complete(parts, outputs, load, device=None, processes=None, make=in_ray)
    assert len(content(tmp_path / "out")) == 6 + 6 + 1


@on_local_ray
def test_what_is_finished_stays_when_a_part_fails(source: Path, tmp_path: Path, cluster: None) -> None:
    outputs, parts = plan(source, tmp_path / "out")
    with pytest.raises(ModelError) as error:
        complete(parts, outputs, partial(load, fails_at="a5"), device=None, processes=1, make=in_ray)
    assert [problem.place for problem in error.value.problems] == ["the encoder, a.txt-00002"]
    assert not outputs.has(parts[2])
    complete(parts, outputs, load, device=None, processes=2, make=in_ray)
    finish(source, tmp_path / "whole")
    left = [name for name in content(tmp_path / "out") if ".partial-" in name]  # actors are ended, and not unwound
    assert {name: text for name, text in content(tmp_path / "out").items() if name not in left} == content(
        tmp_path / "whole"
    )


@on_local_ray
def test_errors_of_a_model_and_of_a_file_are_those_of_one_process(source: Path, tmp_path: Path, cluster: None) -> None:
    outputs, parts = plan(source, tmp_path / "out")
    with pytest.raises(ModelError, match="a model"):
        complete(parts, outputs, partial(load, missing=True), device=None, processes=1, make=in_ray)
    assert not outputs.folder.exists()
    (source / "a.txt").write_text("shorter\n")
    with pytest.raises(DataError, match="changed after it was checked"):
        complete(parts, outputs, load, device=None, processes=1, make=in_ray)


@pytest.mark.parametrize(
    ("cluster_has", "nodes", "device", "processes", "expected"),
    [
        ({"CPU": 8.0}, 1, None, None, (1, {"num_cpus": 8.0})),
        ({"CPU": 8.0}, 2, "cpu", 3, (3, {"num_cpus": 2.0})),
        ({"CPU": 2.0}, 1, None, 4, (4, {"num_cpus": 0.5})),
        ({"CPU": 64.0, "GPU": 8.0}, 2, None, None, (8, {"num_cpus": 8.0, "num_gpus": 1.0})),
        ({"CPU": 64.0, "GPU": 2.0}, 2, "cuda", 4, (4, {"num_cpus": 16.0, "num_gpus": 0.5})),
        ({"CPU": 64.0, "GPU": 2.0}, 2, "cpu", None, (2, {"num_cpus": 32.0})),
    ],
)
def test_what_an_actor_holds_of_the_cluster(
    cluster_has: dict[str, float],
    nodes: int,
    device: str | None,
    processes: int | None,
    expected: tuple[int, dict[str, float]],
) -> None:
    assert on_ray._actors(cluster_has, nodes, device, processes, 100) == expected
    assert on_ray._actors(cluster_has, nodes, device, processes, 1)[0] == 1


def test_a_device_that_the_cluster_lacks() -> None:
    with pytest.raises(ConfigError) as error:
        on_ray._actors({"CPU": 8.0}, 1, "cuda", None, 4)
    assert error.value.problems == (Problem("device", "cuda", "cpu; the Ray cluster has 0 GPUs"),)


def test_ray_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine(None) is engine("processes") is in_processes
    monkeypatch.setattr(on_ray, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as error:
        engine("ray")
    expected = "processes of this machine, or ray with its package"
    assert error.value.problems == (
        Problem("engine", "ray, which is not installed", expected, "pip install 'mtl[ray]'"),
    )
