"""Command lines before Hydra runs them: every job composed and checked, all problems in one message."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore

from mtl.base.errors import ConfigError, Problem
from mtl.base.files import CONF
from mtl.config import command_line
from mtl.config.command_line import check_command_line
from tests.support.configs import compose_config

COMPOSED_OF = "what conf/ and the arguments can be composed of"
FREEZE = "all, backbone, classification_head, gradual, lora, lower_layers, none, sentiment_head"
RATE = "less than or equal to 1"


def problems(*arguments: str) -> list[Problem]:
    """Return the problems of a command line."""
    with pytest.raises(ConfigError) as caught:
        check_command_line(arguments)
    return list(caught.value.problems)


def places(*arguments: str) -> list[str]:
    return [problem.place for problem in problems(*arguments)]


def handed_on(*arguments: str) -> tuple[list[str], bool]:
    """Return what Hydra gets of a command line, and whether it is a sweep."""
    command = check_command_line(arguments)
    return command.arguments, command.multirun


def folder(path: Path, **files: str) -> Path:
    """Return a folder for --config-dir with these files; ``data__mine`` is data/mine.yaml."""
    for name, text in files.items():
        file = path / f"{name.replace('__', '/')}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return path


MINE = "# Mine.\ndefaults: [base, _self_]\ntasks: {topic: {path: /tmp/topics.csv}}\n"


def test_arguments_are_handed_on_with_their_keys_forced() -> None:
    given = ["backbone=tiny", "trainer.max_epochs=2", "+trainer.profiler=simple", "~trainer.gradient_clip_val"]
    expected = ["backbone=tiny", "++trainer.max_epochs=2", "++trainer.profiler=simple", "~trainer.gradient_clip_val"]
    assert handed_on(*given) == (expected, False)


def test_a_sweep_is_handed_on_as_one() -> None:
    expected = ["-m", "freeze=classification_head,sentiment_head", "++seed=1,2"]
    assert handed_on("-m", "freeze=glob(*_head)", "seed=1,2") == (expected, True)


def test_flags_may_stand_anywhere(tmp_path: Path) -> None:
    own = str(folder(tmp_path, data__mine=MINE))
    expected = ["-m", "--config-dir", own, "backbone=tiny", "++seed=1,2", "data=mine"]
    assert handed_on("backbone=tiny", "-m", "seed=1,2", "--config-dir", own, "data=mine") == (expected, True)


@pytest.mark.parametrize("flag", [["--help"], ["-h"], ["--hydra-help"], ["--info", "all"]])
def test_what_only_shows_something_is_not_checked(flag: list[str]) -> None:
    assert check_command_line([*flag, "nonsense"]).arguments == [*flag, "nonsense"]


def test_showing_the_configuration_checks_it() -> None:
    assert check_command_line(["--cfg", "job"]).arguments == ["--cfg", "job"]
    assert places("--cfg", "job", "seed=x") == ["seed"]


@pytest.mark.parametrize("prefix", ["", "+", "++"])
def test_a_group_is_chosen_with_or_without_plus(prefix: str) -> None:
    assert check_command_line([f"{prefix}experiment=all_frozen"]).arguments == ["experiment=all_frozen"]
    assert problems(f"{prefix}freeze=al") == [Problem("freeze", "'al'", FREEZE, "did you mean all?")]


@pytest.mark.parametrize("prefix", ["", "+", "++"])
def test_a_key_that_no_file_mentions_is_taken_if_the_schema_knows_it(prefix: str) -> None:
    check_command_line([f"{prefix}trainer.accumulate_grad_batches=2"])
    found = problems(f"{prefix}trainer.accumulate_grad_batch=2")
    assert [(each.place, each.found, each.repair) for each in found] == [
        ("trainer.accumulate_grad_batch", "an unknown key", "did you mean trainer.accumulate_grad_batches?")
    ]


@pytest.mark.parametrize(
    ("argument", "problem"),
    [
        ("~seed", Problem("seed", "nothing", "a value", "give seed=…")),
        ("~freeze", Problem("freeze", "nothing", "a value", "give freeze=…")),
        ("~nothing", Problem("configuration", "Could not delete from config. 'nothing' does not exist.", COMPOSED_OF)),
        (
            "~trainer.max_epochs",
            Problem("trainer.max_epochs", "null", "an end: max_epochs or max_steps", "give trainer.max_epochs=3"),
        ),
        ("seed=???", Problem("seed", "no value (???)", "a value that can be resolved", "give seed=…")),
        (
            "seed=${nowhere}",
            Problem("seed", "Interpolation key 'nowhere' not found", "a value that can be resolved", "give seed=…"),
        ),
        (
            "seed=${nowhere:1}",
            Problem("seed", "Unsupported interpolation type nowhere", "a value that can be resolved", "give seed=…"),
        ),
        (
            "seed=${oc.env:MTL_NOT_SET}",
            Problem(
                "seed",
                "KeyError raised while resolving interpolation: \"Environment variable 'MTL_NOT_SET' not found\"",
                "a value that can be resolved",
                "give seed=…",
            ),
        ),
        ("loss.weights=[1]", Problem("loss.weights", "a list", "keys with values")),
        ("optimizer.betas={a:1}", Problem("optimizer.betas", "keys with values", "a list")),
        (
            "hydra.nothing=1",
            Problem(
                "configuration",
                "Could not override 'hydra.nothing'. To append to your config use +hydra.nothing=1",
                COMPOSED_OF,
            ),
        ),
        (
            "hparams_search=learning_rates",
            Problem(
                "hydra.sweeper.params",
                "a sweep over learning_rates.heads, learning_rates.upper",
                "-m with a sweep",
                "add -m, or leave out what sweeps: hparams_search, or an experiment of several jobs",
            ),
        ),
        (
            "hydra.run.dir=/dev/null/run",
            Problem("hydra.run.dir", "/dev/null/run, and /dev/null is a file", "a folder that can be made"),
        ),
    ],
)
def test_an_argument_that_cannot_be_composed_or_does_not_hold(argument: str, problem: Problem) -> None:
    assert problems(argument) == [problem]


def test_the_problems_of_all_arguments_come_together() -> None:
    given = [
        "freeze=al",
        "seed",
        "trainer.max_epochs=1,2",
        "backbone=tiny",
        "data.batch_size=0",
        "learning_rates.top=1",
    ]
    assert places(*given) == ["seed", "freeze", "trainer.max_epochs", "data.batch_size", "learning_rates.top"]


def test_nothing_is_said_of_keys_below_a_wrong_choice() -> None:
    assert places("freeze=gradul", "freeze.gradual.start=2") == ["freeze"]


def test_the_last_of_two_choices_does_not_hide_the_first() -> None:
    assert problems("freeze=al", "freeze=none") == [Problem("freeze", "'al'", FREEZE, "did you mean all?")]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["learning_rates.heads=1e-4,1e-3,5"], Problem("learning_rates.heads", "5", RATE)),
        (["seed=1,2", "learning_rates.heads=1e-4,5"], Problem("learning_rates.heads", "5", RATE)),
        (["freeze=none,all,al"], Problem("freeze", "'al'", FREEZE, "did you mean all?")),
        (["seed=range(-1,3)"], Problem("seed", "-1", "greater than or equal to 0")),
        (["seed=choice(1,a)"], Problem("seed", "'a'", "a whole number")),
        (
            ["hparams_search=learning_rates", "learning_rates=decay"],
            Problem("learning_rates.upper", "an unknown key", "kind, heads, lora, top, factor"),
        ),
        (
            ["hydra.sweep.dir=/dev/null/runs"],
            Problem("hydra.sweep.dir", "/dev/null/runs, and /dev/null is a file", "a folder that can be made"),
        ),
    ],
)
def test_a_fault_of_any_job_is_found_before_the_first(arguments: list[str], problem: Problem) -> None:
    assert problems("-m", "backbone=tiny", *arguments) == [problem]


def test_the_values_of_a_sweep_in_a_file_are_checked(tmp_path: Path) -> None:
    search = (
        "# @package _global_\nhydra:\n  sweeper:\n    params:\n      seed: 1,2,x\n      learning_rates.heads: 1e-4,7\n"
    )
    own = folder(tmp_path, hparams_search__mine=search)
    arguments = ["-m", "--config-dir", str(own), "hparams_search=mine"]
    assert problems(*arguments) == [
        Problem("seed", "'x'", "a whole number"),
        Problem("learning_rates.heads", "7", RATE),
    ]
    assert places(*arguments, "seed=3") == ["learning_rates.heads"]  # an argument goes before the file


def test_a_key_that_a_file_sweeps_is_not_forced() -> None:
    command = check_command_line(["-m", "hparams_search=learning_rates", "learning_rates.heads=1e-5", "seed=1"])
    assert command.arguments == ["-m", "hparams_search=learning_rates", "learning_rates.heads=1e-5", "++seed=1"]


def test_quoted_texts_arrive_as_they_are() -> None:
    name = "résumé (1), ~ & 'co'.csv"
    config = compose_config(["backbone=tiny", f'data.tasks.sentiment.train="{name}"'])
    assert config.data.tasks["sentiment"].train == name


def test_numeric_labels_arrive_as_texts() -> None:
    config = compose_config(["backbone=tiny", "data=files", "++data.tasks.stars={path: a.csv, labels: [1, 2, 3]}"])
    assert config.data.tasks["stars"].labels == ["1", "2", "3"]


@pytest.mark.parametrize("name", ["mine", "my configs (é), v2", "it's"])
def test_a_folder_of_the_user_adds_options(name: str, tmp_path: Path) -> None:
    own = folder(tmp_path / name, data__mine=MINE)
    given = ["--config-dir", str(own), "data=mine", "backbone=tiny"]
    assert check_command_line(given).arguments == given
    assert compose_config(["data=mine"], (CONF, own)).data.tasks["topic"].path == "/tmp/topics.csv"  # noqa: S108
    assert problems("--config-dir", str(own), "data=mien") == [
        Problem("data", "'mien'", "files, mine, reviews", "did you mean mine?")
    ]


def test_what_is_wrong_in_a_chosen_file_of_the_user(tmp_path: Path) -> None:
    wrong = "# @package _global_\nnothing: 1\ntrainer: {max_epoch: 3}\nseed: x\n"
    own = folder(tmp_path, experiment__mine=wrong, data__broken="tasks: {a: [b\n", data__list="- a\n")
    flag = ["--config-dir", str(own)]
    assert places(*flag, "experiment=mine") == ["seed", "trainer.max_epoch", "nothing"]
    assert problems(*flag, "data=list") == [Problem("data", "['a']", "keys with values")]
    assert problems(*flag, "data=broken") == [
        Problem(
            "configuration",
            f"while parsing a flow sequence in \"{own}/data/broken.yaml\", line 1, column 12 expected ',' or ']', "
            f"but got '<stream end>' in \"{own}/data/broken.yaml\", line 2, column 1",
            COMPOSED_OF,
        )
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "  - override /freze: all\n",
            "In 'experiment/mine': Could not override 'freze'. No match in the defaults list.",
        ),
        ("  - override /freeze: al\n", "Could not find 'freeze/al'"),
    ],
)
def test_a_wrong_defaults_list_of_the_user(text: str, found: str, tmp_path: Path) -> None:
    own = folder(tmp_path, experiment__mine=f"# @package _global_\ndefaults:\n{text}")
    problem = problems("--config-dir", str(own), "experiment=mine")[0]
    assert (problem.place, problem.expected) == ("configuration", COMPOSED_OF)
    assert found in problem.found


def test_a_folder_of_the_user_that_cannot_be_used(tmp_path: Path) -> None:
    missing, file = tmp_path / "missing", tmp_path / "file"
    file.touch()
    expected = "a folder with your own files, in groups as in conf/"
    assert problems("--config-dir", str(missing)) == [
        Problem("--config-dir", f"{missing}: there is no folder {missing}", expected)
    ]
    assert problems("--config-dir", str(file)) == [Problem("--config-dir", f"{file}: a file", expected)]


def test_files_of_the_user_that_would_not_be_read(tmp_path: Path) -> None:
    own = folder(tmp_path, freeze__none="# Mine.\n", train="# Mine.\n")
    (own / "data").mkdir()
    (own / "data" / "latin.yaml").write_bytes("tasks: {café: {path: a.csv}}\n".encode("latin-1"))
    reason = "'utf-8' codec can't decode byte 0xe9 in position 11: invalid continuation byte"
    assert problems("--config-dir", str(own)) == [
        Problem(f"{own}/data/latin.yaml", f"not readable: {reason}", "a YAML file in UTF-8"),
        Problem(
            f"{own}/freeze/none.yaml",
            "a file that conf/ has too: conf/freeze/none.yaml would be taken",
            "a name of its own",
        ),
        Problem(f"{own}/train.yaml", "a file that conf/ has too: conf/train.yaml would be taken", "a name of its own"),
    ]


def test_a_group_of_the_user_needs_a_plus(tmp_path: Path) -> None:
    own = folder(tmp_path, extra__fast="# @package _global_\ntrainer: {max_epochs: 1}\n")
    flag = ["--config-dir", str(own)]
    assert check_command_line([*flag, "+extra=fast"]).arguments == [*flag, "+extra=fast"]
    assert problems(*flag, "extra=fast") == [
        Problem(
            "configuration",
            "Could not override 'extra'. No match in the defaults list. To append to your default list use +extra=fast",
            COMPOSED_OF,
        )
    ]


def test_flags_of_hydra_that_make_no_sense_here() -> None:
    assert problems("--config-path", "x", "--config-name", "trian", "--experimental-rerun", "y") == [
        Problem("--config-path", "x", "this flag left out", "--config-dir adds a folder of yours to conf/"),
        Problem(
            "--experimental-rerun", "y", "this flag left out", "give the arguments in the run's .hydra/overrides.yaml"
        ),
        Problem("--config-name", "'trian'", "train", "did you mean train?"),
    ]


@pytest.mark.parametrize("option", [["--run"], ["--cfg", "hydra"], ["--info"], ["--shell-completion"]])
def test_what_hydra_shows_of_one_job_is_refused_for_a_sweep(option: list[str]) -> None:
    (problem,) = problems("-m", "seed=1,2", *option)
    assert (problem.place, problem.found, problem.repair) == ("-m", f"beside {option[0]}", "leave out -m")


@pytest.mark.parametrize("arguments", [["--nonsense"], ["-x"], ["--cfg", "nonsense"], ["--config-dir"]])
def test_an_unknown_flag_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        check_command_line(arguments)
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


INTENT = "data.tasks.intent.path=intents.csv"


def test_the_head_of_any_task_can_be_frozen_by_its_name() -> None:
    command = check_command_line(["data=files", INTENT, "freeze=intent_head"])
    assert command.first is not None
    assert command.first.freeze == compose_config(["data=files", f"++{INTENT}", "freeze.heads=[intent]"]).freeze
    sweep = check_command_line(["-m", "data=files", INTENT, "freeze=all,intent_head"])
    assert sweep.job({"freeze": "intent_head"})[0].freeze.heads == ["intent"]


def test_the_head_of_a_task_that_is_not_there() -> None:
    expected = Problem("freeze.heads", "the task 'intnt'", "intent", "did you mean intent?")
    assert problems("data=files", INTENT, "freeze=intnt_head") == [expected]


@pytest.mark.parametrize("key", ["intent.path", "intent.train", "sentiment.train", "sentiment.test"])
def test_files_of_ones_own_do_not_join_the_demo_data_unasked(key: str) -> None:
    task = key.partition(".")[0]
    argument = f"data.tasks.{key}=a.csv"
    found = "a.csv, beside the demo data that conf/data/reviews.yaml gives by default"
    expected = "data=files for tasks of your own alone, or data=reviews to train them with the demo tasks"
    assert problems(argument) == [Problem(f"data.tasks.{task}", found, expected, "add data=files")]
    command = check_command_line([argument, "data=reviews"])
    assert command.first is not None
    assert set(command.first.data.tasks) == {"classification", "sentiment", task}


@pytest.mark.parametrize(
    "arguments", [["data.tasks.sentiment.oversample=0.5"], [INTENT, "task=intent"], [INTENT, "data=files"]]
)
def test_what_adds_nothing_to_the_demo_data_is_taken(arguments: list[str]) -> None:
    assert check_command_line(arguments).first is not None


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("hydra: {callbacks: {mine: {_target_: os.system}}}\n", "hydra.callbacks"),
        ("hydra: {job_logging: {formatters: {x: {(): os.getcwd}}}}\n", "hydra.job_logging"),
        ("hydra: {hydra_logging: {handlers: {x: {class: os.abort}}}}\n", "hydra.hydra_logging"),
        ("hydra: {launcher: {_target_: subprocess.Popen}}\n", "hydra.launcher._target_"),
        ("hydra: {sweeper: {_target_: subprocess.Popen}}\n", "hydra.sweeper._target_"),
    ],
)
def test_a_file_of_the_user_has_hydra_run_nothing(text: str, key: str, tmp_path: Path) -> None:
    own = folder(tmp_path, experiment__mine=f"# @package _global_\n{text}")
    assert places("--config-dir", str(own), "experiment=mine") == [key]


def test_a_search_path_of_the_user_is_not_followed(tmp_path: Path) -> None:
    own = folder(tmp_path, mine="defaults: [train]\nhydra: {searchpath: [pkg://antigravity]}\n")
    assert problems("--config-dir", str(own), "--config-name", "mine")[0] == Problem(
        f"{own}/mine.yaml: searchpath",
        "a search path, which can import Python packages",
        "one folder of your own",
        "give it with --config-dir",
    )


def test_what_a_file_of_the_user_may_say_to_hydra(tmp_path: Path) -> None:
    text = "# @package _global_\nhydra: {run: {dir: elsewhere}, sweeper: {params: {seed: '1,2'}}}\n"
    own = folder(tmp_path, experiment__mine=text)
    assert check_command_line(["-m", "--config-dir", str(own), "experiment=mine", "backbone=tiny"]).multirun


def test_an_experiment_without_its_package_is_named(tmp_path: Path) -> None:
    own = folder(tmp_path, experiment__mine="trainer: {max_epochs: 1}\n")
    assert problems("--config-dir", str(own), "backbone=tiny")[0] == Problem(
        f"{own}/experiment/mine.yaml",
        "no line `# @package _global_`: its keys would stand below experiment, where nothing reads them",
        "that line, as in conf/experiment",
        "put it before everything else",
    )


INTERVAL = "learning_rates.heads=interval(0.001,0.1)"


def test_the_sweeper_of_hydra_takes_no_interval(tmp_path: Path) -> None:
    text = "# @package _global_\nhydra: {sweeper: {params: {learning_rates.heads: 'interval(0.001,0.1)'}}}\n"
    own = folder(tmp_path, hparams_search__mine=text)
    expected = Problem(
        "learning_rates.heads",
        "interval(0.001,0.1)",
        "values, or range(first, last, step): Hydra's own sweeper takes no interval",
        "python -m mtl.tune searches intervals: docs/tune.md",
    )
    assert problems("-m", INTERVAL, "backbone=tiny") == [expected]
    assert problems("-m", "--config-dir", str(own), "hparams_search=mine", "backbone=tiny") == [expected]


@pytest.fixture
def sweeper() -> Iterator[None]:
    """Another sweeper than Hydra's, named ``optuna``."""
    store = ConfigStore.instance()
    store.store(
        "optuna",
        {"_target_": "hydra_plugins.some.Sweeper", "sampler": {"_target_": "optuna.samplers.X"}},
        group="hydra/sweeper",
    )
    yield
    store.repo["hydra"]["sweeper"].pop("optuna.yaml")


def test_other_sweepers_take_intervals_whose_ends_are_checked(sweeper: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_line, "version", lambda name: "2.10.1")
    chosen = ["-m", "hydra/sweeper=optuna", "backbone=tiny"]
    assert f"++{INTERVAL}" in check_command_line([*chosen, INTERVAL]).arguments
    (problem,) = problems(*chosen, "learning_rates.heads=interval(0.001,7)")
    assert (problem.place, problem.found, problem.expected) == ("learning_rates.heads", "7.0", RATE)


def test_the_sweeper_of_optuna_needs_an_old_optuna(sweeper: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_line, "version", lambda name: "5.0.0")
    assert problems("-m", "hydra/sweeper=optuna", INTERVAL, "backbone=tiny") == [
        Problem(
            "hydra/sweeper",
            "optuna, whose plugin needs optuna 2, and 5.0.0 is installed",
            "basic, or a sweeper that works here",
            "python -m mtl.tune uses this version: docs/tune.md; or pip install 'optuna<3' in another environment",
        )
    ]


def test_a_file_of_the_user_has_a_sweeper_call_nothing(
    sweeper: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_line, "version", lambda name: "2.10.1")
    text = """# @package _global_
defaults: [{override /hydra/sweeper: optuna}]
hydra: {sweeper: {sampler: {_target_: os.system}, custom_search_space: os.abort}}
"""
    own = folder(tmp_path, experiment__mine=text)
    chosen = ["-m", "--config-dir", str(own), "experiment=mine", "backbone=tiny"]
    assert places(*chosen) == ["hydra.sweeper.sampler._target_", "hydra.sweeper.custom_search_space"]


def test_a_study_knows_its_jobs_beforehand(sweeper: None) -> None:
    assert problems("-m", "hydra/sweeper=optuna", INTERVAL, "study.name=mine", "backbone=tiny") == [
        Problem(
            "hydra/sweeper",
            "optuna, in the study 'mine', whose jobs are known beforehand",
            "basic, Hydra's own",
            "leave out one of them; or use python -m mtl.tune",
        )
    ]


def test_a_launcher_that_is_not_installed() -> None:
    assert problems("-m", "hydra/launcher=ray", "seed=1,2", "backbone=tiny")[0] == Problem(
        "hydra/launcher",
        "'ray', which is not installed",
        "basic, or a launcher that is installed",
        "pip install hydra-ray-launcher, or leave it out",
    )


SLURM = ["-m", "hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu", "hydra.launcher.timeout_min=240"]
SLURM += ["hydra.launcher.max_num_timeout=5", "hydra.launcher.gpus_per_node=1", "seed=1,2", "backbone=tiny"]


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of that name: there is no SLURM here."""
    (tmp_path / "sbatch").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


def test_the_settings_of_jobs_of_slurm(sbatch: None) -> None:
    command = check_command_line(SLURM)
    composed, _ = command.composed({"seed": "1"})
    launcher = composed["hydra"]["launcher"]
    assert (launcher.partition, launcher.timeout_min, launcher.max_num_timeout) == ("gpu", 240, 5)
    assert (launcher.signal_delay_s, launcher.nodes, launcher.tasks_per_node) == (120, 1, 1)
    repair = "trainer.devices=N trains in N processes of a node; for several nodes see docs/speed.md"
    assert problems(*SLURM, "hydra.launcher.tasks_per_node=2") == [
        Problem("hydra.launcher.tasks_per_node", "2", "1: every task would train a model", repair)
    ]


def test_jobs_of_slurm_are_submitted_where_sbatch_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    expected = Problem(
        "hydra/launcher",
        "submitit_slurm, and there is no program sbatch",
        "a machine from which jobs of SLURM are submitted",
        "hydra/launcher=submitit_local or joblib runs the jobs on this machine",
    )
    assert problems(*SLURM) == [expected]


def test_a_run_folder_with_a_variable_that_is_not_set() -> None:
    (problem,) = problems("hydra.run.dir=${oc.env:NOT_SET_ANYWHERE}", "backbone=tiny")
    assert problem.place == "hydra.run.dir"
    assert "'NOT_SET_ANYWHERE' not found" in problem.found
    assert problem.repair == "give hydra.run.dir=<folder>"


def test_a_file_in_the_place_of_a_task() -> None:
    assert Problem("data.tasks.s", "'a.csv'", "keys with values", "give data.tasks.s.path=a.csv") in problems(
        "data=files", "data.tasks.s=a.csv", "backbone=tiny"
    )


def test_a_configuration_nested_too_deeply_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "deep.yaml").write_text(f"tasks: {'[' * 5000}{']' * 5000}")
    with pytest.raises(ConfigError, match="maximum recursion depth exceeded"):
        check_command_line(["--config-dir", str(tmp_path), "data=deep"])
