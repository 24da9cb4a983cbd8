"""A served net as a process with a socket on the loopback address, for tests with real clients."""

import asyncio
import io
import os
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

MOST_BYTES, MOST_PIXELS, SLOTS = 400_000, 40_000, 8
"""The limits of the shared servers: a body and an image of the classifier, requests of the restorer."""

ORIGIN = "https://site.example"
"""The web site whose scripts may read the responses of the shared classifier."""

NAME = "localhost"
"""The name of this machine at which the shared restorer is served."""

PNG = {"content-type": "image/png"}
QUEUE = "steadylens_queue_requests"
HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n"
# The command itself, with a net that fails on images of level 13, refuses narrow ones, and waits at white
# ones until a file appears.
HELD = """
import pathlib, sys, time
from steadylens.cli import deploy
from steadylens.cli.main import main
from steadylens.errors import ImageError

release, loaded = pathlib.Path(sys.argv.pop(1)), deploy._loaded

def loaded_and_held(model, device):
    predictor, card = loaded(model, device)
    call = type(predictor).__call__

    def held(self, images):
        if images.min() == images.max() == 13:
            raise RuntimeError("SECRET")
        if images.shape[-1] == 7:
            raise ImageError("too narrow")
        while images.min() == 255 and not release.exists():
            time.sleep(0.01)
        return call(self, images)

    type(predictor).__call__ = held
    return predictor, card

deploy._loaded = loaded_and_held
main()
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A process that serves."""

    process: subprocess.Popen[str]
    address: str
    release: Path

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def accepts(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=10).close()
        except ConnectionError:
            return False
        return True

    def post(self, content: bytes, headers: dict[str, str] = PNG, query: str = "") -> httpx.Response:
        return httpx.post(f"{self.address}/predict{query}", content=content, headers=headers, timeout=60)

    def figure(self, name: str) -> float:
        text = httpx.get(f"{self.address}/metrics").text
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def wait_for(self, name: str, value: float) -> None:
        deadline = time.monotonic() + 30
        while self.figure(name) < value:
            assert time.monotonic() < deadline, f"{name} stays at {self.figure(name)}"
            time.sleep(0.02)

    def wait_until_idle(self) -> None:
        deadline = time.monotonic() + 30
        while self.figure(QUEUE) > 0:
            assert time.monotonic() < deadline, "requests are still being answered"
            time.sleep(0.02)

    def together(self, contents: list[bytes], meanwhile: Callable[[], None]) -> list[httpx.Response]:
        """Posts images at once, does something when all are in flight, and returns the replies."""

        async def ask() -> list[httpx.Response]:
            async with httpx.AsyncClient(base_url=self.address, timeout=60) as client:
                posts = [client.post("/predict", content=content, headers=PNG) for content in contents]
                asking = [asyncio.create_task(post) for post in posts]
                await asyncio.to_thread(self.wait_for, QUEUE, len(contents))
                await asyncio.to_thread(meanwhile)
                return await asyncio.gather(*asking)

        return asyncio.run(ask())

    def ended(self) -> tuple[int, str, str]:
        """Waits for the end; returns the exit code and the rest of both streams."""
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[Server]:
    release = folder / "release"
    command = (sys.executable, "-c", HELD, str(release), "serve", *arguments, "--port", "0")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], 120)[0], "the server does not start"
            line = process.stdout.readline()
            found = re.search(r"http://[\d.]+:\d+", line)
            assert found, f"{line!r} holds no address"
            yield Server(process=process, address=found[0], release=release)
        finally:
            process.kill()


def png(levels: np.ndarray[Any, Any]) -> bytes:
    return written(Image.fromarray(levels), "PNG")


def written(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def drawn(number: int, height: int = 48, width: int = 48) -> np.ndarray[Any, Any]:
    """Returns an image that no other number has: a few random colours, blurred."""
    coarse = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def plain(level: int) -> bytes:
    return png(np.full((16, 16, 3), level, np.uint8))
