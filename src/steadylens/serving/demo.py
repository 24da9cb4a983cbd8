"""The nets on one image: noise of a chosen type, what is restored, and what classifiers answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from steadylens.checkpoints.loading import LoadedNet, count_classes, load_classifier, load_net
from steadylens.data.synthetic_signs import draw_track
from steadylens.errors import ImageError, SettingError
from steadylens.images.decoding import opened
from steadylens.images.preprocessing import Fit
from steadylens.images.tensors import GREY_LEVELS, SQUASHED, to_float, to_rgb, to_uint8
from steadylens.inference.restorer import restorer_of
from steadylens.metrics import psnr
from steadylens.nets.facts import RESTORING
from steadylens.nets.restoration import normalize_pattern
from steadylens.noise.degradation import Degradation
from steadylens.noise.families import (
    Attenuated,
    Family,
    Gaussian,
    Laplacian,
    SaltAndPepper,
    Sparse,
    Strength,
    Uniform,
)

ATTENUATION = 0.25
"""The factor on the noise of those values that attenuated noise does not keep."""

HIGHEST_SEED = 2**53
"""The highest seed; up to it, a page's numbers are exact."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """A kind of noise, and which of the settings it has.

    Attributes:
        family: Makes the family from the strength, the share of noisy values, and the probability that the
            channels share one pattern.
        has_strength: Whether it depends on the strength.
        has_share: Whether it depends on the share.
        note: What else there is to know of it.
    """

    family: Callable[[Strength, float, float], Family]
    has_strength: bool = True
    has_share: bool = False
    note: str = ""


def _dense(noise: type[Gaussian | Uniform | Laplacian]) -> Kind:
    return Kind(family=lambda strength, _, shared: noise(strength=strength, shared=shared))


def _sparse(noise: type[Gaussian | Uniform]) -> Kind:
    def family(strength: Strength, share: float, shared: float) -> Family:
        return Sparse(noise=noise(strength=strength, shared=shared), density=(share, share))

    return Kind(family=family, has_share=True, note="the other values stay clean")


def _attenuated(noise: type[Gaussian | Uniform]) -> Kind:
    def family(strength: Strength, share: float, shared: float) -> Family:
        wrapped = noise(strength=strength, shared=shared)
        return Attenuated(noise=wrapped, density=(share, share), factor=(ATTENUATION, ATTENUATION))

    return Kind(family=family, has_share=True, note="the other values get a quarter of the noise")


def _impulses(strength: Strength, share: float, shared: float) -> Family:
    return SaltAndPepper(density=(share, share), shared=shared)


KINDS: Mapping[str, Kind] = {
    "Gaussian": _dense(Gaussian),
    "uniform": _dense(Uniform),
    "Laplacian": _dense(Laplacian),
    "sparse Gaussian": _sparse(Gaussian),
    "sparse uniform": _sparse(Uniform),
    "attenuated Gaussian": _attenuated(Gaussian),
    "attenuated uniform": _attenuated(Uniform),
    "salt and pepper": Kind(
        family=_impulses, has_strength=False, has_share=True, note="black and white equally often"
    ),
}
"""The kinds of noise, by the names that their families have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Noise:
    """What noise an image gets.

    Attributes:
        kind: Its kind, one of `KINDS`.
        strength_grey: Standard deviation of the noisy values, in grey levels, from 0 to 255.
        share: Share of the values that are noisy, for kinds that thin the noise, from 0 to 1.
        shared: Whether the three channels share one pattern, so that the noise is grey.
        seed: What the noise is drawn from; the same settings and the same image give the same noise.

    Raises:
        SettingError: If a setting is out of its range.
    """

    kind: Kind
    strength_grey: float = 20.0
    share: float = 0.2
    shared: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.strength_grey <= GREY_LEVELS:
            raise SettingError(f"the strength is {self.strength_grey}; choose from 0 to 255 grey levels")
        if not 0 <= self.share <= 1:
            raise SettingError(f"the share of noisy values is {self.share}; choose from 0 to 1")
        check_seed(self.seed)

    def add(self, images: Tensor) -> Tensor:
        """Returns the noisy images, float (N, C, H, W), clipped and rounded to 8 bits as a camera does.

        Args:
            images: Clean images, float (N, C, H, W) in [0, 1], on the CPU.
        """
        family = self.kind.family(Strength.fixed(self.strength_grey), self.share, float(self.shared))
        generator = torch.Generator().manual_seed(self.seed)
        return Degradation(families=(family,))(images, generator=generator)


def check_seed(seed: int | None) -> None:
    """Refuses what is no seed.

    Raises:
        SettingError: If it is not an integer from 0 to `HIGHEST_SEED`.
    """
    if not isinstance(seed, int) or not 0 <= seed <= HIGHEST_SEED:
        raise SettingError(f"a seed is {seed}; choose a whole number, 0 or above")


MOST_SIDE = 384
"""Height and width in pixels that an image keeps at most; L11 spends seconds on such a square."""

MOST_PIXELS = 50_000_000
"""Width times height of an image file that is refused if it is exceeded, before anything is decoded."""

TOP = 5
"""How many classes an answer lists."""

_SIGN_SIDE = 48


@dataclass(frozen=True, kw_only=True, slots=True)
class Nets:
    """The nets of a trial, all on one device.

    Attributes:
        restorer: Its output is what is shown as restored.
        classifier: The classifier alone.
        fused: A classifier behind a restorer, maybe behind another one than is shown.
        device: Where they are.
    """

    restorer: LoadedNet
    classifier: LoadedNet
    fused: LoadedNet
    device: torch.device

    @classmethod
    def named(
        cls,
        restorer: str,
        classifier: str,
        fused: str,
        *,
        device: torch.device,
        weights: Path | None = None,
    ) -> Self:
        """Opens nets, each a packaged one by its name or one from a file.

        Args:
            restorer: The restorer to show.
            classifier: The classifier alone, of whatever library.
            fused: The pair to compare it with.
            device: Where they compute.
            weights: Local file of the classifier's weights, for timm and torchvision.

        Raises:
            MissingExtraError: If a library that a classifier needs is not installed.
            SettingError: If there is no net of a name, it does something else, or classifier and pair tell
                other classes apart.
            CheckpointError: If a file is missing or damaged.
        """
        pair, alone = load_classifier(fused), load_classifier(classifier, weights=weights)
        pair.pair()  # refuses a classifier without a restorer
        counts = count_classes(alone), count_classes(pair)
        if counts[0] != counts[1]:
            raise SettingError(
                f"{alone.name} tells {counts[0]} classes apart and {pair.name} {counts[1]}; to compare their "
                "answers, name a --classifier and a --fused pair of the same classes"
            )
        nets = cls(restorer=load_net(restorer, task=RESTORING), classifier=alone, fused=pair, device=device)
        for net in (nets.restorer, nets.classifier, nets.fused):
            net.module.to(device)
        return nets

    def restore(self, images: Tensor) -> Tensor:
        """Returns images (N, 3, H, W) restored, of any size, a tile at a time; they are not clipped."""
        return restorer_of(self.restorer.module, device=self.device)(images)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A class and its probability.

    Attributes:
        number: The class's number.
        label: Its name.
        probability: What the classifier gives it, in [0, 1].
    """

    number: int
    label: str
    probability: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """What a classifier answers.

    Attributes:
        name: The classifier's name.
        clean: The most probable classes of the clean image, in falling order.
        noisy: Those of the noisy image.
    """

    name: str
    clean: tuple[Answer, ...]
    noisy: tuple[Answer, ...]

    @property
    def changed(self) -> bool:
        """Whether the noise changed the answer."""
        return self.clean[0].number != self.noisy[0].number


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What became of an image. Pictures are uint8 (3, H, W).

    Attributes:
        clean: The image.
        noisy: The image with noise.
        pattern: What the restorer added to the noisy image, stretched to all grey levels.
        restored: The noisy image restored.
        noisy_db: PSNR of the noisy image in decibels; infinite if it equals the clean one.
        restored_db: PSNR of the restored image.
        classifier: Answers of the classifier alone.
        fused: Answers of the fused classifier.
    """

    clean: Tensor
    noisy: Tensor
    pattern: Tensor
    restored: Tensor
    noisy_db: float
    restored_db: float
    classifier: Answers
    fused: Answers


def try_out(image: Image.Image, noise: Noise, nets: Nets) -> Trial:
    """Adds noise to an image, restores it, and asks the classifiers.

    Each classifier reads the clean and the noisy image resized to its own size, as in training.

    Args:
        image: RGB, of any size; `fitted` makes it one that is worked on quickly.
        noise: The noise to add.
        nets: What restores and classifies.
    """
    clean = to_float(_levels(image))[None]
    with torch.inference_mode():
        noisy = noise.add(clean)
        found = nets.restore(noisy)
        shown = Image.fromarray(to_uint8(noisy[0]).permute(1, 2, 0).numpy())
        return Trial(
            clean=_levels(image),
            noisy=to_uint8(noisy[0]),
            pattern=to_uint8(normalize_pattern(found - noisy)[0]),
            restored=to_uint8(found[0]),
            noisy_db=float(psnr(noisy, clean)),
            restored_db=float(psnr(to_float(to_uint8(found)), clean)),
            classifier=_answers(nets.classifier, image, shown, nets.device),
            fused=_answers(nets.fused, image, shown, nets.device),
        )


def draw_sign(label: int, seed: int) -> Image.Image:
    """Draws a traffic sign, RGB, of the size that classifiers read.

    Args:
        label: The class, a place in `CLASS_NAMES`.
        seed: What the drawing is made from.

    Raises:
        SettingError: If the label names no class, or the seed is negative.
    """
    check_seed(seed)
    rng = np.random.default_rng([seed, label])
    return Image.fromarray(draw_track(label, frames=1, rng=rng, size=_SIGN_SIDE)[0].transpose(1, 2, 0).copy())


def read_upload(path: Path) -> Image.Image:
    """Reads an image file that somebody handed in, as 8-bit RGB, upright.

    Raises:
        ImageError: If it is no image, is damaged or too large; the message names the file without its folder.
    """
    try:
        with opened(path, most_pixels=MOST_PIXELS, way_out="choose a smaller image") as found:
            return to_rgb(found)
    except ImageError as error:
        if error.__cause__ is not None:  # the reader's own words, which help nobody here
            raise ImageError(f"{path.name} is damaged or cut off; choose another image") from error
        raise ImageError(str(error).replace(str(path), path.name)) from error


def resized(image: Image.Image, size: int, *, fit: Fit = SQUASHED) -> Image.Image:
    """Returns the image at the size that a classifier reads, fitted as in training unless it has it."""
    return image if image.size == (size, size) else fit.fitted(image, size)


def fitted(image: Image.Image) -> Image.Image:
    """Returns the image at its own size, or smaller where its longer side is above `MOST_SIDE`."""
    scale = MOST_SIDE / max(image.size)
    if scale >= 1:
        return image
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def _levels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _answers(net: LoadedNet, clean: Image.Image, noisy: Image.Image, device: torch.device) -> Answers:
    read = torch.stack([_levels(resized(image, net.size, fit=net.fit)) for image in (clean, noisy)])
    first, second = net.module(to_float(read).to(device)).softmax(dim=1).cpu()
    return Answers(name=net.name, clean=_top(net, first), noisy=_top(net, second))


def _top(net: LoadedNet, probabilities: Tensor) -> tuple[Answer, ...]:
    names = net.class_names
    values, numbers = probabilities.topk(min(TOP, len(probabilities)))
    return tuple(
        Answer(
            number=number,
            label=names[number] if number < len(names) else f"class {number}",
            probability=value,
        )
        for number, value in zip(numbers.tolist(), values.tolist(), strict=True)
    )
