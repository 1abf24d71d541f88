"""Tables of the terminal: whole at 80 columns, plain in a pipe, and data is never markup."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import torch
from rich.cells import cell_len
from rich.console import Console, RenderableType

from mtl.base.terminal import console
from mtl.evaluation.metrics import task_report
from mtl.evaluation.records import AnswerFigures, AnsweringReport, SetFigures, TaskReport
from mtl.evaluation.run_metrics import Cost
from mtl.evaluation.run_summary import GroupRow, PlanRow
from mtl.reporting import tables
from mtl.reporting.page import environment

GROUPS = [
    GroupRow("embeddings", ["embeddings"], None, None, 23_837_184, state="frozen"),
    GroupRow(
        "upper", [f"layer.{index}" for index in range(6, 12)], 1.6234e-5, 0.01, 42_527_232, 96, "trained from epoch 2"
    ),
    GroupRow("heads", ["heads.classification", "heads.sentiment"], 1e-3, 0, 1_184_260, 8),
]


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def shown(renderable: RenderableType, width: int = 80) -> str:
    """Return what a pipe gets, without the blanks that fill the lines."""
    file = io.StringIO()
    printer = console(file)
    printer.width = width
    printer.print(renderable)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def topics(labels: list[str]) -> TaskReport:
    confusion = torch.diag(torch.arange(len(labels)) * 1000 + 5)
    confusion[:, 0] += 1
    return task_report(confusion, labels)


def test_class_table() -> None:
    assert (
        shown(tables.class_table("topics on test", topics(["delivery", "price"])))
        == """\
topics on test
class             precision  recall     F1  support
───────────────────────────────────────────────────
delivery              0.857   1.000  0.923      * 6
price                 1.000   0.999  1.000    1,006

macro average         0.929   1.000  0.961    1,012
weighted average      0.999   0.999  0.999    1,012
accuracy                             0.999    1,012
* fewer than 20 rows: uncertain figures"""
    )


def test_tables_of_prediction_sets_and_answers() -> None:
    answering = AnsweringReport(
        [SetFigures(coverage=0.9, covered=0.91, lowest=0.85, size=1.254, single=0.75, empty=0.0)],
        [
            AnswerFigures(max_risk=0.01, threshold=None, answered=0.0, wrong=None),
            AnswerFigures(max_risk=0.1, threshold=0.625, answered=0.8, wrong=0.07),
        ],
    )
    report = topics(["delivery", "price"])
    reports = {"topics": {"val": report, "test": replace(report, answering=answering)}}
    sets, answers = tables.set_table(reports), tables.answer_table(reports)
    assert sets is not None
    assert answers is not None
    texts = [[tables.as_cell(cell).text for cell in row] for row in (*sets.rows, *answers.rows)]
    assert texts == [
        ["topics", "test", "0.9", "0.910", "0.850", "1.25", "0.750", "0.000"],
        ["topics", "test", "0.01", "0.000", "–", "–"],
        ["topics", "test", "0.1", "0.800", "0.070", "0.625"],
    ]
    assert tables.set_table({"topics": {"val": report}}) is tables.answer_table({"topics": {"val": report}}) is None


def test_results_table() -> None:
    report = topics(["delivery", "price"])
    assert (
        shown(tables.results_table({"topics": {"val": report, "test": report}}))
        == """\
Results
                                                       majority
task    split   rows  accuracy  macro-F1  weighted-F1     class
───────────────────────────────────────────────────────────────
topics  val    1,012     0.999     0.961        0.999     0.994
topics  test   1,012     0.999     0.961        0.999     0.994
majority class: accuracy of always predicting the most frequent
class"""
    )


def test_group_table() -> None:
    assert (
        shown(tables.group_table(GROUPS))
        == """\
Parameter groups
group       layers                state             rate  decay  parameters
───────────────────────────────────────────────────────────────────────────
embeddings  embeddings            frozen               –      –  23,837,184
upper       layer.6–11            trained from  1.62e-05   0.01  42,527,232
                                  epoch 2
heads       heads.classification  trained          0.001      0   1,184,260
            heads.sentiment"""
    )


def test_plan_table() -> None:
    plan = [PlanRow("classification", 9600, 300, 1.0), PlanRow("sentiment", 6400, 300, 1.5)]
    assert (
        shown(tables.plan_table(plan))
        == """\
Plan of an epoch
                                    passes
                         batches  over the
task             rows  per epoch      rows
──────────────────────────────────────────
classification  9,600        300      1.00
sentiment       6,400        300      1.50"""
    )


def test_plan_table_with_repeated_rows() -> None:
    plan = [PlanRow("classification", 9600, 450, 1.0, slots=14_400), PlanRow("sentiment", 6400, 200, 1.0, slots=6400)]
    assert (
        shown(tables.plan_table(plan))
        == """\
Plan of an epoch
                                                     passes
                                          batches  over the
task                              rows  per epoch      rows
───────────────────────────────────────────────────────────
classification  9,600 + 4,800 repeated        450      1.00
sentiment                        6,400        200      1.00"""
    )


def test_cost_table() -> None:
    assert (
        shown(tables.cost_table(Cost(203.4, 43_711_492, 109_486_464, 1234.0, 2**31, encoding_seconds=0.0)))
        == """\
Cost
training time       3 min 23 s
throughput          1,234 sentences/s
trained parameters  43,711,492 of 109,486,464 (39.9 %)
peak memory         2.0 GiB"""
    )


def test_of_many_classes_the_weakest_are_shown_in_order() -> None:
    labels = [f"class {index}" for index in range(30)]
    confusion = torch.eye(30, dtype=torch.long) * 100
    confusion[7, 3] = confusion[29, 11] = 50
    text = shown(tables.class_table("topics", task_report(confusion, labels), most=4))
    assert [line.split("  ")[0] for line in text.splitlines() if line.startswith("class ")][1:] == [
        "class 3",
        "class 7",
        "class 11",
        "class 29",
    ]
    assert text.endswith("26 more classes, F1 1.000: see the report")


def test_one_value_has_three_renderings() -> None:
    rows: tables.Rows = [["a|b <i>", tables.Cell(["one,", "two"]), tables.Cell("0.500", 0.5)], ["c", "d", "–"]]
    table = tables.Table(
        "Title", ["name", "texts", "a long figure"], rows, "A note.", texts=2, footer=[["all", "", "1"]]
    )
    assert (
        shown(table)
        == """\
Title
                a long
name     texts  figure
──────────────────────
a|b <i>  one,    0.500
         two
c        d           –

all                  1
A note."""
    )
    assert table.to_markdown() == (
        "| name           | texts    | a long figure |\n"
        "| -------------- | -------- | ------------: |\n"
        "| a\\|b &lt;i&gt; | one, two |         0.500 |\n"
        "| c              | d        |             – |\n"
        "| *all*          |          |             1 |"
    )
    macros = environment.get_template("parts.html").module
    html = str(macros.table(table)).replace("\n", "")  # type: ignore[attr-defined] # a macro
    assert "<caption>Title. A note.</caption>" in html
    assert (
        '<tr><th scope="row">a|b &lt;i&gt;</th><td>one, two</td><td class="figure" data-value="0.5">0.500</td></tr>'
        in html
    )
    assert '<tfoot><tr><th scope="row">all</th><td></td><td class="figure">1</td></tr></tfoot>' in html


LONG = "a label of many words that nobody would give a class, but a column of free text has it"


@pytest.mark.parametrize("label", [LONG, LONG.replace(" ", "_"), "長" * 60])
def test_80_columns_cut_nothing(label: str) -> None:
    report = topics([label, "b"])
    for renderable in (
        tables.class_table(label, report),
        tables.results_table({label: {"test": report}}),
        tables.plan_table([PlanRow(label, 1, 1, 1.0)]),
        tables.group_table([GroupRow(label, [label], 1.6234e-5, 0.01, 109_486_464)]),
    ):
        text = shown(renderable)
        assert all(cell_len(line) <= 80 for line in text.splitlines())
        assert "…" not in text
    assert "1.62e-05   0.01  109,486,464" in text


def test_names_are_no_markup_and_send_no_control_codes() -> None:
    text = shown(tables.class_table("[red]on[/red]", topics(["[bold]a[/bold]", "b\x1b[31m\nc"])))
    assert "[red]on[/red]" in text
    assert "[bold]a[/bold]" in text
    assert "b\ufffd[31m c" in text


def test_a_terminal_gets_colours_and_a_pipe_none() -> None:
    terminal = io.StringIO()
    Console(file=terminal, force_terminal=True, color_system="standard").print(tables.group_table(GROUPS))
    assert "\x1b[" in terminal.getvalue()
    assert "\x1b" not in shown(tables.group_table(GROUPS))
