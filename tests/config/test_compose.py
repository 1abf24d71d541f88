"""Every configuration that ships composes and holds, and what it sets exists; nothing of it needs torch."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from mtl.base import schema
from mtl.base.files import CONF
from mtl.config.fields import Config
from mtl.config.short_forms import SECTIONS
from mtl.config.trainer import TrainerConfig
from tests.support.commands import outside
from tests.support.configs import GROUPS, compose_config

FILES = sorted(CONF.rglob("*.yaml"))
OURS = [file for file in FILES if file.parent.name not in ("hydra", "tune")]
CHOICES = [(group, name) for group, names in GROUPS.items() for name in names if name != "base" and group != "hydra"]
OPTIONS = {group: sorted(set(names) - {"base"}) for group, names in GROUPS.items()}
MATRIX = list(itertools.product(OPTIONS["freeze"], OPTIONS["learning_rates"], OPTIONS["trainer"]))
OWN_FILE = ["data=files", "++data.tasks.classification.path=a.csv", "++data.tasks.sentiment.path=b.csv"]
NEEDED = {("data", "files"): OWN_FILE[1:], ("experiment", "single_task"): ["task=sentiment"]}
"""What some options cannot do without."""
SET_BY_MTL = {
    "logger": "the group logger",
    "callbacks": "the group callbacks",
    "enable_checkpointing": "the group callbacks",
    "enable_progress_bar": "callbacks.progress",
    "enable_model_summary": "the table of parameter groups takes its place",
    "default_root_dir": "the run folder",
    "inference_mode": "nothing is gained by switching it off",
    "use_distributed_sampler": "the sampler shares rows among processes itself",
    "reload_dataloaders_every_n_epochs": "the loader is stateful and must not be made again",
    "limit_test_batches": "all test rows are always evaluated",
    "overfit_batches": "it takes apart loaders that ours is not; a small file does the same",
    "limit_predict_batches": "python -m mtl.predict predicts",
    "plugins": "objects, not values",
    "model_registry": "a service of Lightning's company",
    "enable_autolog_hparams": "the configuration is written by mtl",
    "barebones": "it logs nothing and saves nothing",
}
"""The parameters of Lightning's trainer that are no flags here, and why."""


def content(file: Path) -> dict[str, Any]:
    """Return what a file sets, without its defaults list."""
    values: Any = OmegaConf.to_container(OmegaConf.load(file))
    return {key: value for key, value in values.items() if key != "defaults"}


def leaves(values: Any, path: schema.Path = ()) -> list[schema.Path]:
    """Return the paths of the values that are set."""
    if isinstance(values, dict) and values:
        return [leaf for key, value in values.items() for leaf in leaves(value, (*path, key))]
    return [path]


def test_all_groups_are_tested() -> None:
    assert {"backbone", "data", "experiment", "freeze", "learning_rates", "trainer"} <= set(GROUPS)
    assert len(CHOICES) >= 30


@pytest.mark.parametrize(("group", "name"), CHOICES, ids=map("=".join, CHOICES))
def test_each_option_composes_alone(group: str, name: str) -> None:
    extra = NEEDED.get((group, name), [])
    backbone = [] if group == "backbone" else ["backbone=tiny"]
    assert isinstance(compose_config([*backbone, f"{group}={name}", *extra]), Config)


@pytest.mark.parametrize(("freeze", "rates", "trainer"), MATRIX)
def test_freezing_rates_and_trainers_go_together(freeze: str, rates: str, trainer: str) -> None:
    config = compose_config(
        [
            "backbone=tiny",
            f"freeze={freeze}",
            f"learning_rates={rates}",
            f"trainer={trainer}",
            "callbacks=early_stopping",
        ]
    )
    assert config.learning_rates.kind == rates.partition("_")[0]  # layerwise_fast is layerwise


@pytest.mark.parametrize("experiment", GROUPS["experiment"])
@pytest.mark.parametrize("data", [["data=reviews"], OWN_FILE], ids=["reviews", "files"])
def test_each_experiment_goes_with_other_choices(experiment: str, data: list[str]) -> None:
    choices = ["backbone=minilm", "heads=mlp", "trainer=debug", "logger=none"]
    config = compose_config([f"experiment={experiment}", *choices, *data, *NEEDED.get(("experiment", experiment), [])])
    assert config.trainer.limit_train_batches == 3
    assert config.heads.default.kind == "mlp"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CONF)))
def test_each_file_opens_with_a_comment(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    first = next(line for line in lines if not line.startswith("# @package"))
    assert first.startswith("# ")
    assert len(first) > len("# A few words")


def canonical(path: tuple[str, ...]) -> tuple[str, ...]:
    """A key in the schema's form: ``loss.sentiment.gamma`` is ``loss.tasks.sentiment.gamma``."""
    if len(path) < 2 or path[1] in SECTIONS.get(path[0], path):
        return path
    return (path[0], "tasks", *path[1:])


@pytest.mark.parametrize("file", OURS, ids=lambda file: str(file.relative_to(CONF)))
def test_each_key_that_a_file_sets_is_in_the_schema(file: Path) -> None:
    whole = file.parent == CONF or file.read_text(encoding="utf-8").startswith("# @package _global_")
    section: schema.Path = () if whole else (file.parent.name,)
    values = content(file)
    branch = values.get("kind")
    for path in leaves(values):
        if path[:1] == ("hydra",):
            continue
        full = canonical(tuple(map(str, (*section, *path))))
        known = [schema.keys(Config, full[:depth], branch=branch) for depth in range(len(full))]
        for key, allowed in zip(full, known, strict=True):
            assert not allowed or key in allowed, f"{file.relative_to(CONF)} sets {schema.key(full)}"


def test_each_field_of_the_schema_is_set_by_a_file_or_has_a_default() -> None:
    for section in dataclasses.fields(Config):
        assert section.default is dataclasses.MISSING, "one source for a default: the files"
    with_defaults = [
        field.name for field in dataclasses.fields(TrainerConfig) if field.default is not dataclasses.MISSING
    ]
    assert with_defaults == [field.name for field in dataclasses.fields(TrainerConfig)]


def test_trainer_flags_are_those_of_lightning() -> None:
    from lightning.pytorch import Trainer

    parameters = set(inspect.signature(Trainer.__init__).parameters) - {"self"}
    flags = {field.name for field in dataclasses.fields(TrainerConfig)}
    assert flags <= parameters
    assert parameters - flags == set(SET_BY_MTL)


WITHOUT_TORCH = """
import runpy, sys
code = 0
try:
    runpy.run_module(sys.argv[1], run_name="__main__", alter_sys=True)
except SystemExit as error:
    code = error.code
loaded = {"torch", "lightning", "transformers", "datasets", "sklearn"} & set(sys.modules)
assert not loaded, loaded
sys.exit(code)
"""


def without_torch(program: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program that must not import what is slow."""
    code = WITHOUT_TORCH.replace("sys.argv[1]", repr(program))
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=cwd, env=outside(), capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--help"], 0, "mtl.train resume="),
        (["--cfg", "job", "backbone=tiny"], 0, "max_epochs: 3"),
        (["trainer.max_epochs=x"], 2, "a whole number"),
        (["-m", "seed=1,x"], 2, "a whole number"),
    ],
    ids=["help", "cfg", "wrong", "wrong sweep"],
)
def test_showing_and_checking_need_no_torch(arguments: list[str], code: int, text: str, tmp_path: Path) -> None:
    done = without_torch("mtl.train", *arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert text in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("program", ["predict", "encode", "evaluate"])
def test_the_other_programs_show_their_help_without_torch(program: str, tmp_path: Path) -> None:
    done = without_torch(f"mtl.{program}", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: python -m mtl.{program} ")
    assert done.stderr == ""


def test_importing_the_package_imports_no_torch(tmp_path: Path) -> None:
    code = "import sys, mtl; assert not {'torch', 'lightning', 'transformers'} & set(sys.modules); print(mtl.__all__)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=outside(), capture_output=True, text=True, check=True)
    assert done.stdout == "['MtlError', 'MultiTaskModel', 'Prediction', 'Run', 'SentenceEncoder', 'train']\n"
