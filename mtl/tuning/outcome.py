"""The end of a search: its best settings as a file, trained again with other seeds and tested, tables and a page."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import yaml
from omegaconf import OmegaConf
from optuna.trial import FrozenTrial, TrialState

from mtl.base.errors import DataError, Problem, printable
from mtl.base.files import CONF, write_text_atomically
from mtl.base.formatting import duration, score
from mtl.base.run_folder import in_use
from mtl.base.terminal import console
from mtl.comparison.comparing import Comparison, compare
from mtl.comparison.outputs import show, write
from mtl.config.composing import Source, compose
from mtl.reporting.tables import Cell, Table
from mtl.training.interface import logging_into
from mtl.training.jobs import JobRecord, identity_of, was_interrupted
from mtl.tuning.page import tuning_page
from mtl.tuning.search import Search, is_done, settings_of

TUNED = "tuned"
"""The experiment that has the best settings."""
_SHOWN = 10
_ENOUGH = 10
"""Completed trials from which importances mean something: Optuna compares the best tenth with all."""


def finish(search: Search, seeds: int) -> None:
    """End a search without running trials: test its best settings with other seeds, write and show what it found.

    Raises:
        DataError: No trial was completed.
        ConfigError: Another process is ending the search.
    """
    if not search.ranked:
        errors = [" ".join(trial.user_attrs["error"].split()) for trial in search.ended(TrialState.FAIL)]
        found = "; ".join(["no completed trial", *errors[:1]])
        raise DataError(Problem(str(search.folder), found, "completed trials", "give more trials= or minutes="))
    with in_use(search.folder / "final"):
        front = pareto_front(search)
        for path in (search.folder / "configurations" / "experiment").glob(f"{TUNED}_*.yaml"):
            path.unlink()  # of an earlier front
        for trial in front:
            name = TUNED if trial is front[0] else f"{TUNED}_{trial.number}"
            text = _experiment(search, trial)
            write_text_atomically(search.folder / "configurations" / "experiment" / f"{name}.yaml", text)
        comparison = _tested(search, front[0], seeds) if seeds else None
        tables = [trials_table(search, front, _SHOWN), *importance_tables(search)]
        page = tuning_page(search, front, [trials_table(search, front), *tables[1:]], comparison)
        write_text_atomically(search.folder / "tuning.html", page)
    out = console()
    if comparison is not None:
        show(comparison)
    for table in tables:
        out.print(table)
        out.print()
    settings = search.folder / "configurations" / "experiment" / f"{TUNED}.yaml"
    print(printable(f"page     {search.folder / 'tuning.html'}\nsettings {settings}\ntrain    {_command(search)}"))


def pareto_front(search: Search) -> list[FrozenTrial]:
    """Return the completed trials than which no other is better and cheaper, the best by validation first.

    Without cost as an objective that is the best trial alone.
    """
    if not search.costs:
        return search.ranked[:1]
    front: list[FrozenTrial] = []
    for trial in sorted(search.ranked, key=lambda trial: (-trial.values[0], trial.values[1])):
        if not front or trial.values[1] < front[-1].values[1]:
            front.append(trial)
    return front


def _experiment(search: Search, trial: FrozenTrial) -> str:
    """Return a file for ``conf/experiment`` with the settings of a trial, apart from the data files and the seed.

    It names what conf/ has and lists what differs from that.
    """
    source = search.space.command.source
    composed, choices = search.space.command.composed(search.space.values(trial.params))
    choices = {group: choice for group, choice in choices.items() if (CONF / group / f"{choice}.yaml").is_file()}
    chosen = compose([f"{group}={choice}" for group, choice in choices.items()], source)
    first = [choices.pop("experiment")] if "experiment" in choices else []
    usual = compose([f"experiment={name}" for name in first], Source((CONF,), "train")).hydra.runtime.choices
    overrides = [
        {f"override /{group}": choice}
        for group, choice in choices.items()
        if group != "data" and usual.get(group) != choice
    ]
    values = dict(_difference(OmegaConf.to_container(composed), OmegaConf.to_container(chosen)))
    data = {key: value for key, value in values.pop("data", {}).items() if key != "tasks"}
    values = {key: value for key, value in values.items() if key not in ("hydra", "seed", "study")}
    content = {"defaults": [*first, *overrides, "_self_"], **({"data": data} if data else {}), **values}
    return (
        f"# @package _global_\n# Trial {trial.number} of python -m mtl.tune space={search.space.name}: macro-F1 on "
        f"validation {trial.values[0]:.4f}, seed {search.base.seed}.\n{yaml.safe_dump(content, sort_keys=False)}"
    )


def _difference(values: Any, others: Any) -> Iterator[tuple[str, Any]]:
    """Yield the keys of nested values that others do not have, or with another value."""
    for key, value in values.items():
        if key not in others:
            yield key, value
        elif isinstance(value, Mapping) and isinstance(others[key], Mapping):
            if below := dict(_difference(value, others[key])):
                yield key, below
        elif value != others[key]:
            yield key, value


def _command(search: Search) -> str:
    """Return the command that trains with the best settings."""
    kept = ("data=", "data.tasks.", "seed=")
    words = [word for word in search.space.arguments if word.lstrip("+").startswith(kept)]
    folder, copying, source = search.folder / "configurations", "", search.space.command.source
    if len(source.folders) > 1:  # Hydra takes one folder of the user's own
        own, file = source.folders[1], folder / "experiment" / f"{TUNED}.yaml"
        copying = f"mkdir -p {shlex.quote(f'{own}/experiment')} && cp {shlex.quote(str(file))} $_ && "
        folder = own
    train = ["python", "-m", "mtl.train", "--config-dir", str(folder), f"experiment={TUNED}", *words]
    return copying + shlex.join(train)


def _tested(search: Search, best: FrozenTrial, seeds: int) -> Comparison:
    """Train the best settings and those without tuning with other seeds, and compare them on the test rows."""
    from mtl.training.run import train

    config, choices = search.space.command.job(search.space.values(best.params))
    jobs = {TUNED: (config, {**choices, "experiment": TUNED})}
    if (untuned := search.untuned) is None or untuned.number != best.number:
        jobs["untuned"] = search.space.base.job({})
    folders: list[Path] = []
    for seed in range(search.base.seed + 1, search.base.seed + 1 + seeds):
        for name, (config, choices) in jobs.items():
            config = replace(config, seed=seed)
            folder, identity = search.folder.absolute() / "final" / f"{name}-seed-{seed}", identity_of(config)
            folders.append(folder)
            if is_done(folder, identity):
                continue
            print(printable(f"training {name} with seed {seed}, to test it: {folder}"), flush=True)
            started = time.perf_counter()
            with in_use(folder), logging_into(folder, shown=False):
                train(config, folder, choices, resume=was_interrupted(folder, config))
            JobRecord("done", identity, time.perf_counter() - started).write(folder)
    comparison = compare(folders)
    write(search.folder / "final", comparison)
    return comparison


def trials_table(search: Search, front: Sequence[FrozenTrial], most: int | None = None) -> Table:
    """Return the completed trials, the best first, with the values of the tuned keys."""
    trials = search.ranked
    rows: list[list[Cell | str]] = [
        [
            settings_of(trial),
            Cell(str(trial.number), trial.number),
            Cell(f"{trial.values[0]:.4f}", trial.values[0]),
            Cell(duration(trial.user_attrs["seconds"]), trial.user_attrs["seconds"]),
        ]
        for trial in trials[:most]
    ]
    states = {"stopped early": TrialState.PRUNED, "failed": TrialState.FAIL}
    counts = [f"{len(trials)} completed", *(f"{len(search.ended(state))} {name}" for name, state in states.items())]
    best = {trial.number for trial in front}
    return Table(
        "Trials",
        ["settings", "trial", "validation", "time"],
        rows,
        f"validation: macro-F1, mean of the tasks, seed {search.base.seed}; time: with an empty cache. "
        f"{', '.join(counts)}.",
        styles={at: "best" for at, trial in enumerate(trials[:most]) if trial.number in best},
    )


def importance_tables(search: Search) -> Iterator[Table]:
    """Yield how much each tuned key decides whether a trial is among the best; nothing with too few trials."""
    if len(search.ranked) < _ENOUGH or len({trial.values[0] for trial in search.ranked}) < 2:
        return
    target = (lambda trial: -trial.values[0]) if search.costs else None  # Optuna takes lower targets for better ones
    found = optuna.importance.get_param_importances(search.study, target=target)
    rows: list[list[Cell | str]] = [[key, Cell(score(value), value)] for key, value in found.items()]
    note = "PED-ANOVA: how much the values of the best tenth of the trials differ from those of all, as shares."
    yield Table("Importance", ["key", "importance"], rows, note)
