"""The saved model: one folder in the hub's layout with the heads beside it, verified file by file when loaded.

sentence-transformers and transformers load its encoder as it is; nothing in it is a pickle or code.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as checked
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedTokenizerFast

from mtl.base import schema
from mtl.base.errors import ModelError, Problem, listed
from mtl.base.files import content_checksum, is_sealed, sync_file, write_sealed_json, write_text_atomically
from mtl.base.run_folder import MANIFEST, find_model
from mtl.base.schema import Positive, Share, Width
from mtl.base.task_names import TASK_NAMES, is_task_name
from mtl.model.conformal import Outcomes
from mtl.model.decision import HIGHEST, LOWEST, Calibration
from mtl.model.encoder import Encoder
from mtl.model.head_specs import MultiStageSpec, build_multi_stage, spec_problems
from mtl.model.heads import Head, HeadKind
from mtl.model.layout import stays_inside
from mtl.model.loading import load_tokenizer, read_tensors
from mtl.model.network import MultiTaskNetwork

HEADS = "heads.safetensors"
CARD = "README.md"
FORMAT = 1
_MOST_BIAS = 1e6  # divided by the lowest temperature it is still far from where exponentials overflow
_REPAIR = "copy the model again or train it again"


@checked(config=schema.STRICT)
class HeadSpec:
    """How a task's head of one stage is built."""

    kind: HeadKind
    dropout: Share = 0.0
    hidden: Width | None = None
    scale: Positive = 1.0


@checked(config=schema.STRICT)
class TaskHead:
    """A task of a saved model: its labels in the order of the logits, its head, and how the head is calibrated."""

    labels: Annotated[list[str], Field(min_length=1)]
    head: Annotated[HeadSpec | MultiStageSpec, Field(discriminator="kind")]
    temperature: Annotated[float, Field(ge=LOWEST, le=HIGHEST)] = 1.0
    """What the logits, with the bias, are divided by before they become probabilities."""
    bias: list[Annotated[float, Field(ge=-_MOST_BIAS, le=_MOST_BIAS)]] | None = None
    """What is added to the logits, one number for each label."""
    tau: float = 0.0
    """How much of the log-prior the bias takes out."""
    stale: bool = False
    """Whether the encoder, or a head that this one builds on, was trained after it without rows of this task."""
    outcomes: Outcomes | None = None
    """The probabilities on validation rows, from which prediction sets and abstention come."""

    @property
    def calibration(self) -> Calibration:
        """What stands between the head's logits and the probabilities that are given out."""
        return Calibration(self.temperature, None if self.bias is None else tuple(self.bias), self.tau)


@checked(config=schema.STRICT)
class Manifest:
    """What ``mtl.json`` holds: the tasks, the checksum of every other file, and its own."""

    format: int
    tasks: dict[str, TaskHead]
    files: dict[str, str]
    checksum: str = ""
    """See `mtl.base.files.write_sealed_json`."""


@dataclass(frozen=True, slots=True)
class SavedModel:
    """A loaded model: the network in eval mode, its tokenizer, and its tasks."""

    network: MultiTaskNetwork
    tokenizer: PreTrainedTokenizerFast
    tasks: dict[str, TaskHead]
    folder: Path


def build_network(encoder: Encoder, tasks: Mapping[str, TaskHead]) -> MultiTaskNetwork:
    """Return a network of ``encoder`` and fresh heads."""
    return MultiTaskNetwork(encoder, _build_heads(encoder.embedding_size, tasks))


def _build_heads(size: int, tasks: Mapping[str, TaskHead]) -> dict[str, nn.Module]:
    heads: dict[str, nn.Module] = {}

    def head_of(name: str) -> nn.Module:
        """Return the head of a task, built once and after the head that it borrows."""
        if name not in heads:
            spec, labels = tasks[name].head, tasks[name].labels
            if isinstance(spec, MultiStageSpec):
                other = spec.first_stage.task if spec.first_stage else None
                lender = None if other is None else (head_of(other), tasks[other].labels)
                heads[name] = build_multi_stage(spec, labels, size, lender)
            else:
                heads[name] = Head(spec.kind, size, len(labels), spec.dropout, spec.hidden, spec.scale)
        return heads[name]

    return {name: head_of(name) for name in tasks}


def multi_stage_specs(tasks: Mapping[str, TaskHead]) -> dict[str, MultiStageSpec]:
    """Return the tasks whose heads have several stages, with their descriptions."""
    return {name: task.head for name, task in tasks.items() if isinstance(task.head, MultiStageSpec)}


def save_model(
    folder: Path,
    network: MultiTaskNetwork,
    tokenizer: PreTrainedTokenizerFast,
    tasks: Mapping[str, TaskHead],
    card: str,
) -> None:
    """Write the model to ``folder``, which it replaces; a folder that is there is whole. The card is Markdown."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".partial-{secrets.token_hex(8)}")
    try:
        network.encoder.save(partial)
        tokenizer.save_pretrained(partial)
        heads = {name: value.detach().cpu().contiguous() for name, value in network.heads.state_dict().items()}
        save_file(heads, partial / HEADS)
        write_text_atomically(partial / CARD, card)
        files = {path.relative_to(partial).as_posix(): content_checksum(path) for path in _files_in(partial)}
        manifest = asdict(Manifest(format=FORMAT, tasks=dict(tasks), files=files))
        write_sealed_json(partial / MANIFEST, manifest)
        _replace_folder(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load_model(path: Path, *, card: bool = True) -> SavedModel:
    """Load a saved model, from its folder or the run folder that holds it as ``model/``; see `verify_model`.

    Raises:
        ModelError: There is no saved model, or files of it miss or have changed (all named).
    """
    folder = find_model(path)
    manifest = verify_model(folder, card=card)
    encoder = Encoder.from_folder(folder)
    tensors = read_tensors(folder / HEADS, "copy the model again")
    with torch.device("meta"):  # takes no memory, whatever sizes the manifest asks for
        _check_heads(MultiTaskNetwork(encoder, _build_heads(encoder.embedding_size, manifest.tasks)), tensors, folder)
    network = build_network(encoder, manifest.tasks)
    network.heads.load_state_dict(tensors)
    return SavedModel(network.eval(), load_tokenizer(folder), manifest.tasks, folder)


def _check_heads(network: MultiTaskNetwork, tensors: Mapping[str, torch.Tensor], folder: Path) -> None:
    stored = {name: list(value.shape) for name, value in tensors.items()}
    wanted = {name: list(value.shape) for name, value in network.heads.state_dict().items()}
    problems = []
    for name in sorted(stored.keys() | wanted.keys()):
        found, expected = stored.get(name, "no such tensor"), wanted.get(name, "no such tensor")
        if found != expected:
            described = f"{expected}, as {MANIFEST} describes the heads"
            problems.append(Problem(f"{folder / HEADS}: {name}", str(found), described, _REPAIR))
    if problems:
        raise ModelError(problems)


def read_manifest(folder: Path) -> Manifest:
    """Return what the model's ``mtl.json`` says, or raise a `ModelError` with all that is wrong with it."""
    place = str(folder / MANIFEST)
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise ModelError(Problem(place, f"not readable: {error}", "JSON", _REPAIR)) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = f"format {content.get('format')!r}" if isinstance(content, dict) else "no object"
        raise ModelError(Problem(place, found, f"format {FORMAT}", "load it with the version of mtl that wrote it"))
    manifest, problems = schema.check(Manifest, content)
    if manifest is None:
        raise ModelError(
            [Problem(f"{place}: {problem.place}", problem.found, problem.expected, _REPAIR) for problem in problems]
        )
    labels = {name: task.labels for name, task in manifest.tasks.items()}
    stages = spec_problems("tasks.{}.head", multi_stage_specs(manifest.tasks), labels)
    wrong = [replace(problem, place=f"{place}: {problem.place}", repair=_REPAIR) for problem in stages]
    wrong += _task_problems(f"{place}: tasks", manifest.tasks)
    if wrong:
        raise ModelError(wrong)
    return manifest


def _task_problems(place: str, tasks: Mapping[str, TaskHead]) -> Iterator[Problem]:
    """Yield what is wrong with names, of tasks and labels, and with lists that must have an item for each label."""
    if not tasks:
        yield Problem(place, "no task", "at least one task", _REPAIR)
    for name, task in tasks.items():
        if not is_task_name(name):
            yield Problem(place, f"the task name {name!r}", TASK_NAMES, _REPAIR)
        repeated = [label for label, count in Counter(task.labels).items() if count > 1]
        if repeated:
            found = f"labels that stand more than once: {listed(map(repr, repeated))}"
            yield Problem(f"{place}.{name}.labels", found, "each label once", _REPAIR)
        if task.bias is not None and len(task.bias) != len(task.labels):
            expected = f"null, or a list of {len(task.labels)} numbers, one for each label"
            yield Problem(f"{place}.{name}.bias", f"a list of {len(task.bias)}", expected, _REPAIR)
        if task.outcomes is not None and len(task.outcomes.true) != len(task.labels):
            expected = f"a list of {len(task.labels)}, one for each label"
            yield Problem(f"{place}.{name}.outcomes.true", f"a list of {len(task.outcomes.true)}", expected, _REPAIR)


def verify_model(folder: Path, *, card: bool = True) -> Manifest:
    """Check that every file of a saved model is what was saved, and that there is no other.

    Files and folders whose name begins with a dot are passed over: the hub's client and file managers leave some, and
    nothing that loads the model looks for them. Without ``card`` the model card may be edited or missing, as in a copy
    from the hub.

    Raises:
        ModelError: Files of it miss or have changed, or there are others (all named).
    """
    manifest = read_manifest(folder)
    problems = [
        Problem(str(folder / name), "a file that was not saved with the model", f"those of {MANIFEST}", "remove it")
        for name in _visible(folder)
        if name not in (MANIFEST, HEADS, *manifest.files)
    ]
    for name, checksum in manifest.files.items():
        path = folder / name
        if name == CARD and not card:
            continue
        if not stays_inside(name):
            problems.append(Problem(str(folder / MANIFEST), f"the file {name!r}", "files in the model's own folder"))
        elif not path.is_file():
            problems.append(Problem(str(path), "no such file", "a file of the saved model", "copy the model again"))
        elif content_checksum(path) != checksum:
            problems.append(_changed(path))
    if HEADS not in manifest.files:
        problems.append(Problem(str(folder / MANIFEST), f"no {HEADS}", "the weights of the heads"))
    if not problems and not is_sealed(folder / MANIFEST):
        problems.append(_changed(folder / MANIFEST))
    if problems:
        raise ModelError(problems)
    return manifest


def _changed(path: Path) -> Problem:
    expected = "the file as it was saved (its checksum differs)"
    return Problem(str(path), "a changed or damaged file", expected, "copy the model again")


def _visible(folder: Path) -> list[str]:
    """Return the names of what lies in the folder, whatever it is but folders, without what begins with a dot."""
    names = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if not path.is_dir()]
    return [name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts)]


def _files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _replace_folder(partial: Path, folder: Path) -> None:
    """Rename ``partial`` to ``folder``; an older one steps aside first, is removed last, and comes back on failure."""
    for path in _files_in(partial):
        sync_file(path)
    old = folder.with_name(f".old-{secrets.token_hex(8)}")
    if folder.exists():
        folder.rename(old)
    try:
        partial.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
