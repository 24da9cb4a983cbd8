"""A training step of L11 against a naive one, and against the machine's own matrix products, in one run.

The naive loop draws Gaussian noise with NumPy sample by sample and sends the whole contiguous float32 batch
through the net. Ours is a step of the package, with degradation in full: a family and a strength for each
sample, clipping, rounding. Both have the paper's loss and optimizer. They take turns, and the fastest round
of each counts.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from writing import publish

from steadylens.devices import default_device, fast_memory_format, has_fast_bfloat16
from steadylens.nets.restoration import RestorationNet, central_crop, initialize_xavier
from steadylens.noise.degradation import Degradation
from steadylens.training.loop import Training
from steadylens.training.objectives import SquaredError, restoring_objective
from steadylens.training.recipes import PAPER_SGD
from steadylens.training.run import device_name

SLOW_SIDE = 256
"""Side of the bfloat16 matrices where their product is slow: larger ones would take minutes."""


def wait_for(device: torch.device) -> None:
    """Waits until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def best_seconds(call: Callable[[], object], rounds: int, device: torch.device) -> float:
    """Returns the fastest of some rounds, after one that does not count."""
    taken = []
    for _ in range(rounds + 1):
        wait_for(device)
        begin = time.perf_counter()
        call()
        wait_for(device)
        taken.append(time.perf_counter() - begin)
    return min(taken[1:])


def matrix_rate(dtype: torch.dtype, side: int, rounds: int, device: torch.device) -> float:
    """Returns the rate of the product of two square matrices, in GFLOP/s."""
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2e-9 * side**3 / best_seconds(lambda: left @ right, rounds, device)


def fresh_net(device: torch.device) -> RestorationNet:
    """Returns L11 with its first weights."""
    net = RestorationNet(depth=11)
    initialize_xavier(net, generator=torch.Generator().manual_seed(0))
    return net.to(device)


def naive_steps(images: torch.Tensor, batch: int) -> Iterator[None]:
    """Trains as one would first write it, a step at a time."""
    net = fresh_net(images.device)
    optimizer = PAPER_SGD.optimizer(net)
    rng = np.random.default_rng(0)
    while True:
        clean = (
            images[torch.from_numpy(rng.integers(len(images), size=batch)).to(images.device)].float() / 255
        )
        noise = [rng.normal(0, rng.uniform(0.25, 50) / 255, clean.shape[1:]) for _ in range(batch)]
        noisy = clean + torch.from_numpy(np.stack(noise)).float().to(images.device)
        optimizer.zero_grad()
        target = central_crop(clean, net.margin)
        loss = (net.valid(noisy) - target).square().sum(dim=(1, 2, 3)).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        float(loss.detach())
        yield


def our_steps(images: torch.Tensor, batch: int) -> Iterator[object]:
    """Trains as the package does, a step at a time."""
    net = fresh_net(images.device).to(memory_format=fast_memory_format(images.device))
    objective = restoring_objective(
        net, images, degradation=Degradation(), loss=SquaredError(), batch=batch, patch=images.shape[-1]
    )
    generator = torch.Generator(images.device).manual_seed(0)
    return Training(net, objective, optimization=PAPER_SGD, steps=1_000_000, generator=generator).run()


def operations_of_step(batch: int, patch: int) -> int:
    """Counts the floating-point operations of one step, forwards and backwards, of convolutions alone."""
    net = RestorationNet(depth=11)
    with FlopCounterMode(display=False) as counter:
        net.valid(torch.zeros(1, 3, patch, patch)).sum().backward()  # type: ignore[no-untyped-call]
    return batch * int(counter.get_total_flops())


def measure(*, batch: int, patch: int, steps: int, side: int, device: torch.device) -> dict[str, object]:
    """Returns rates and times, and the two ratios that matter.

    Args:
        batch: Patches in a step.
        patch: Their height and width in pixels.
        steps: Timed steps of each contender, after one that does not count.
        side: Side of the multiplied matrices.
        device: What to measure.
    """
    images = torch.randint(256, (500, 3, patch, patch), dtype=torch.uint8, device=device)
    fast = has_fast_bfloat16(device)
    float32 = matrix_rate(torch.float32, side, 5, device)
    bfloat16 = matrix_rate(torch.bfloat16, side if fast else SLOW_SIDE, 5 if fast else 1, device)
    contenders = {"naive": naive_steps(images, batch), "ours": our_steps(images, batch)}
    best = dict.fromkeys(contenders, float("inf"))
    for turn in range(steps + 1):
        for name, contender in contenders.items():
            wait_for(device)
            begin = time.perf_counter()
            next(contender)
            wait_for(device)
            if turn > 0:
                best[name] = min(best[name], time.perf_counter() - begin)
    rate = 1e-9 * operations_of_step(batch, patch) / best["ours"]
    return {
        "batch": batch,
        "patch": patch,
        "steps": steps,
        "matrix_side": side,
        "matrix_gflop_per_second": {"float32": float32, "bfloat16": bfloat16},
        "bfloat16_is_fast": fast,
        "seconds_per_step": best,
        "times_faster_than_naive": best["naive"] / best["ours"],
        "gflop_per_second": rate,
        "share_of_matrix_rate": rate / (max(float32, bfloat16) if fast else float32),
    }


def main() -> None:
    """Measures and prints; writes too where it is told."""
    parser = argparse.ArgumentParser(description="Measure a training step of L11 against a naive one.")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each contender")
    parser.add_argument("--batch", type=int, default=50, help="patches in a step")
    parser.add_argument("--patch", type=int, default=48, help="height and width of a patch in pixels")
    parser.add_argument("--side", type=int, default=4096, help="side of the multiplied matrices")
    parser.add_argument("--threads", type=int, default=2, help="threads that PyTorch may use")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = default_device()
    measured = measure(
        batch=arguments.batch,
        patch=arguments.patch,
        steps=arguments.steps,
        side=arguments.side,
        device=device,
    )
    versions = {"torch": torch.__version__, "device": device_name(device), "threads": arguments.threads}
    publish(versions | measured, arguments.out)


if __name__ == "__main__":
    main()
