from __future__ import annotations

from mtl.reporting.model_card import model_card


def test_the_tags_invite_no_pipeline_that_would_answer_from_random_weights() -> None:
    front = model_card("a run", {}, {}).split("---")[1]
    assert "text-classification" not in front
    assert "pipeline_tag: sentence-similarity" in front
