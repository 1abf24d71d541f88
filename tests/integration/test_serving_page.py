"""The page to try a model in, in a real browser: typing, a file, an error, a text with HTML, and no other request."""

from __future__ import annotations

import base64
import csv
from typing import TYPE_CHECKING

import pytest

from mtl import MultiTaskModel
from mtl.inference.bulk import predict_to_file
from mtl.serving.examples import read_rows
from tests.support import browser
from tests.support.serving import LABELS, Running, running, until, write_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from selenium.webdriver import Chrome

ATTACK = '<img src=x onerror="window.attacked = true"><b>bold</b>'


@pytest.fixture(scope="module")
def folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("run") / "model", tiny_folder)


@pytest.fixture(scope="module")
def served(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    table = tmp_path_factory.mktemp("examples") / "train.csv"
    table.write_text(f'text,label\nGreat phone,price\n"{ATTACK.replace(chr(34), chr(34) * 2)}",=other\n', "utf-8")
    with running(folder, examples=read_rows(table, "text", "topic:label", LABELS)) as found:
        yield found


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    found = browser.start()
    yield found
    found.quit()


@pytest.fixture
def page(chrome: Chrome, served: Running) -> Chrome:
    browser.requests(chrome)
    browser.console(chrome)
    chrome.get(f"{served.url}/")
    until(lambda: chrome.find_element("id", "model").text)
    return chrome


def cards(chrome: Chrome) -> list[str]:
    script = "return [...document.querySelectorAll('.card')].map((card) => card.innerText.replace(/\\n+/g, '\\n'))"
    texts: list[str] = chrome.execute_script(script)  # at once: the page may replace them meanwhile
    return texts


def test_typing_a_sentence_shows_every_task(page: Chrome, served: Running, folder: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    page.find_element("id", "text").send_keys("Great phone", Keys.CONTROL, Keys.ENTER)
    until(lambda: len(cards(page)) == 2)
    model = MultiTaskModel.from_pretrained(folder, device="cpu")
    for card, (task, prediction) in zip(cards(page), model.predict("Great phone").items(), strict=True):
        assert card.splitlines()[:2] == [task, prediction.label]
        for label, probability in prediction.probabilities.items():
            assert label in card
            assert f"{100 * probability:.1f} %" in card
    assert browser.console(page) == []
    assert {url.removeprefix(served.url) for url in browser.requests(page)} == {
        "/",
        "/page.css",
        "/page.js",
        "/info",
        "/predict?nearest=3&coverage=0.9&max_risk=0.05",
    }


def choose(chrome: Chrome, name: str, value: str) -> None:
    from selenium.webdriver.support.select import Select

    Select(chrome.find_element("id", name)).select_by_visible_text(value)


def asked(chrome: Chrome) -> list[str]:
    return [url.rpartition("/")[2] for url in browser.requests(chrome)]


def test_sets_abstention_and_the_nearest_examples_are_shown(page: Chrome, folder: Path) -> None:
    choose(page, "coverage", "80 %")
    choose(page, "max-risk", "10 %")
    assert "more than 10 % wrong answers" in page.find_element("id", "rule").text
    page.find_element("id", "text").send_keys("y z")
    page.find_element("css selector", "#single button").click()
    until(lambda: len(cards(page)) == 2)
    model = MultiTaskModel.from_pretrained(folder, device="cpu")
    expected = model.predict("y z", coverage=0.8, max_risk=0.1)["topic"]
    card = page.find_elements("css selector", ".card")[0]
    marked = [
        row.find_element("css selector", "span").text.removesuffix(" in the set")
        for row in card.find_elements("css selector", "li")
        if row.find_elements("css selector", ".in-set")
    ]
    assert set(marked) == set(expected.label_set or ())
    assert len(marked) > 1
    assert card.find_element("css selector", ".unsure-note").text == "unsure: would abstain"
    near = card.find_element("css selector", ".nearest").text
    assert "Nearest examples" in near
    assert ATTACK in near
    assert "train.csv:2" in near
    assert "similarity" in near
    assert page.execute_script("return window.attacked === undefined && !document.querySelector('main img')")
    browser.requests(page)
    choose(page, "coverage", "off")
    until(lambda: not page.find_elements("css selector", ".in-set"))
    choose(page, "max-risk", "off")
    until(lambda: "would abstain" not in "".join(cards(page)))
    assert "less than 60 %" in page.find_element("id", "rule").text
    assert asked(page) == ["predict?nearest=3&max_risk=0.1", "predict?nearest=3"]


def test_the_levels_of_the_server_are_chosen(chrome: Chrome, folder: Path) -> None:
    with running(folder, coverage=0.93) as served:
        chrome.get(f"{served.url}/")
        until(lambda: chrome.find_element("id", "levels").is_displayed())
        options = chrome.find_elements("css selector", "#coverage option")
        assert [option.text for option in options] == ["80 %", "90 %", "93 %", "95 %", "99 %"]
        assert chrome.find_element("id", "coverage").get_attribute("value") == "0.93"


def test_a_model_that_cannot_abstain_says_so(chrome: Chrome, tiny_folder: Path, tmp_path: Path) -> None:
    with running(write_model(tmp_path / "model", tiny_folder, outcomes=False)) as served:
        chrome.get(f"{served.url}/")
        until(lambda: chrome.find_element("id", "no-levels").is_displayed())
        assert chrome.find_element("id", "no-levels").text.endswith("keeps no validation rows of mood.")
        assert not chrome.find_element("id", "levels").is_displayed()
        chrome.find_element("id", "text").send_keys("y z")
        chrome.find_element("css selector", "#single button").click()
        until(lambda: len(cards(chrome)) == 2)
        assert "unsure" in cards(chrome)[0]


def test_an_empty_sentence_is_an_error_that_the_page_says(page: Chrome) -> None:
    page.find_element("css selector", "#single button").click()
    until(lambda: page.find_element("id", "error").is_displayed())
    assert page.find_element("id", "error").text == "Type a sentence first."
    assert page.find_element("id", "error").get_attribute("role") == "alert"


def test_a_file_is_labelled_and_offered_for_download(page: Chrome, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    texts = ["Great phone", "=1+1", ATTACK, 'a "quoted", text'] + [f"sentence {at}" for at in range(96)]
    cells = (text.replace('"', '""') for text in texts)
    path.write_text("id,text\r\n" + "".join(f'{at},"{cell}"\r\n' for at, cell in enumerate(cells)), encoding="utf-8")
    page.find_element("id", "file").send_keys(str(path))
    until(lambda: page.find_element("id", "start").is_displayed())
    page.find_element("id", "start").click()
    until(lambda: page.find_element("id", "download").is_displayed())
    assert page.find_element("id", "download").get_attribute("download") == "new_labelled.csv"
    shown = [row.text for row in page.find_elements("css selector", "#table tbody td:first-child")]
    assert shown == [" ".join(text.split()) for text in texts[:50]]
    expected = MultiTaskModel.from_pretrained(folder, device="cpu").predict(texts[:50])["topic"]
    labels = [cell.text for cell in page.find_elements("css selector", "#table tbody td:nth-child(2)")]
    assert all(cell.startswith(row.label) for cell, row in zip(labels, expected, strict=True))
    assert page.execute_script("return window.attacked === undefined && !document.querySelector('#table img')")


def download(page: Chrome, path: Path, folder: Path) -> list[str]:
    """Label a file on the page, and return the lines of the download."""
    page.execute_cdp_cmd("Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
    page.find_element("id", "file").send_keys(str(path))
    until(lambda: page.find_element("id", "start").is_displayed())
    page.find_element("id", "start").click()
    until(lambda: page.find_element("id", "download").is_displayed())
    page.find_element("id", "download").click()
    until((folder / f"{path.stem}_labelled.csv").exists)
    return (folder / f"{path.stem}_labelled.csv").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("levels", [("80 %", "10 %"), ("off", "off")])
def test_the_download_has_the_columns_of_predict(
    page: Chrome, folder: Path, tmp_path: Path, levels: tuple[str, str]
) -> None:
    texts = ["Great phone", "y z", "=1+1", 'a "quoted", text', "x"]
    path = tmp_path / "new.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["text"], *([text] for text in texts)])
    choose(page, "coverage", levels[0])
    choose(page, "max-risk", levels[1])
    found = [*csv.reader(download(page, path, tmp_path / "downloads"))]
    numbers = [None if level == "off" else int(level.split()[0]) / 100 for level in levels]
    model = MultiTaskModel.from_pretrained(folder, device="cpu")
    predict_to_file(model, texts, tmp_path / "ours.csv", coverage=numbers[0], max_risk=numbers[1])
    expected = [*csv.reader((tmp_path / "ours.csv").read_text(encoding="utf-8").splitlines())]
    assert found[0] == expected[0]
    assert ("topic set" in found[0], "mood abstain" in found[0]) == (numbers[0] is not None, numbers[1] is not None)
    for row, other in zip(found[1:], expected[1:], strict=True):
        for name, cell, value in zip(found[0], row, other, strict=True):
            assert (float(cell) == pytest.approx(float(value), abs=1e-5)) if name.startswith("p(") else cell == value


def test_the_download_runs_no_formula(page: Chrome, tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    path.write_text("text\n=1+1\n'=2\nfine\n", encoding="utf-8")
    lines = download(page, path, tmp_path / "downloads")
    assert lines[0].startswith('"text","topic","topic set","topic abstain","p(topic=price)","p(topic=größe <b>)"')
    assert [line.split(",")[0] for line in lines[1:]] == ['"\'=1+1"', "\"''=2\"", '"fine"']


def test_a_dropped_file_that_is_no_text_is_an_error(page: Chrome) -> None:
    page.execute_script(
        "const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0));"
        "const data = new DataTransfer(); data.items.add(new File([bytes], 'dropped.csv'));"
        "document.getElementById('drop').dispatchEvent(new DragEvent('drop', {dataTransfer: data, cancelable: true}))",
        base64.b64encode(b"text\n\xff\xfe\n").decode(),
    )
    until(lambda: page.find_element("id", "error").is_displayed())
    assert page.find_element("id", "error").text == "dropped.csv is not UTF-8."


def test_a_text_with_html_is_shown_as_text(page: Chrome) -> None:
    page.execute_script("document.getElementById('text').value = arguments[0]", ATTACK)
    page.find_element("css selector", "#single button").click()
    until(lambda: len(cards(page)) == 2)
    assert "größe <b>" in "".join(cards(page))  # a label
    assert page.execute_script("return window.attacked === undefined && !document.querySelector('main img, main b')")


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_no_wider_than_the_screen(page: Chrome, width: int) -> None:
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    page.find_element("id", "text").send_keys("Great phone")
    page.find_element("css selector", "#single button").click()
    until(lambda: len(cards(page)) == 2)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
