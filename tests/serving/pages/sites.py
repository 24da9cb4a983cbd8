"""The site as `steadylens app` serves it, without a network, and a browser that looks at it."""

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.browsers import chromium

# The command itself, without a network, and without a library if its name comes first.
ALONE = """
import socket, sys

if absent := sys.argv.pop(1):
    sys.modules[absent] = None

def local(connect):
    def connect_locally(self, address, *rest):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            print("ASKED", address, flush=True)
            raise OSError("there is no network")
        return connect(self, address, *rest)
    return connect_locally

for name in ("connect", "connect_ex"):
    setattr(socket.socket, name, local(getattr(socket.socket, name)))
resolve = socket.getaddrinfo

def resolve_locally(host, *rest, **options):
    if host not in (None, "", "127.0.0.1", "::1", "localhost"):
        print("ASKED", host, flush=True)
        raise socket.gaierror("there is no network")
    return resolve(host, *rest, **options)

socket.getaddrinfo = resolve_locally
from steadylens.cli.main import main
main()
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """The site in a browser.

    Attributes:
        browser: The browser.
        address: The address of the site.
        folder: Where the server may write temporary files, and the browser what is downloaded.
    """

    browser: Chrome
    address: str
    folder: Path

    def visit(self, path: str, width: int = 1280, height: int = 900, *, mobile: bool = False) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.browser.get(self.address + path)

    def find(self, selector: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """Returns the text of a part of the page, read at once, so that no element can vanish meanwhile."""
        found: str = self.browser.execute_script(
            "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText).join('|')", selector
        )
        return found

    def shown(self, selector: str) -> bool:
        return any(each.is_displayed() for each in self.browser.find_elements(By.CSS_SELECTOR, selector))

    def wait_for(self, done: Callable[[], Any], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline, self.text("body")
            time.sleep(0.05)

    def overflow(self) -> int:
        found: int = self.browser.execute_script("return document.documentElement.scrollWidth - innerWidth")
        return found


def started(folder: Path, absent: str = "") -> subprocess.Popen[str]:
    """Starts the command, without a certain library; its first line is the address."""
    return subprocess.Popen(
        (sys.executable, "-c", ALONE, absent, "app", "--net", "l3-gtsrb", "--port", "0"),
        env={**os.environ, "OMP_NUM_THREADS": "1", "GRADIO_TEMP_DIR": str(folder), "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@contextmanager
def served(folder: Path) -> Iterator[Site]:
    """Yields the site; at the end, it must stop at a signal, and have asked no other machine for anything."""
    temporary, downloads = folder / "server", folder / "downloads"
    temporary.mkdir()
    downloads.mkdir()
    with chromium(folder) as browser, started(temporary) as process:
        browser.execute_cdp_cmd(
            "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)}
        )
        try:
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], 120)[0], "the server does not start"
            found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
            assert found
            yield Site(browser=browser, address=found[0], folder=folder)
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=60)
            assert (process.returncode, out) == (0, "stopped\n")
        finally:
            process.kill()
