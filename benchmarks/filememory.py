"""Measures the memory that `steadylens restore` needs for large image files (on POSIX).

Each file is restored in a process of its own. Images are square and all their rows are the same, so that
compressing them is quick; the content does not influence the memory.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from writing import publish

from steadylens.images.pixels import Pixels
from steadylens.images.reading import ImageContent, Metadata
from steadylens.images.writing import write_image_file

FILE_TYPES: dict[str, tuple[str, type[np.unsignedinteger[Any]], int]] = {
    "PNG, 8-bit RGB": ("PNG", np.uint8, 3),
    "JPEG, 8-bit RGB": ("JPEG", np.uint8, 3),
    "TIFF, 16-bit RGB": ("TIFF", np.uint16, 3),
    "TIFF, 16-bit RGB with alpha": ("TIFF", np.uint16, 4),
}


def write(path: Path, file_type: str, megapixels: float) -> None:
    """Writes an image of one of the file types."""
    name, dtype, channels = FILE_TYPES[file_type]
    side = round(1000 * math.sqrt(megapixels))
    row = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (1, side, channels), dtype=dtype)
    pixels: Pixels = np.broadcast_to(row, (side, side, channels))
    write_image_file(path, ImageContent(pixels=pixels, format=name, lossless=True, metadata=Metadata()))


def restored(source: Path, out: Path, net: str) -> dict[str, float]:
    """Restores a file in a new process, and returns its peak memory and its time."""
    code = "from steadylens.cli.main import main; main()"
    command = [sys.executable, "-c", code, "restore", str(source), "--out", str(out), "--net", net]
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603 - our own command
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"restoring {source} failed with status {status}")
    kibibytes = usage.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return {"peak_gibibytes": kibibytes / 2**20, "seconds": time.perf_counter() - begin}


def main() -> None:
    """Prints the measurements, and writes them to a file on request."""
    parser = argparse.ArgumentParser(description="Measure the memory that restoring large files needs.")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--net", default="l3-gtsrb", help="a packaged restorer")
    parser.add_argument("--megapixels", type=float, default=100)
    arguments = parser.parse_args()
    rows: list[dict[str, object]] = []
    for file_type in FILE_TYPES:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "image"
            write(source, file_type, arguments.megapixels)
            rows.append({"file": file_type, **restored(source, Path(folder) / "out", arguments.net)})
    about = {"net": arguments.net, "megapixels": arguments.megapixels}
    versions = {library: version(library) for library in ("torch", "pillow", "numpy")}
    publish({**versions, **about, "files": rows}, arguments.out)


if __name__ == "__main__":
    main()
