from __future__ import annotations

import numpy as np
import pytest

from mtl.diagnosis.cross_validation import WEIGHT, joined_views

RANDOM = np.random.default_rng(0)
ROWS = {"topic": RANDOM.normal(size=(60, 6)).astype(np.float32), "mood": RANDOM.normal(size=(40, 6)).astype(np.float32)}
LABELS = {task: (rows[:, 0] > 0).astype(np.int64) for task, rows in ROWS.items()}


def test_a_view_has_the_other_tasks_opinion_beside_the_embedding() -> None:
    found = joined_views(ROWS, LABELS)
    assert {task: view.shape for task, view in found.items()} == {"topic": (60, 8), "mood": (40, 8)}
    opinion = found["topic"][:, 6:]
    assert np.sqrt((opinion**2).sum(axis=1).mean()) == pytest.approx(WEIGHT, rel=1e-5)
    assert ((opinion[:, 1] > opinion[:, 0]) == (LABELS["topic"] == 1)).mean() > 0.8  # mood's labels tell topic's


def test_a_tasks_own_labels_do_not_enter_its_view() -> None:
    other = LABELS | {"topic": 1 - LABELS["topic"]}
    np.testing.assert_array_equal(joined_views(ROWS, LABELS)["topic"], joined_views(ROWS, other)["topic"])
    assert not np.array_equal(joined_views(ROWS, LABELS)["mood"], joined_views(ROWS, other)["mood"])


def test_a_single_task_has_its_embeddings_alone() -> None:
    found = joined_views({"topic": ROWS["topic"]}, {"topic": LABELS["topic"]})
    assert found["topic"].shape == (60, 6)
