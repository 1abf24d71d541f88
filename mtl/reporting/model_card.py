"""The model card of a saved model."""

from __future__ import annotations

from collections.abc import Mapping

from mtl.evaluation.records import TaskReport
from mtl.model.saved import TaskHead
from mtl.reporting.markdown import escaped

_USE = """```python
from mtl import MultiTaskModel

model = MultiTaskModel.from_pretrained("path/to/this/folder")
model.predict(["a sentence"])  # {task: [Prediction(label, probabilities)]}
model.encode(["a sentence"])  # embeddings, float32
```

The encoder alone also loads with `sentence_transformers.SentenceTransformer("path/to/this/folder")`. The heads do not
load with `transformers.pipeline("text-classification")`: it would answer from a head of random weights."""


def model_card(name: str, heads: Mapping[str, TaskHead], reports: Mapping[str, Mapping[str, TaskReport]]) -> str:
    """Return the card as Markdown.

    Args:
        name: What was run.
        heads: The tasks with their labels.
        reports: The figures of each task and split.
    """
    rows = [
        f"| {task} | {split} | {report.rows:,} | {report.accuracy:.3f} | {report.macro_f1:.3f} |"
        for task, splits in reports.items()
        for split, report in splits.items()
    ]
    labels = [
        f"- **{task}**: {', '.join(escaped(label) for label in head.labels)}{_kept(head, kept=task not in reports)}"
        for task, head in heads.items()
    ]
    return "\n".join(
        [
            "---",
            "library_name: sentence-transformers",
            "pipeline_tag: sentence-similarity",
            "tags: [sentence-transformers, multi-task]",
            "---",
            "",
            f"# Multi-task sentence encoder: {escaped(name)}",
            "",
            "One sentence encoder with a head for each task. Labels, in the order of the heads' outputs:",
            "",
            *labels,
            "",
            *_calibration(heads),
            "## Use",
            "",
            _USE,
            "",
            "## Figures",
            "",
            "| task | split | rows | accuracy | macro-F1 |",
            "|---|---|---:|---:|---:|",
            *rows,
            "",
        ]
    )


def _kept(head: TaskHead, *, kept: bool) -> str:
    """Return what is behind the labels of a head that was not trained or measured with this model's data."""
    if head.stale:
        return ". **Stale**: the encoder was trained after this head without rows of this task; measure it before use."
    return ". Kept as it was in the model that training started from, and not measured again." if kept else ""


def _calibration(heads: Mapping[str, TaskHead]) -> list[str]:
    """Return what was fitted on validation rows; nothing where nothing was."""
    fitted = [
        f"{task} T = {head.temperature:.3f}" + (f" after tau = {head.tau:g}" if head.tau else "")
        for task, head in heads.items()
        if head.temperature != 1 or head.tau
    ]
    if not fitted:
        return []
    return [
        "Probabilities are calibrated on validation rows: the logits are divided by a temperature T"
        + (", after tau times the log-prior was taken out" if any(head.tau for head in heads.values()) else "")
        + f" ({', '.join(fitted)}). `calibrated=False` gives the heads' own.",
        "",
    ]
