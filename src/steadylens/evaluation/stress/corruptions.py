"""Accuracy on images with the damage of the real world: the 19 corruptions of ImageNet-C, at five severities.

References:
    Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and
    perturbations", ICLR 2019. Michaelis et al., "Benchmarking robustness in object detection", 2019, let the
    corruptions work on images of any size; the library imagecorruptions-imaug goes on from there.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import version
from io import StringIO
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from steadylens import workers
from steadylens.checkpoints.checkpoint import fingerprints
from steadylens.data.datasets import ImageSet
from steadylens.devices import cache_batch, forward_in_batches
from steadylens.errors import MissingExtraError, SettingError
from steadylens.evaluation.dividing import BLOCK, forward_divided
from steadylens.evaluation.experiments import measure, progress_callback, random_test_images
from steadylens.images.tensors import array_to_tensor, check_images, tensor_to_array, to_float, to_uint8
from steadylens.intervals import wilson_interval
from steadylens.metrics import answers
from steadylens.progress import ProgressCallback, Update
from steadylens.randomness import derived_seed
from steadylens.records import Corrupted, CorruptedComparison, Measurement, Provenance
from steadylens.report.tables import duration
from steadylens.training.run import Run

COMMON_KINDS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur",
    "snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
"""The 15 corruptions over which ImageNet-C averages."""

KINDS = (*COMMON_KINDS, "speckle_noise", "gaussian_blur", "spatter", "saturate")
"""All 19 corruptions; the last four are those that its authors set aside for validation."""

SEEDED_KINDS = ("impulse_noise", "glass_blur")
"""The corruptions that take a seed; all others with chance in them draw from NumPy's global generator."""

SMALLEST_SIDE = 32
"""The smallest height and width in pixels that the corruptions accept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Corruptions:
    """How many images are damaged, and how.

    Attributes:
        images: How many random test images are used, or None for all of them.
        kinds: Names of the corruptions, of `KINDS`.
        severities: From 1 to 5.

    Raises:
        SettingError: If there are no images, or a kind or a severity is unknown or there twice.
    """

    images: int | None = 200
    kinds: tuple[str, ...] = KINDS
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)

    def __post_init__(self) -> None:
        """Checks the settings."""
        if self.images is not None and self.images < 1:
            raise SettingError(f"images is {self.images}, at least 1 must be damaged; or give None for all")
        _check_choice("kinds", self.kinds, KINDS)
        _check_choice("severities", self.severities, (1, 2, 3, 4, 5))


def _check_choice(name: str, chosen: Sequence[object], known: Sequence[object]) -> None:
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(known):
        raise SettingError(
            f"{name} is {chosen}; give at least one, each once, of {', '.join(map(str, known))}"
        )


def require_corruptions(size: int) -> None:
    """Checks that images can be damaged, before hours of measuring.

    Args:
        size: Height and width of the images in pixels.

    Raises:
        MissingExtraError: If imagecorruptions-imaug is not installed.
        SettingError: If the images are too small.
    """
    require_library()
    if size < SMALLEST_SIDE:
        raise SettingError(
            f"the images are of {size} pixels, and corruptions (--corruptions) need at least "
            f"{SMALLEST_SIDE}; give a larger size (--size) if the classifier takes it, or leave them out"
        )


def require_library() -> None:
    """Checks that the library of the corruptions is installed.

    Raises:
        MissingExtraError: If imagecorruptions-imaug is not installed.
    """
    _library()


@cache
def _library() -> Callable[..., NDArray[np.uint8]]:
    """Returns the library's function, which takes seconds to import."""
    try:
        from imagecorruptions import corrupt  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("imagecorruptions-imaug", "stress") from error
    return corrupt  # type: ignore[no-any-return]


def corrupted(images: Tensor, kind: str, severity: int, *, seed: int) -> Tensor:
    """Returns images with one kind of damage, as 8-bit images are damaged.

    What chance does to an image depends on the seed, the kind, the severity and the image's own pixels. So it
    depends neither on the other images of the batch nor on their order. NumPy's global generator has the same
    state afterwards as before; other threads should not draw from it meanwhile.

    Args:
        images: Float (N, 3, H, W) in [0, 1], of at least 32x32 pixels; they are rounded to 8 bits first.
        kind: Name of the corruption, of `KINDS`.
        severity: From 1 to 5.
        seed: Images damaged with another seed get other noise, other flakes of snow and so on.

    Returns:
        Float (N, 3, H, W) in [0, 1], multiples of 1 / 255, on the same device.

    Raises:
        ImageError: If the batch breaks the image contract, or the images are too small.
        SettingError: If the kind or the severity is unknown.
        MissingExtraError: If imagecorruptions-imaug is not installed.
    """
    check_images(images, channels=3, minimum_size=SMALLEST_SIDE)
    _check_choice("kinds", (kind,), KINDS)
    _check_choice("severities", (severity,), (1, 2, 3, 4, 5))
    arrays = [np.ascontiguousarray(tensor_to_array(image)) for image in to_uint8(images)]
    corrupt = _library()

    def all_of_them() -> list[NDArray[np.uint8]]:
        with _numpy_generator_kept(), redirect_stdout(StringIO()):
            return [_corrupted(corrupt, array, kind, severity, seed) for array in arrays]

    # Numba has a generator for each thread: one of our own leaves that of the caller alone.
    with ThreadPoolExecutor(max_workers=1) as thread:
        damaged = thread.submit(all_of_them).result()
    stacked = [array_to_tensor(np.array(array)) for array in damaged]  # some cannot be written to
    return to_float(torch.stack(stacked)).to(images.device) if stacked else images


@contextmanager
def _numpy_generator_kept() -> Iterator[None]:
    """Gives NumPy's global generator its state back after the block."""
    state = np.random.get_state()
    try:
        yield
    finally:
        np.random.set_state(state)


def _corrupted(
    corrupt: Callable[..., NDArray[np.uint8]],
    image: NDArray[np.uint8],
    kind: str,
    severity: int,
    seed: int,
) -> NDArray[np.uint8]:
    digest = hashlib.sha256(image.tobytes()).hexdigest()
    own = derived_seed(seed, "corruption", kind, severity, digest) % 2**32
    np.random.seed(own)  # the library draws from the global generator
    seeded: dict[str, Any] = {"seed": own} if kind in SEEDED_KINDS else {}
    damage = partial(corrupt, image, severity=severity, corruption_name=kind, **seeded)
    if kind != "spatter":
        return damage()
    try:
        with np.errstate(invalid="raise"):
            return damage()
    except FloatingPointError:
        # Where no drop of spatter falls on a small image, the library divides 0 by 0: nothing is damaged.
        return image


def corrupted_accuracy(
    networks: Mapping[str, nn.Module],
    images: ImageSet,
    kind: str,
    *,
    severities: Sequence[int],
    clean: Mapping[str, Tensor],
    against: str,
    provenance: Provenance,
    progress: ProgressCallback,
) -> list[Measurement]:
    """Measures networks on the same images with one kind of damage, and compares them with one of them.

    Args:
        networks: The classifiers by name on the images' device.
        images: The test images.
        kind: Name of the corruption, of `KINDS`.
        severities: From 1 to 5.
        clean: Each network's answers to the images without damage, (N,) on the CPU.
        against: Name of the network that the others are compared with; a difference is positive where another
            one is better.
        provenance: Origin of the records, whose seed decides the damage.
        progress: Called with the number of damaged images done and of all.
    """
    started = time.perf_counter()
    device = images.images.device

    def answered(block: tuple[int, int]) -> dict[str, Tensor]:
        severity, start = block
        some = to_float(images.images[start : start + BLOCK])
        damaged = corrupted(some, kind, severity, seed=provenance.seed).to(device)
        return {name: answers(forward_in_batches(net, damaged)).cpu() for name, net in networks.items()}

    found: dict[str, list[Tensor]] = {name: [] for name in networks}
    done, total = 0, len(severities) * len(images)
    for given in workers.divided(product(severities, range(0, len(images), BLOCK)), answered):
        for name in networks:
            found[name].append(given[name])
        done += len(given[against])
        progress(done, total)
    seconds = time.perf_counter() - started
    labels = images.labels.cpu()
    right: dict[str, Tensor] = {}
    records: list[Measurement] = []
    for name in networks:
        by_severity = torch.cat(found[name]).view(len(severities), len(images))
        right[name] = by_severity == labels
        records += [
            _record(name, kind, severity, right=hit, kept=given == clean[name], seconds=seconds,
                    provenance=provenance)
            for severity, given, hit in zip(severities, by_severity, right[name], strict=True)
        ]  # fmt: skip
    for name in (name for name in networks if name != against):
        differences = right[name].sum(dim=0) - right[against].sum(dim=0)
        pair = CorruptedComparison(
            provenance=provenance, samples=len(images), seconds=seconds, first=name, second=against,
            corruption=kind, severities=len(severities), differences=tuple(differences.tolist()),
        )  # fmt: skip
        records.append(pair)
    return records


def _record(
    name: str,
    kind: str,
    severity: int,
    *,
    right: Tensor,
    kept: Tensor,
    seconds: float,
    provenance: Provenance,
) -> Corrupted:
    correct, samples = int(right.sum()), len(right)
    lower, upper = wilson_interval(correct, samples)
    return Corrupted(
        provenance=provenance, samples=samples, seconds=seconds, network=name, corruption=kind,
        severity=severity, correct=correct, lower=lower, upper=upper, kept=int(kept.sum()),
    )  # fmt: skip


METHOD = 1
"""Version of how images are damaged and counted: raise it with every change of the numbers that come out.

It enters the key of the records, so that those of an older method are not reused.
"""


def measure_corruptions(
    run: Run, networks: Mapping[str, nn.Module], folder: Path, settings: Corruptions, *, against: str
) -> list[Measurement]:
    """Measures accuracy on damaged images, one kind of damage after the other: each is a stage of the run.

    Before the first one, the run's observer is told how long all will take.

    Args:
        run: Data, recipe and seed.
        networks: The classifiers by name on the run's device.
        folder: Folder for the records.
        settings: How many images are damaged, and how.
        against: Name of the network that the others are compared with.

    Raises:
        MissingExtraError: If imagecorruptions-imaug is not installed.
        SettingError: If the images are too small.
    """
    images = random_test_images(run, settings.images)
    require_corruptions(min(images.images.shape[-2:]))
    library = ("imagecorruptions-imaug", version("imagecorruptions-imaug"))
    provenance = replace(run.provenance, versions=(*run.provenance.versions, library))
    keys = (METHOD, settings.images, settings.severities, library, against, fingerprints(networks))

    @cache
    def clean() -> dict[str, Tensor]:
        return {name: answers(forward_divided(net, images.images)).cpu() for name, net in networks.items()}

    def undamaged() -> list[Measurement]:
        labels = images.labels.cpu()
        return [
            _record(name, "none", 0, right=given == labels, kept=torch.ones_like(given), seconds=0.0,
                    provenance=provenance)
            for name, given in clean().items()
        ]  # fmt: skip

    told: list[str] = []
    records = measure(
        run, "images without damage", folder / "corruptions.jsonl", undamaged, key=run.key("clean", *keys)
    )
    for index, kind in enumerate(settings.kinds):
        stage = f"images with {kind.replace('_', ' ')}"

        def damaged(index: int = index, kind: str = kind, stage: str = stage) -> list[Measurement]:
            if not told:
                told.append(expected_time(networks, images, replace(settings, kinds=settings.kinds[index:])))
                run.observe(Update(stage="corruptions", state="noted", note=told[0]))
            return corrupted_accuracy(
                networks, images, kind, severities=settings.severities, clean=clean(), against=against,
                provenance=provenance, progress=progress_callback(run, stage),
            )  # fmt: skip

        records += measure(
            run, stage, folder / "corruptions.jsonl", damaged, key=run.key("corruption", kind, *keys)
        )
    return records


SEVERAL = 4
"""How many images are damaged at once to know how long one takes; each call takes a while besides."""


def expected_time(networks: Mapping[str, nn.Module], images: ImageSet, settings: Corruptions) -> str:
    """Tells how long measuring will take, after a few images of each kind and severity.

    It tells, too, how long that took: the first image of a kind may load a library or compile.
    """
    started = time.perf_counter()
    some = to_float(images.images[:SEVERAL])
    seconds = 0.0  # for an image at all severities
    for kind in settings.kinds:
        corrupted(some[:1], kind, settings.severities[0], seed=0)  # a first call may compile
        for severity in settings.severities:
            seconds += _seconds(partial(corrupted, some, kind, severity, seed=0)) / len(some)
    batch = to_float(images.images[: min(BLOCK, cache_batch(images.images.device))])
    for net in networks.values():
        forward_in_batches(net, batch)
        each = fmean(_seconds(partial(forward_in_batches, net, batch)) for _ in range(2)) / len(batch)
        seconds += len(settings.kinds) * len(settings.severities) * each
    total = seconds * len(images) / workers.count()
    spent = duration(time.perf_counter() - started)
    return (
        f"about {duration(total)} more, after {spent} to load and try all, for {len(settings.kinds)} kinds "
        f"of damage at {len(settings.severities)} severities, on {len(images):,} images and "
        f"{len(networks)} networks"
    )


def _seconds(work: Callable[[], Tensor]) -> float:
    started = time.perf_counter()
    work().sum().item()  # waits for a GPU
    return time.perf_counter() - started
