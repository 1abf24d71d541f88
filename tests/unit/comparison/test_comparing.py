"""The comparison as a whole: ranking, what is real, what follows in words, and its files."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from rich.console import Console

from mtl.base.errors import DataError
from mtl.base.files import write_sealed_json
from mtl.comparison.comparing import Comparison, compare
from mtl.comparison.outputs import blocks, render, write
from mtl.comparison.recommendation import Advice, recommend
from mtl.comparison.words import evidence, left_out, signed, verdict
from tests.support.comparisons import answers, labels, predictions, write_job, write_run

if TYPE_CHECKING:
    from pathlib import Path

ROWS = 120
TRUE = labels(ROWS)
SIZES = {"few": {"topic": {"bad": 30, "fine": 5, "good": 30}}, "many": {"topic": {"bad": 300, "fine": 50, "good": 300}}}


def run(folder: Path, name: str, wrong: int, seed: int = 1, seconds: float | None = 100, **rest: object) -> Path:
    """Write a run of which ``wrong`` rows are wrong, others with each seed."""
    places = np.random.default_rng([seed, wrong]).permutation(ROWS)[:wrong].tolist()
    tasks = {"topic": predictions(TRUE, answers(TRUE, places))}
    return write_run(folder / f"{name.removeprefix('freeze=')}-{seed}-{rest.get('size', '')}", tasks, name=name,
                     seed=seed, seconds=seconds, training_rows=SIZES[str(rest.get("size", "many"))],
                     parameters=0 if seconds is None else 1000)  # fmt: skip


def advice(comparison: Comparison) -> dict[str, Advice]:
    return {each.question: each for each in recommend(comparison)}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """``none`` is best, ``lower`` hardly less, ``backbone`` far less for 5 % of the time; two seeds each."""
    for seed in (1, 2):
        run(tmp_path, "freeze=none", 10, seed, 100)
        run(tmp_path, "freeze=lower", 12, seed, 40)
        run(tmp_path, "freeze=backbone", 50, seed, 5)
        run(tmp_path, "freeze=all", 80, seed, None)
    return tmp_path


def test_scenarios_are_ranked_by_score_with_mean_and_deviation(study: Path) -> None:
    comparison = compare([study])
    assert [row.name for row in comparison.rows] == ["freeze=none", "freeze=lower", "freeze=backbone", "freeze=all"]
    values = [run.report("topic").macro_f1 for run in comparison.best.scenario.runs]
    assert comparison.best.score is not None
    assert comparison.best.score.values == tuple(values)
    assert comparison.best.score.mean == pytest.approx(np.mean(values))
    assert comparison.best.score.deviation == pytest.approx(np.std(values, ddof=1))
    assert comparison.cheapest.name == "freeze=backbone"  # freeze=all learns nothing
    assert comparison.rare_classes == {"topic": ["fine"]}


def test_what_is_real_and_what_is_noise(study: Path) -> None:
    comparison = compare([study])
    near, far = (comparison.difference(name, "freeze=none") for name in ("freeze=lower", "freeze=backbone"))
    assert near is not None
    assert far is not None
    assert not near.real
    assert near.low < near.value < near.high
    assert far.real
    assert far.low < far.value < far.high < 0


def test_a_difference_is_that_of_the_figures(study: Path) -> None:
    comparison = compare([study])
    rows = {row.name: row for row in comparison.rows}
    for each in comparison.differences:
        one, other = rows[each.scenario], rows[each.reference]
        if each.task is None:
            pair = (one.score, other.score)
        else:
            pair = (getattr(one.tasks[each.task], each.measure), getattr(other.tasks[each.task], each.measure))
        assert pair[0] is not None
        assert pair[1] is not None
        assert each.value == pytest.approx(pair[0].mean - pair[1].mean, abs=1e-12)


def test_either_way_round_a_difference_has_the_same_size(study: Path) -> None:
    comparison = compare([study])
    there, back = (
        comparison.difference(*pair)
        for pair in (("freeze=backbone", "freeze=none"), ("freeze=none", "freeze=backbone"))
    )
    assert there is not None
    assert back is not None
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low))


def test_identical_runs_are_never_called_different(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        for name in ("freeze=none", "freeze=lower"):
            run(tmp_path, name, 20, seed)
    for each in compare([tmp_path]).differences:
        assert (each.value, each.low, each.high, each.p, each.real) == (0, 0, 0, 1, False)


def test_of_scenarios_that_predict_the_same_the_cheaper_is_best(tmp_path: Path) -> None:
    run(tmp_path, "freeze=none", 20, 1, 100)
    run(tmp_path, "freeze=lower", 20, 1, 50)
    best = advice(compare([tmp_path]))["Best quality"]
    assert best.answer == "freeze=lower"
    assert best.reasons[1] == "freeze=none predicts just the same."


def test_advice_names_the_best_and_a_cheaper_one_that_does_as_well(study: Path) -> None:
    found = advice(compare([study]))
    best, budget = found["Best quality"], found["Best within a tenth of the cost"]
    assert best.answer == "freeze=none"
    assert best.reasons[-1] == (
        "freeze=lower takes 40.0 % of its time and is 0.017 below it, which is within noise: try that first."
    )
    assert "within noise" in best.reasons[1]
    assert budget.answer == "freeze=backbone"
    assert budget.reasons[0] == "Trained in 5.0 s, 5.0 % of the time of the most expensive, freeze=none (1 min 40 s)."
    assert "larger than noise" in budget.reasons[1]
    assert found["With little data"].answer == "no evidence"


def test_the_best_is_chosen_by_validation_and_reported_by_test(tmp_path: Path) -> None:
    """On the test rows the other one is better by chance: it is not recommended for that."""
    for name, wrong, wrong_in_validation in (("freeze=none", 14, 5), ("freeze=lower", 12, 20)):
        topic, of_val = (predictions(TRUE, answers(TRUE, range(count))) for count in (wrong, wrong_in_validation))
        write_run(tmp_path / name, {"topic": topic}, name=name, seconds=100, validation={"topic": of_val})
    comparison = compare([tmp_path])
    assert [row.name for row in comparison.rows] == ["freeze=none", "freeze=lower"]
    assert comparison.ranked_by == "validation"
    best, other = comparison.rows
    assert best.score is not None
    assert other.score is not None
    assert best.score.mean < other.score.mean
    found = advice(comparison)["Best quality"]
    assert found.answer == "freeze=none"
    assert found.reasons[0] == (
        "Best on the validation rows (0.958); on the test rows it scores 0.883 over 1 seed, trained in 1 min 40 s."
    )
    assert found.reasons[1].startswith("There it is 0.017 below freeze=lower, the second (")
    told = (
        "Ranked by macro-F1 on the validation rows; all other figures are those of the test rows, by which nothing is "
        "chosen."
    )
    write(tmp_path / "out", comparison)
    for name in ("comparison.md", "comparison.html"):
        assert told in (tmp_path / "out" / name).read_text(encoding="utf-8")
    assert told in " ".join(printed(comparison).split())
    assert json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))["ranked_by"] == "validation"


def test_a_scenario_for_one_task_is_chosen_by_validation_too(tmp_path: Path) -> None:
    def tasks(topic: int, stars: int) -> dict[str, Any]:
        return {
            "topic": predictions(TRUE, answers(TRUE, range(topic))),
            "stars": predictions(TRUE, answers(TRUE, range(stars))),
        }

    write_run(tmp_path / "0", tasks(0, 60), name="freeze=none", validation=tasks(0, 20))
    write_run(tmp_path / "1", tasks(90, 20), name="freeze=lower", validation=tasks(90, 60))
    assert "For stars alone" not in advice(compare([tmp_path]))  # though better on the test rows by far


def test_runs_without_validation_figures_are_ranked_by_test_and_that_is_said(study: Path) -> None:
    comparison = compare([study])
    assert comparison.ranked_by == "test"
    told = " ".join(printed(comparison).split())
    assert "Ranked by macro-F1 on the test rows, as some runs have no validation figures" in told
    assert advice(comparison)["Best quality"].reasons[0].startswith("Score, by which it was chosen: 0.9")


def test_with_one_seed_no_verdict_is_about_seeds(tmp_path: Path) -> None:
    run(tmp_path, "freeze=none", 5, 1, 100)
    run(tmp_path, "freeze=backbone", 50, 1, 5)
    comparison = compare([tmp_path])
    found = comparison.difference("freeze=backbone", "freeze=none")
    assert found is not None
    assert not found.over_seeds
    assert verdict(found) == "real for these runs"
    assert evidence(found).endswith("p < 0.001: larger than the noise of the test rows; seeds are not compared")
    told = " ".join(printed(comparison).split())
    assert " 1 seed " in told
    assert "1 seed: larger than the noise of the test rows, but with one seed each, seeds are not compared" in told
    write(tmp_path / "out", comparison)
    assert "| real for these runs |" in (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    run(tmp_path, "freeze=none", 6, 2, 100)
    assert all(each.over_seeds for each in compare([tmp_path]).differences)


def test_a_budget_counts_encoding_for_frozen_layers(tmp_path: Path) -> None:
    """30 s of encoding and 5 s of training are no tenth of 100 s; what an older run's encoding took is not known."""
    write_run(tmp_path / "0", {"topic": predictions(TRUE, TRUE)}, name="freeze=none", seconds=100)
    worse = {"topic": predictions(TRUE, answers(TRUE, range(30)))}
    write_run(tmp_path / "1", worse, name="freeze=backbone", seconds=5, encoding=30)
    write_run(tmp_path / "2", worse, name="freeze=lower", seconds=1, encoding=None)
    comparison = compare([tmp_path])
    assert {row.name: row.seconds for row in comparison.rows} == {
        "freeze=none": 100, "freeze=backbone": 35, "freeze=lower": None,
    }  # fmt: skip
    found = advice(comparison)["Best within a tenth of the cost"]
    assert found.answer == "no scenario"
    assert found.reasons[-1] == "What freeze=lower took is not known."
    write_run(tmp_path / "1", worse, name="freeze=backbone", seconds=1, encoding=8)
    found = advice(compare([tmp_path]))["Best within a tenth of the cost"]
    assert found.answer == "freeze=backbone"
    assert found.reasons[0] == (
        "Trained in 9.0 s, 9.0 % of the time of the most expensive, freeze=none (1 min 40 s), 8.0 s of it to encode "
        "each sentence once."
    )


def test_a_run_of_an_older_version_needs_no_encoding_where_all_layers_learn(tmp_path: Path) -> None:
    for name in ("freeze=none", "freeze=backbone"):
        write_run(tmp_path / name, {"topic": predictions(TRUE, TRUE)}, name=name, seconds=10, encoding=None)
    assert {row.name: row.seconds for row in compare([tmp_path]).rows} == {"freeze=none": 10, "freeze=backbone": None}


def test_what_learns_nothing_is_no_cheap_choice(tmp_path: Path) -> None:
    run(tmp_path, "freeze=none", 10, 1, 100)
    run(tmp_path, "freeze=lower", 15, 1, 50)
    run(tmp_path, "freeze=all", 12, 1, None)  # nearly as good, by whatever chance
    found = advice(compare([tmp_path]))
    assert found["Best within a tenth of the cost"].answer == "no scenario"
    assert "freeze=all" not in found["Best within a tenth of the cost"].reasons[0]
    assert "try that first" not in " ".join(found["Best quality"].reasons)


def test_one_scenario_on_few_rows_is_no_evidence_for_little_data(tmp_path: Path) -> None:
    run(tmp_path, "freeze=none", 5, 1, 100)
    run(tmp_path, "freeze=backbone", 20, 1, 5)
    run(tmp_path, "freeze=none", 70, 1, 20, size="few")
    found = advice(compare([tmp_path]))["With little data"]
    assert found.answer == "no evidence"
    assert found.reasons == [
        "Only freeze=none, 65 rows was trained on as few as 65 training rows: what suits less data needs several "
        "scenarios on the same, fewer training rows, with the same test rows."
    ]


def test_advice_follows_the_figures(tmp_path: Path) -> None:
    """The same scenarios with their figures swapped give the swapped advice."""
    run(tmp_path, "freeze=none", 50, 1, 100)
    run(tmp_path, "freeze=backbone", 5, 1, 5)
    found = advice(compare([tmp_path]))
    assert found["Best quality"].answer == found["Best within a tenth of the cost"].answer == "freeze=backbone"
    assert found["Best within a tenth of the cost"].reasons[-1].startswith("It is also the best")
    assert "freeze=none and freeze=backbone" not in found["Best quality"].reasons
    assert "ran with one seed" in found["What would make it more certain"].reasons[0]


def test_without_a_cheap_scenario_the_cheapest_is_named(tmp_path: Path) -> None:
    run(tmp_path, "freeze=none", 10, 1, 100)
    run(tmp_path, "freeze=lower", 10, 1, 50)
    found = advice(compare([tmp_path]))["Best within a tenth of the cost"]
    assert found.answer == "no scenario"
    assert found.reasons[0].startswith(
        "The cheapest, freeze=lower, takes 50.0 % of the time of the most expensive, freeze=none (50.0 s of 1 min 40 s)"
    )


def test_runs_on_fewer_rows_tell_what_suits_little_data(tmp_path: Path) -> None:
    run(tmp_path, "freeze=none", 5, 1, 100)
    run(tmp_path, "freeze=backbone", 20, 1, 5)
    run(tmp_path, "freeze=none", 70, 1, 20, size="few")
    run(tmp_path, "freeze=backbone", 30, 1, 2, size="few")
    found = advice(compare([tmp_path]))["With little data"]
    assert found.answer == "freeze=backbone, 65 rows"
    assert found.reasons[0].startswith("The best of 2 scenarios with 65 training rows")
    assert found.reasons[1].startswith("It is 0.336 above freeze=none, 65 rows (")


def test_a_scenario_that_is_better_on_one_task_is_named(tmp_path: Path) -> None:
    def tasks(topic: int, stars: int) -> dict[str, object]:
        return {
            "topic": predictions(TRUE, answers(TRUE, range(topic))),
            "stars": predictions(TRUE, answers(TRUE, range(stars))),
        }

    write_run(tmp_path / "0", tasks(0, 60), name="freeze=none")  # type: ignore[arg-type]
    write_run(tmp_path / "1", tasks(90, 20), name="freeze=lower")  # type: ignore[arg-type]
    found = advice(compare([tmp_path]))
    assert found["Best quality"].answer == "freeze=none"
    assert found["For stars alone"].answer == "freeze=lower"
    assert "For topic alone" not in found


def test_a_run_of_one_task_is_held_against_those_of_several_in_that_task(tmp_path: Path) -> None:
    one = predictions(TRUE, answers(TRUE, range(10)))
    other = predictions(TRUE, answers(TRUE, range(40)), texts=[f"other {at}" for at in range(ROWS)])
    write_run(tmp_path / "0", {"topic": one, "stars": other}, name="freeze=none")
    write_run(tmp_path / "1", {"topic": predictions(TRUE, TRUE)}, name="single_task")
    comparison = compare([tmp_path])
    assert comparison.best.name == "freeze=none"
    assert comparison.rows[1].score is None
    assert comparison.difference("single_task", "freeze=none") is None
    found = comparison.difference("single_task", "freeze=none", "topic", "macro_f1")
    assert found is not None
    assert found.value > 0


def other_rows(folder: Path, name: str, seed: int = 1) -> Path:
    texts = [f"another {at}" for at in range(ROWS)]
    return write_run(folder, {"topic": predictions(TRUE, TRUE, texts=texts)}, name=name, seed=seed)


def test_scenarios_tested_on_other_rows_are_left_out_with_a_note(study: Path) -> None:
    folder = other_rows(study / "other", "freeze=elsewhere")
    comparison = compare([study])
    assert "freeze=elsewhere" not in [row.name for row in comparison.rows]
    assert comparison.notes == [f"left out: freeze=elsewhere was tested on other rows ({folder})"]


def test_runs_over_other_rows_only_cannot_be_compared(tmp_path: Path) -> None:
    first = run(tmp_path, "freeze=none", 5)
    second = other_rows(tmp_path / "other", "freeze=all")
    with pytest.raises(DataError) as caught:
        compare([tmp_path])
    expected = (
        "      expected: at least two scenarios tested on the same rows in the same order\n"
        "      repair:   give every run the same data files, or the same seed to split by"
    )
    assert str(caught.value) == (
        "Data: 2 problems\n"
        f"  {second}\n      found:    scenario freeze=all, tested on rows of its own (topic 120)\n{expected}\n"
        f"  {first}\n      found:    scenario freeze=none, tested on rows of its own (topic 120)\n{expected}"
    )


def test_seeds_that_split_the_data_differently_are_paired_seed_by_seed(tmp_path: Path) -> None:
    for name, wrong in (("freeze=none", 10), ("freeze=all", 60)):
        for seed in (1, 2):
            texts = [f"split {seed} row {at}" for at in range(ROWS)]
            tasks = {"topic": predictions(TRUE, answers(TRUE, range(wrong)), texts=texts)}
            write_run(tmp_path / f"{name}{seed}", tasks, name=name, seed=seed)
    found = compare([tmp_path]).difference("freeze=all", "freeze=none")
    assert found is not None
    assert found.real


def test_an_unreadable_run_is_named_and_the_rest_goes_on(study: Path) -> None:
    (study / "lower-1-" / "metrics.json").write_text("{", encoding="utf-8")
    write_job(study / "broken", "this job failed\nno such layer", ["freeze=strange"])
    comparison = compare([study])
    assert len(comparison.rows) == 4
    assert [problem.place for problem in comparison.unreadable] == [str(study / "lower-1-" / "metrics.json")]
    assert left_out(comparison)[0] == f"failed: {study / 'broken'} (freeze=strange): no such layer"
    assert "failed:" in render(comparison, recommend(comparison))


def test_one_scenario_alone_is_shown(tmp_path: Path) -> None:
    run(tmp_path, "freeze=none", 5)
    comparison = compare([tmp_path])
    assert comparison.differences == []
    assert advice(comparison)["Best quality"].reasons[-1] == "It is the only scenario: there is nothing to compare."


def printed(comparison: Comparison) -> str:
    console = Console(width=80, record=True)
    with console.capture() as capture:
        for block in blocks(comparison, recommend(comparison)):
            console.print(block)
    return capture.get()


def test_the_terminal_keeps_to_80_columns_and_cuts_no_figure(study: Path) -> None:
    run(study, "freeze=a scenario with a name that is far too long for any table", 30)
    text = printed(compare([study]))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert "freeze=backbone" in text


def test_files_hold_the_same_figures(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    comparison = compare([study])
    write(study / "out", comparison)
    values = json.loads((study / "out" / "comparison.json").read_text(encoding="utf-8"))
    with (study / "out" / "comparison.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert comparison.best.score is not None
    assert values["best"] == lines[0]["scenario"] == "freeze=none"
    assert values["scenarios"][0]["score"]["mean"] == float(lines[0]["score"]) == comparison.best.score.mean
    assert values["scenarios"][3]["total_seconds"]["mean"] == float(lines[3]["total_seconds"]) == 0
    assert [line["runs"] for line in lines] == ["2"] * 4
    assert float(lines[1]["to_best"]) == values["differences"][0]["value"]
    assert [each["question"] for each in values["advice"]] == list(advice(comparison))


@pytest.mark.parametrize(("value", "shown"), [(-0.0004, "0.000"), (0.0, "0.000"), (-0.012, "−0.012"), (0.5, "+0.500")])
def test_differences_have_a_sign_unless_they_are_nothing(value: float, shown: str) -> None:
    assert signed(value) == shown


def test_markdown_escapes_what_the_data_say(tmp_path: Path) -> None:
    run(tmp_path, "freeze=<b>|*x*", 5)
    comparison = compare([tmp_path])
    assert "| freeze=&lt;b&gt;\\|\\*x\\* |" in render(comparison, recommend(comparison))


def test_retention_names_the_best_that_kept_the_encoders_ability(study: Path) -> None:
    kept = {"none": 0.6, "lower": 0.795, "backbone": 0.8, "all": 0.8}
    for folder in study.iterdir():
        path = folder / "metrics.json"
        values = json.loads(path.read_text(encoding="utf-8"))
        values["retention"] = {"before": 0.8, "after": kept[folder.name.partition("-")[0]], "pairs": 100}
        write_sealed_json(path, values)
    found = advice(compare([study]))["For other uses of the encoder"]
    assert found.answer == "freeze=lower"
    assert found.reasons[0] == "freeze=none moved the correlation on sentence pairs from 0.800 to 0.600."
    assert found.reasons[1].startswith("freeze=lower keeps 0.795 and is the best of those that lost less than 0.01")
