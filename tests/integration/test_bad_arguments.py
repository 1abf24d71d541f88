"""Predicting, encoding and evaluating with arguments that are wrong: exit code 2, a complete message, no output."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from tests.support.commands import call, run

KEYS = (
    "model, input, text_column, output, rows, processes, shard, engine, precision, prompt_name, device, task, "
    "format, calibrated, coverage, max_risk"
)
SHOWN = ", ".join(KEYS.split(", ")[:12]) + " (+4 more)"
EVALUATE_FLAGS = (
    "run=…, split=…, input=…, task=…, text_column=…, label_column=…, output=…, precision=…, device=…, calibrated=…"
)
FLAGS = "=…, ".join(KEYS.split(", ")[:12]) + "=… (+4 more)"
SAVED = "a saved model, a folder with mtl.json, or a run folder with model/"
SOURCES = "a backbone (minilm, mpnet, tiny), a run folder, a folder in the hub's layout, or a hub id owner/name"
COLUMN = "name the column that holds the texts with text_column=, or add a header line"

PREDICT = {
    "nothing": (
        "",
        """
  model
      found:    nothing
      expected: a value
      repair:   give model=…""",
    ),
    "no sentence": (
        "model={model}",
        """
  input
      found:    neither input= nor sentences
      expected: a file or sentences
      repair:   input=reviews.csv, or "a sentence\"""",
    ),
    "two sources": (
        "model={model} input={data}/good.csv 'A sentence.'",
        """
  input
      found:    both input= and sentences
      expected: a file or sentences
      repair:   input=reviews.csv, or "a sentence\"""",
    ),
    "an empty sentence": (
        "model={model} 'A sentence.' '' ' '",
        """
  sentence 2
      found:    ''
      expected: a text
  sentence 3
      found:    ' '
      expected: a text""",
    ),
    "a key with a typo": (
        "modle={model} input={data}/good.csv",
        f"""
  modle
      found:    an unknown key
      expected: {SHOWN}
      repair:   did you mean model?
  model
      found:    nothing
      expected: a value
      repair:   give model=…""",
    ),
    "a sentence like an option": (
        "model={model} rating=5",
        f"""
  rating
      found:    an unknown key
      expected: {SHOWN}
      repair:   behind -- everything counts as sentences""",
    ),
    "an unknown flag": (
        "model={model} --fast 'A sentence.'",
        f"""
  --fast
      found:    an unknown flag
      expected: {FLAGS}
      repair:   behind -- everything counts as sentences""",
    ),
    "an unknown precision": (
        "model={model} precision=fp23 'A sentence.'",
        """
  precision
      found:    'fp23'
      expected: auto, fp32, bf16
      repair:   did you mean fp32?""",
    ),
    "an unknown kind of output": (
        "model={model} input={data}/good.csv output={here}/out.xlsx",
        """
  output
      found:    {here}/out.xlsx
      expected: a file that ends in .csv or .jsonl or .parquet""",
    ),
    "an output in no folder": (
        "model={model} input={data}/good.csv output={here}/nowhere/out.csv",
        """
  output
      found:    no folder {here}/nowhere
      expected: a file in a folder that is there""",
    ),
    "an output that is the input": (
        "model={model} input={data}/good.csv output={data}/good.csv",
        """
  output
      found:    {data}/good.csv, which is the input
      expected: another file: the input would be lost""",
    ),
    "no such model": (
        "model={here}/nowhere 'A sentence.'",
        f"""
  {{here}}/nowhere
      found:    no such folder
      expected: {SAVED}
      repair:   give the run folder that training printed at its end""",
    ),
    "a folder without a model": (
        "model={data}/weights 'A sentence.'",
        f"""
  {{data}}/weights
      found:    a folder that holds config.json
      expected: {SAVED}
      repair:   a run writes its model at its end: see its train.log""",
    ),
    "no such file": (
        "model={model} input={data}/run/a.csv",
        """
  {data}/run/a.csv
      found:    no such file in {data}/run
      expected: a file
      repair:   check the path; a relative one starts at the working folder""",
    ),
    "no such column": (
        "model={model} input={data}/good.csv text_column=body",
        f"""
  {{data}}/good.csv:1
      found:    columns 'text', 'label'
      expected: a column 'body'
      repair:   {COLUMN}""",
    ),
    "empty texts": (
        "model={model} input={data}/empty_text.csv",
        """
  {data}/empty_text.csv:42
      found:    an empty text
      expected: a text with at least one visible character
      repair:   fill in the text, or remove the row
  {data}/empty_text.csv:43
      found:    a text of white space only ('  ')
      expected: a text with at least one visible character
      repair:   fill in the text, or remove the row""",
    ),
}

ENCODE = {
    "a backbone with a typo": (
        "model=mnilm 'A sentence.'",
        f"""
  model
      found:    'mnilm'
      expected: {SOURCES}
      repair:   did you mean minilm?""",
    ),
    "an output that is no array": (
        "model=tiny input={data}/good.csv output={here}/out.csv",
        """
  output
      found:    {here}/out.csv
      expected: a file that ends in .npy""",
    ),
    "a file as output of a folder": (
        "model=tny input={data}/run output={here}/out.npy shard=0/2",
        f"""
  model
      found:    'tny'
      expected: {SOURCES}
      repair:   did you mean tiny?
  shard
      found:    '0/2'
      expected: one job of several, from 1/16 to 16/16
  input
      found:    no file in {{data}}/run
      expected: files: .csv, .tsv, .jsonl, .json, .parquet, .txt
      repair:   check the path or the pattern
  output
      found:    {{here}}/out.npy
      expected: a folder: an output for every input file""",
    ),
    "arguments for folders in vain": (
        "model=tiny input={data}/good.csv output={here}/out.npy shard=1/2 processes=2",
        """
  processes
      found:    2
      expected: only with a folder or a pattern as input=, or a folder as output=
      repair:   give output=FOLDER/
  shard
      found:    1/2
      expected: only with a folder or a pattern as input=, or a folder as output=
      repair:   give output=FOLDER/""",
    ),
}

EVALUATE = {
    "no key": (
        "{model}",
        f"""
  {{model}}
      found:    no key=value
      expected: {EVALUATE_FLAGS}
  run
      found:    nothing
      expected: a value
      repair:   give run=…""",
    ),
    "a model without its run": (
        "run={model}/model",
        """
  {model}/model/config.yaml
      found:    no such file
      expected: the configuration of a run, in its folder
      repair:   give a run folder: run=outputs/<date>/<time>""",
    ),
    "an unknown split": (
        "run={model} split=train",
        """
  split
      found:    'train'
      expected: val, test, all""",
    ),
    "a task in vain": (
        "run={model} task=sentiment label_column=stars",
        """
  task
      found:    'sentiment'
      expected: only with input=
  label_column
      found:    'stars'
      expected: only with input=""",
    ),
    "a split in vain": (
        "run={model} input={data}/good.csv task=sentiment split=val",
        """
  split
      found:    'val'
      expected: only without input=""",
    ),
    "no task": (
        "run={model} input={data}/good.csv",
        """
  task
      found:    nothing
      expected: sentiment, stars""",
    ),
    "a task with a typo": (
        "run={model} input={data}/good.csv task=sentimnt",
        """
  task
      found:    'sentimnt'
      expected: sentiment, stars
      repair:   did you mean sentiment?""",
    ),
    "other labels": (
        "run={model} input={data}/good.csv task=sentiment",
        """
  {data}/good.csv:2
      found:    the label 'positive' (20 rows, the first here)
      expected: one of bad, good
  {data}/good.csv:3
      found:    the label 'negative' (20 rows, the first here)
      expected: one of bad, good""",
    ),
    "one column for both": (
        "run={model} input={data}/good.csv task=sentiment label_column=text",
        """
  label_column
      found:    'text'
      expected: another column than text_column""",
    ),
    "an output below a file": (
        "run={model} output={data}/good.csv/figures",
        """
  output
      found:    {data}/good.csv/figures, and {data}/good.csv is a file
      expected: a folder that can be made""",
    ),
}

CASES = [
    pytest.param(program, *case, id=f"{program}: {name}")
    for program, cases in (("predict", PREDICT), ("encode", ENCODE), ("evaluate", EVALUATE))
    for name, case in cases.items()
]


@pytest.mark.parametrize(("program", "arguments", "problems"), CASES)
def test_wrong_arguments_are_refused(
    program: str, arguments: str, problems: str, untrained_run: Path, bad_files: Path, tmp_path: Path
) -> None:
    names = {"model": untrained_run, "data": bad_files, "here": tmp_path}
    outcome = run(f"mtl.{program}", *(each.format(**names) for each in shlex.split(arguments)))
    head, _, message = outcome.err.partition("\n")
    for name, value in names.items():
        problems = problems.replace(f"{{{name}}}", str(value))
    assert f"\n{message}" == f"{problems}\n"
    count = problems.count("\n      found: ")
    assert head.endswith(f": {count} problem{'s' if count != 1 else ''}")
    assert head.split(":")[0] in ("Configuration", "Data", "Model", "Input")
    assert (outcome.code, outcome.out) == (2, "")
    assert list(tmp_path.iterdir()) == []


def damaged(run_folder: Path, folder: Path) -> Path:
    """Return a copy of the saved model of a run."""
    shutil.copytree(run_folder / "model", folder)
    return folder


def test_every_file_of_a_model_is_checked(untrained_run: Path, tmp_path: Path) -> None:
    folder = damaged(untrained_run, tmp_path / "copy")
    (folder / "heads.safetensors").write_bytes(b"nothing")
    (folder / "tokenizer.json").unlink()
    outcome = run("mtl.predict", f"model={folder}", "A sentence.")
    assert outcome.err == (
        "Model: 2 problems\n"
        f"  {folder}/heads.safetensors\n"
        "      found:    a changed or damaged file\n"
        "      expected: the file as it was saved (its checksum differs)\n"
        "      repair:   copy the model again\n"
        f"  {folder}/tokenizer.json\n"
        "      found:    no such file\n"
        "      expected: a file of the saved model\n"
        "      repair:   copy the model again\n"
    )
    assert outcome.code == 2


@pytest.mark.parametrize(
    ("text", "found", "expected"),
    [
        ("{", "not readable: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)", "JSON"),
        ("[]", "no object", "format 1"),
        (json.dumps({"format": 9}), "format 9", "format 1"),
    ],
)
def test_a_manifest_that_is_none(text: str, found: str, expected: str, untrained_run: Path, tmp_path: Path) -> None:
    folder = damaged(untrained_run, tmp_path / "copy")
    (folder / "mtl.json").write_text(text, encoding="utf-8")
    outcome = run("mtl.predict", f"model={folder}", "A sentence.")
    head, place, second, third, _ = outcome.err.splitlines()
    assert (head, place) == ("Model: 1 problem", f"  {folder}/mtl.json")
    assert (second, third) == (f"      found:    {found}", f"      expected: {expected}")
    assert outcome.code == 2


def test_a_run_whose_data_is_gone(untrained_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(untrained_run, folder)
    config = (folder / "config.yaml").read_text(encoding="utf-8")
    gone = untrained_run.parent / "nowhere"
    (folder / "config.yaml").write_text(config.replace(str(untrained_run.parent), str(gone)), encoding="utf-8")
    outcome = run("mtl.evaluate", f"run={folder}")
    assert outcome.code == 2
    assert outcome.err.startswith(f"Data: 6 problems\n  {gone}/sentiment_train.csv\n      found:    no folder {gone}\n")


def test_a_hub_model_that_is_not_there_speaks_of_model(tmp_path: Path) -> None:
    done = call("mtl.encode", "model=nobody/nothing", "A sentence.", folder=tmp_path, HF_HUB_CACHE=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == (
        "Model: 1 problem\n"
        "  model\n"
        f"      found:    nobody/nothing is not in the cache {tmp_path}, and HF_HUB_OFFLINE is set\n"
        "      expected: the whole model in the cache, or a hub that can be reached\n"
        "      repair:   one of these:\n"
        "        - model=minilm (its weights come in a Python package; no hub needed)\n"
        "        - model=<folder> with a copy of the model, made on a machine with access to the hub by\n"
        "          hf download nobody/nothing --local-dir <folder>\n"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("program", ["predict", "encode", "evaluate"])
def test_a_gpu_that_is_not_there(program: str, untrained_run: Path) -> None:
    rest = [f"run={untrained_run}"] if program == "evaluate" else [f"model={untrained_run}", "A sentence."]
    outcome = run(f"mtl.{program}", *rest, "device=cuda")
    assert outcome.err == (
        "Configuration: 1 problem\n"
        "  device\n"
        f"      found:    'cuda', which PyTorch {torch.__version__} does not find\n"
        "      expected: cpu\n"
    )
    assert outcome.code == 2
