"""The page to try a model in, in a real browser: typing, a file, an error, a text with HTML, and no other request."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest

from mtl import MultiTaskModel
from tests.support import browser
from tests.support.serving import Running, running, until, write_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from selenium.webdriver import Chrome

ATTACK = '<img src=x onerror="window.attacked = true"><b>bold</b>'


@pytest.fixture(scope="module")
def folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("run") / "model", tiny_folder)


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Running]:
    with running(folder) as found:
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
    return [card.text for card in chrome.find_elements("css selector", ".card")]


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
        "/predict",
    }


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


def test_the_download_runs_no_formula(page: Chrome, tmp_path: Path) -> None:
    folder = tmp_path / "downloads"
    page.execute_cdp_cmd("Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
    path = tmp_path / "new.csv"
    path.write_text("text\n=1+1\n'=2\nfine\n", encoding="utf-8")
    page.find_element("id", "file").send_keys(str(path))
    until(lambda: page.find_element("id", "start").is_displayed())
    page.find_element("id", "start").click()
    until(lambda: page.find_element("id", "download").is_displayed())
    page.find_element("id", "download").click()
    until((folder / "new_labelled.csv").exists)
    lines = (folder / "new_labelled.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith('"text","topic","p(topic=price)","p(topic=größe <b>)"')
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
