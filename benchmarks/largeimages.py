"""Measures time and memory of restoring larger and larger images, in tiles and in the fastest engine.

Images are square 8-bit RGB; each net gets the sizes up to its limit. Sizes take turns, and the quickest turn
counts. Peak memory is the largest resident memory of the process while an image is restored, including the
image and its result. A second table has the time per pixel by the size of the tiles.
"""

import argparse
import math
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor
from writing import publish

from steadylens.inference.engines import EngineTiming, fastest_engine
from steadylens.inference.restorer import Restorer, restorer_of
from steadylens.training.run import device_name

CPU = torch.device("cpu")
SHORT_SECONDS = 30.0
"""Only images that take no longer than this are measured several times."""


def square(megapixels: float) -> Tensor:
    """Returns a random image, uint8 (1, 3, H, W)."""
    side = round(1000 * math.sqrt(megapixels))
    return torch.randint(
        256, (1, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def run(restorer: Restorer, image: Tensor) -> tuple[float, float]:
    """Returns the seconds that restoring takes, and the peak of resident memory in megabytes (on Linux)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak
    begin = time.perf_counter()
    restorer(image)
    taken = time.perf_counter() - begin
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return taken, int(status.partition("VmHWM:")[2].split()[0]) * 1024e-6


def in_fastest_engine(name: str) -> tuple[Restorer, EngineTiming]:
    """Returns a packaged net in the engine that runs it fastest here, with the times of all engines."""
    restorer = restorer_of(name)
    assert isinstance(restorer.engine, torch.nn.Module)
    timing = fastest_engine(restorer.engine.eval().requires_grad_(False), seconds=2)
    return replace(restorer, engine=timing.engine), timing


def growth(restorer: Restorer, sizes: list[float], rounds: int) -> list[dict[str, float]]:
    """Returns the time per pixel and the peak memory, by the size of the image."""
    taken = {size: run(restorer, square(size)) for size in sorted(sizes)}
    best = {size: seconds for size, (seconds, _) in taken.items()}
    for _ in range(rounds - 1):
        for size in sizes:
            if best[size] < SHORT_SECONDS:
                best[size] = min(best[size], run(restorer, square(size))[0])
    return [
        {
            "megapixels": size,
            "seconds": best[size],
            "nanoseconds_per_pixel": 3e9 * best[size] / square(size).numel(),
            "peak_megabytes": taken[size][1],
        }
        for size in sizes
    ]


def by_tile(restorer: Restorer, tiles: list[int], rounds: int) -> list[dict[str, float]]:
    """Returns the time per pixel of a one-megapixel image, by the size of the tiles; sizes take turns."""
    image, best = square(1), dict.fromkeys(tiles, math.inf)
    for _ in range(rounds):
        for tile in tiles:
            cut = replace(restorer, tiling=replace(restorer.tiling, tile=tile))
            best[tile] = min(best[tile], run(cut, image)[0])
    return [{"tile": tile, "nanoseconds_per_pixel": 3e9 * best[tile] / image.numel()} for tile in tiles]


def measured(name: str, sizes: list[float], tiles: list[int], rounds: int) -> dict[str, object]:
    """Returns all measurements of a packaged net."""
    restorer, timing = in_fastest_engine(name)
    rows = growth(restorer, sizes, rounds)
    each = [row["nanoseconds_per_pixel"] for row in rows]
    return {
        "net": name,
        "engine": timing.engine.name,
        "tile": restorer.tiling.tile,
        "race_milliseconds": dict(timing.milliseconds),
        "slowest_to_fastest_pixel": max(each) / min(each),
        "sizes": rows,
        "tiles": by_tile(restorer, tiles, rounds),
    }


def main() -> None:
    """Prints the measurements, and writes them to a file on request."""
    parser = argparse.ArgumentParser(description="Measure how time and memory grow with the image.")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument(
        "--nets", nargs="+", default=["l11-gtsrb", "l5-gtsrb", "l3-gtsrb"], help="packaged nets"
    )
    parser.add_argument(
        "--most",
        type=float,
        nargs="+",
        default=[64, 64, 64],
        help="largest image of each net, in megapixels",
    )
    parser.add_argument(
        "--sizes", type=float, nargs="+", default=[0.25, 1, 4, 16, 64], help="megapixels of the images"
    )
    parser.add_argument(
        "--tiles",
        type=int,
        nargs="+",
        default=[112, 144, 208, 272, 400, 520],
        help="sizes of tiles",
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds for images that take at most 30 s")
    parser.add_argument("--threads", type=int, default=2, help="threads that each engine may use")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found = [
        measured(net, [size for size in arguments.sizes if size <= most], arguments.tiles, arguments.rounds)
        for net, most in zip(arguments.nets, arguments.most, strict=True)
    ]
    versions = {library: version(library) for library in ("torch", "onnxruntime", "openvino")}
    about = {"device": device_name(CPU), "threads": arguments.threads, "rounds": arguments.rounds}
    publish({**versions, **about, "nets": found}, arguments.out)


if __name__ == "__main__":
    main()
