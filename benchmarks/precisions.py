"""Measures what lower precisions cost: the loss of PSNR on images with float noise, and the time.

Gaussian noise is added to images and neither clipped nor rounded; restored images are clipped to [0, 1]. The
loss is against PyTorch in float32 on the same noise. For int8, ONNX Runtime chooses the scales on other
images of the folder, with the same strengths of noise. The time is that of whole images, one after the other.

    python benchmarks/precisions.py --images CBSD68 --out results/benchmarks/precisions.json
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from importlib.metadata import version
from itertools import product
from pathlib import Path

import torch
from photographs import FLOAT, Case, evenly_spaced, noisy_pairs
from writing import publish

import steadylens
from steadylens.inference.engines import (
    Engine,
    OnnxEngine,
    OpenVinoEngine,
    TorchEngine,
    to_int8,
    to_onnx,
    to_openvino,
    to_program,
)
from steadylens.inference.signature import signature_of
from steadylens.metrics import psnr
from steadylens.training.run import device_name

CASES = [Case(noise=FLOAT, sigma_grey=sigma) for sigma in (0, 5, 15, 25, 50)]
"""Kinds of noise, the clean image first."""


def engines_of(net: str, others: Sequence[Path]) -> dict[str, Engine]:
    """Returns the engines of a net by name, the exact one first; int8 gets its scales from some images."""
    module = steadylens.load(net).requires_grad_(False)
    signature = signature_of(module)
    model = to_onnx(to_program(module, signature), signature)
    quantised = to_int8(model, (pair.noisy for case in CASES for pair in noisy_pairs(others, case)))
    return {
        "PyTorch, float32": TorchEngine(module),
        "PyTorch, bfloat16": TorchEngine(module, dtype=torch.bfloat16),
        "OpenVINO, bfloat16": OpenVinoEngine(to_openvino(model, signature), signature, dtype=torch.bfloat16),
        "ONNX Runtime, int8": OnnxEngine(quantised, signature),
        "OpenVINO, int8": OpenVinoEngine(to_openvino(quantised, signature), signature),
    }


def costs(engines: dict[str, Engine], paths: Sequence[Path]) -> list[dict[str, object]]:
    """Returns a row for each engine: seconds a megapixel, and the loss in dB at each strength."""
    seconds = dict.fromkeys(engines, 0.0)
    found: dict[str, dict[Case, float]] = {name: {} for name in engines}
    sizes = [pair.clean.shape for pair in noisy_pairs(paths, CASES[0])]
    for size, engine in product(set(sizes), engines.values()):
        engine(torch.zeros(size))  # the first image of a size takes longer
    for case in CASES:
        pairs = list(noisy_pairs(paths, case))
        for name, engine in engines.items():
            begin = time.perf_counter()
            restored = [engine(pair.noisy).clamp(0, 1) for pair in pairs]
            seconds[name] += time.perf_counter() - begin
            found[name][case] = statistics.fmean(
                float(psnr(image, pair.clean)) for image, pair in zip(restored, pairs, strict=True)
            )
    exact = next(iter(found.values()))
    megapixels = 1e-6 * len(CASES) * sum(height * width for *_, height, width in sizes)
    return [
        {
            "engine": name,
            "seconds a megapixel": f"{seconds[name] / megapixels:.3f}",
            **{
                f"loss at sigma {case.sigma_grey}": f"{exact[case] - mean:.3f}"
                for case, mean in means.items()
            },
        }
        for name, means in found.items()
    ]


def main() -> None:
    """Measures, prints the table, and writes it to a file on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--net", default="unet-photos", help="a packaged restorer or a file")
    parser.add_argument("--images", type=Path, required=True, help="folder of PNG files")
    parser.add_argument("--count", type=int, default=9, help="how many of them")
    parser.add_argument("--threads", type=int, default=2, help="threads that each engine may use")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    files = sorted(given.images.glob("*.png"))
    chosen = evenly_spaced(files, given.count)
    others = evenly_spaced([path for path in files if path not in chosen], given.count)
    if not others:
        parser.error(f"{given.images} has {len(files)} PNG files; int8 needs more than {given.count}")
    rows = costs(engines_of(given.net, others), chosen)
    libraries = {library: version(library) for library in ("torch", "onnxruntime", "openvino")}
    publish(
        {
            **libraries,
            "device": device_name(torch.device("cpu")),
            "threads": given.threads,
            "net": given.net,
            "images": len(chosen),
            "what a precision costs, PSNR in dB": rows,
        },
        given.out,
    )


if __name__ == "__main__":
    main()
