"""The service with one worker against several, on the same cores and the same images.

One worker may use all threads that PyTorch is given; several share them out. Clients send small images, and
each waits for an answer before it asks again. The contenders take turns, and the fastest round counts.
"""

import argparse
import multiprocessing
import os
from contextlib import ExitStack
from pathlib import Path

import torch
from writing import publish

from serving import CLIENTS, ask, example_images, served
from steadylens.training.run import device_name


def measure(
    model: str, *, workers: int, images: int, side: int, rounds: int, threads: int
) -> dict[str, float]:
    """Returns images a second of one worker and of several, for each number of clients.

    Args:
        model: A classifier, by name or file.
        workers: The number of workers that one is compared with.
        images: Images in a round.
        side: Their height and width in pixels.
        rounds: Rounds of each contender, after one that does not count.
        threads: Threads that the net may use, in all workers together.
    """
    files = example_images(images, side)
    best: dict[str, float] = {}
    with ExitStack() as stack:
        client = stack.enter_context(multiprocessing.get_context("spawn").Pool(1))
        contenders = {
            number: stack.enter_context(served(model, threads, workers=number)) for number in (1, workers)
        }
        for turn in range(rounds + 1):
            for clients in CLIENTS:
                for number, address in contenders.items():
                    taken = client.apply(ask, (address, files, clients))
                    name = f"{number} worker{'s' * (number > 1)}, {clients} client{'s' * (clients > 1)}"
                    if turn > 0:
                        best[name] = max(best.get(name, 0.0), images / taken)
    return best


def main() -> None:
    """Measures and prints; writes too where it is told."""
    parser = argparse.ArgumentParser(description="Measure one worker against several.")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument(
        "--models", nargs="+", default=["sign-gtsrb", "fused-gtsrb"], help="classifiers, by name or file"
    )
    parser.add_argument("--workers", type=int, default=2, help="workers that one is compared with")
    parser.add_argument("--images", type=int, default=256, help="images in a round")
    parser.add_argument("--side", type=int, default=64, help="height and width of an image in pixels")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds of each contender")
    parser.add_argument("--threads", type=int, default=2, help="threads of all workers together")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    measured = {
        f"{model}, images per second": measure(
            model,
            workers=arguments.workers,
            images=arguments.images,
            side=arguments.side,
            rounds=arguments.rounds,
            threads=arguments.threads,
        )
        for model in arguments.models
    }
    publish(
        {
            "torch": torch.__version__,
            "device": device_name(torch.device("cpu")),
            "threads": arguments.threads,
            "images": arguments.images,
            "side": arguments.side,
            "rounds": arguments.rounds,
            "load before": load,
            **measured,
        },
        arguments.out,
    )


if __name__ == "__main__":
    main()
