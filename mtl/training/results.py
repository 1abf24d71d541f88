"""Score the trained network, and write the results of a run: figures, predictions, report, model, tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

import mtl
from mtl.activations.frozen import FrozenActivations
from mtl.config.fields import Config
from mtl.data.datamodule import Splits
from mtl.data.tasks import TaskData
from mtl.evaluation.calibrate import calibrate
from mtl.evaluation.errors import ErrorAnalysis, write_errors
from mtl.evaluation.gradient_figures import GradientFigures, sentences
from mtl.evaluation.metrics_file import Cost, RunMetrics, checksums, write_metrics
from mtl.evaluation.predictions import confusion_examples, predictions_path, write_predictions
from mtl.evaluation.records import EpochFigures, Retention, TaskReport
from mtl.evaluation.scoring import Scored, logits_of, score
from mtl.evaluation.summary import GroupRow, RunPictures, RunSummary, StageRow, reported_split
from mtl.model.saved import TaskHead, save_model
from mtl.reporting.maps import SentenceMap, map_path, write_map
from mtl.reporting.model_card import model_card
from mtl.reporting.run import write_report
from mtl.reporting.run_charts import draw_run
from mtl.reporting.run_page import write_run_page
from mtl.reporting.tables import (
    calibration_table,
    class_table,
    console,
    cost_table,
    decision_table,
    results_table,
    stage_table,
)
from mtl.training.build import Start
from mtl.training.plan import Setting

_FILES = {
    "model": "the saved model: encoder, tokenizer, heads, label names",
    "report.html": "this report with charts and a table of all mistakes; opens offline",
    "metrics.json": "all figures of this report",
    "predictions": "each sentence with its label, predicted class and probabilities",
    "config.yaml": "the whole configuration",
}
_ERROR_FILES = {"errors": "the surest mistakes with the training rows nearest to them, and the figures of each slice"}


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run.

    Attributes:
        folder: Its folder.
        config: Its configuration.
        choices: The choice made in each configuration group.
        tasks: The data of each task.
        start: The network, trained by now, with tokenizer and heads.
        groups: The parameter groups.
        unfreezing: The stages of gradual unfreezing, if there are any.
        cost: What training took.
        scored: Figures and predictions of each task and split.
        facts: Short facts for the report.
        losses: What each task's loss was, plain values for metrics.json.
        warnings: What a reader must know before trusting the figures, and was told before the first step.
        notes: What training and calibration add to that.
        retention: How much of its general ability the encoder kept, if it was measured.
        errors: What goes wrong with each task.
        epochs: The figures of each epoch of the training.
        maps: For each task where a sample of its reported rows lies before and after training, for the page.
        gradients: Whether the tasks pulled the encoder in the same direction, if it was measured.
    """

    folder: Path
    config: Config
    choices: dict[str, str]
    tasks: dict[str, TaskData]
    start: Start
    groups: list[GroupRow]
    cost: Cost
    scored: dict[str, dict[str, Scored]]
    facts: dict[str, str]
    losses: dict[str, dict[str, object]]
    warnings: list[str]
    notes: list[str] = field(default_factory=list)
    retention: Retention | None = None
    errors: dict[str, ErrorAnalysis] = field(default_factory=dict)
    unfreezing: list[StageRow] = field(default_factory=list)
    epochs: list[EpochFigures] = field(default_factory=list)
    maps: dict[str, SentenceMap] = field(default_factory=dict)
    gradients: GradientFigures | None = None

    @property
    def reports(self) -> dict[str, dict[str, TaskReport]]:
        """The figures of each task and split."""
        return {task: {split: each.report for split, each in splits.items()} for task, splits in self.scored.items()}

    @property
    def name(self) -> str:
        """What was run, in a word or two."""
        chosen = self.choices.get("scenario") or self.choices.get("experiment")
        freeze = f"freeze={self.choices.get('freeze', self.config.freeze.backbone)}"
        if self.config.task is None:
            return chosen or freeze
        return f"{self.config.task} alone, {freeze if chosen in (None, 'single_task') else chosen}"


def write(run: Run) -> None:
    """Write model, predictions, report, page, and at last metrics.json: where it is, the run is complete."""
    save_model(
        run.folder / "model",
        run.start.network,
        run.start.tokenizer,
        run.start.heads,
        model_card(run.name, run.start.heads, run.reports),
    )
    for task, splits in run.scored.items():
        for split, each in splits.items():
            write_predictions(predictions_path(run.folder, task, split), each.predictions)
    for task, analysis in run.errors.items():
        write_errors(run.folder, task, analysis)
    for task, found in run.maps.items():
        write_map(map_path(run.folder, task, reported_split(run.scored[task]) or ""), found)
    write_report(run.folder / "report.md", _summary(run, _draw(run)))
    figures = RunMetrics(run.reports, run.cost, _run_facts(run), run.retention, run.gradients, checksums(run.folder))
    if run.config.evaluation.figures:
        write_run_page(run.folder, figures)
    write_metrics(run.folder / "metrics.json", figures)


def _draw(run: Run) -> RunPictures:
    if not run.config.evaluation.figures:
        return RunPictures()
    return draw_run(run.folder, run.reports, run.epochs)


def _run_facts(run: Run) -> dict[str, object]:
    return {
        "name": run.name,
        "choices": run.choices,
        "seed": run.config.seed,
        "training_rows": {name: _label_counts(task) for name, task in run.tasks.items()},
        "backbone": backbone_name(run.config),
        "losses": run.losses,
        "warnings": [*run.warnings, *run.notes],
        "groups": [asdict(group) for group in run.groups],
        **({"unfreezing": [asdict(stage) for stage in run.unfreezing]} if run.unfreezing else {}),
        "versions": {"mtl": mtl.__version__, "torch": torch.__version__, "transformers": transformers.__version__},
    }


def _label_counts(task: TaskData) -> dict[str, int]:
    """Return the training rows of each label: what tells a comparison the size of the data and its rare classes."""
    counts = np.bincount(task.labels.ids(task.train), minlength=len(task.labels))
    return dict(zip(task.labels, counts.tolist(), strict=True))


def backbone_name(config: Config) -> str:
    """Return what the encoder is called: its folder, package or hub id."""
    backbone = config.backbone
    if config.model.init_from:
        return f"saved model {config.model.init_from}"
    return backbone.path or backbone.package or backbone.name or "random weights"


def _summary(run: Run, pictures: RunPictures) -> RunSummary:
    choices = {group: choice for group, choice in run.choices.items() if group in ("data", "freeze", "learning_rates")}
    examples = {
        (task, split): confusion_examples(each.predictions)
        for task, splits in run.scored.items()
        for split, each in splits.items()
    }
    return RunSummary(
        title=f"Run report: {run.name}",
        facts={"backbone": backbone_name(run.config), **choices, **run.facts},
        warnings=[*run.warnings, *run.notes],
        tasks=run.reports,
        groups=run.groups,
        unfreezing=run.unfreezing,
        cost=run.cost,
        examples=examples,
        retention=run.retention,
        files={**_FILES, **_ERROR_FILES} if run.errors else _FILES,
        errors=run.errors,
        pictures=pictures,
        gradients=run.gradients,
    )


def show(run: Run, *, brief: bool = False) -> None:
    """Print each task's table on test, the overview, the cost, and where everything lies.

    Args:
        run: The finished run.
        brief: Whether to print the overview and the place of the report only.
    """
    out = console()
    if brief:
        out.print(results_table(run.reports))
        out.print(f"\nreport   {_shown(run.folder)}/report.md\n", markup=False, soft_wrap=True)
        return
    for task, splits in run.reports.items():
        split = "test" if "test" in splits else next(iter(splits), None)
        if split is not None:
            out.print()
            out.print(class_table(f"{task}, {split}", splits[split]))
            if stages := splits[split].stages:
                out.print()
                out.print(stage_table(f"{task}, {split}, by stage", stages))
    out.print()
    out.print(results_table(run.reports))
    show_calibration(out, run.reports)
    out.print()
    out.print(cost_table(run.cost, run.retention))
    if run.gradients is not None and run.gradients.agreements:
        out.print("\nDo the tasks fight?")
        for sentence in sentences(run.gradients):
            out.print(Padding(Text(sentence), (0, 0, 0, 2)))
    for warning in run.notes:
        out.print(f"\nwarning: {warning}", markup=False)
    folder = _shown(run.folder)
    page = f"page     {folder}/report.html\n" if run.config.evaluation.figures else ""
    places = f"\nreport   {folder}/report.md\n{page}model    {folder}/model\nall      {folder}"
    out.print(places, markup=False, soft_wrap=True)
    out.print(f'use it   python -m mtl.predict model={folder} "a sentence"\n', markup=False, soft_wrap=True)


def show_calibration(out: Console, reports: Mapping[str, Mapping[str, TaskReport]]) -> None:
    """Print how far the probabilities can be trusted, and what a tuned decision rule changes."""
    decisions = decision_table(reports)
    for table in (calibration_table(reports), *([] if decisions is None else [decisions])):
        out.print()
        out.print(table)


def _shown(folder: Path) -> Path:
    """Return the folder as seen from where the command was started."""
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


Logits = dict[str, dict[str, NDArray[np.float32]]]


def logits_of_all(setting: Setting, splits: Splits, activations: FrozenActivations) -> Logits:
    """Return the logits of all validation and test rows, each computed once."""
    frozen = activations.at("embedding") if setting.plan.encoder_is_frozen else None
    return {
        name: {
            split: logits_of(
                setting.start.network,
                name,
                splits[name][split],
                setting.encoding,
                None if frozen is None else frozen[name, split].gather(np.arange(len(task.splits[split])))[0],
            )
            for split in ("val", "test")
            if len(task.splits[split])
        }
        for name, task in setting.tasks.items()
    }


def calibrated(setting: Setting, splits: Splits, logits: Logits) -> tuple[dict[str, TaskHead], list[str]]:
    """Return the heads with what was fitted on their validation rows, and what a reader must know of it.

    A head that is kept without data keeps its calibration, unless what lies below it was trained.
    """
    chosen, notes = setting.config.calibration, []
    heads = dict(setting.start.heads)
    for name in setting.start.kept:
        if setting.learns(name):
            heads[name] = replace(heads[name], temperature=1.0, bias=None, tau=0.0, stale=True)
    for name in setting.tasks:
        head = heads[name]
        classes = len(head.labels)
        found, warnings_of_task = calibrate(
            logits[name].get("val", np.empty((0, classes), dtype=np.float32)),
            splits[name]["val"].labels,
            np.bincount(splits[name]["train"].labels, minlength=classes),
            temperature=chosen.temperature,
            tuned_prior=chosen.prior == "tuned",
            seed=setting.config.seed,
        )
        bias = None if found.bias is None else list(found.bias)
        heads[name] = replace(head, temperature=found.temperature, bias=bias, tau=found.tau)
        notes += [f"{name}: {text}" for text in warnings_of_task]
    return heads, notes


def scored_splits(
    setting: Setting, splits: Splits, logits: Logits, heads: Mapping[str, TaskHead]
) -> dict[str, dict[str, Scored]]:
    """Return the figures and predictions of each task and split."""
    return {
        name: {
            split: score(
                rows,
                tuple(heads[name].labels),
                splits[name][split].labels,
                setting.tasks[name].splits[split],
                heads[name].calibration,
                setting.config.calibration.bins,
            )
            for split, rows in found.items()
        }
        for name, found in logits.items()
    }
