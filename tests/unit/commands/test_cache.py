"""``python -m mtl.cache`` shows what is cached, and clears what it knows and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mtl import cache
from mtl.activations import ActivationStore, Source, default_folder
from mtl.activations.space import size_text
from mtl.base.errors import ConfigError, DataError
from mtl.data.examples import read_examples
from mtl.model.tiny import cached_tiny
from tests.support.activations import DIM, add

SOURCE = Source("0123456789abcdef", "mean", normalize=True, precision="fp32", boundary="embedding")
DAY = 86400


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("MTL_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Run the command and return the lines that it prints, without the space at their ends."""

    def run(*arguments: str) -> list[str]:
        cache.main(arguments)
        return [line.rstrip() for line in capsys.readouterr().out.splitlines()]

    return run


def activations(text: str = SOURCE.text(), rows: int = 5, age: float = 0.0) -> Path:
    with ActivationStore(default_folder(), text, DIM) as store:
        add(store, range(rows))
    os.utime(store.path / "source.json", times=(time.time() - age,) * 2)
    return store.path


def examples(folder: Path, age: float = 0.0) -> Path:
    file = folder / "data.csv"
    file.write_text("text,label\na,x\nb,y\nc,x\n")
    before = set((folder / "cache" / "examples").glob("*"))
    read_examples(file)
    (cached,) = set((folder / "cache" / "examples").glob("*")) - before
    os.utime(cached, times=(time.time() - age,) * 2)
    return cached


def test_an_empty_cache(root: Path, run: Callable[..., list[str]]) -> None:
    assert run() == [f"cache {root}", "activations take 0 B of at most 10 GB (MTL_CACHE_LIMIT)"]
    assert run("clear") == [f"{kind}: 0 entries removed, 0 B" for kind in ("activations", "examples", "tiny", "pages")]
    assert not root.exists()


def test_everything_is_shown(
    root: Path, run: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MTL_CACHE_LIMIT", "1GB")
    activations(rows=1200, age=3 * DAY + 60)
    activations("anything", rows=7, age=2 * 3600 + 60)
    examples(tmp_path)
    cached_tiny()
    (root / "mine").mkdir()
    (root / "activations" / "notes.txt").write_text("mine")
    with ActivationStore(default_folder(), "anything", DIM):
        lines = run()
    assert lines[:2] == [f"cache {root}", "kind         entries   rows      size  last used"]
    words = [line.split() for line in lines]
    assert words[3][:3] == ["activations", "2", "1,207"]
    assert words[4][:3] == ["examples", "1", "3"]
    assert words[4][-2:] == ["just", "now"]
    assert words[5][:3] == ["tiny", "1", "–"]
    assert lines[7].split() == ["activations", "rows", "size", "last", "used"]
    assert words[9][:2] == ["anything,", "3"]
    assert words[9][-1] == "now"  # in use
    text = " ".join(" ".join(lines[10:12]).split())
    assert text.startswith("embeddings in fp32 of weights 01234567, 3 × ")
    assert text.endswith("3 d ago float32")
    assert lines[-3].startswith("activations take 34.")
    assert lines[-3].endswith(" kB of at most 1 GB (MTL_CACHE_LIMIT)")
    assert lines[-2:] == [
        f"not of mtl, left alone: {root / 'mine'}",
        f"not of mtl, left alone: {root / 'activations' / 'notes.txt'}",
    ]
    assert max(map(len, lines[1:-3])) <= 80


def test_damaged_entries_are_shown_too(root: Path, run: Callable[..., list[str]], tmp_path: Path) -> None:
    path = activations()
    (path / "source.json").write_text("{}")
    for index in path.glob("*.index"):
        index.write_bytes(b"")
    examples(tmp_path).write_bytes(b"no Arrow stream")
    lines = run()
    assert lines[3].split()[:3] == ["activations", "1", "0"]
    assert lines[4].split()[:3] == ["examples", "1", "–"]
    assert lines[8].startswith("description damaged ")


def test_hidden_states_are_named(root: Path, run: Callable[..., list[str]]) -> None:
    with ActivationStore(default_folder(), Source("w" * 9, "", False, "bf16", 4).text(), DIM, ragged=True):
        pass
    (line,) = [line for line in run() if "hidden states" in line]
    assert line.startswith("hidden states above 4 layers in bf16 of")


def test_clearing_removes_what_mtl_knows_and_nothing_else(
    root: Path, run: Callable[..., list[str]], tmp_path: Path
) -> None:
    source, rows, tiny = activations(), examples(tmp_path), cached_tiny()
    os.utime(tiny, times=(time.time() - 61,) * 2)
    script = root / "pages" / "vega-1.9.0.post1.js"
    script.parent.mkdir()
    script.write_text("chart();")
    sizes = [size_text(sum(map(_size, path.rglob("*")))) for path in (source, rows.parent, tiny, script.parent)]
    strangers = [
        root / "mine" / "file",
        root / "tiny-x" / "file",
        root / "examples" / "notes.arrow",
        root / "pages" / "notes.js",
        root / "activations" / ("f" * 33) / "file",
        root / "activations" / "file",
    ]
    for stranger in strangers:
        stranger.parent.mkdir(exist_ok=True)
        stranger.write_text("mine")
    lines = run("clear")
    kinds = ("activations", "examples", "tiny", "pages")
    assert lines == [f"{kind}: 1 entry removed, {size}" for kind, size in zip(kinds, sizes, strict=True)]
    assert not source.exists()
    assert not rows.exists()
    assert not tiny.exists()
    assert not script.exists()
    assert all(stranger.exists() for stranger in strangers)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def test_one_kind_is_cleared(root: Path, run: Callable[..., list[str]], tmp_path: Path) -> None:
    source, rows, tiny = activations(), examples(tmp_path), cached_tiny()
    size = size_text(rows.stat().st_size)
    assert run("clear", "kind=examples") == [f"examples: 1 entry removed, {size}"]
    assert source.exists()
    assert not rows.exists()
    assert tiny.exists()


@pytest.mark.parametrize(("older", "removed"), [("30d", 1), ("4w", 2), ("2d", 2), ("36h", 2), ("1000m", 3), ("0m", 3)])
def test_only_what_is_old_is_cleared(root: Path, run: Callable[..., list[str]], older: str, removed: int) -> None:
    for name, age in (("a", 31 * DAY), ("b", 29 * DAY), ("c", DAY)):
        activations(name, age=age)
    (line,) = run("clear", "kind=activations", f"older={older}")
    assert line.startswith(f"activations: {removed} entr")


def test_what_is_in_use_is_left_there(root: Path, run: Callable[..., list[str]]) -> None:
    with ActivationStore(default_folder(), "a", DIM) as store:
        add(store, range(5))
        store.flush()
        assert run("clear", "kind=activations") == [
            f"in use, left there: {store.path}",
            "activations: 0 entries removed, 0 B",
        ]
        assert not store.missing([])
    assert store.path.exists()
    assert run("clear", "kind=activations")[0].startswith("activations: 1 entry removed")


def test_a_tiny_model_that_a_run_may_be_loading_is_left_there(root: Path, run: Callable[..., list[str]]) -> None:
    os.utime(cached_tiny(), times=(0, 0))
    tiny = cached_tiny()
    assert run("clear", "kind=tiny") == [f"in use, left there: {tiny}", "tiny: 0 entries removed, 0 B"]
    os.utime(tiny, times=(time.time() - 61,) * 2)
    assert run("clear", "kind=tiny")[0].startswith("tiny: 1 entry removed")
    assert not tiny.exists()


def test_what_killed_processes_left_is_cleared_a_day_later(root: Path, run: Callable[..., list[str]]) -> None:
    partial = [root / "examples" / f".partial-{digit * 16}.arrow" for digit in "01"]
    folders = [root / f".partial-{digit * 16}" for digit in "01"]
    (root / "examples").mkdir(parents=True)
    for file in partial:
        file.write_text("half")
    for folder in folders:
        folder.mkdir()
    for old in (partial[0], folders[0]):
        os.utime(old, times=(time.time() - 2 * DAY,) * 2)
    assert not [line for line in run() if "left alone" in line]
    run("clear")
    assert [path.exists() for path in (*partial, *folders)] == [False, True, False, True]


def test_links_are_not_followed(root: Path, run: Callable[..., list[str]], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "0.values").write_text("mine")
    (root / "activations").mkdir(parents=True)
    for link in (root / "activations" / ("0" * 32), root / "tiny-1"):
        link.symlink_to(tmp_path / "elsewhere")
    run("clear")
    assert (tmp_path / "elsewhere" / "0.values").exists()
    assert (root / "tiny-1").is_symlink()


def test_what_cannot_be_removed_is_named_and_the_rest_is_gone(root: Path, run: Callable[..., list[str]]) -> None:
    first, second = activations("a"), activations("b")
    (first / "mine").write_text("mine")
    with pytest.raises(DataError) as caught:
        run("clear", "kind=activations")
    assert str(caught.value) == (
        f"Data: 1 problem\n  {first}\n      found:    Directory not empty\n      expected: files that may be removed"
    )
    assert not second.exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["cler"],
            "  cler\n      found:    an unknown command\n      expected: clear, or no argument to see what is cached\n"
            "      repair:   did you mean clear?",
        ),
        (
            ["clear", "kind=exampels"],
            "  kind\n      found:    'exampels'\n      expected: activations, examples, tiny, pages\n"
            "      repair:   did you mean examples?",
        ),
        (
            ["clear", "older=30"],
            "  older\n      found:    30\n      expected: an age with its unit: 90m, 12h, 30d, 8w",
        ),
        (
            ["clear", "older=soon"],
            "  older\n      found:    'soon'\n      expected: an age with its unit: 90m, 12h, 30d, 8w",
        ),
        (
            ["clear", "sort=/"],
            "  sort\n      found:    an unknown key\n      expected: kind, older",
        ),
        (["clear", "/"], "  /\n      found:    no key=value\n      expected: kind=…, older=…"),
    ],
)
def test_wrong_arguments(root: Path, arguments: list[str], text: str) -> None:
    kept = activations()
    with pytest.raises(ConfigError) as caught:
        cache.main(arguments)
    assert str(caught.value) == f"Configuration: 1 problem\n{text}"
    assert kept.exists()


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["clear", "--help"]])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cache.main(arguments)
    assert caught.value.code in (0, None)
    assert capsys.readouterr().out == cache.USAGE.strip() + "\n"


def test_from_the_command_line(root: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mtl.cache", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3], check=False)

    path = activations()
    shown = run()
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "embeddings in fp32" in shown.stdout
    refused = run("clear", "older=1")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert path.exists()
    assert run("clear").returncode == 0
    assert not path.exists()
