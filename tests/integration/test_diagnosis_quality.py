"""Whether a diagnosis is right: it names the class whose rows help most, and finds labels that were exchanged.

``pytest -m slow -s tests/integration/test_diagnosis_quality.py`` prints the figures.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from mtl.diagnosis.cross_validation import Rows, out_of_sample
from mtl.diagnosis.run import Embedded, embed, encoder_of
from mtl.diagnosis.suspects import rank_suspects
from mtl.training.inputs import load_inputs
from mtl.training.run import train
from tests.support import runs
from tests.support.configs import compose_config
from tests.support.held_back import HeldBack, diagnosed, realised

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mtl.data.tasks import TaskData

pytestmark = pytest.mark.slow

DATA = Path(os.environ.get("MTL_TEST_DATA", "/nowhere"))
"""A folder with ``airline_*.csv`` (tweets, 12 classes) and ``uci_*.csv`` (sentences of reviews, 2 classes)."""
REAL = pytest.mark.skipif(not (DATA / "airline_train.csv").is_file(), reason="no data (MTL_TEST_DATA)")


@dataclass(frozen=True)
class Corpus:
    """A task with the embeddings of MiniLM."""

    data: TaskData
    embedded: Embedded

    def rows(self, split: str) -> Rows:
        examples = self.data.splits[split]
        return Rows(self.embedded.splits[split], self.data.labels.ids(examples), examples.keys)


def corpora(*overrides: str) -> dict[str, Corpus]:
    config = compose_config(["backbone=minilm", *overrides])
    inputs = load_inputs(config)
    embedded = embed(inputs.tasks, encoder_of(config, inputs), config, "auto")
    return {name: Corpus(data, embedded[name]) for name, data in inputs.tasks.items()}


@pytest.fixture(scope="module")
def reviews() -> dict[str, Corpus]:
    return corpora("data=reviews")


@pytest.fixture(scope="module")
def real() -> dict[str, Corpus]:
    files = [
        f"+data.tasks.{task}.{split}={DATA / f'{task}_{split}.csv'}"
        for task in ("airline", "uci")
        for split in ("train", "val", "test")
    ]
    return corpora("data=files", *files)


def test_the_class_that_is_named_gains_most(reviews: dict[str, Corpus]) -> None:
    """Half of each class is held back; its rows are given back, as many of each class, and macro-F1 on test gains."""
    corpus = reviews["classification"]
    train, val, test = (corpus.rows(split) for split in ("train", "val", "test"))
    labels = corpus.data.labels.names
    named, estimated, gained = [], [], []
    for seed in range(10):
        held = HeldBack.of(train.labels, np.random.default_rng(seed))
        needs, penalty = diagnosed(train, val, labels, held, seed)
        estimated.append([needs[label].gain for label in labels])
        gained.append(realised(train, test, held, penalty))
        named.append(int(np.argmax(estimated[-1])))
        print(f"\nseed {seed}: named {labels[named[-1]]}")
        for at, label in enumerate(labels):
            need = needs[label]
            interval = f"{need.low:+.3f} to {need.high:+.3f}"
            print(f"  {label:28} estimated {need.gain:+.3f} ({interval})  realised {gained[-1][at]:+.3f}")
    means = np.mean(gained, axis=0)
    of_named = np.mean([row[at] for row, at in zip(gained, named, strict=True)])
    print(
        "mean  estimated", np.mean(estimated, axis=0).round(3), "realised", means.round(3), "named", of_named.round(3)
    )
    assert int(np.bincount(named).argmax()) == int(means.argmax())
    assert of_named > 0.9 * means.max()
    assert of_named > np.sort(means)[-2]


def trained_macro_f1(folder: Path, corpus: Corpus, chosen: NDArray[np.int64], experiment: str) -> float:
    """Train on some of the training rows as a user would, and return macro-F1 on test."""
    examples = corpus.data.train.select(chosen)
    path = runs.write_csv(folder / "train.csv", zip(examples.texts, examples.labels, strict=True))
    overrides = [
        f"experiment={experiment}",
        "backbone=minilm",
        "logger=none",
        f"data.tasks.classification.train={path}",
    ]
    return train(compose_config(overrides), folder / "run", {})["classification"]["test"].report.macro_f1


def gains_of_training(corpus: Corpus, folder: Path, experiment: str, seed: int) -> tuple[int, NDArray[np.float64]]:
    """Return the class that is named, and what returning rows of each class to the training set gains, ``(C,)``."""
    rows, val = corpus.rows("train"), corpus.rows("val")
    labels = corpus.data.labels.names
    held = HeldBack.of(rows.labels, np.random.default_rng(seed))
    needs, _ = diagnosed(rows, val, labels, held, seed)
    sets = [held.kept, *(held.with_returned(label) for label in range(len(labels)))]
    base, *more = [
        trained_macro_f1(folder / f"{seed}_{at}", corpus, chosen, experiment) for at, chosen in enumerate(sets)
    ]
    named, gained = labels.index(next(iter(needs))), np.array(more) - base
    print(f"\n{experiment}, seed {seed}: base {base:.3f}, named {labels[named]}, realised", gained.round(3))
    return named, gained


def test_training_gains_most_from_the_class_that_is_named(reviews: dict[str, Corpus], tmp_path: Path) -> None:
    """As above, but the gain is that of whole runs."""
    results = [gains_of_training(reviews["classification"], tmp_path, "backbone_frozen", seed) for seed in range(3)]
    means = np.mean([gained for _, gained in results], axis=0)
    assert np.mean([gained[named] for named, gained in results]) >= 0.9 * means.max()
    assert means.max() > 0


def test_full_training_gains_from_the_class_that_is_named(reviews: dict[str, Corpus], tmp_path: Path) -> None:
    """A run takes a minute, and one choice of rows is told apart from chance to about 0.02: not which class is best,
    only that the class named beats a class drawn at random."""
    named, gained = gains_of_training(reviews["classification"], tmp_path, "quickstart", 0)
    assert gained[named] > 0
    assert gained[named] > np.delete(gained, named).mean()


def share_found(corpus: Corpus, seed: int) -> float:
    """Exchange 5 % of the labels at random; return the share of them in the first tenth of the suspects."""
    rows = corpus.rows("train")
    random = np.random.default_rng(seed)
    classes = len(corpus.data.labels)
    wrong = random.choice(len(rows), round(0.05 * len(rows)), replace=False)
    labels: NDArray[np.int64] = rows.labels.copy()
    labels[wrong] = (labels[wrong] + random.integers(1, classes, size=len(wrong))) % classes
    noisy = Rows(rows.embeddings, labels, rows.keys)
    unseen = out_of_sample(noisy, classes, random, corpus.embedded.views)
    first = rank_suspects(unseen.probabilities, labels).order[: round(0.1 * len(rows))]
    return float(np.isin(wrong, first).mean())


@pytest.mark.parametrize("task", ["classification", "sentiment"])
def test_exchanged_labels_are_found_in_the_bundled_corpus(reviews: dict[str, Corpus], task: str) -> None:
    found = [share_found(reviews[task], seed) for seed in range(10)]
    print(f"\n{task}: {np.mean(found):.3f} of the exchanged labels, {np.round(found, 3)}")
    assert np.mean(found) >= 0.6


@REAL
@pytest.mark.parametrize(("task", "seeds"), [("uci", 3), ("airline", 1)])
def test_exchanged_labels_are_found_in_real_data(real: dict[str, Corpus], task: str, seeds: int) -> None:
    found = [share_found(real[task], seed) for seed in range(seeds)]
    print(f"\n{task}: {np.mean(found):.3f} of the exchanged labels, {np.round(found, 3)}")
    assert np.mean(found) >= 0.6
