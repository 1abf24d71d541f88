from __future__ import annotations

import numpy as np
import yaml

from mtl.evaluation.metrics import report_of_rows
from mtl.model.saved import HeadSpec, TaskHead
from mtl.reporting.model_card import CardFacts, model_card

LABELS = ["late", "a | <b>", "fine"]
HEADS = {"topic": TaskHead(LABELS, HeadSpec("linear"))}
REPORTS = {"topic": {"test": report_of_rows(np.array([0, 0, 1, 1, 2, 2]), np.array([0, 0, 1, 2, 2, 2]), LABELS)}}
TRAINING = CardFacts({"topic": {"late": 100, "a | <b>": 7, "fine": 2000}}, {"encoder": "minilm", "freeze": "none"}, 128)


def test_the_tags_invite_no_pipeline_that_would_answer_from_random_weights() -> None:
    for card in (model_card("a run", {}, {}), model_card("a run", HEADS, REPORTS, TRAINING)):
        front = card.split("---")[1]
        assert "text-classification" not in front
        assert "pipeline_tag: sentence-similarity" in front


def test_the_model_index_holds_the_figures_of_each_task_and_split() -> None:
    name = "freeze: none\n---\n# 'x"
    front = yaml.safe_load(model_card(name, HEADS, REPORTS).split("\n---\n")[0].removeprefix("---\n"))
    (index,) = front["model-index"]
    assert index["name"] == name
    (result,) = index["results"]
    assert result["task"]["name"] == "topic"
    assert result["dataset"] == {"type": "topic", "name": "topic, test", "split": "test"}
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == {"accuracy": 0.8333, "f1": 0.8222}


def test_training_data_settings_and_limits() -> None:
    lines = model_card("a run", HEADS, REPORTS, TRAINING).splitlines()
    assert "| topic | late | 100 |" in lines
    assert "| topic | fine | 2,000 |" in lines
    assert "- encoder: minilm" in lines
    assert "- freeze: none" in lines
    assert "- Texts are truncated at 128 tokens." in lines
    (weak,) = [line for line in lines if "is below" in line]
    assert weak.startswith("- topic: F1 on test is below 0.7 for a ")
    assert weak.endswith(" (0.67).")
    (rare,) = [line for line in lines if "fewer than" in line]
    assert rare.startswith("- topic: fewer than 30 training rows for a ")
    assert "<b>" not in "\n".join(lines)


def test_a_card_without_training_says_nothing_of_it() -> None:
    card = model_card("a run", HEADS, REPORTS)
    assert "## Training" not in card
    assert "truncated" not in card
    assert "## Limits" in card
