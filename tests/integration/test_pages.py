"""The pages of a run and of a comparison in a real browser: drawn, quiet, offline, sortable, searchable, escaped."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest

from mtl.comparison.comparing import compare
from mtl.comparison.page import comparison_page
from mtl.comparison.recommendation import recommend
from mtl.reporting.maps import map_path, sentence_map, write_map
from mtl.reporting.run_page import write_run_page
from tests.support import browser
from tests.support.comparisons import answers, labels, predictions, write_run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from selenium.webdriver import Chrome

ATTACK = '</script><script>window.attacked = true</script><img src=x onerror="window.attacked = true">\u2028\'"&lt;'
CLASSES = ("<b>bad</b>", "fine", "good")
ROWS = 90
TRUE = labels(ROWS, CLASSES)
CURVES = """epoch,step,train/topic/loss,val/topic/macro_f1,val/macro_f1,train/loss
0,9,1.2,,,1.2
0,9,,0.4,0.4,
1,19,0.8,,,0.8
1,19,,0.7,0.7,
"""


def write(folder: Path, name: str, wrong: int, seed: int) -> Path:
    texts = [ATTACK, *(f"sentence {at}" for at in range(1, ROWS))]
    places = [0, *range(seed, wrong + seed)]
    task = predictions(TRUE, answers(TRUE, places, CLASSES), CLASSES, texts=texts)
    write_run(folder, {"topic": task}, name=name, seed=seed, seconds=10.0 + wrong)
    (folder / "logs").mkdir()
    (folder / "logs" / "metrics.csv").write_text(CURVES, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    for seed in (1, 2):
        for name, wrong in (("freeze=none", 5), ("freeze=lower", 8), (f"freeze={ATTACK}", 40)):
            write(folder / f"{seed}-{wrong}", name, wrong, seed)
    return folder


@pytest.fixture(scope="module")
def comparison(study: Path) -> Path:
    found = compare([study])
    page = study / "comparison.html"
    page.write_text(comparison_page(found, recommend(found)), encoding="utf-8")
    return page


@pytest.fixture(scope="module")
def run(study: Path) -> Path:
    folder = study / "1-5"
    random = np.random.default_rng(1)
    before = random.normal(size=(ROWS, 8))
    write_map(map_path(folder, "topic", "test"), sentence_map(before, before + random.normal(size=(ROWS, 8))))
    return write_run_page(folder)


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    found = browser.start()
    yield found
    found.quit()


@pytest.fixture(params=["comparison", "run"])
def page(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


@pytest.mark.parametrize("width", [1280, 390])
def test_a_page_is_drawn_without_a_word_and_without_a_request(chrome: Chrome, page: Path, width: int) -> None:
    browser.opened(chrome, page, width)
    assert chrome.execute_script("return document.querySelectorAll('.canvas').length") >= 4
    assert chrome.execute_script(
        "return [...document.querySelectorAll('.canvas')].every((each) => each.querySelectorAll('svg path').length > 2)"
    )
    assert browser.console(chrome) == []
    assert browser.requests(chrome) == [page.as_uri()]


@pytest.mark.parametrize("width", [1280, 390])
def test_a_page_is_no_wider_than_the_screen(chrome: Chrome, page: Path, width: int) -> None:
    browser.opened(chrome, page, width)
    assert chrome.execute_script("return document.documentElement.scrollWidth") <= width


def test_names_in_the_chart_of_costs_lie_apart(chrome: Chrome, tmp_path: Path) -> None:
    names = ["backbone_frozen", "lower_layers_frozen", "lora", "gradual_unfreezing", "full_finetune", "decay"]
    for name, wrong, seconds in zip(names, (20, 18, 15, 14, 13, 14), (12, 60, 80, 95, 100, 97), strict=True):
        task = predictions(TRUE, answers(TRUE, range(wrong), CLASSES), CLASSES)
        write_run(tmp_path / name, {"topic": task}, name=name, seconds=seconds)
    found = compare([tmp_path])
    page = tmp_path / "comparison.html"
    page.write_text(comparison_page(found, recommend(found)), encoding="utf-8")
    browser.opened(chrome, page)
    boxes = chrome.execute_script(
        "return [...document.querySelectorAll('#chart-cost text')].filter((each) => arguments[0].includes("
        "each.textContent)).map((each) => each.getBoundingClientRect()).map((box) => [box.left, box.right, box.top,"
        "box.bottom])",
        names,
    )
    assert len(boxes) == len(names)
    for one, other in combinations(boxes, 2):
        assert one[1] <= other[0] or other[1] <= one[0] or one[3] <= other[2] + 1 or other[3] <= one[2] + 1


def test_data_are_shown_as_text_and_never_run(chrome: Chrome, page: Path) -> None:
    browser.opened(chrome, page)
    assert chrome.execute_script("return window.attacked === undefined")
    assert chrome.execute_script("return document.querySelectorAll('img, b b').length") == 0
    cells = chrome.execute_script("return [...document.querySelectorAll('.sentence')].map((each) => each.textContent)")
    assert any("</script><script>window.attacked = true</script><img" in cell for cell in cells)


def test_a_page_forbids_everything_but_its_own_scripts(chrome: Chrome, page: Path) -> None:
    browser.opened(chrome, page)
    chrome.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.attacked = 1'; document.body.append(s)"
    )
    assert chrome.execute_script("return window.attacked === undefined")
    assert chrome.execute_async_script(
        "const done = arguments[0]; fetch('https://example.org/').then(() => done('sent'), () => done('refused'))"
    ) == "refused"  # fmt: skip


def test_headings_sort_by_click_and_by_key(chrome: Chrome, comparison: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.opened(chrome, comparison)
    frame = chrome.find_element("css selector", "#scenarios ~ .sortable")
    heads = frame.find_elements("css selector", "thead th")
    at = [head.text.split(" ")[0] for head in heads].index("training")
    button = heads[at].find_element("css selector", "button")

    def times() -> list[float]:
        found: list[float] = chrome.execute_script(
            "return [...arguments[0].querySelectorAll('tbody tr')]"
            ".map((row) => Number(row.cells[arguments[1]].dataset.value))",
            frame,
            at,
        )
        return found

    button.click()
    assert heads[at].get_attribute("aria-sort") == "descending"
    assert times() == sorted(times(), reverse=True)
    button.send_keys(Keys.ENTER)
    assert heads[at].get_attribute("aria-sort") == "ascending"
    assert times() == sorted(times())
    assert [head.get_attribute("aria-sort") for head in heads].count("none") == len(heads) - 1


def test_the_search_leaves_the_rows_that_hold_every_word(chrome: Chrome, page: Path) -> None:
    browser.opened(chrome, page)
    frame = chrome.find_element("css selector", "#mistakes ~ .sortable")
    box = frame.find_element("css selector", "input")
    shown = (
        "return [...arguments[0].querySelectorAll('tbody tr')]"
        ".filter((row) => !row.hidden).map((row) => row.cells[0].textContent)"
    )
    everything = chrome.execute_script(shown, frame)
    assert len(everything) > 3
    box.send_keys("SENTENCE test.csv:5")
    assert chrome.execute_script(shown, frame) == ["sentence 3"]
    assert frame.find_element("css selector", "output").text == f"1 of {len(everything)} rows"
    box.clear()
    box.send_keys("x")
    box.send_keys("\b")
    assert chrome.execute_script(shown, frame) == everything


def test_marks_and_figures_have_names_for_those_who_see_nothing(chrome: Chrome, page: Path) -> None:
    browser.opened(chrome, page)
    assert chrome.execute_script("return [...document.querySelectorAll('.canvas')].every((each) => each.ariaLabel)")
    assert chrome.execute_script("return document.querySelectorAll('main, h1').length") == 2
    assert chrome.execute_script(
        "return [...document.querySelectorAll('table')]"
        ".every((each) => each.caption && each.querySelector('th[scope]'))"
    )
    levels = chrome.execute_script(
        "return [...document.querySelectorAll('h1, h2, h3')].map((each) => Number(each.tagName[1]))"
    )
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_a_point_shows_its_sentence(chrome: Chrome, run: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    browser.opened(chrome, run)
    mark = chrome.find_element("css selector", "#chart-map-0-before .mark-symbol path")
    chrome.execute_script("arguments[0].scrollIntoView({block: 'center'})", mark)
    ActionChains(chrome).move_to_element(mark).perform()
    told = chrome.execute_async_script(
        "const done = arguments[0]; setTimeout(() => done(document.getElementById('tooltip').textContent), 300)"
    )
    assert "sentence:" in told
    assert "label:" in told
