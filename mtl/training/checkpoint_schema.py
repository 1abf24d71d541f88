"""The content of a resume point as a typed model: validated when read, then compared with the run.

A checksum shows that a file is unchanged, not that this run can resume from it. The model is what every resume point
has; `check_fits` compares the rest with what the run itself would save before its first step: weights, optimizer, loops
and callbacks.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, NotRequired

import lightning
import numpy as np
import torch
from packaging.version import InvalidVersion, Version
from pydantic import AfterValidator, ConfigDict, Field, InstanceOf, TypeAdapter, ValidationError, with_config
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import TypedDict

from mtl.base.errors import ModelError, Problem, listed
from mtl.training.checkpoints import read_checkpoint, versions

if TYPE_CHECKING:
    from pathlib import Path

    import lightning.pytorch as pl
    from pydantic_core import ErrorDetails

    from mtl.data.order import StepSampler
    from mtl.training.module import MultiTaskModule

_STRICT: Final = ConfigDict(strict=True, arbitrary_types_allowed=True)
Count = Annotated[int, Field(ge=0)]
Word = Annotated[str, Field(pattern=r"^[\w.+-]{1,64}$")]
"""A version, which is printed and so must not hold terminal escape sequences."""


def _restorable(state: dict[str, Any]) -> dict[str, Any]:
    """Check a saved random state by loading it into new generators."""
    try:
        version, numbers, gauss = state["python"]
        name, keys, *rest = state["numpy"]
        random.Random().setstate((version, tuple(numbers), gauss))  # noqa: S311 - not a secret
        np.random.RandomState().set_state((name, keys.numpy().astype(np.uint32), *rest))
        torch.Generator().set_state(state["torch"])
    except Exception as error:  # noqa: BLE001 - generators raise errors of many types
        raise ValueError(f"the state of random generators ({error})") from None
    return state


def _of_this_lightning(version: str) -> str:
    """Check that a version differs from the installed Lightning in its patch at most: the loops' states may differ."""
    here = Version(lightning.__version__)
    try:
        release = Version(version).release
    except InvalidVersion:
        release = ()
    if release[:2] != here.release[:2]:
        raise ValueError(f"a version {here.major}.{here.minor} of Lightning")
    return version


class Inputs(TypedDict):
    """See `mtl.training.fingerprint`."""

    config: dict[str, Any]
    files: dict[str, str]
    rows: dict[str, str]
    weights: str
    versions: dict[Word, Word]


class Random(TypedDict):
    """The random generators of a process, see `mtl.training.checkpoints`."""

    python: list[Any]
    numpy: list[Any]
    torch: InstanceOf[Tensor]
    cuda: list[InstanceOf[Tensor]]
    mps: NotRequired[InstanceOf[Tensor] | None]


class Own(TypedDict):
    """What Lightning leaves out, see `ResumePoints.on_save_checkpoint`."""

    inputs: Inputs
    random: Annotated[list[Annotated[Random, AfterValidator(_restorable)]], Field(min_length=1)]
    should_stop: bool
    log_rows: Count
    activations: NotRequired[dict[str, str]]


class OptimizerState(TypedDict):
    """The state of an optimizer by the number of the parameter, and its groups."""

    state: dict[int, dict[str, InstanceOf[Tensor]]]
    param_groups: list[dict[str, Any]]


class Loops(TypedDict):
    """The state of Lightning's loops."""

    fit_loop: dict[str, Any]


ResumePoint = TypedDict(
    "ResumePoint",
    {
        "epoch": Count,
        "global_step": Count,
        "pytorch-lightning_version": Annotated[Word, AfterValidator(_of_this_lightning)],
        "state_dict": dict[str, InstanceOf[Tensor]],
        "loops": Loops,
        "callbacks": dict[str, dict[str, Any]],
        "optimizer_states": Annotated[list[OptimizerState], Field(min_length=1, max_length=1)],
        "lr_schedulers": Annotated[list[dict[str, Any]], Field(min_length=1, max_length=1)],
        "mtl": Own,
    },
)
_MODEL: Final = TypeAdapter(with_config(_STRICT)(ResumePoint))
_WEIGHTS: Final = TypeAdapter(dict[str, InstanceOf[Tensor]], config=_STRICT)


def validate(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Check that a checkpoint is a complete resume point; a `ModelError` names all wrong keys together."""
    _raise([*_invalid(_MODEL, checkpoint)], checkpoint, path)


def check_fits(path: Path, trainer: pl.Trainer, module: MultiTaskModule, sampler: StepSampler) -> None:
    """Check that a run can resume from a file that `validate` has accepted, before anything is loaded.

    Raises:
        ModelError: It cannot; all wrong keys together.
    """
    checkpoint = read_checkpoint(path, mapped=True)
    position = checkpoint["loops"]["fit_loop"].get("state_dict")
    position = position.get("combined_loader") if isinstance(position, Mapping) else None
    problems = [
        *_other_weights(checkpoint["state_dict"], module),
        *_unlike(checkpoint["loops"]["fit_loop"], trainer.fit_loop.state_dict(), "loops.fit_loop"),
        *_unlike(position, [sampler.state_dict()], "loops.fit_loop.state_dict.combined_loader"),
        *_optimizer_problems(checkpoint, module),
        *_callback_problems(checkpoint, trainer),
    ]
    guard = module.guard.state_dict()
    problems += _unlike(checkpoint.get("bad_steps", guard), guard, "bad_steps")
    _raise(problems, checkpoint, path)


def check_weights(checkpoint: Mapping[str, Any], module: MultiTaskModule, path: Path) -> None:
    """Check that a checkpoint of weights alone, such as the best one, belongs to this network, as `check_fits` does."""
    state = checkpoint.get("state_dict")
    problems = [
        Problem(f"state_dict{problem.place and '.'}{problem.place}", problem.found, problem.expected)
        for problem in _invalid(_WEIGHTS, state)
    ]
    _raise(problems or [*_other_weights(state or {}, module)], checkpoint, path)


def _raise(problems: Sequence[Problem], checkpoint: Mapping[str, Any], path: Path) -> None:
    repair = f"start the run again{_written_by(checkpoint)}"
    if problems:
        raise ModelError(
            Problem(f"{path}: {problem.place}", problem.found, problem.expected, repair)
            for problem in dict.fromkeys(problems)
        )


def _written_by(checkpoint: Mapping[str, Any]) -> str:
    """Return which other versions have written a checkpoint, as text; empty if none or unknown."""
    try:
        writers = TypeAdapter(dict[Word, Word]).validate_python(checkpoint["mtl"]["inputs"]["versions"])
    except (ValidationError, KeyError, TypeError):
        return ""
    here = versions()
    others = [f"{name} {version}" for name, version in writers.items() if here.get(name) != version]
    return f", or resume it with what has written it: {listed(others)}" if others else ""


def _invalid(model: TypeAdapter[Any], value: Any) -> Iterator[Problem]:
    try:
        model.validate_python(value)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            yield _problem(detail)


def _problem(detail: ErrorDetails) -> Problem:
    place = ascii(".".join(str(part) for part in detail["loc"]))[1:-1]
    if detail["type"] == "missing":
        return Problem(place, "nothing", "a value")
    expected = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return Problem(place, _shown(detail["input"]), expected[0].lower() + expected[1:])


def _shown(value: Any) -> str:
    """Return a short text for a value, without terminal escape sequences."""
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, str):
        return ascii(value[:60])
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, list | tuple | dict) else "")


def _other_weights(saved: Mapping[str, Any], module: MultiTaskModule) -> Iterator[Problem]:
    own = module.learning_state()
    for name in saved:
        if name not in own:
            yield Problem(f"state_dict.{ascii(name)[1:-1]}", _shown(saved[name]), "no such key in this run")
    yield from _unlike(saved, own, "state_dict")


def _unlike(saved: Any, own: Any, place: str) -> Iterator[Problem]:
    """Yield differences of form between a saved state and the run's own: keys, types, shapes, lengths."""
    match own:
        case None:
            return
        case Mapping():
            if not isinstance(saved, Mapping):
                yield Problem(place, _shown(saved), "keys with values")
                return
            for key, value in own.items():
                if key in saved:
                    yield from _unlike(saved[key], value, f"{place}.{key}")
                else:
                    yield Problem(f"{place}.{key}", "nothing", "a value")
        case list() | tuple():
            if not isinstance(saved, list | tuple) or (own and len(saved) != len(own)):
                yield Problem(place, _shown(saved), f"a list of {len(own)}" if own else "a list")
                return
            for number, value in enumerate(own):
                yield from _unlike(saved[number], value, f"{place}.{number}")
        case Tensor():
            if not isinstance(saved, Tensor) or (own.numel() and saved.shape != own.shape):
                yield Problem(place, _shown(saved), _shown(own) if own.numel() else "a tensor")
        case bool() | str():
            if not isinstance(saved, type(own)):
                yield Problem(place, _shown(saved), "a text" if isinstance(own, str) else "True or False")
        case int() | float():
            scalar = isinstance(saved, Tensor) and saved.numel() == 1
            if not scalar and (isinstance(saved, bool) or not isinstance(saved, int | float)):
                yield Problem(place, _shown(saved), "a number")


def _optimizer_problems(checkpoint: Mapping[str, Any], module: MultiTaskModule) -> Iterator[Problem]:
    configured: Any = module.configure_optimizers()
    optimizer: Optimizer = configured["optimizer"]
    scheduler = configured["lr_scheduler"]["scheduler"]
    saved = checkpoint["optimizer_states"][0]
    yield from _unlike(saved["param_groups"], optimizer.state_dict()["param_groups"], "optimizer_states.0.param_groups")
    yield from _unlike(checkpoint["lr_schedulers"], [scheduler.state_dict()], "lr_schedulers")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, state in saved["state"].items():
        place = f"optimizer_states.0.state.{number}"
        if not 0 <= number < len(parameters):
            yield Problem(place, f"parameter {number}", f"parameters 0 to {len(parameters) - 1}")
            continue
        moment = parameters[number].detach()
        yield from _unlike(state, {"step": 0.0, "exp_avg": moment, "exp_avg_sq": moment}, place)


def _callback_problems(checkpoint: Mapping[str, Any], trainer: pl.Trainer) -> Iterator[Problem]:
    """Yield what a callback of the run could not load; loading is tried on a copy of the callback."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        own, key = callback.state_dict(), callback.state_key
        if not own:
            continue
        saved, place = checkpoint["callbacks"].get(key), f"callbacks.{key.partition('{')[0]}"
        problems = [*_unlike(saved, own, place)] if saved is not None else [Problem(place, "nothing", "its state")]
        if not problems:
            try:
                copy.copy(callback).load_state_dict(copy.copy(saved))
            except Exception as error:  # noqa: BLE001 - any error would end the run later
                reason = ascii(f"{type(error).__name__}: {error}"[:100])[1:-1]
                problems = [Problem(place, f"a state that cannot be loaded ({reason})", "what this callback saved")]
        yield from problems
