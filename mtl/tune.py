"""``python -m mtl.tune``: search for good settings on your data, by validation, and test the best ones once."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from mtl.base import cli, schema
from mtl.base.errors import ConfigError, Problem, Terminated, printable
from mtl.base.files import obstacle
from mtl.base.run_folder import is_in_use
from mtl.base.schema import Count, Name, Number
from mtl.tuning.space import read_space

USAGE = """
usage: python -m mtl.tune [space=NAME] [trials=N] [minutes=M] [ARGUMENT …]

  ARGUMENT …          those of every trial, as for python -m mtl.train: data=…, backbone=…, experiment=…, seed=…,
                      --config-dir; a key that is given is not tuned
  space=frozen        what is tuned: a file in conf/tune or in tune of --config-dir (frozen, full), or a path
  trials=N            how many trials in all; the same command continues a search (default: 50 if no minutes are given)
  minutes=M           how long this process starts trials
  cost=false          true: the time of training is a second objective; every trial that nothing cheaper beats is kept
  prune=true          stop a trial that is worse than the median of the others after as much training
  start=FOLDER        begin with the best trials of another search
  seeds=3             other seeds that the best settings, and those without tuning, are trained and tested with; 0: none
  output=FOLDER       the search's folder (default: outputs/tuning/<space>-<checksum>)
"""


@dataclass(config=schema.STRICT)
class Options:
    """The arguments that are not those of training."""

    space: Name = "frozen"
    trials: Count | None = None
    minutes: Annotated[float, Field(gt=0, le=1e6)] | None = None
    cost: bool = False
    prune: bool = True
    start: Name | None = None
    seeds: Annotated[Number, Field(le=100)] = 3
    output: Name | None = None


def main(arguments: Sequence[str]) -> None:
    """Check all arguments and the search space, run trials until the budget is spent, then end the search."""
    own = [word for word in arguments if word.partition("=")[0] in schema.keys(Options) or word in ("-h", "--help")]
    options = cli.parse(Options, own, USAGE)
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError(
            Problem("optuna", "not installed", "optuna, which draws the trials", "pip install 'mtl[tune]'")
        )
    space = read_space(options.space, [word for word in arguments if word not in own])

    with cli.large_imports():  # torch is imported after the checks
        from mtl.training.inputs import load_inputs
        from mtl.training.jobs import identity_of
        from mtl.tuning.outcome import finish
        from mtl.tuning.search import Search

    assert space.base.first is not None, "a space has jobs"  # noqa: S101
    load_inputs(space.base.first)  # a problem would fail every trial
    searched = {key: asdict(distribution) for key, distribution in space.distributions.items()}
    content = json.dumps([identity_of(space.base.first), searched, options.cost])
    identity = hashlib.sha256(content.encode()).hexdigest()[:6]
    folder = Path(options.output) if options.output else Path("outputs") / "tuning" / f"{space.name}-{identity}"
    if reason := obstacle(folder):
        raise ConfigError(Problem("output", f"{folder}, and {reason}", "a folder that can be made"))
    search = Search(folder, space, costs=options.cost, prunes=options.prune)
    search.begin(identity, None if options.start is None else Path(options.start))
    trials = 50 if options.trials is None and options.minutes is None else options.trials
    print(printable(f"search {folder}: {len(search.ended())} trials so far"))
    try:
        search.run(trials, None if options.minutes is None else 60 * options.minutes)
        if search.running or is_in_use(folder / "final"):
            print("other processes are still at work: the last one ends the search, or the same command")
        else:
            finish(search, options.seeds)
    except (KeyboardInterrupt, Terminated):
        print("the same command continues the search", flush=True)
        raise


if __name__ == "__main__":
    cli.run(main)
