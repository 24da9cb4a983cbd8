"""The service over HTTP against plain loops in Python, in one run and on the same images.

The loops decode each image and call the net: on one image at a time, or on batches. The service does the
same behind real sockets, for 1, 8 and 64 clients that each wait for an answer before they ask again. All
of it takes turns, and the fastest round of each counts.
"""

import argparse
import asyncio
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import torch
from torch import nn
from writing import publish

import steadylens
from steadylens.inference.signature import Signature
from steadylens.nets.classification import SIGN_SIZE
from steadylens.serving.payloads import Classifying, decode_image, encode_png
from steadylens.training.run import device_name

CLIENTS = (1, 8, 64)
PIXELS = 2**21


def example_images(count: int, side: int) -> list[bytes]:
    """Returns PNG files of smooth images under slight noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(side, side), mode="bilinear", align_corners=False)
    noisy = smooth + 0.02 * torch.randn(smooth.shape, generator=generator)
    return [encode_png(image).content for image in steadylens.to_uint8(noisy)]


@contextmanager
def served(model: str, threads: int, *, workers: int = 1) -> Iterator[str]:
    """Starts the service on a free port and lends its address."""
    start = (sys.executable, "-c", "from steadylens.cli.main import main; main()", "serve", model)
    command = (*start, "--port", "0", "--device", "cpu", "--workers", str(workers))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout is not None
        found = re.search(r"http://[\d.:]+", process.stdout.readline())
        assert found, "the service did not start"
        try:
            yield found[0]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def ask(address: str, images: list[bytes], clients: int) -> float:
    """Sends every image once, from so many clients, and returns the seconds that it took."""

    async def one(client: httpx.AsyncClient, mine: list[bytes]) -> None:
        for content in mine:
            reply = await client.post("/predict", content=content, headers={"content-type": "image/png"})
            reply.raise_for_status()

    async def everybody() -> float:
        limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
        async with httpx.AsyncClient(base_url=address, limits=limits, timeout=120) as client:
            await one(client, images[:1])
            begin = time.perf_counter()
            await asyncio.gather(*(one(client, images[first::clients]) for first in range(clients)))
            return time.perf_counter() - begin

    return asyncio.run(everybody())


def loop(predictor: Classifying, images: list[bytes], batch: int) -> float:
    """Decodes and classifies every image in this process and returns the seconds that it took."""
    encode = predictor.encoder({})
    begin = time.perf_counter()
    for first in range(0, len(images), batch):
        decoded = [
            decode_image(content, most_pixels=PIXELS, size=SIGN_SIZE) for content in images[first:][:batch]
        ]
        for logits in predictor(torch.stack(decoded)):
            encode([logits], [None])
    return time.perf_counter() - begin


def measure(
    model: str, *, images: int, side: int, batch: int, rounds: int, threads: int
) -> dict[str, object]:
    """Returns images a second of every contender, and the ratios that matter.

    Args:
        model: A classifier, by name or file.
        images: Images in a round.
        side: Their height and width in pixels.
        batch: Images in a batch of the second loop.
        rounds: Rounds of each contender, after one that does not count.
        threads: Threads that PyTorch may use in either process.
    """
    files = example_images(images, side)
    device = torch.device("cpu")
    net = steadylens.load(model).to(memory_format=torch.channels_last)  # as the service has it
    classes = steadylens.card(model).classes
    signature = Signature(size=(SIGN_SIZE, SIGN_SIZE), classes=len(classes))
    predictor = Classifying(net, device, signature=signature, classes=classes)
    with served(model, threads) as address, multiprocessing.get_context("spawn").Pool(1) as client:
        contenders: dict[str, Callable[[], float]] = {
            "loop": lambda: loop(predictor, files, 1),
            f"loop in batches of {batch}": lambda: loop(predictor, files, batch),
        }
        for clients in CLIENTS:
            contenders[f"service, {clients} clients"] = lambda clients=clients: client.apply(  # type: ignore[misc]
                ask, (address, files, clients)
            )
        best = dict.fromkeys(contenders, float("inf"))
        for turn in range(rounds + 1):
            for name, contender in contenders.items():
                taken = contender()
                if turn > 0:
                    best[name] = min(best[name], taken)
        figures = httpx.get(f"{address}/metrics").text
    rates = {name: images / seconds for name, seconds in best.items()}
    return {
        "model": model,
        "images": images,
        "side": side,
        "rounds": rounds,
        "images_per_second": rates,
        "times_as_fast_as_the_loop": {name: rate / rates["loop"] for name, rate in rates.items()},
        "mean_batch": mean_batch(figures),
    }


def mean_batch(figures: str) -> float:
    """Returns the mean number of images in a batch of the service, over all clients."""
    total, count = (
        float(re.findall(rf"^steadylens_batch_images_{name} (\S+)$", figures, re.MULTILINE)[0])
        for name in ("sum", "count")
    )
    return total / count


def main() -> None:
    """Measures and prints; writes too where it is told."""
    parser = argparse.ArgumentParser(description="Measure the service against plain loops.")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--model", default="fused-gtsrb", help="a packaged classifier or a file of one")
    parser.add_argument("--images", type=int, default=512, help="images in a round")
    parser.add_argument("--side", type=int, default=64, help="height and width of an image in pixels")
    parser.add_argument("--batch", type=int, default=32, help="images in a batch of the second loop")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds of each contender")
    parser.add_argument("--threads", type=int, default=2, help="threads that PyTorch may use")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    measured = measure(
        arguments.model,
        images=arguments.images,
        side=arguments.side,
        batch=arguments.batch,
        rounds=arguments.rounds,
        threads=arguments.threads,
    )
    device = device_name(torch.device("cpu"))
    versions = {"torch": torch.__version__, "device": device, "threads": arguments.threads}
    publish(versions | measured, arguments.out)


if __name__ == "__main__":
    main()
