"""A headless Chromium that opens local files and notes every request and every message of the console."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from selenium.webdriver import Chrome

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


def start() -> Chrome:
    """Start Chromium; skip the test where it, its driver or selenium is not installed."""
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("Chromium with its driver is not installed (Debian: apt-get install chromium chromium-driver)")
    options = selenium.ChromeOptions()
    options.binary_location = browser
    for flag in _FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome: Chrome = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    chrome.set_script_timeout(60)
    return chrome


def _log(chrome: Chrome, kind: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = chrome.get_log(kind)  # type: ignore[no-untyped-call]
    return entries


def requests(chrome: Chrome) -> list[str]:
    """Return the addresses that were asked for since the last call, data within the page left out."""
    messages = [json.loads(entry["message"])["message"] for entry in _log(chrome, "performance")]
    sent = (each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent")
    return [url for url in sent if not url.startswith("data:")]


def console(chrome: Chrome) -> list[str]:
    """Return what the page has written to the console since the last call, with violations of its policy."""
    return [entry["message"] for entry in _log(chrome, "browser")]


def opened(chrome: Chrome, page: Path, width: int = 1280, height: int = 900) -> Chrome:
    """Open a file with all folded parts open, and wait until every chart is drawn."""
    _log(chrome, "performance")
    _log(chrome, "browser")
    chrome.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    chrome.get(page.as_uri())
    chrome.execute_async_script("""
        const done = arguments[0];
        document.querySelectorAll("details").forEach((each) => { each.open = true; });
        const left = () => [...document.querySelectorAll(".canvas")].filter((each) => !each.dataset.drawn);
        const step = () => {
            const rest = left();
            if (rest.length) { rest[0].scrollIntoView(); setTimeout(step, 20); } else { scrollTo(0, 0); done(true); }
        };
        step();
    """)
    return chrome
