"""The model card of a saved model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from mtl.base.errors import listed
from mtl.evaluation.records import Reports, flat
from mtl.evaluation.run_summary import reported_split
from mtl.model.saved import TaskHead
from mtl.reporting.markdown import escaped

_WEAK_F1 = 0.7
_FEW_ROWS = 30
_USE = """```python
from mtl import MultiTaskModel

model = MultiTaskModel.from_pretrained("path/to/this/folder")
model.predict(["a sentence"])  # {task: [Prediction(label, probabilities)]}
model.encode(["a sentence"])  # embeddings, float32
```

The encoder alone also loads with `sentence_transformers.SentenceTransformer("path/to/this/folder")`. The heads do not
load with `transformers.pipeline("text-classification")`: it would answer from a head of random weights."""


@dataclass(frozen=True, slots=True)
class CardFacts:
    """How a model came about, for its card; a card is published, so it names no local files."""

    rows: Mapping[str, Mapping[str, int]]  # for each trained task the training rows of each label
    facts: Mapping[str, str]  # short facts by name: the encoder, what was frozen, the learning rates
    max_length: int | None  # tokens of a text, special tokens included; longer texts are truncated


def model_card(name: str, heads: Mapping[str, TaskHead], reports: Reports, training: CardFacts | None = None) -> str:
    """Return the card as Markdown, with a ``model-index`` from which the hub shows the figures."""
    figures = ["| task | split | rows | accuracy | macro-F1 |", "|---|---|---:|---:|---:|"]
    for task, split, report in flat(reports):
        figures.append(f"| {task} | {split} | {report.rows:,} | {report.accuracy:.3f} | {report.macro_f1:.3f} |")
    labels = [
        f"- **{task}**: {', '.join(escaped(label) for label in head.labels)}{_kept(head, kept=task not in reports)}"
        for task, head in heads.items()
    ]
    blocks = [
        f"---\n{_front_matter(name, reports)}---",
        f"# Multi-task sentence encoder: {escaped(name)}",
        "One sentence encoder with a head for each task. Labels, in the order of the heads' outputs:",
        "\n".join(labels),
        *_calibration(heads),
        "## Use",
        _USE,
        "## Figures",
        "\n".join(figures),
        *(() if training is None else _training(training)),
        "## Limits",
        "\n".join(f"- {limit}" for limit in _limits(reports, training)),
    ]
    return "\n\n".join(blocks) + "\n"


def _front_matter(name: str, reports: Reports) -> str:
    """Return YAML; the tag text-classification would offer a pipeline that answers from random weights."""
    content: dict[str, Any] = {
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": ["sentence-transformers", "multi-task"],
    }
    results = [
        {
            "task": {"type": "multi-class-classification", "name": task},
            "dataset": {"type": task, "name": f"{task}, {split}", "split": split},
            "metrics": [
                {"type": "accuracy", "value": round(report.accuracy, 4)},
                {"type": "f1", "name": "macro-F1", "value": round(report.macro_f1, 4)},
            ],
        }
        for task, split, report in flat(reports)
    ]
    if results:
        content["model-index"] = [{"name": name, "results": results}]
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _training(training: CardFacts) -> Iterator[str]:
    rows = ["| task | label | training rows |", "|---|---|---:|"]
    for task, counts in training.rows.items():
        rows += [f"| {task} | {escaped(label)} | {count:,} |" for label, count in counts.items()]
    yield from ("## Training data", "\n".join(rows))
    yield from ("## Training", "\n".join(f"- {name}: {escaped(value)}" for name, value in training.facts.items()))


def _limits(reports: Reports, training: CardFacts | None) -> list[str]:
    """Return what the figures do not promise: unlike data, long texts, and the labels that are known to be weak."""
    limits = [
        "The figures are of rows like the training rows; for other sources, domains or languages they promise nothing.",
        "A text gets one of the labels of each task even if none fits it.",
    ]
    if training is not None and training.max_length is not None:
        limits.append(f"Texts are truncated at {training.max_length} tokens.")
    for task, splits in reports.items():
        split = reported_split(splits)
        classes = splits[split].per_class if split is not None else {}
        weak = [f"{escaped(label)} ({report.f1:.2f})" for label, report in classes.items() if report.f1 < _WEAK_F1]
        if weak:
            limits.append(f"{task}: F1 on {split} is below {_WEAK_F1:g} for {listed(weak)}.")
        counts = training.rows.get(task, {}) if training is not None else {}
        rare = [f"{escaped(label)} ({count:,})" for label, count in counts.items() if count < _FEW_ROWS]
        if rare:
            limits.append(f"{task}: fewer than {_FEW_ROWS} training rows for {listed(rare)}.")
    return limits


def _kept(head: TaskHead, *, kept: bool) -> str:
    """Return what is behind the labels of a head that was not trained or measured with this model's data."""
    if head.stale:
        return ". **Stale**: the encoder was trained after this head without rows of this task; measure it before use."
    return ". Kept as it was in the model that training started from, and not measured again." if kept else ""


def _calibration(heads: Mapping[str, TaskHead]) -> Iterator[str]:
    """Yield what was fitted on validation rows; nothing where nothing was."""
    fitted = [
        f"{task} T = {head.temperature:.3f}" + (f" after tau = {head.tau:g}" if head.tau else "")
        for task, head in heads.items()
        if head.temperature != 1 or head.tau
    ]
    if fitted:
        prior = ", after tau times the log-prior was taken out" if any(head.tau for head in heads.values()) else ""
        yield (
            f"Probabilities are calibrated on validation rows: the logits are divided by a temperature T{prior} "
            f"({', '.join(fitted)}). `calibrated=False` gives the heads' own."
        )
