"""Errors as text for another process."""

from __future__ import annotations

import pytest

from mtl.base.errors import ConfigError, DataError, DiskError, ModelError, MtlError, Problem, TrainingError
from mtl.training.ranks import LostPeersError

PROBLEMS = [Problem("data.csv:3", "nothing", "a label", "fill it in"), Problem("größe\ud800", "\x1b[31m", "text")]


@pytest.mark.parametrize("kind", [MtlError, ConfigError, DataError, ModelError, TrainingError, DiskError])
def test_an_error_comes_back_with_its_kind_and_problems(kind: type[MtlError]) -> None:
    error = MtlError.from_json(kind(PROBLEMS).to_json())
    assert type(error) is kind
    assert error.problems == tuple(PROBLEMS)


def test_an_error_of_a_single_module_comes_back_as_the_kind_above_it() -> None:
    error = MtlError.from_json(LostPeersError(PROBLEMS).to_json())
    assert type(error) is TrainingError
    assert str(error) == str(TrainingError(PROBLEMS))
