"""The shop's page in a real browser, while a service is away: Debian's Chromium without a window."""

from __future__ import annotations

import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from tests.shop.test_web import CHAI

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 10
MOST_MILLISECONDS = 50
BREAK_OFF = """
source.close();
source.onerror();
"""
"""What a browser does after an answer that is no stream."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The shop with its services, as `make web` starts it."""
    command = [sys.executable, "-m", "examples.shop.web_demo"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://[\d.:]+", process.stdout.readline())
            assert found is not None
            yield found.group()
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0


class Page:
    """What a customer sees and does."""

    def __init__(self, browser: Chrome) -> None:
        self.browser = browser

    def find(self, selector: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def until(self, selector: str, text: str) -> None:
        """Waits until this element says so."""

        def says(_: Chrome) -> bool:
            return any(text in found.text for found in self.browser.find_elements(By.CSS_SELECTOR, selector))

        WebDriverWait(self.browser, PATIENCE_SECONDS, poll_frequency=0.05).until(says, f"{selector}: {text}")

    def press(self, selector: str) -> None:
        self.find(selector).click()

    def stations(self) -> list[tuple[str, str | None]]:
        """The stations of the order, each with its state."""
        items = self.browser.find_elements(By.CSS_SELECTOR, "#stations li")
        return [(item.text.partition("\n")[0], item.get_attribute("data-state")) for item in items]


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    """A browser. Without one: skipped on a laptop, an error in CI."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        required = os.environ.get("CI") or os.environ.get("OUTLAST_REQUIRE_SERVICES")
        missing = "there is no chromium, or no chromedriver, on this machine: `make services` installs both"
        raise (pytest.fail if required else pytest.skip).Exception(missing, pytrace=False)
    options = ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=900,1300"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = Chrome(options=options, service=ChromeService(driver))
    try:
        yield browser
    finally:
        browser.quit()


@pytest.fixture
def page(browser: Chrome) -> Page:
    """A page that is empty."""
    browser.get("about:blank")
    return Page(browser)


def milliseconds_of_orders(address: str, number: int) -> list[float]:
    """How long the answer takes to each of so many orders, over one connection that has been used before."""
    taken: list[float] = []
    with httpx.Client(base_url=address) as http:
        http.post("/orders", json=CHAI)
        for _ in range(number):
            began = time.perf_counter()
            answer = http.post("/orders", json=CHAI)
            taken.append((time.perf_counter() - began) * 1000)
            assert answer.status_code == 202
    return taken


def test_an_order_is_accepted_at_once_and_shipped_when_payment_is_back(
    page: Page, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    page.browser.get(address)
    page.until("[data-service=payment]", "Payment is up")
    page.press("[data-service=payment] button")
    page.until("[data-service=payment]", "Payment is down")

    taken = milliseconds_of_orders(address, 21)
    page.press("#order button")
    page.until("#status", "Waiting for Payment")
    waiting = page.find("#comfort").text, page.find("#answer").text, page.stations()
    page.browser.refresh()
    page.until("#status", "Waiting for Payment")
    page.press("[data-service=payment] button")
    page.until("#status", "Shipped")

    with capsys.disabled():
        print(f"\n202 after {statistics.median(taken):.1f} ms (median of {len(taken)}; longest {max(taken):.1f} ms)")
    assert statistics.median(taken) < MOST_MILLISECONDS
    assert "Nothing is lost" in waiting[0]
    assert waiting[1].startswith("202 Accepted after")
    assert waiting[2] == [("Order taken", "done"), ("Payment", "away"), ("Shipping label", "later")]
    assert page.stations() == [("Order taken", "done"), ("Payment", "done"), ("Shipping label", "done")]
    page.until("#called-back", "shipped")
    assert page.browser.get_log("browser") == []


def test_an_order_that_cannot_be_shipped_shows_the_refund_and_the_reason(page: Page, address: str) -> None:
    page.browser.get(address)
    page.find("[name=country]").send_keys("Argentina")
    page.press("#order button")
    page.until("#status", "Refunded")

    assert [name for name, _ in page.stations()] == ["Order taken", "Payment", "Not shipped", "Money back"]
    page.until("#stations", "we do not export to Argentina")


def test_what_is_refused_says_why_on_the_page(page: Page, address: str) -> None:
    page.browser.get(address)
    page.browser.execute_script("document.querySelector('[name=name]').required = false")
    page.find("[name=name]").clear()
    page.press("#order button")

    page.until("#problem", "ship_to.name")
    assert not page.find("#progress").is_displayed()


def test_an_order_that_is_not_there_is_said_to_be_missing(page: Page, address: str) -> None:
    page.browser.get(f"{address}/#00000000-0000-0000-0000-000000000000")

    page.until("#status", "There is no such order")
    assert not page.find("#connection").is_displayed()


def test_the_page_follows_an_order_again_when_the_shop_could_not_answer_for_a_while(page: Page, address: str) -> None:
    page.browser.get(address)
    page.press("[data-service=payment] button")
    page.until("[data-service=payment]", "Payment is down")
    page.press("#order button")
    page.until("#status", "Waiting for Payment")

    page.browser.execute_script(BREAK_OFF)
    page.until("#connection", "The connection is lost")
    page.press("[data-service=payment] button")
    page.until("#status", "Shipped")

    assert not page.find("#connection").is_displayed()
