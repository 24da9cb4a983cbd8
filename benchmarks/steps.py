"""What the training steps of the nets that ship cost, and how much of that the convolutions alone need.

Some steps of each stage are run by the package itself, with the settings of the recipe, on random images. The
quickest step counts. Then some steps are profiled: the time within convolutions and products of matrices,
forwards and backwards, is their share of the time within all of PyTorch's operations. The rest is noise,
augmentation, rectifiers, pads, loss and the average of the weights; Muon's products of matrices count as
such. The share of the matrix rate counts the floating-point operations of both in a step against a product of
two large matrices, in the precision that the package trains in.

    python benchmarks/steps.py --out results/benchmarks/steps.json
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from writing import publish

import steadylens
from steadylens.data.datasets import Dataset, ImageSet
from steadylens.data.own_data import dataset_from
from steadylens.devices import has_fast_bfloat16
from steadylens.progress import Update
from steadylens.training.fusing import tune_together
from steadylens.training.recipes import CAMERA, PHOTOGRAPHS, UNET
from steadylens.training.run import ClassifierRecipe, Recipe, RestorerRecipe, Run, device_name
from steadylens.training.stages import train_classifier, train_restorer
from training import matrix_rate

CPU = torch.device("cpu")

PRODUCTS = (
    "aten::_convolution",  # transposed ones
    "aten::mkldnn_convolution",
    "aten::_slow_conv2d_forward",
    "aten::convolution_backward",
    "aten::mm",
    "aten::addmm",
)
"""The operations that count as convolutions and products."""

UNTIMED = 2
"""Steps at the beginning that do not count: the first ones choose algorithms and fill the caches."""


@dataclass(kw_only=True, slots=True)
class Watch:
    """Observes a training, a step at a time: first its time, then its profile, then its operations.

    Attributes:
        timed: How many steps are timed.
        profiled: How many steps are profiled.
        seconds: The time of each timed step.
        share: The share of convolutions and products in the time of the profiled steps.
        operations: Floating-point operations of convolutions and products in a step.
    """

    timed: int
    profiled: int
    seconds: list[float] = field(default_factory=list)
    share: float = 0.0
    operations: int = 0
    _began: float = 0.0
    _profiler: profile | None = None
    _counter: FlopCounterMode | None = None
    _counting: ExitStack = field(default_factory=ExitStack)

    @property
    def profiled_until(self) -> int:
        """The last step that is profiled; the operations of the one after it are counted."""
        return UNTIMED + self.timed + self.profiled

    @property
    def steps(self) -> int:
        """How many steps the training must have: no update tells of its last one before the stage is over."""
        return self.profiled_until + 2

    def __call__(self, update: Update) -> None:
        """Is told of a step that was just made."""
        if update.state != "advanced":
            return
        now = time.perf_counter()
        if UNTIMED < update.done <= UNTIMED + self.timed:
            self.seconds.append(now - self._began)
        if update.done == UNTIMED + self.timed:
            self._profiler = profile(activities=[ProfilerActivity.CPU])
            self._profiler.start()
        elif update.done == self.profiled_until:
            assert self._profiler is not None
            self._profiler.stop()
            self.share = share_of_products(self._profiler)
            self._counter = self._counting.enter_context(FlopCounterMode(display=False))
        elif update.done == self.profiled_until + 1:
            assert self._counter is not None
            self._counting.close()
            self.operations = self._counter.get_total_flops()
        self._began = time.perf_counter()


def share_of_products(profiler: profile) -> float:
    """Returns the share of convolutions and products of matrices in the time of all operations."""
    events = profiler.key_averages()
    spent = {str(event.key): float(event.self_cpu_time_total) for event in events}
    return sum(spent.get(name, 0.0) for name in PRODUCTS) / sum(spent.values())


def random_images(side: int, count: int = 200) -> Dataset:
    """Returns random images of 43 classes, in tracks of their own."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    train = ImageSet(images=images, labels=torch.arange(count) % 43, tracks=torch.arange(count))
    return dataset_from(
        train=train, test=train.subset([0]), class_names=[f"class {number}" for number in range(43)]
    )


def short(recipe: Recipe, steps: int) -> Recipe:
    """Returns a recipe whose stages have so many steps, and restorers their last phase alone."""

    def restoring(settings: RestorerRecipe) -> RestorerRecipe:
        return replace(settings.parts[-1], steps=steps)

    def classifying(settings: ClassifierRecipe) -> ClassifierRecipe:
        return replace(settings, steps=steps)

    return replace(
        recipe,
        unet=restoring(recipe.unet),
        classifier=classifying(recipe.classifier),
        fine_tuning=classifying(recipe.fine_tuning),
        noise_training=classifying(recipe.noise_training),
    )


def u_net(run: Run, path: Path) -> None:
    """Trains a new U-Net."""
    train_restorer(run, "UNet", path)


def together(run: Run, path: Path) -> None:
    """Trains the packaged U-Net and sign net together."""
    restorer, classifier = steadylens.load("unet-gtsrb"), steadylens.load("sign-gtsrb")
    tune_together(run, restorer, classifier, path, name="pair")


Stage = tuple[Recipe, int, Callable[[Run, Path], object]]

STAGES: dict[str, Stage] = {
    "U-Net, signs": (UNET, 48, u_net),
    "U-Net, photographs": (PHOTOGRAPHS, 256, u_net),
    "U-Net, cameras": (CAMERA, 256, u_net),
    "sign net": (UNET, 48, train_classifier),
    "sign net, on noise": (UNET, 48, lambda run, path: train_classifier(run, path, noisy=True)),
    "U-Net and sign net together": (UNET, 48, together),
}
"""The recipe of each stage, the height and width of its images, and what runs it."""


def measured(name: str, *, timed: int, profiled: int, rate: float) -> dict[str, object]:
    """Returns what a step of a stage costs.

    Args:
        name: One of `STAGES`.
        timed: How many steps are timed.
        profiled: How many steps are profiled.
        rate: GFLOP/s of a product of matrices.
    """
    recipe, side, train = STAGES[name]
    watch = Watch(timed=timed, profiled=profiled)
    run = Run(data=random_images(side), recipe=short(recipe, watch.steps), seed=0, device=CPU, observe=watch)
    with tempfile.TemporaryDirectory() as folder:
        train(run, Path(folder) / "net.safetensors")
    seconds = min(watch.seconds)
    return {
        "stage": name,
        "seconds a step": seconds,
        "GFLOP of convolutions and products": 1e-9 * watch.operations,
        "their share of the time": watch.share,
        "share of matrix rate": 1e-9 * watch.operations / seconds / rate,
    }


def main() -> None:
    """Measures, prints the table, and writes it to a file on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--timed", type=int, default=6, help="timed steps of each stage")
    parser.add_argument("--profiled", type=int, default=4, help="profiled steps of each stage")
    parser.add_argument("--threads", type=int, default=1, help="threads that PyTorch may use")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    dtype = torch.bfloat16 if has_fast_bfloat16(CPU) else torch.float32
    rate = matrix_rate(dtype, 4096, 3, CPU)
    rows = [measured(name, timed=given.timed, profiled=given.profiled, rate=rate) for name in STAGES]
    publish(
        {
            "torch": torch.__version__,
            "device": device_name(CPU),
            "threads": given.threads,
            "precision": str(dtype).removeprefix("torch."),
            "matrix product, GFLOP/s": rate,
            "a step": rows,
        },
        given.out,
    )


if __name__ == "__main__":
    main()
