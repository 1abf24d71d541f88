"""Search spaces: files with distributions, checked with the arguments before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtl.base.errors import ConfigError, Problem
from mtl.base.files import CONF
from mtl.tuning.space import Choices, FloatRange, IntRange, SearchSpace, holds, read_space

RATE = "learning_rates.heads: {kind: float, low: 1e-3, high: 0.1, log: true}"
TINY = ["backbone=tiny"]


def space(folder: Path, *lines: str, arguments: str = "[]") -> Path:
    path = folder / "mine.yaml"
    path.write_text("\n".join([f"arguments: {arguments}", "search:", *(f"  {line}" for line in lines)]) + "\n")
    return path


def problems(path: Path, *arguments: str) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        read_space(str(path), [*TINY, *arguments])
    return list(caught.value.problems)


@pytest.mark.parametrize("file", sorted((CONF / "tune").glob("*.yaml")), ids=lambda file: file.stem)
def test_a_space_that_ships_starts_with_its_experiment(file: Path) -> None:
    found = read_space(file.stem, TINY)
    assert found.start.keys() == found.distributions.keys()
    config, _ = found.command.job(found.values(dict(found.start)))
    assert config == found.base.first


def test_what_a_space_has(tmp_path: Path) -> None:
    found = read_space(
        str(space(tmp_path, RATE, "freeze: {kind: categorical, choices: [none, backbone]}", arguments="[loss=dwa]")),
        [*TINY, "seed=3"],
    )
    assert found.name == "mine"
    assert found.distributions == {
        "learning_rates.heads": FloatRange("float", 0.001, 0.1, log=True),
        "freeze": Choices("categorical", ["none", "backbone"]),
    }
    assert found.start == {"freeze": "none"}  # the rate without tuning, 1e-4, is not in the space
    values = found.values({"learning_rates.heads": 0.002, "freeze": "backbone"})
    config, choices = found.command.job(values)
    assert (config.learning_rates.heads, config.freeze.backbone, config.seed) == (0.002, "all", 3)
    assert (choices["freeze"], choices["loss"]) == ("backbone", "dwa")


def test_a_key_that_is_given_is_not_tuned(tmp_path: Path) -> None:
    path = space(tmp_path, RATE, "seed_of: {kind: int, low: 1, high: 2}", arguments="[loss=dwa]")
    path.write_text(path.read_text().replace("seed_of", "trainer.max_epochs"))
    found: SearchSpace = read_space(str(path), [*TINY, "trainer.max_epochs=2", "loss=famo"])
    assert list(found.distributions) == ["learning_rates.heads"]
    assert found.arguments == [*TINY, "trainer.max_epochs=2", "loss=famo"]
    assert problems(path, "trainer.max_epochs=2", "learning_rates.heads=0.1") == [
        Problem(
            str(path),
            "all of learning_rates.heads, trainer.max_epochs given as arguments",
            "a key that is left to tune",
            "leave one of them out",
        )
    ]


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    path = space(
        tmp_path,
        "learning_rates.heads: {kind: float, low: 1e-3, high: 7}",
        "learning_rates.hads: {kind: float, low: 1e-3, high: 0.1}",
        "freeze: {kind: categorical, choices: [none, al]}",
        "trainer.max_epochs: {kind: int, low: 5, high: 2}",
        "data.batch_size: {kind: int, low: 0, high: 64, log: true}",
        "optimizer.weight_decay: {kind: flot, low: 0, high: 1}",
        "optimizer.warmup: {kind: float, low: 0.0, high: 0.5, lgo: true}",
        "seed: {kind: int, low: 1, high: 9}",
    )
    found = problems(path, "heads=big")
    places = [problem.place.removeprefix(f"{path}: ") for problem in found]
    assert places == [
        "search.trainer.max_epochs",
        "search.data.batch_size",
        "search.optimizer.weight_decay.kind",
        "search.optimizer.warmup.lgo",
        "search.seed",
        "heads",
    ]
    assert found[0].expected == "low below high"
    assert found[1].expected == "low above 0, which a logarithm needs"
    assert found[2].repair == "did you mean float?"
    assert found[3].repair == "did you mean search.optimizer.warmup.low?"
    again = problems(path)
    assert [problem.place.removeprefix(f"{path}: ") for problem in again][5:] == [
        "search.freeze",
        "search.learning_rates.hads",
        "search.learning_rates.heads",
    ]
    assert again[-1].found == "7.0"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("search: {seed", "not readable: "),
        ("- 1\n", "null"),
        ("search: {}\n", "{}"),
        ("search: {a: {kind: int, low: 1, high: 2}, a: {kind: int, low: 1, high: 2}}\n", "not readable: "),
    ],
)
def test_a_file_that_is_none(text: str, found: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert problems(path)[0].found.startswith(found)


def test_a_space_that_does_not_exist(tmp_path: Path) -> None:
    (tmp_path / "tune").mkdir()
    space(tmp_path / "tune", RATE)
    assert read_space("mine", [*TINY, "--config-dir", str(tmp_path)]).name == "mine"
    with pytest.raises(ConfigError) as caught:
        read_space("frozn", [*TINY, "--config-dir", str(tmp_path)])
    assert list(caught.value.problems) == [
        Problem(
            "space",
            "'frozn'",
            "frozen, full, mine, a file in the folder tune of --config-dir, or the path of a file",
            "did you mean frozen?",
        )
    ]


def test_which_values_a_distribution_holds() -> None:
    steps = FloatRange("float", 0.0, 0.5, step=0.1)
    assert [holds(steps, value) for value in (0, 0.3, 0.5, 0.25, 0.6, True, "0.3", None)] == [True] * 3 + [False] * 5
    whole = IntRange("int", 1, 9, step=4)
    assert [holds(whole, value) for value in (1, 5, 9, 3, 13, 5.0, True)] == [True] * 3 + [False] * 4
    words = Choices("categorical", ["a", 1, None])
    assert [holds(words, value) for value in ("a", 1, None, True, 1.0, "b")] == [True] * 3 + [False] * 3
