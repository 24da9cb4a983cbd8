"""Degradation against kornia's Gaussian noise: images per second on the same batch, in one run.

Ours draws a family and a strength per sample, sparsifies or attenuates, clips and rounds to 8 bits; kornia's
adds Gaussian noise of one strength and does none of that. Each is measured with all its noise drawn anew, and
from a pool; the pool also without clipping and rounding, as kornia's. All take turns, and the fastest of all
rounds counts, so that what else the machine does matters little.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from writing import publish

from steadylens.noise.degradation import Degradation
from steadylens.noise.families import Gaussian, Strength
from steadylens.noise.pool import NoisePool

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import kornia
    from kornia.augmentation import RandomGaussianNoise

Contender = Callable[[torch.Tensor], torch.Tensor]


def contenders(generator: torch.Generator) -> dict[str, Contender]:
    """Returns what is measured: the paper's mixture and plain Gaussian noise of ours, and kornia's."""
    mixture = Degradation()
    unclipped = replace(mixture, clip=False, quantize=False)
    pool = NoisePool.fill(mixture, generator=generator)
    unclipped_pool = NoisePool.fill(unclipped, generator=generator)
    gaussian = Degradation(
        families=(Gaussian(strength=Strength.fixed(25), shared=0),), clip=False, quantize=False
    )
    return {
        "kornia": RandomGaussianNoise(std=25 / 255, p=1.0),
        "mixture": lambda images: mixture(images, generator=generator),
        "gaussian": lambda images: gaussian(images, generator=generator),
        "mixture from a pool": lambda images: pool(images, generator=generator),
        "mixture from a pool, unclipped": lambda images: unclipped_pool(images, generator=generator),
    }


def seconds(call: Contender, images: torch.Tensor) -> float:
    """Returns how long one call takes."""
    begin = time.perf_counter()
    call(images)
    return time.perf_counter() - begin


def measure(samples: int, rounds: int) -> dict[str, object]:
    """Returns the times of all contenders on one batch of 48x48 colour images, and the ratios to kornia."""
    images = torch.rand(samples, 3, 48, 48)
    calls = contenders(torch.Generator().manual_seed(1))
    for call in calls.values():
        call(images)
    taken = [{name: seconds(call, images) for name, call in calls.items()} for _ in range(rounds)]
    best = {name: min(row[name] for row in taken) for name in calls}
    middle = {name: statistics.median(row[name] for row in taken) for name in calls}
    return {
        "samples": samples,
        "best_milliseconds": {name: 1000 * value for name, value in best.items()},
        "median_milliseconds": {name: 1000 * value for name, value in middle.items()},
        "images_per_second": {name: samples / value for name, value in best.items()},
        "ratio_to_kornia": {name: best["kornia"] / value for name, value in best.items()},
    }


def main() -> None:
    """Measures and prints; writes too where it is told."""
    parser = argparse.ArgumentParser(description="Measure degradation against kornia's Gaussian noise.")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--rounds", type=int, default=100, help="calls per contender and batch size")
    parser.add_argument("--threads", type=int, default=2, help="threads that PyTorch may use")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = {
        "torch": torch.__version__,
        "kornia": kornia.__version__,
        "threads": arguments.threads,
        "batches": [measure(samples, arguments.rounds) for samples in (50, 250, 500)],
    }
    publish(result, arguments.out)


if __name__ == "__main__":
    main()
