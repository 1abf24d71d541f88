"""Evaluate the trained network, and write the results of a run: model, predictions, report, page, metrics."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from rich.padding import Padding
from rich.text import Text

import mtl
from mtl.base.run_folder import CHECKPOINTS
from mtl.base.terminal import console
from mtl.config.fields import Config
from mtl.data.datamodule import TokenizedSplit
from mtl.evaluation.calibration import calibrate
from mtl.evaluation.errors import ErrorAnalysis, write_errors
from mtl.evaluation.predictions import confusion_examples, predictions_path, write_predictions
from mtl.evaluation.records import Retention, TaskReport
from mtl.evaluation.run_metrics import RunMetrics, checksums, write_metrics
from mtl.evaluation.run_summary import Picture, RunSummary, reported_split
from mtl.evaluation.scoring import Scored, logits_of, reports_of, score
from mtl.evaluation.stages import with_stages
from mtl.evaluation.task_gradients import sentences
from mtl.model.conformal import outcomes
from mtl.model.saved import TaskHead, save_model
from mtl.reporting.maps import SentenceMap, map_path, write_map
from mtl.reporting.model_card import CardFacts, model_card
from mtl.reporting.run import write_report
from mtl.reporting.run_charts import draw_run
from mtl.reporting.run_page import write_run_page
from mtl.reporting.tables import (
    Table,
    calibration_table,
    class_table,
    cost_table,
    decision_table,
    results_table,
    stage_table,
)
from mtl.training.analysis import Frozen, analyse_errors
from mtl.training.bad_steps import left_out_warnings
from mtl.training.checkpoints import PREVIOUS
from mtl.training.description import facts, loss_settings
from mtl.training.fit import Trained, encoder_ability
from mtl.training.plan import RunPlan
from mtl.training.prepare import Prepared

_FILES = {
    "model": "the saved model: encoder, tokenizer, heads, label names",
    "report.html": "this report with charts and a table of all mistakes; opens offline",
    "metrics.json": "all figures of this report",
    "predictions": "each sentence with its label, predicted class and probabilities",
    "config.yaml": "the whole configuration",
}
_ERROR_FILES = {"errors": "the most confident mistakes with their nearest training rows, and the scores of each slice"}

Reports = Mapping[str, Mapping[str, TaskReport]]
"""The report of each task and split."""


@dataclass(frozen=True, slots=True)
class Results:
    """A run that has been evaluated."""

    plan: RunPlan
    trained: Trained
    choices: Mapping[str, str]  # the choice made in each configuration group
    heads: dict[str, TaskHead]  # calibrated
    scored: dict[str, dict[str, Scored]]  # of each task and split
    notes: Sequence[str]  # warnings of training and calibration
    retention: Retention | None
    errors: Mapping[str, ErrorAnalysis]
    maps: Mapping[str, SentenceMap]  # where a sample of a task's reported rows lies before and after training

    @property
    def reports(self) -> dict[str, dict[str, TaskReport]]:
        """The report of each task and split."""
        return reports_of(self.scored)

    @property
    def name(self) -> str:
        """A short name of the run."""
        chosen = self.choices.get("scenario") or self.choices.get("experiment")
        freeze = f"freeze={self.choices.get('freeze', self.plan.config.freeze.backbone)}"
        if self.plan.config.task is None:
            return chosen or freeze
        return f"{self.plan.config.task} alone, {freeze if chosen in (None, 'single_task') else chosen}"


def evaluate(run: Prepared, trained: Trained, choices: Mapping[str, str]) -> Results:
    """Evaluate the trained network: logits, calibration, scores, error analysis, retention, sentence maps.

    A head that is kept without data keeps its calibration, unless a layer below it was trained.
    """
    plan, splits, heads = run.plan, run.splits, dict(run.plan.start.heads)
    for name in plan.start.kept & plan.trained:
        heads[name] = replace(heads[name], temperature=1.0, bias=None, tau=0.0, outcomes=None, stale=True)
    frozen = run.activations.at("embedding") if plan.freezing.encoder_is_frozen else None
    notes, scored = left_out_warnings(trained.cost.skipped_steps), {}
    for name, task in plan.tasks.items():
        logits = _logits(plan, name, splits[name], frozen)
        heads[name], warnings = _calibrated(plan, heads[name], logits.get("val"), splits[name])
        notes += [f"{name}: {text}" for text in warnings]
        scored[name] = {
            split: score(
                rows,
                tuple(heads[name].labels),
                splits[name][split].labels,
                task.splits[split],
                heads[name].calibration,
                plan.config.calibration.bins,
                heads[name].outcomes if split != "val" else None,  # which were fitted on these rows
            )
            for split, rows in logits.items()
        }
    scored = with_stages(scored, heads)
    return Results(
        plan=plan,
        trained=trained,
        choices=choices,
        heads=heads,
        scored=scored,
        notes=notes,
        retention=_retention(run, trained.ability),
        errors=analyse_errors(plan, splits, scored, frozen),
        maps=trained.maps.end(plan, splits, frozen),
    )


def _retention(run: Prepared, before: float | None) -> Retention | None:
    after = before if run.plan.freezing.encoder_is_frozen else encoder_ability(run)
    if run.pairs is None or before is None or after is None:
        return None
    return Retention(before, after, len(run.pairs))


def _logits(
    plan: RunPlan, task: str, encoded: Mapping[str, TokenizedSplit], frozen: Frozen | None
) -> dict[str, NDArray[np.float32]]:
    """Return the logits ``(N, C)`` of the validation and test rows of a task."""
    logits = {}
    for split in ("val", "test"):
        if rows := len(encoded[split].labels):
            embeddings = None if frozen is None else frozen[task, split].gather(np.arange(rows))[0]
            logits[split] = logits_of(plan.start.network, task, encoded[split], plan.encoding, embeddings)
    return logits


def _calibrated(
    plan: RunPlan, head: TaskHead, logits: NDArray[np.float32] | None, encoded: Mapping[str, TokenizedSplit]
) -> tuple[TaskHead, list[str]]:
    """Return a head, calibrated on its validation rows, and warnings."""
    chosen, labels, classes = plan.config.calibration, encoded["val"].labels, len(head.labels)
    rows = np.empty((0, classes), dtype=np.float32) if logits is None else logits
    calibration, warnings = calibrate(
        rows,
        labels,
        np.bincount(encoded["train"].labels, minlength=classes),
        temperature=chosen.temperature,
        tuned_prior=chosen.prior == "tuned",
        seed=plan.config.seed,
    )
    known = None
    if len(rows) and np.isfinite(rows).all():
        known = outcomes(calibration.probabilities(rows), calibration.predicted(rows), labels)
    bias = None if calibration.bias is None else list(calibration.bias)
    head = replace(head, temperature=calibration.temperature, bias=bias, tau=calibration.tau, outcomes=known)
    return head, warnings


def write(run: Results) -> None:
    """Write model, predictions, report, page, and metrics.json last: it marks a complete run."""
    folder, start = run.plan.folder, run.plan.start
    card = model_card(run.name, run.heads, run.reports, _training(run))
    save_model(folder / "model", start.network, start.tokenizer, run.heads, card)
    for task, splits in run.scored.items():
        for split, scores in splits.items():
            write_predictions(predictions_path(folder, task, split), scores.predictions)
    for task, analysis in run.errors.items():
        write_errors(folder, task, analysis)
    for task, drawn in run.maps.items():
        write_map(map_path(folder, task, reported_split(run.scored[task]) or ""), drawn)
    figures = run.plan.config.evaluation.figures
    pictures = draw_run(folder, run.reports, run.trained.epochs) if figures else {}
    write_report(folder / "report.md", _summary(run, pictures))
    metrics = RunMetrics(
        run.reports, run.trained.cost, _run_facts(run), run.retention, run.trained.gradients, checksums(folder)
    )
    if figures:
        write_run_page(folder, metrics)
    write_metrics(folder / "metrics.json", metrics)
    (folder / CHECKPOINTS / PREVIOUS).unlink(missing_ok=True)  # as large as the last one, and not needed


def _training(run: Results) -> CardFacts:
    """Return what the model card says of the training; of local folders only their names."""
    config = run.plan.config
    local = config.model.init_from or config.backbone.path
    chosen = {group: run.choices[group] for group in ("freeze", "learning_rates") if group in run.choices}
    about = {"encoder": Path(local).name if local else _backbone_name(config), **chosen, **facts(run.plan)}
    return CardFacts(_label_counts(run.plan), about, run.plan.start.network.encoder.max_length)


def _run_facts(run: Results) -> dict[str, object]:
    return {
        "name": run.name,
        "choices": run.choices,
        "seed": run.plan.config.seed,
        "training_rows": _label_counts(run.plan),
        "backbone": _backbone_name(run.plan.config),
        "losses": loss_settings(run.plan),
        "warnings": [*run.trained.warnings, *run.notes],
        "groups": [asdict(group) for group in run.trained.groups],
        **({"unfreezing": [asdict(stage) for stage in run.trained.unfreezing]} if run.trained.unfreezing else {}),
        "versions": {"mtl": mtl.__version__, "torch": torch.__version__, "transformers": transformers.__version__},
    }


def _label_counts(plan: RunPlan) -> dict[str, dict[str, int]]:
    """Return the training rows of each label of each task, from which a comparison reads the size of the data."""
    rows = {}
    for name, task in plan.tasks.items():
        counts = np.bincount(task.labels.ids(task.train), minlength=len(task.labels))
        rows[name] = dict(zip(task.labels, counts.tolist(), strict=True))
    return rows


def _backbone_name(config: Config) -> str:
    """Return the name of the encoder: its folder, package or hub id."""
    backbone = config.backbone
    if config.model.init_from:
        return f"saved model {config.model.init_from}"
    return backbone.path or backbone.package or backbone.name or "random weights"


def _summary(run: Results, pictures: Mapping[str, Picture]) -> RunSummary:
    choices = {group: choice for group, choice in run.choices.items() if group in ("data", "freeze", "learning_rates")}
    examples = {
        (task, split): confusion_examples(scores.predictions)
        for task, splits in run.scored.items()
        for split, scores in splits.items()
    }
    return RunSummary(
        title=f"Run report: {run.name}",
        facts={"backbone": _backbone_name(run.plan.config), **choices, **facts(run.plan)},
        warnings=[*run.trained.warnings, *run.notes],
        tasks=run.reports,
        groups=run.trained.groups,
        unfreezing=run.trained.unfreezing,
        cost=run.trained.cost,
        examples=examples,
        retention=run.retention,
        files={**_FILES, **_ERROR_FILES} if run.errors else _FILES,
        errors=run.errors,
        pictures=pictures,
        gradients=run.trained.gradients,
    )


def show(run: Results, *, brief: bool = False) -> None:
    """Print each task's table on test, the overview, the cost, and the paths of the files."""
    out = console()
    if brief:
        out.print(results_table(run.reports))
        out.print(f"\nreport   {_shown(run.plan.folder)}/report.md\n", markup=False, soft_wrap=True)
        return
    reported = {task: reported_split(splits) for task, splits in run.reports.items()}
    in_full = {task: {split: run.reports[task][split]} for task, split in reported.items() if split is not None}
    for table in (*score_tables(in_full, run.reports), cost_table(run.trained.cost, run.retention)):
        out.print()
        out.print(table)
    if run.trained.gradients is not None and run.trained.gradients.agreements:
        out.print("\nDo the tasks fight?")
        for sentence in sentences(run.trained.gradients):
            out.print(Padding(Text(sentence), (0, 0, 0, 2)))
    for warning in run.notes:
        out.print(f"\nwarning: {warning}", markup=False)
    folder = _shown(run.plan.folder)
    page = f"page     {folder}/report.html\n" if run.plan.config.evaluation.figures else ""
    places = f"\nreport   {folder}/report.md\n{page}model    {folder}/model\nall      {folder}"
    out.print(places, markup=False, soft_wrap=True)
    use = f'use it   python -m mtl.predict model={shlex.quote(str(folder))} "a sentence"\n'
    out.print(use, markup=False, soft_wrap=True)


def score_tables(in_full: Reports, reports: Reports) -> list[Table]:
    """Return the tables of some reports by class and stage, then of all reports: an overview and their calibration."""
    tables = []
    for task, splits in in_full.items():
        for split, report in splits.items():
            tables.append(class_table(f"{task}, {split}", report))
            if report.stages is not None:
                tables.append(stage_table(f"{task}, {split}, by stage", report.stages))
    tables += [results_table(reports), calibration_table(reports)]
    if (decisions := decision_table(reports)) is not None:
        tables.append(decisions)
    return tables


def _shown(folder: Path) -> Path:
    """Return the folder relative to the working directory, if it lies below."""
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder
