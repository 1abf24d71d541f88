"""The Markdown report: every part is there, in order, and only where there is something to say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from markdown_it import MarkdownIt

from mtl.evaluation.metrics import task_report
from mtl.evaluation.predictions import ConfusionExample
from mtl.evaluation.records import TaskReport
from mtl.evaluation.run_metrics import Cost
from mtl.evaluation.run_summary import Confusion, GroupRow, RunSummary, cost_rows, frequent_confusions
from mtl.reporting.run import MATRIX_CLASSES, render_report, write_report

NASTY = "a|b `c` <b>d</b>\n# e"


def sentiment(wrong: int = 10) -> TaskReport:
    return task_report(torch.tensor([[90, wrong], [0, 5]]), ["negative", "very_positive"])


@pytest.fixture
def summary() -> RunSummary:
    example = ConfusionExample("Not bad at all,\nreally | good.", "test.csv:17", 0.934)
    return RunSummary(
        title="full_finetune",
        facts={"backbone": "mpnet", "data": "reviews"},
        warnings=["the head of sentiment is untrained: these figures are chance level"],
        tasks={"sentiment": {"val": sentiment(2), "test": sentiment()}},
        groups=[
            GroupRow("embeddings", ["embeddings"], None, None, 23_837_184, state="frozen"),
            GroupRow("upper", ["layer.10", "layer.11"], 1.6234e-5, 0.01, 14_175_744),
        ],
        cost=Cost(203.4, 14_175_744, 109_486_464, 1234.0, 3_650_722_201, encoding_seconds=0.0),
        examples={("sentiment", "test"): {("negative", "very_positive"): [example]}},
        files={"metrics.json": "all figures"},
    )


def test_the_whole_report(summary: RunSummary) -> None:
    assert render_report(summary) == Path(__file__).with_name("expected_report.md").read_text(encoding="utf-8")


def test_it_is_written_as_rendered(summary: RunSummary, tmp_path: Path) -> None:
    write_report(tmp_path / "report.md", summary)
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == render_report(summary)


def test_only_what_is_known_is_shown() -> None:
    report = render_report(RunSummary("smallest", tasks={"a": {}, "b": {"val": sentiment(0)}}))
    headings = [line for line in report.splitlines() if line.startswith("#")]
    assert headings == ["# smallest", "## Results", "## Task b"]
    assert "On val: 95 rows, accuracy 1.000." in report
    assert "No row was taken for another class." in report
    assert "<details>" not in report


def test_many_classes_have_confusions_in_words_instead_of_a_matrix() -> None:
    classes = MATRIX_CLASSES + 1
    confusion = torch.full((classes, classes), 2)
    many = task_report(confusion, [f"class {index}" for index in range(classes)])
    report = render_report(RunSummary("many", tasks={"topics": {"test": many}}))
    assert "The whole confusion matrix of the 13 classes stands in `metrics.json`." in report
    assert report.count(" taken for ") == 10
    assert "true \\ predicted" not in report


def test_data_texts_change_nothing_but_themselves(summary: RunSummary) -> None:
    """The report has the same blocks whatever its names and sentences hold."""

    def blocks(report: str) -> list[str]:
        return [token.type for token in MarkdownIt("commonmark").enable("table").parse(report)]

    labels = [NASTY, NASTY + "2"]
    report = task_report(torch.tensor([[90, 10], [0, 5]]), labels)
    example = ConfusionExample(NASTY, NASTY, 0.5)
    nasty = RunSummary(
        title=NASTY,
        facts={NASTY: NASTY, "data": NASTY},
        warnings=[NASTY],
        tasks={NASTY: {"val": report, "test": report}},
        groups=[replace(group, name=NASTY, layers=[NASTY], state=NASTY) for group in summary.groups],
        cost=summary.cost,
        examples={(NASTY, "test"): {(labels[0], labels[1]): [example]}},
        files={NASTY: NASTY},
    )
    assert blocks(render_report(nasty)) == blocks(render_report(summary))


def test_frequent_confusions() -> None:
    report = task_report(torch.tensor([[5, 3, 0], [4, 0, 0], [3, 1, 2]]), ["a", "b", "c"])
    assert frequent_confusions(report, most=3) == [
        Confusion("b", "a", count=4, support=4),
        Confusion("a", "b", count=3, support=8),
        Confusion("c", "a", count=3, support=6),
    ]
    assert len(frequent_confusions(report)) == 4


def test_cost_rows_show_what_was_measured() -> None:
    assert cost_rows(Cost()) == []
    assert cost_rows(Cost(trainable_parameters=0, total_parameters=1000)) == [
        ("trained parameters", "0 of 1,000 (0.0 %)")
    ]
    assert cost_rows(Cost(train_seconds=0.1, encoding_seconds=0.0)) == [("training time", "0.1 s")]
    assert cost_rows(Cost(train_seconds=0.1)) == [("training time", "0.1 s, and encoding for frozen layers: unknown")]
    assert cost_rows(Cost(train_seconds=0.1, encoding_seconds=11.3)) == [
        ("encoding", "11.3 s (each training and validation sentence once, as with an empty cache)"),
        ("training", "0.1 s"),
        ("both together", "11.4 s"),
    ]
