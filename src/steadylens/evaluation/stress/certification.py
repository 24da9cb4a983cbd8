"""Certifies the answers of a smoothed classifier: within a radius, no change of the image changes them.

For a classifier f, the smoothed classifier g gives the class that f gives most often to noisy versions of
an image, x + epsilon with normal epsilon of standard deviation sigma. If f gives class A to the noisy
versions of x with a probability of at least p > 1/2, then g gives A to every x + delta with a Euclidean norm

    ||delta|| < R = sigma Phi^-1(p)

(Cohen et al., Theorem 1 with p_B = 1 - p; images in [0, 1], norm over all pixels and channels). A first
sample of noisy versions chooses A, and a second one bounds p from below, by Clopper and Pearson.

References:
    Cohen, Rosenfeld and Kolter, "Certified adversarial robustness via randomized smoothing", ICML 2019.
    Salman et al., "Denoised smoothing: a provable defense for pretrained classifiers", NeurIPS 2020: f is a
    restorer in front of a classifier that nobody trained on noise.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, localcontext
from math import ceil
from statistics import NormalDist
from typing import Literal

import torch
from torch import Tensor, nn

from steadylens.devices import cache_batch, evaluating
from steadylens.errors import ImageError, SettingError
from steadylens.evaluation.stress.integer_noise import IntegerNoise, integer_noise, normal_distribution
from steadylens.images.tensors import GREY_LEVELS, accepting_any_range
from steadylens.intervals import clopper_pearson_lower
from steadylens.metrics import answers
from steadylens.nets.classification import check_logits

_DRAWN_VALUES = 2**21
"""About how many values of noise are drawn at once, whatever the batch: it bounds memory."""

_LEAST_BATCH = 10

_CACHED_SIDE = 48
"""Height and width of the images for which `cache_batch` is meant."""

PRECISIONS = ("float32", "bfloat16")
"""The number formats in which networks can be certified."""

OPTIONS = {
    "sigmas": "--sigma, --certify-sigma",
    "first_versions": "--n0",
    "versions": "--n, --certify-n",
    "alpha": "--alpha",
    "images": "--images, --certify-images",
    "batch": "--batch",
}
"""How the commands call the settings: messages name both."""

_WITHIN = Decimal("1e-45")
"""How exact `normal_distribution` is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Certifying:
    """How classifiers are certified.

    Attributes:
        sigmas: Standard deviations of the smoothing noise, for images in [0, 1]. Larger ones can certify
            larger radii, and make more answers wrong.
        first_versions: Noisy versions of each image that choose the answer, n0.
        versions: Noisy versions of each image that bound its probability, n. The largest possible radius is
            sigma Phi^-1(alpha^(1/n)): 2.5 sigma for 1,000 versions, 3.2 for 10,000, 3.8 for 100,000.
        alpha: Probability, for each image, that its certificate is wrong.
        images: Number of test images, chosen at random with the run's seed; None for all.
        batch: Noisy versions that a net gets at once; None for as many as the device is quick with. All
            batches have this size: zeros fill the last one up.
        precision: Number format of the network's products. In bfloat16 it is another function than in
            float32, whose answers differ now and then; many devices compute it several times as fast.
    """

    sigmas: tuple[float, ...] = (0.25,)
    first_versions: int = 100
    versions: int = 10_000
    alpha: float = 0.001
    images: int | None = 500
    batch: int | None = None
    precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        """Refuses settings with which nothing could be certified."""
        if not self.sigmas or len(set(self.sigmas)) < len(self.sigmas):
            raise SettingError(
                f"sigmas ({OPTIONS['sigmas']}) are {self.sigmas}; give at least one, and each once"
            )
        for sigma in self.sigmas:
            integer_noise(sigma)
        counts = {"first_versions": self.first_versions, "versions": self.versions}
        counts |= {name: value for name in ("images", "batch") if (value := getattr(self, name)) is not None}
        for name, count in counts.items():
            if type(count) is not int or count < 1:
                raise SettingError(
                    f"{name} ({OPTIONS[name]}) is {count}, it must be a whole number of at least 1"
                )
        if self.precision not in PRECISIONS:
            raise SettingError(f"precision is {self.precision}, it must be one of {', '.join(PRECISIONS)}")
        if not 0 < self.alpha < 0.5:
            raise SettingError(
                f"alpha ({OPTIONS['alpha']}) is {self.alpha}, it must be between 0 and 0.5, 0.001 for example"
            )
        if 0.5**self.versions > self.alpha:
            raise SettingError(
                f"versions ({OPTIONS['versions']}) is {self.versions}, too few to certify anything at alpha "
                f"{self.alpha}: even if all of them get one answer, its probability may be one half; give "
                "more, such as 1,000"
            )

    def batch_for(self, image: Tensor) -> int:
        """Returns the size of the batches for an image (C, H, W) on its device."""
        if self.batch is not None:
            return self.batch
        total = self.first_versions + self.versions
        area = image.shape[-2] * image.shape[-1]
        most = max(_LEAST_BATCH, cache_batch(image.device) * _CACHED_SIDE**2 // area)
        return ceil(total / ceil(total / most))


@dataclass(frozen=True, kw_only=True, slots=True)
class Certified:
    """What is certified of one image.

    Attributes:
        answer: The class that the smoothed classifier gives, or -1 where it abstains.
        count: How many versions of the second sample got the answer that the first sample had chosen.
        radius: Euclidean norm, for images in [0, 1], below which no change of the image changes the answer;
            0 where it abstains.
    """

    answer: int
    count: int
    radius: float


def certify_image(
    network: nn.Module, image: Tensor, *, sigma: float, settings: Certifying, generator: torch.Generator
) -> Certified:
    """Certifies one image: chooses an answer by a first sample, and bounds its probability by a second.

    What is certified is the smoothed classifier of f, where f rounds an image to 8 bits, without clipping it,
    and gives it to the network. With a probability of `settings.alpha` at most, the radius is too large. That
    holds if three things do, which no program can prove of itself: the generator's numbers are as good as
    random; the network is in eval mode one function, whose answer to an image does not depend on the other
    images of the batch; and no other change happens to the numbers, as when another device or another number
    of threads adds in another order. If an answer depends on the image's place in the batch, by rounding, the
    certificate is one for a net that gets each image at a random place. In exact arithmetic the size of the
    batches changes nothing but the time: the noise does not depend on it. In floats an answer that hangs on
    the last digits of two logits may differ.

    Args:
        network: From images (N, C, H, W) to logits. It gets images outside [0, 1], and its mode is kept.
        image: uint8 (C, H, W) on the network's device.
        sigma: Standard deviation of the noise.
        settings: How many noisy versions are classified, in which batches, and how sure it must be.
        generator: Generator on the image's device.

    Raises:
        ImageError: If the image is no uint8 tensor (C, H, W): floats would be taken for grey levels.
        SettingError: If alpha is below what is unknown of the noise, which is 1e-17 for each value of it.
    """
    if image.dtype != torch.uint8 or image.ndim != 3:
        raise ImageError(
            f"the image is {image.dtype} {tuple(image.shape)}, uint8 (C, H, W) is certified; convert floats "
            "in [0, 1] with steadylens.to_uint8"
        )
    noise = integer_noise(sigma).to(image.device)
    # What chooses the answer need not be exact, so only the values of the second sample count.
    left = _left_of_alpha(settings.alpha, noise, values=settings.versions * image.numel())
    given = answers_to_versions(
        network, image, noise, settings,
        total=settings.first_versions + settings.versions, generator=generator,
    )  # fmt: skip
    first, second = given[: settings.first_versions], given[settings.first_versions :]
    chosen = int(torch.bincount(first + 1).argmax()) - 1  # the lowest class, if several are as frequent
    count = int((second == chosen).sum())
    radius = certified_radius(count, settings.versions, alpha=left, sigma=sigma) if chosen >= 0 else 0.0
    return Certified(answer=chosen if radius > 0 else -1, count=count, radius=radius)


def certified_radius(count: int, versions: int, *, alpha: float, sigma: float) -> float:
    """Returns sigma Phi^-1(p) for the lower bound p of a probability; 0 if that is at most one half.

    The radius is rounded down: its Phi, computed with 60 digits, is not above p.

    Args:
        count: How many versions got the answer.
        versions: How many there are.
        alpha: Probability that the bound is wrong.
        sigma: Standard deviation of the noise.
    """
    bound = clopper_pearson_lower(count, versions, alpha)
    if bound <= 0.5:
        return 0.0
    radius = sigma * NormalDist().inv_cdf(bound)
    with localcontext(prec=60):
        while normal_distribution(Decimal(radius) / Decimal(sigma)) + _WITHIN > Decimal(bound):
            radius *= 1 - 2**-48
    return radius


def _left_of_alpha(alpha: float, noise: IntegerNoise, *, values: int) -> float:
    """Returns what is left of alpha once the noise may be another one than stated, in any of its values."""
    unknown = noise.error * values * (1 + 1e-9)
    if unknown >= alpha / 2:
        raise SettingError(
            f"alpha is {alpha}, but the noise itself is known to {unknown:.2g} only; give a larger alpha"
        )
    return (alpha - unknown) * (1 - 1e-12)


def answers_to_versions(
    network: nn.Module,
    image: Tensor,
    noise: IntegerNoise,
    settings: Certifying,
    *,
    total: int,
    generator: torch.Generator,
) -> Tensor:
    """Returns a network's answers to `total` noisy versions of an image; see `noisy_versions`.

    Returns:
        Classes, int64 (total,), on the CPU; -1 where no logit is the largest.
    """
    batch, lower = settings.batch_for(image), settings.precision != "float32"
    autocast = torch.autocast(image.device.type, torch.bfloat16, enabled=lower)
    with torch.inference_mode(), evaluating(network), accepting_any_range(), autocast:
        batches = noisy_versions(image, noise, total=total, batch=batch, generator=generator)
        if lower:  # in this layout, CPUs convolve several times as fast in bfloat16
            batches = (noisy.contiguous(memory_format=torch.channels_last) for noisy in batches)
        given = [answers(check_logits(network(noisy))) for noisy in batches]
        return torch.cat(given)[:total].cpu()


def noisy_versions(
    image: Tensor, noise: IntegerNoise, *, total: int, batch: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Yields noisy versions of an image in batches of one size; the last one ends with zeros.

    Args:
        image: uint8 (C, H, W) on the device of the noise.
        noise: The noise, of which the same is drawn whatever the batch.
        total: Number of noisy versions.
        batch: Number of images in a batch.
        generator: Generator on the same device.

    Yields:
        Float32 (batch, C, H, W): multiples of 1 / 255, not clipped.
    """
    at_once = max(1, _DRAWN_VALUES // image.numel())
    whole = image.to(torch.int16)
    ready = whole.new_empty(0, *image.shape)
    drawn = 0
    for start in range(0, total, batch):
        wanted = min(batch, total - start)
        parts = [ready]
        have = len(ready)
        while have < wanted:
            count = min(at_once, total - drawn)
            levels = noise.draw(count * image.numel(), generator=generator)
            parts.append(whole + levels.view(count, *image.shape))
            drawn, have = drawn + count, have + count
        ready = torch.cat(parts)
        levels, ready = ready[:wanted], ready[wanted:]
        if wanted < batch:
            levels = torch.cat([levels, levels.new_zeros(batch - wanted, *image.shape)])
        yield levels.to(torch.float32).div_(GREY_LEVELS)
