"""Data sets that are larger than memory: the speed beside data in memory, and the memory that they need.

First, the same trainings run on as many random images as GTSRB has, in memory and from a file, in turns. Then
tar files of generated images of 224 pixels are loaded and trained on by processes of their own, whose private
memory is limited (RLIMIT_DATA), and which tell the peak of it. To decode that many images takes long, but not
more memory: unless `--decode` is given, each is drawn instead, at the moment when it would be decoded.
Before each training the file's pages are dropped from the system's cache, so that what is trained on is read
from the disk. On Linux.
"""

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from statistics import median
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from writing import publish

from steadylens.data.datasets import load_dataset
from steadylens.data.image_cache import load_or_make
from steadylens.data.sources import Photograph
from steadylens.devices import fast_memory_format
from steadylens.nets.classification import SignNet
from steadylens.nets.restoration import RestorationNet, initialize_xavier
from steadylens.noise.degradation import Degradation
from steadylens.training.loop import Progress, Training
from steadylens.training.objectives import LogSquaredError, classifying_objective, restoring_objective
from steadylens.training.optimizers import OneCycleAdam
from steadylens.training.run import device_name

GTSRB_IMAGES = 39_209

BATCH = 50

SIZE = 224

CLASSES = 10

IN_A_SHARD = 1000

PATTERNS = 500
"""How many different pictures are drawn; others have the same with another contrast."""


def training(images: Tensor, name: str) -> Iterator[Progress]:
    """Returns the steps of a small training: of L3 on patches of 48 pixels, or of the sign net."""
    generator = torch.Generator().manual_seed(0)
    net: torch.nn.Module
    if name == "L3":
        net = RestorationNet(depth=3)
        objective = restoring_objective(
            net, images, degradation=Degradation(), loss=LogSquaredError(), batch=BATCH, patch=48
        )
    else:
        net = SignNet(classes=CLASSES, standardize=True)
        labels = torch.arange(len(images)) % CLASSES
        objective = classifying_objective(net, images, labels, batch=BATCH)
    initialize_xavier(net, generator=torch.Generator().manual_seed(0))
    net.to(memory_format=fast_memory_format(torch.device("cpu")))
    adam = OneCycleAdam(learning_rate=1e-4)
    return Training(net, objective, optimization=adam, steps=1_000_000, generator=generator).run()


def speed(folder: Path, steps: int) -> dict[str, dict[str, float]]:
    """Trains in memory and from a file, one step of each in turns; returns what the median step tells."""
    images = torch.randint(256, (GTSRB_IMAGES, 3, 48, 48), dtype=torch.uint8)
    jobs = [partial(torch.clone, images[number : number + 1]) for number in range(len(images))]
    in_file = load_or_make(folder / "gtsrb", jobs, frames=1, size=48, progress=None, memory=0).images
    places = {"in_memory": images, "in_a_file": in_file}
    found = {}
    for name in ("L3", "SignNet"):
        rows = {place: training(each, name) for place, each in places.items()}
        per_second = {place: 1 / taken for place, taken in in_turns(rows, steps).items()}
        found[f"{name}, steps per second"] = {
            **per_second,
            "ratio": per_second["in_a_file"] / per_second["in_memory"],
        }
    draws = in_turns({place: batches(each) for place, each in places.items()}, 20 * steps)
    found["milliseconds to gather a batch"] = {place: 1000 * taken for place, taken in draws.items()}
    return found


def batches(images: Tensor) -> Iterator[Tensor]:
    """Yields random batches without an end."""
    generator = torch.Generator().manual_seed(0)
    while True:
        yield images[torch.randint(len(images), (BATCH,), generator=generator)]


def in_turns(rows: Mapping[str, Iterator[object]], steps: int) -> dict[str, float]:
    """Returns the median seconds of a step of each, which take turns; the first steps do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(steps + 2):
        for name, each in rows.items():
            begin = time.perf_counter()
            next(each)
            seconds[name].append(time.perf_counter() - begin)
    return {name: median(taken[2:]) for name, taken in seconds.items()}


def pack(folder: Path, count: int) -> None:
    """Writes tar files of different JPEG images, a tenth of them for testing.

    Drawing each image would take longer than all else: so the same compressed pixels are packed with another
    quantisation of the mean of each block of pixels, which is the first number of the file's table.
    """
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(min(PATTERNS, count)):
        content = io.BytesIO()
        small = Image.fromarray(rng.integers(0, 256, (14, 14, 3), dtype=np.uint8))
        small.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(content, "JPEG", quality=80)
        pictures.append(content.getvalue())
    for start in range(0, count, IN_A_SHARD):
        part = "test" if start // IN_A_SHARD % 10 == 9 else "train"
        with tarfile.open(folder / f"{part}-{start // IN_A_SHARD:05}.tar", "w") as tar:
            for number in range(start, min(start + IN_A_SHARD, count)):
                picture = bytearray(pictures[number % PATTERNS])
                picture[picture.index(b"\xff\xdb") + 5] = 1 + number // PATTERNS
                for suffix, file in (("jpg", bytes(picture)), ("cls", str(number % CLASSES).encode())):
                    entry = tarfile.TarInfo(f"{number:07}.{suffix}")
                    entry.size = len(file)
                    tar.addfile(entry, io.BytesIO(file))


class Peak:
    """Watches how much private memory this process has, that is memory which no file backs."""

    def __init__(self) -> None:
        self.most = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            status = Path("/proc/self/status").read_text(encoding="utf-8")
            (line,) = (line for line in status.splitlines() if line.startswith("RssAnon"))
            self.most = max(self.most, int(line.split()[1]) / 2**20)

    def end(self) -> float:
        """Returns the peak in GiB."""
        self._ended.set()
        self._thread.join()
        return self.most


def dropped(folder: Path) -> None:
    """Drops the pages of the files in a folder from the system's cache."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def drawn(root: Path, photograph: Photograph, *_: object) -> Tensor:
    """Returns a picture that no other image has, uint8 (1, 3, S, S), in place of decoding it."""
    picture = PICTURE.clone()
    number = int(Path(photograph.path).stem)
    picture.view(-1)[:8] = torch.tensor([number >> 8 * byte & 255 for byte in range(8)], dtype=torch.uint8)
    return picture


PICTURE = torch.randint(
    256, (1, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


def in_child(folder: Path, steps: int, gib: float, *, decode: bool) -> None:
    """Loads the tar files and trains; prints what it took as JSON. Runs in a process of its own."""
    limit = int(gib * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    peak = Peak()
    begin = time.perf_counter()
    place = "steadylens.data.datasets.decode_member"
    with nullcontext() if decode else patch(place, drawn):
        data = load_dataset(f"shards:{folder / 'shards'}", size=SIZE, cache=folder / "cache")
    loaded = time.perf_counter() - begin
    steps_of = training(data.train.images, "L3")
    next(steps_of)  # the first one is slower
    dropped(folder / "cache")
    begin = time.perf_counter()
    for _ in range(steps):
        next(steps_of)
    result = {
        "seconds_to_load": loaded,
        "steps_per_second": steps / (time.perf_counter() - begin),
        "peak_private_gib": peak.end(),
    }
    print(json.dumps(result))


def limited(folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Runs `in_child` in a new process."""
    command = [sys.executable, __file__, "--child", str(folder), *["--decode"] * arguments.decode]
    for name in ("steps", "gib", "threads"):
        command += [f"--{name}", str(getattr(arguments, name))]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)  # noqa: S603 - our own
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Measures and prints; writes too where it is told."""
    parser = argparse.ArgumentParser(description="Measure training on data that is larger than memory.")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--images", type=int, default=100_000, help="generated images of 224 pixels")
    parser.add_argument(
        "--folder", type=Path, help="where 20 GB can be written; by default, for temporary files"
    )
    parser.add_argument("--steps", type=int, default=40, help="timed steps of each training")
    parser.add_argument("--gib", type=float, default=4.0, help="private memory that a process may take")
    parser.add_argument("--threads", type=int, default=2, help="threads that PyTorch may use")
    parser.add_argument(
        "--decode", action="store_true", help="decode the JPEG files instead of drawing images"
    )
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.child is not None:
        in_child(arguments.child, arguments.steps, arguments.gib, decode=arguments.decode)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        speeds = speed(folder, arguments.steps)
        (folder / "shards").mkdir()
        pack(folder / "shards", arguments.images)
        measured = {run: limited(folder, arguments) for run in ("first", "again, from the cache")}
        cached = sum(path.stat().st_size for path in (folder / "cache").iterdir())
    publish(
        {
            "torch": torch.__version__,
            "device": device_name(torch.device("cpu")),
            "threads": arguments.threads,
            "batch": BATCH,
            "gtsrb_images": GTSRB_IMAGES,
            "generated_images": arguments.images,
            "generated_pixels": f"{SIZE}x{SIZE}",
            "generated_by": "decoding JPEG" if arguments.decode else "drawing",
            "cache_gb": cached / 1e9,
            "private_memory_limit_gib": arguments.gib,
            **speeds,
            **measured,
        },
        arguments.out,
    )


if __name__ == "__main__":
    main()
