"""A real browser for tests of pages."""

import os
import shutil
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service


def chromium(folder: Path) -> Chrome:
    """Returns a browser without a window, with its profile in a folder; skips the test if there is none."""
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (binary and driver):
        if "CI" in os.environ:
            pytest.fail("chromium or chromedriver is missing")
        pytest.skip("chromium or chromedriver is not installed: the page is not tested in a browser")
    options = ChromeOptions()
    options.binary_location = binary
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu"):
        options.add_argument(f"--{argument}")
    options.add_argument(f"--user-data-dir={folder / 'browser'}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return Chrome(options=options, service=Service(driver))
