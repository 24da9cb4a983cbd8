"""Times restoring 12 megapixels by our nets, CDnCNN-B and FFDNet, in each engine and precision.

Every combination restores the same picture in tiles of its usual size, in a process of its own, and the
quickest round counts. The image and its result are 8-bit arrays; then files are restored, reading and
writing included. Peak memory is the largest resident memory of the process while it restores, libraries
included. A combination that would take long gets a part of the picture, which the column of megapixels
tells, and its time is scaled.

Two limits of the machine are measured: the rate of a product of large matrices in the same precision, and
the rate at which memory is copied. The share of the first counts the multiplications of all tiles, overlap
included; that of the second counts what all convolutions read and write once. The rivals have random
weights, which say nothing of quality.

    python benchmarks/megapixels.py --out results/benchmarks/megapixels.json
"""

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from engines import operations, quickest
from largeimages import run
from PIL import Image
from rivals import ColourDnCNN, ColourFFDNet
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from writing import publish

from steadylens.devices import evaluating, has_fast_bfloat16
from steadylens.images.tensors import tensor_to_pil, to_uint8
from steadylens.inference.engines import (
    Engine,
    OnnxEngine,
    OpenVinoEngine,
    TorchEngine,
    to_onnx,
    to_openvino,
    to_program,
)
from steadylens.inference.image_files import RestoreSettings, restore_file
from steadylens.inference.jobs import RestoreJob
from steadylens.inference.restorer import Restorer, restorer_of
from steadylens.inference.signature import signature_of
from steadylens.inference.tiling import Span, tiles
from steadylens.training.run import device_name

CPU = torch.device("cpu")
HEIGHT, WIDTH = 3000, 4000

RIVALS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "CDnCNN-B": (ColourDnCNN, 20),
    "FFDNet": (ColourFFDNet, 24),
}
"""The rivals, and their margins in pixels."""

TILE_OF_RIVALS = 640
"""Height and width of their tiles in pixels, large enough that the overlap costs a seventh at most."""

ENGINES = ("PyTorch", "ONNX Runtime", "OpenVINO", "OpenVINO, a tile a thread")

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True, slots=True)
class Combination:
    """A net in an engine and a precision.

    Attributes:
        net: A packaged net or a file, or one of `RIVALS`.
        engine: One of `ENGINES`.
        precision: One of `PRECISIONS`.
        height: How many rows of the picture are restored.
        rounds: How many rounds are timed.
        threads: How many threads the engine may use.
    """

    net: str
    engine: str
    precision: str
    height: int
    rounds: int
    threads: int


def picture(height: int) -> Tensor:
    """Returns the upper rows of the picture, uint8 (1, 3, H, 4000): smooth colours with noise of 8 levels."""
    generator = torch.Generator().manual_seed(0)
    colours = torch.rand(1, 3, 30, 40, generator=generator)
    smooth = F.interpolate(colours, (HEIGHT, WIDTH), mode="bilinear", align_corners=True)[..., :height, :]
    return to_uint8(smooth + torch.randn(smooth.shape, generator=generator) * (8 / 255))


# One combination, in a process of its own.


def in_tiles(net: str) -> Restorer:
    """Returns one of our nets, or a rival, with what cuts the picture into tiles."""
    if net not in RIVALS:
        return restorer_of(net)
    make, margin = RIVALS[net]
    return restorer_of(make().eval().requires_grad_(False), margin=margin, tile=TILE_OF_RIVALS)


def opened(asked: Combination, *, any_size: bool = False) -> Restorer:
    """Returns a net in tiles, in an engine, for the tiles of the picture or for any image."""
    torch.set_num_threads(asked.threads)
    restorer = in_tiles(asked.net)
    assert isinstance(restorer.engine, nn.Module)
    size = None if any_size else size_of_tiles(restorer, asked)
    return replace(restorer, engine=engine_of(restorer.engine, asked, size))


def tiles_of(restorer: Restorer, asked: Combination) -> list[tuple[Span, Span]]:
    """Returns the rows and columns of all tiles of the picture."""
    return tiles((asked.height, WIDTH), restorer.tiling, at_once=streams_of(asked))


def size_of_tiles(restorer: Restorer, asked: Combination) -> tuple[int, int] | None:
    """Returns the height and width of all tiles of the picture, or None where they differ."""
    sizes = {(row.stop - row.start, column.stop - column.start) for row, column in tiles_of(restorer, asked)}
    return sizes.pop() if len(sizes) == 1 else None


def streams_of(asked: Combination) -> int:
    """Returns how many tiles are computed at the same time."""
    return asked.threads if asked.engine == ENGINES[-1] else 1


def engine_of(net: nn.Module, asked: Combination, size: tuple[int, int] | None) -> Engine:
    """Returns a net in an engine, for tiles of one size or of any."""
    dtype = PRECISIONS[asked.precision]
    if asked.engine == "PyTorch":
        return TorchEngine(net, dtype=dtype)
    signature = signature_of(net) if size is None else signature_of(net, size=size, batch=1)
    model = to_onnx(to_program(net, signature), signature)
    if asked.engine == "ONNX Runtime":
        return OnnxEngine(model, signature)
    return OpenVinoEngine(to_openvino(model, signature), signature, dtype=dtype, streams=streams_of(asked))


def timed(asked: Combination) -> dict[str, float]:
    """Returns the seconds for the picture, or that part of it, and the peak of memory in megabytes."""
    restorer, image = opened(asked), picture(asked.height)
    height, width = size_of_tiles(restorer, asked) or (min(asked.height, 1000), 1000)
    restorer.engine(torch.zeros(1, 3, height, width))  # to warm up
    rounds = [run(restorer, image) for _ in range(asked.rounds)]
    return {"seconds": min(seconds for seconds, _ in rounds), "peak": max(peak for _, peak in rounds)}


def timed_files(asked: Combination, folder: Path) -> list[dict[str, object]]:
    """Returns how long restoring a file takes, in a process that has opened the net."""
    restorer = opened(asked, any_size=True)  # parts of the image are restored to judge its noise
    found: list[dict[str, object]] = []
    for ending, name in (("jpg", "JPEG"), ("png", "PNG")):
        source = folder / f"picture.{ending}"
        tensor_to_pil(picture(asked.height)[0]).save(source)
        job = RestoreJob(source=source, target=folder / f"restored.{ending}")
        rounds = []
        for _ in range(asked.rounds):
            begin = time.perf_counter()
            restore_file(job, restorer, settings=RestoreSettings())
            rounds.append(time.perf_counter() - begin)
        with Image.open(job.target) as restored:
            assert restored.size == (WIDTH, asked.height)
        found.append({"file": name, "seconds": min(rounds)})
    return found


def alone(call: Callable[..., Any], *arguments: object) -> Any:
    """Calls a function in a new process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(call, *arguments).result()


# The machine's limits, and what the nets ask of it.


def limits(threads: int, matrix: int = 4096) -> dict[str, float]:
    """Returns the rates of matrix products in GFLOP/s, by precision, and of copying memory in GB/s."""
    torch.set_num_threads(threads)
    calls: dict[str, Callable[[], object]] = {}
    for name, dtype in PRECISIONS.items():
        square = torch.randn(matrix, matrix).to(dtype)
        calls[name] = partial(torch.mm, square, square)
    source = torch.zeros(2**26)
    calls["memory"] = partial(torch.empty_like(source).copy_, source)
    taken = quickest(calls, 5)
    rates = {name: 2e-9 * matrix**3 / taken[name] for name in PRECISIONS}
    return {**rates, "memory": 2e-9 * source.numel() * source.element_size() / taken["memory"]}


class Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the values that convolutions read and write."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation and counts it."""
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            self.values += args[0].numel() + result.numel()
        return result


def work_of(asked: Combination) -> tuple[float, float]:
    """Returns GFLOP and billions of values that convolutions read and write, for all tiles of the picture."""
    restorer = in_tiles(asked.net)
    net = restorer.engine
    assert isinstance(net, nn.Module)
    places = tiles_of(restorer, asked)
    height, width = (max(span.stop - span.start for span in each) for each in zip(*places, strict=True))
    tile = torch.empty(1, 3, height, width, device="meta")
    with torch.no_grad(), evaluating(net.to("meta")), Traffic() as traffic:
        flops = operations(net, tile)
    return 1e-9 * flops * len(places), 1e-9 * traffic.values * len(places)


# Tables.


def combinations(nets: Sequence[str], given: argparse.Namespace) -> Iterator[Combination]:
    """Yields all combinations; those with equal engine and precision follow each other."""
    precisions = PRECISIONS if has_fast_bfloat16(CPU) else ["float32"]
    for precision in precisions:
        for engine in ENGINES:
            if engine == "ONNX Runtime" and precision != "float32":
                continue
            for net in nets:
                slow = net != nets[0]
                yield Combination(
                    net=net,
                    engine=engine,
                    precision=precision,
                    height=HEIGHT // (given.slow_part if slow else given.part),
                    rounds=given.rounds,
                    threads=given.threads,
                )


def speeds(asked: Sequence[Combination], rates: dict[str, float]) -> list[dict[str, object]]:
    """Measures all combinations; prints each as soon as it is there."""
    rows: list[dict[str, object]] = []
    work: dict[tuple[str, int], tuple[float, float]] = {}
    for each in asked:
        found = alone(timed, each)
        key = each.net, streams_of(each)
        if key not in work:
            work[key] = alone(work_of, each)
        gflop, values = work[key]
        bytes_of_value = torch.empty(0, dtype=PRECISIONS[each.precision]).element_size()
        row: dict[str, object] = {
            "net": named(each.net),
            "precision": each.precision,
            "engine": each.engine,
            "megapixels measured": 1e-6 * each.height * WIDTH,
            "seconds for 12 megapixels": found["seconds"] * HEIGHT / each.height,
            "share of matrix rate": gflop / found["seconds"] / rates[each.precision],
            "share of memory rate": values * bytes_of_value / found["seconds"] / rates["memory"],
            "peak megabytes": round(found["peak"]),
        }
        print(row, flush=True)
        rows.append(row)
    return rows


def named(net: str) -> str:
    """Returns the name of a net, whether packaged or a file."""
    return Path(net).stem if Path(net).suffix else net


def ratios(rows: Sequence[dict[str, Any]]) -> list[dict[str, object]]:
    """Returns each net in its best engine at each precision, and how many times faster the first net is."""
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        key = row["precision"], row["net"]
        if key not in best or row[SECONDS] < best[key][SECONDS]:
            best[key] = row
    first = rows[0]["net"]
    return [
        {
            "precision": precision,
            "net": net,
            "best engine": row["engine"],
            SECONDS: row[SECONDS],
            f"times as long as {first}": row[SECONDS] / best[precision, first][SECONDS],
        }
        for (precision, net), row in best.items()
    ]


SECONDS = "seconds for 12 megapixels"


def main() -> None:
    """Measures, prints the tables, and writes them to a file on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--nets", nargs="+", default=["unet-photos", "l11-gtsrb"], help="ours, the main one first"
    )
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds of each combination")
    parser.add_argument("--part", type=int, default=1, help="the first net restores 1/N of the picture")
    parser.add_argument("--slow-part", type=int, default=4, help="the other nets restore 1/N of the picture")
    parser.add_argument("--threads", type=int, default=2, help="threads that each engine may use")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    given = parser.parse_args()
    rates = alone(limits, given.threads)
    asked = list(combinations([*given.nets, *RIVALS], given))
    rows = speeds(asked, rates)
    ours = [(row[SECONDS], each) for row, each in zip(rows, asked, strict=True) if each.net == given.nets[0]]
    _, quickest_of_ours = min(ours, key=lambda pair: float(str(pair[0])))
    with tempfile.TemporaryDirectory() as folder:
        files = alone(timed_files, quickest_of_ours, Path(folder))
    libraries = {library: version(library) for library in ("torch", "onnxruntime", "openvino")}
    result: dict[str, object] = {
        **libraries,
        "device": device_name(CPU),
        "threads": given.threads,
        "picture": f"{WIDTH}x{HEIGHT}",
        "matrix product, float32, GFLOP/s": rates["float32"],
        "matrix product, bfloat16, GFLOP/s": rates["bfloat16"],
        "memory, read and written, GB/s": rates["memory"],
        "each net in its best engine": ratios(rows),
        "all engines": rows,
        f"files of 12 megapixels, {named(given.nets[0])} in {quickest_of_ours.engine}, "
        f"{quickest_of_ours.precision}": files,
    }
    publish(result, given.out)


if __name__ == "__main__":
    main()
