"""What is fuzzed: the functions behind each command, called on inputs that are mostly broken.

A target takes Hypothesis' ``draw`` and a folder of its own for this one input. It either returns, after having checked
that there is a result, or raises an `MtlError`. Everything else is a finding.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from hypothesis import strategies as st

from mtl import compare, diagnose, encode, evaluate, predict, report
from mtl.base import cli
from mtl.base.errors import MtlError, Problem
from mtl.base.files import sealed_json
from mtl.comparison.comparing import compare as compare_runs
from mtl.comparison.outputs import write as write_comparison
from mtl.config.checks import load
from mtl.config.command_line import check_command_line
from mtl.data.examples import read_examples, read_texts
from mtl.data.pairs import read_pairs
from mtl.data.tasks import TaskSpec, load_task
from mtl.diagnosis.run import diagnose_run
from mtl.inference.bulk import encode_to_file, predict_to_file
from mtl.inference.models import MultiTaskModel, SentenceEncoder
from mtl.model.sources import BackboneSpec, locate
from mtl.reporting.run_page import write_run_page
from mtl.training.reevaluate import evaluate_file, evaluate_run
from mtl.training.run import train
from tests.fuzz import mutations
from tests.support import configs, runs
from tests.support.commands import run as run_program

Draw = Callable[[Any], Any]
Target = Callable[[Draw, Path], None]


@cache
def run_folder() -> Path:
    """Return a run of two tasks, made once. Do not write into it."""
    folder = Path(mkdtemp(prefix="mtl-fuzz-"))
    flags = ["trainer.max_epochs=1", "logger=csv", "evaluation.error_analysis=false"]
    runs.run(folder / "run", *runs.data(folder, ["sentiment", "stars"]), *flags)
    return folder / "run"


@cache
def model() -> MultiTaskModel:
    """Return that run's model."""
    return MultiTaskModel.from_pretrained(run_folder(), device="cpu")


@cache
def backbone_files() -> dict[str, bytes]:
    """Return the files of a small encoder with the modules of sentence-transformers, as that run saved it."""
    folder = run_folder() / "model"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


_ROWS = [{"text": text, "label": label} for text, label in runs.rows("sentiment", 6)]


@cache
def valid(suffix: str) -> bytes:
    """Return a good data file."""
    if suffix == ".parquet":
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(_ROWS), sink)
        return bytes(sink.getvalue().to_pybytes())
    if suffix in (".jsonl", ".json"):
        return "\n".join(map(json.dumps, _ROWS)).encode()
    if suffix == ".txt":
        return "\n".join(row["text"] for row in _ROWS).encode()
    mark = "\t" if suffix == ".tsv" else ","
    return "\n".join([f"text{mark}label", *(f"{row['text']}{mark}{row['label']}" for row in _ROWS)]).encode()


@st.composite
def data_file(draw: Draw, suffixes: list[str]) -> tuple[str, bytes]:
    """Return a suffix and the content of a data file."""
    suffix = draw(st.sampled_from(suffixes))
    if suffix in (".jsonl", ".json") and draw(st.booleans()):
        rows = draw(mutations.altered(_ROWS))
        lines = rows if isinstance(rows, list) else [rows]
        return suffix, "\n".join(json.dumps(each, ensure_ascii=draw(st.booleans())) for each in lines).encode(
            "utf-8", "surrogatepass"
        )
    return suffix, draw(mutations.damaged(valid(suffix)))


def labelled_files(draw: Draw, folder: Path) -> None:
    """Any bytes as a labelled data file, read, split and checked as training does."""
    suffix, content = draw(data_file([".csv", ".tsv", ".jsonl", ".json", ".parquet"]))
    path = folder / f"a{suffix}"
    path.write_bytes(content)
    slices = draw(st.sampled_from([(), ("label2",)]))
    with patch.dict(os.environ, MTL_CACHE_DIR=str(folder)):
        task = load_task(TaskSpec("mood", path=path, slices=slices), seed=draw(st.integers(0, 9)))
        assert len(task.train)
        assert all(text.strip() for text in task.train.texts)
        assert read_examples(path, extra=slices).distinct_labels()


def sentence_files(draw: Draw, folder: Path) -> None:
    """Any bytes as a file of sentences, as predict and encode read it; and of pairs, as retention does."""
    suffix, content = draw(data_file([".csv", ".tsv", ".jsonl", ".json", ".parquet", ".txt"]))
    path = folder / f"a{suffix}"
    path.write_bytes(content)
    with patch.dict(os.environ, MTL_CACHE_DIR=str(folder)):
        texts = read_texts(path)
    assert len(texts)
    assert all(map(str.strip, texts.texts))


_PAIRS = b"sentence1,sentence2,score\n" + b"".join(b"one %d,two %d,%d.5\n" % (n, n, n) for n in range(8))


def pair_files(draw: Draw, folder: Path) -> None:
    """Any bytes as a file of sentence pairs."""
    path = folder / "pairs.csv"
    path.write_bytes(draw(mutations.damaged(_PAIRS)))
    assert len(read_pairs(path, "sentence1", "sentence2", "score"))


def configurations(draw: Draw, folder: Path) -> None:
    """Any mapping as a configuration."""
    choice = draw(st.sampled_from([(), ("data=files", "+data.tasks.a.path=a.csv"), ("freeze=gradual",)]))
    load(draw(mutations.altered(configs.composed(*choice))))


_WORDS = ["seed=1", "freeze=none", "backbone=tiny", "trainer.max_epochs=1", "data=files", "data.tasks.a.path=x.csv"]
_WORDS += ["heads=mlp", "-m", "learning_rates=decay", "+x=1", "~freeze", "hydra.run.dir=.", "loss.weights.sentiment=2"]
_WORDS += ["freeze.heads=[sentiment]", "--cfg", "job", "--config-dir", ".", "experiment=quickstart", "--config-name"]
_MARKS = [*"=[]{}(),.:'\"\\$~+-@ \t\n\0é", "${", "??", "::", "null", "seed", "freeze", "data.tasks", "1e400"]


@st.composite
def argument(draw: Draw) -> str:
    """Return an argument: a good one, one with marks in it, or any text."""
    word = draw(st.sampled_from(_WORDS))
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return str(draw(mutations.any_text))
    for _ in range(kind - 1):
        at = draw(st.integers(0, len(word)))
        word = word[:at] + draw(st.sampled_from(_MARKS)) + word[at:]
    return str(word)


_ENDS = ["--help", "--version", "--hydra-help", "-h", "--info"]


def command_lines(draw: Draw, folder: Path) -> None:
    """Any strings as the arguments of train."""
    arguments = draw(st.lists(argument(), min_size=1, max_size=3))
    with suppress(SystemExit):  # argparse's own: a message and 2
        check_command_line(arguments)


_OPTIONS = [predict.Options, encode.Options, evaluate.Options, diagnose.Options, compare.Options, report.Options]


def program_arguments(draw: Draw, folder: Path) -> None:
    """Any strings as the arguments of the other programs."""
    kind = draw(st.sampled_from(_OPTIONS))
    keys = st.sampled_from(["model", "run", "input", "output", "precision", "device", "more", "similar", "x"])
    pair = st.tuples(keys, mutations.any_text | st.sampled_from(["auto", "1", "null", "1e999", "NaN", "true"]))
    arguments = draw(st.lists(pair.map("=".join) | mutations.any_text, max_size=4))
    rest = next(
        (name for name in ("sentences", "folders") if hasattr(kind, name) or name in kind.__annotations__), None
    )
    if {"-h", "--help"} & set(arguments):
        return
    cli.parse(kind, arguments, "", rest=rest)


_PLACES = [
    "a" * 300,
    "~nobody/x",
    "/dev/null",
    "/dev/full",
    ".",
    "",
    " ",
    "..",
    "nowhere/x",
    "\udcff",
    "a\nb",
    "-x",
    "https://a/b",
]
_PROGRAMS = {
    "predict": ("model", "input", "output"),
    "encode": ("model", "input", "output"),
    "evaluate": ("run", "input", "output"),
    "diagnose": ("run", "encoder", "output"),
    "compare": ("output",),
    "report": ("run",),
    "cache": ("folder",),
}


def programs(draw: Draw, folder: Path) -> None:
    """Odd folders and files for the programs, from their arguments to their exit code."""
    name = draw(st.sampled_from(list(_PROGRAMS)))
    good = {"model": run_folder(), "run": run_folder(), "input": run_folder().parent / "sentiment_test.csv"}
    arguments = []
    for key in _PROGRAMS[name]:
        place = st.sampled_from([f"{folder}/{each}{end}" for each in _PLACES for end in ("", ".csv", ".npy")] + _PLACES)
        value = draw(st.sampled_from([str(good[key])]) | place if key in good else place)
        if draw(st.integers(0, 3)):
            arguments.append(f"{key}={value}")
    if name in ("predict", "encode") and draw(st.booleans()):
        arguments.append(draw(st.sampled_from(["A sentence.", "\udcff", "=1", "--", "a=b"])))
    if name in ("evaluate", "diagnose"):
        arguments.append("task=sentiment")
    before = Path.cwd()
    os.chdir(folder)
    try:
        outcome = run_program(f"mtl.{name}", *arguments)
    finally:
        os.chdir(before)
    assert outcome.code in (0, 2)
    assert outcome.out if outcome.code == 0 else outcome.err
    if outcome.code:
        raise MtlError(Problem("arguments", outcome.err, "x"))


def predictions(draw: Draw, folder: Path) -> None:
    """Any sentences through a model, to Python and to files."""
    texts: list[str] = draw(st.lists(mutations.sentences, min_size=1, max_size=5))
    found = model().predict(texts, precision="fp32")
    assert {task: len(rows) for task, rows in found.items()} == {"sentiment": len(texts), "stars": len(texts)}
    for each in (prediction for rows in found.values() for prediction in rows):
        assert abs(sum(each.probabilities.values()) - 1) < 1e-4
    path = folder / f"out{draw(st.sampled_from(['.csv', '.jsonl']))}"
    predict_to_file(model(), texts, path, precision="fp32")
    if path.suffix == ".csv":
        before = csv.field_size_limit(2**31 - 1)
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))[1:]
        csv.field_size_limit(before)
    else:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    assert len(rows) == len(texts)
    predict._show(texts, found)


def embeddings(draw: Draw, folder: Path) -> None:
    """Any sentences through an encoder, to Python and to a file."""
    texts = draw(st.lists(mutations.sentences, min_size=1, max_size=5))
    encoder = model().encoder
    found = encoder.encode(texts)
    assert found.shape == (len(texts), encoder.dimension)
    assert np.isfinite(found).all()
    assert np.allclose(encode_to_file(encoder, texts, folder / "out.npy"), found, atol=1e-5)


def damaged_models(draw: Draw, folder: Path) -> None:
    """A saved model with damage that its checksums know, as if somebody had changed and signed it again."""
    files = dict(backbone_files())
    _spoil(draw, files, [name for name in files if name != "README.md"])
    if "mtl.json" in files and draw(st.integers(0, 3)):
        _sign(files)
    _write(folder / "model", files)
    loaded = MultiTaskModel.from_pretrained(folder / "model", device="cpu")
    found = loaded.predict(["one", "two and three " * 50])
    assert all(len(rows) == 2 for rows in found.values())
    assert found


def damaged_backbones(draw: Draw, folder: Path) -> None:
    """A folder in the hub's layout with damage."""
    files = {
        name: content for name, content in backbone_files().items() if name not in ("mtl.json", "heads.safetensors")
    }
    _spoil(draw, files, [name for name in files if name != "README.md"])
    _write(folder / "encoder", files)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own
        locate(BackboneSpec(path=str(folder / "encoder")))
        found = SentenceEncoder.from_pretrained(folder / "encoder", device="cpu").encode(["one", "two and three " * 50])
    assert np.isfinite(found).all()


def _spoil(draw: Draw, files: dict[str, bytes], names: list[str]) -> None:
    """Damage one or two files, or take one away; let all of ``tokenizer.json`` count, which MPNet's class would not."""
    if draw(st.booleans()):
        settings = json.loads(files["tokenizer_config.json"]) | {"tokenizer_class": "PreTrainedTokenizerFast"}
        files["tokenizer_config.json"] = json.dumps(settings).encode()
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(names))
        if name not in files:
            continue
        action = draw(st.integers(0, 7))
        if action == 0:
            del files[name]
        elif name.endswith(".json") and action > 2:
            content = json.loads(files[name]) if files[name] else {}
            files[name] = json.dumps(draw(mutations.altered(content))).encode()
            return
        else:
            files[name] = draw(mutations.damaged(files[name]))
            return


def _sign(files: dict[str, bytes]) -> None:
    try:
        manifest = json.loads(files["mtl.json"])
        for name in manifest["files"]:
            if name in files:
                manifest["files"][name] = hashlib.sha256(files[name]).hexdigest()
        files["mtl.json"] = sealed_json(manifest).encode()
    except (ValueError, TypeError, KeyError, RecursionError):  # it is no manifest any more
        return


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def damaged_run(draw: Draw, folder: Path) -> Path:
    """Return a copy of a run with damage in its figures, configuration, predictions or logs, without its model."""
    copy = folder / "run"
    shutil.copytree(run_folder(), copy, ignore=shutil.ignore_patterns("model", "checkpoints", "*.html", "errors"))
    names = ["metrics.json", "config.yaml", "predictions/stars_test.csv", "logs/metrics.csv", "metrics.json"]
    name = draw(st.sampled_from(names))
    path = copy / name
    action = draw(st.integers(0, 5))
    if action == 0:
        path.unlink()
    elif action > 2 and path.suffix == ".json":
        path.write_text(json.dumps(draw(mutations.altered(json.loads(path.read_text())))), encoding="utf-8")
    elif action > 2 and path.suffix == ".yaml":
        found = draw(mutations.altered(yaml.safe_load(path.read_text())))
        path.write_text(yaml.safe_dump(found), encoding="utf-8", errors="surrogatepass")
    else:
        path.write_bytes(draw(mutations.damaged(path.read_bytes())))
    return copy


def compared_runs(draw: Draw, folder: Path) -> None:
    """A damaged run beside a whole one, compared."""
    damaged_run(draw, folder)
    comparison = compare_runs([folder, run_folder()], resamples=100)
    write_comparison(folder / "out", comparison)
    assert (folder / "out" / "comparison.html").stat().st_size


def reported_runs(draw: Draw, folder: Path) -> None:
    """The page of a damaged run."""
    assert write_run_page(damaged_run(draw, folder)).stat().st_size


def evaluated_files(draw: Draw, folder: Path) -> None:
    """Any bytes as a labelled file, evaluated."""
    suffix, content = draw(data_file([".csv", ".jsonl"]))
    path = folder / f"a{suffix}"
    path.write_bytes(content)
    assert evaluate_file(run_folder(), path, "sentiment", precision="fp32")["sentiment"]


def configured_runs(draw: Draw, folder: Path) -> None:
    """A run with another configuration, evaluated or diagnosed."""
    copy = folder / "run"
    shutil.copytree(run_folder(), copy, ignore=shutil.ignore_patterns("checkpoints", "*.html", "errors"))
    path = copy / "config.yaml"
    found = draw(mutations.altered(yaml.safe_load(path.read_text())))
    path.write_text(yaml.safe_dump(found), encoding="utf-8", errors="surrogatepass")
    if draw(st.booleans()):
        assert evaluate_run(copy, precision="fp32", device="cpu")
    else:
        assert diagnose_run(copy, folder / "out", task="sentiment", more=2, precision="fp32", device="cpu")


def whole_runs(draw: Draw, folder: Path) -> None:
    """Odd texts, labels and columns through a whole run, its pages, a prediction, an evaluation and a diagnosis."""
    odd = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
    some = st.sampled_from([each for each in mutations.ODD_TEXTS if each.strip() and "\0" not in each and _whole(each)])
    labels = draw(st.lists((odd | some).filter(str.strip), min_size=2, max_size=4, unique=True))
    texts = draw(
        st.lists((odd | some | mutations.sentences).filter(_is_good_text), min_size=1, max_size=8, unique=True)
    )
    rows = [(text, label, text[:3]) for text, label in zip(texts, labels * len(texts), strict=False)]
    rows += [(f"row {at} {label}", label, str(at)) for at in range(draw(st.sampled_from([4, 12]))) for label in labels]
    path = folder / draw(st.sampled_from(["a.jsonl", "ä <b>.jsonl"]))
    path.write_text("\n".join(json.dumps(dict(zip(("text", "label", "part"), row, strict=True))) for row in rows))
    flags = ["evaluation.figures=true", "trainer.max_epochs=1", "data.tasks.mood.slices=[part]", "logger=csv"]
    flags += [draw(st.sampled_from(["freeze=none", "freeze=backbone", "freeze=all", "calibration=tuned_prior"]))]
    config = runs.config("data=files", f"data.tasks.mood.path='{path}'", *flags)
    train(config, folder / "run", {"freeze": "none"})
    assert (folder / "run" / "report.html").stat().st_size
    assert write_run_page(folder / "run").stat().st_size
    assert evaluate_run(folder / "run", precision="fp32", device="cpu")
    write_comparison(folder / "out", compare_runs([folder], resamples=100))
    assert MultiTaskModel.from_pretrained(folder / "run", device="cpu").labels == {"mood": tuple(sorted(labels))}
    diagnose_run(folder / "run", folder / "diagnosis", more=2, precision="fp32", device="cpu")


def _whole(text: str) -> bool:
    return all(not "\ud800" <= each <= "\udfff" for each in text)


def _is_good_text(text: str) -> bool:
    return bool(text.strip()) and "\0" not in text and _whole(text) and len(text) < 2000


TARGETS: dict[str, tuple[Target, int]] = {
    "labelled files": (labelled_files, 2500),
    "sentence files": (sentence_files, 2500),
    "pair files": (pair_files, 500),
    "configurations": (configurations, 2500),
    "command lines": (command_lines, 150),
    "program arguments": (program_arguments, 2000),
    "programs": (programs, 300),
    "predictions": (predictions, 300),
    "embeddings": (embeddings, 300),
    "damaged models": (damaged_models, 400),
    "damaged backbones": (damaged_backbones, 400),
    "compared runs": (compared_runs, 200),
    "reported runs": (reported_runs, 300),
    "evaluated files": (evaluated_files, 200),
    "configured runs": (configured_runs, 100),
    "whole runs": (whole_runs, 40),
}
"""Each target with its number of inputs in `make fuzz`."""
