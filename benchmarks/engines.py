"""Compares L11 in each engine with CDnCNN-B, FFDNet, classical methods and plain matrix products.

Speed is in megapixels per second. All nets run on the same tile, in the same engines and precisions. They
take turns, and the quickest turn counts. The operations counted are those of the convolutions as they are
computed, margins included. PSNR is the mean over test images with Gaussian noise, clipped and rounded to 8
bits. The classical methods are told the strength of the noise, L11 is not. An engine with several streams
computes that many tiles at a time.
"""

import argparse
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import torch
from rivals import CLASSICAL, ColourDnCNN, ColourFFDNet, Picture
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from writing import publish

import steadylens
from steadylens.data.datasets import load_dataset
from steadylens.devices import forward_in_batches, has_fast_bfloat16
from steadylens.images.tensors import to_uint8
from steadylens.inference.engines import (
    Engine,
    OnnxEngine,
    OpenVinoEngine,
    TorchEngine,
    to_onnx,
    to_openvino,
    to_program,
)
from steadylens.inference.signature import signature_of
from steadylens.metrics import psnr
from steadylens.nets.restoration import RestorationNet
from steadylens.training.run import device_name

NAME = "l11-gtsrb"
CPU = torch.device("cpu")
SIGMAS_GREY = (5.0, 15.0, 25.0, 40.0)


def quickest(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Returns the seconds of the quickest round of each call; they take turns, the first is not counted."""
    best = dict.fromkeys(calls, math.inf)
    for turn in range(rounds + 1):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            if turn > 0:
                best[name] = min(best[name], time.perf_counter() - begin)
    return best


def operations(net: nn.Module, tile: Tensor) -> int:
    """Counts the floating-point operations of a net's convolutions on a tile."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(tile)
    return int(counter.get_total_flops())


def engines_of(net: nn.Module, tile: Tensor, dtypes: Sequence[torch.dtype]) -> dict[str, Engine]:
    """Returns a net, for one tile of fixed size, in each engine and in each precision that is fast here."""
    height, width = tile.shape[-2:]
    signature = signature_of(net, size=(height, width), batch=1)
    model = to_onnx(to_program(net, signature), signature)
    found: dict[str, Engine] = {"ONNX Runtime, float32": OnnxEngine(model, signature)}
    for dtype in dtypes:
        precision = str(dtype).removeprefix("torch.")
        found[f"PyTorch, {precision}"] = TorchEngine(net, dtype=dtype)
        for streams in sorted({1, torch.get_num_threads()}):
            engine = OpenVinoEngine(to_openvino(model, signature), signature, dtype=dtype, streams=streams)
            found[f"{engine.name}, {precision}"] = engine
    return found


def run_all_streams(engine: Engine, tile: Tensor) -> None:
    """Runs an engine on as many tiles at the same time as it has streams."""
    if engine.streams == 1:
        engine(tile)
        return
    with ThreadPoolExecutor(engine.streams) as pool:
        list(pool.map(engine, [tile] * engine.streams))


def speeds(ours: nn.Module, *, side: int, matrix: int, rounds: int) -> dict[str, Any]:
    """Measures the nets in each engine, and products of two square matrices for comparison."""
    nets = {"L11": ours, "CDnCNN-B": ColourDnCNN().eval(), "FFDNet": ColourFFDNet().eval()}
    tile = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    dtypes = (torch.float32, torch.bfloat16) if has_fast_bfloat16(CPU) else (torch.float32,)
    calls: dict[str, Callable[[], object]] = {}
    for dtype in dtypes:
        square = torch.randn(matrix, matrix).to(dtype)
        calls[str(dtype).removeprefix("torch.")] = partial(torch.mm, square, square)
    products = list(calls)
    streams = {}
    for name, net in nets.items():
        for place, engine in engines_of(net, tile, dtypes).items():
            calls[f"{name}, {place}"] = partial(run_all_streams, engine, tile)
            streams[f"{name}, {place}"] = engine.streams
    taken = quickest(calls, rounds)
    rates = {name: 2e-9 * matrix**3 / taken.pop(name) for name in products}
    work = {name: 1e-9 * operations(net, tile) for name, net in nets.items()}
    rows = []
    best: dict[str, float] = {}
    for run, taken_together in taken.items():
        name, *_, precision = run.split(", ")
        seconds = taken_together / streams[run]
        share = work[name] / seconds / rates[precision]
        if name == "L11":
            best[precision] = max(share, best.get(precision, 0.0))
        rows.append(
            {
                "net": run,
                "megapixels_per_second": 1e-6 * side**2 / seconds,
                "gflop_per_second": work[name] / seconds,
                "share_of_matrix_rate": share,
            }
        )
    return {
        "tile": side,
        "matrix_side": matrix,
        "matrix_gflop_per_second": rates,
        "speed": rows,
        "best_share_of_matrix_rate": best,
    }


def classical_speeds(side: int, rounds: int) -> dict[str, float]:
    """Measures the classical methods in megapixels per second, on a random picture."""
    picture = torch.rand(side, side, 3).numpy()
    calls = {name: partial(method.restore, picture, 25.0, 1.0) for name, method in CLASSICAL.items()}
    return {name: 1e-6 * side**2 / taken for name, taken in quickest(calls, rounds).items()}


def qualities(ours: nn.Module, data: str, count: int) -> list[dict[str, object]]:
    """Returns the mean PSNR in dB of each method at each noise strength."""
    test = load_dataset(data).test.images
    generator = torch.Generator().manual_seed(0)
    clean = steadylens.to_float(test[torch.randperm(len(test), generator=generator)[:count]])
    columns: dict[str, dict[str, object]] = {"noisy": {}, "L11": {}, **{name: {} for name in CLASSICAL}}
    for sigma_grey in SIGMAS_GREY:
        noise = torch.randn(clean.shape, generator=generator) * (sigma_grey / 255)
        noisy = steadylens.to_float(to_uint8(clean + noise))
        restored = steadylens.to_float(to_uint8(forward_in_batches(ours, noisy)))
        column = f"sigma_{sigma_grey:g}"
        columns["noisy"][column] = float(psnr(noisy, clean).mean())
        columns["L11"][column] = float(psnr(restored, clean).mean())
        pictures = [image.permute(1, 2, 0).contiguous().numpy() for image in noisy]
        for name, method in CLASSICAL.items():
            columns[name][column] = max(
                mean_psnr(method.restore, pictures, clean, sigma_grey, setting) for setting in method.settings
            )
    return [{"method": name, **row} for name, row in columns.items()]


def mean_psnr(
    restore: Callable[[Picture, float, float], Picture],
    pictures: Sequence[Picture],
    clean: Tensor,
    sigma_grey: float,
    setting: float,
) -> float:
    """Returns the mean PSNR in dB of a classical method with one setting."""
    found = [torch.from_numpy(restore(picture, sigma_grey, setting)).permute(2, 0, 1) for picture in pictures]
    return float(psnr(steadylens.to_float(to_uint8(torch.stack(found))), clean).mean())


def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """Returns all measurements."""
    ours = steadylens.load(NAME).requires_grad_(False)
    assert isinstance(ours, RestorationNet)
    measured = speeds(ours, side=arguments.tile, matrix=arguments.matrix, rounds=arguments.rounds)
    return {
        **measured,
        "classical_side": arguments.side,
        "classical_megapixels_per_second": classical_speeds(arguments.side, min(arguments.rounds, 2)),
        "psnr_data": arguments.data.partition(":")[0],
        "psnr_images": arguments.images,
        "psnr_db": qualities(ours, arguments.data, arguments.images),
    }


def main() -> None:
    """Prints the measurements, and writes them to a file on request."""
    parser = argparse.ArgumentParser(description="Measure restoration nets in each engine.")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--data", default="signs", help="test images for PSNR: signs, gtsrb:DIR, folder:DIR")
    parser.add_argument("--images", type=int, default=200, help="how many test images")
    parser.add_argument("--rounds", type=int, default=10, help="timed rounds of each net")
    parser.add_argument("--tile", type=int, default=160, help="height and width of the nets' tile in pixels")
    parser.add_argument("--side", type=int, default=512, help="side of the classical methods' picture")
    parser.add_argument("--matrix", type=int, default=2048, help="side of the multiplied matrices")
    parser.add_argument("--threads", type=int, default=2, help="threads that each library may use")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(arguments.threads)
    versions = {library: version(library) for library in ("torch", "onnxruntime", "openvino", "scikit-image")}
    about = {"opencv": cv2.__version__, "device": device_name(CPU), "threads": arguments.threads}
    publish({**versions, **about, **measure(arguments)}, arguments.out)


if __name__ == "__main__":
    main()
