"""A headless Chromium, and a page opened in it; what the browser tests and the benchmark of the page share."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")

needs_a_browser = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no Chromium with its chromedriver on this machine")


@contextmanager
def started() -> Iterator[Any]:
    """Yield a driver of a new browser."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--window-size=1280,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def visit(browser: Any, path: Path, width: int = 1280, scheme: str = "light", asked: str = "") -> Any:
    """Open a page anew and wait until it is ready."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
    )
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": [{"name": "prefers-color-scheme", "value": scheme}]})
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get("about:blank")  # so that another address of the same file is opened anew
    browser.get(path.as_uri() + asked)
    assert (
        browser.execute_async_script("const done = arguments[0]; ready.then(() => done(document.documentElement.dataset.ready))") == "yes"
    )
    return browser
