"""What is said follows from the figures."""

from __future__ import annotations

from mtl.diagnosis.report import sentences
from tests.support.diagnoses import diagnosis, duplicate, need


def test_the_class_with_the_largest_gain_is_named() -> None:
    found = sentences(diagnosis([need("bad", 0.031, 0.012, 0.05, best=0.95), need("good", 0.01, -0.002, 0.02, 0.05)]))
    assert found[0] == (
        "collect more 'bad': 50 more examples are worth about +0.031 macro-F1 (0.012 to 0.050); it has 40 training rows"
    )
    assert not any("nearly as much" in sentence for sentence in found)


def test_a_class_that_cannot_be_told_from_the_first_is_named_too() -> None:
    found = sentences(diagnosis([need("bad", 0.031, 0.012, 0.05, best=0.6), need("good", 0.029, 0.01, 0.045, 0.4)]))
    assert found[1] == (
        "nearly as much may come from 'good' (+0.029 macro-F1 (0.010 to 0.045)): "
        "the figures do not tell them apart for certain"
    )


def test_noise_is_called_noise() -> None:
    found = sentences(diagnosis([need("bad", 0.011, -0.004, 0.03, best=0.7), need("good", 0.0, -0.01, 0.01, 0.3)]))
    assert found[0] == (
        "the evidence supports collecting no class in particular: the largest gain from 50 more examples is "
        "+0.011 macro-F1 (-0.004 to 0.030) for 'bad', which may be nothing"
    )


def test_a_gain_that_the_luckiest_of_many_classes_may_have_is_no_recommendation() -> None:
    many = [need(f"class {at}", 0.01, 0.001, 0.02, supported=False) for at in range(77)]
    assert sentences(diagnosis(many))[0] == (
        "the evidence supports collecting no class in particular: the largest gain from 50 more examples is "
        "+0.010 macro-F1 (0.001 to 0.020) for 'class 0', which chance alone may give the luckiest of 77 classes"
    )


def test_many_classes_with_too_few_rows_are_one_sentence() -> None:
    few = [need(f"class {at}", 0.0, 0.0, 0.0, rows=at) for at in range(1, 9)]
    assert sentences(diagnosis(few))[0] == (
        "8 classes have fewer than 10 training rows, too few to tell: collect at least 10 of each: 'class 1' (1), "
        "'class 2' (2), 'class 3' (3), 'class 4' (4), 'class 5' (5) and 3 more, see data_need"
    )


def test_a_class_with_too_few_rows_is_not_recommended_but_named() -> None:
    found = sentences(
        diagnosis([need("bad", 0.2, 0.1, 0.3, best=0.9, rows=4), need("good", 0.02, 0.01, 0.03, best=0.1)])
    )
    assert found[0].startswith("collect more 'good': 50 more examples are worth about +0.020 macro-F1")
    assert found[1] == "'bad' has 4 training rows, too few to tell: collect at least 10"


def test_confusions_duplicates_and_suspects_in_words() -> None:
    pairs = [duplicate("test", "good"), duplicate("train", "bad"), duplicate("train", "good")]
    assert sentences(diagnosis(duplicates=pairs)) == [
        "most often confused: 'good' taken for 'bad', 2 of 4 training rows (50.0 %) when a head has not seen them",
        "1 validation or test row with the text of a training row, or nearly so: the figures on them are too good",
        "1 pair of training rows with nearly the same text and different labels",
        "1 pair of training rows with nearly the same text and the same label",
        "2 labels of 6 may be wrong or hard to tell (33.3 %): review suspects_mood.csv from the top",
    ]


def test_nothing_wrong_is_said_too() -> None:
    assert sentences(diagnosis(clean=True)) == ["no near-duplicates", "no label looks wrong"]
