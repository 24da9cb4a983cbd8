"""One run of the demo: an image gets noise, is restored, and is classified with and without a restorer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from steadylens.checkpoints.loading import LoadedNet, count_classes, load_classifier, load_net
from steadylens.data.signs.synthetic_signs import draw_track
from steadylens.devices import evaluating
from steadylens.errors import ImageError, SettingError
from steadylens.images.decoding import opened
from steadylens.images.preprocessing import Fit
from steadylens.images.tensors import (
    GREY_LEVELS,
    SQUASHED,
    pil_to_tensor,
    tensor_to_pil,
    to_float,
    to_rgb,
    to_uint8,
)
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
"""In attenuated noise, only some values get the full noise; that of the others is multiplied by this."""

HIGHEST_SEED = 2**53
"""The highest seed: up to it, a browser's numbers are exact."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseType:
    """A type of noise, and which of the settings it has.

    Attributes:
        family: Makes the noise family from the strength, the share of noisy values, and the probability that
            the three channels share one pattern.
        has_strength: Whether it depends on the strength.
        has_share: Whether it depends on the share.
    """

    family: Callable[[Strength, float, float], Family]
    has_strength: bool = True
    has_share: bool = False


def _dense(noise: type[Gaussian | Uniform | Laplacian]) -> NoiseType:
    return NoiseType(family=lambda strength, _, shared: noise(strength=strength, shared=shared))


def _sparse(noise: type[Gaussian | Uniform]) -> NoiseType:
    def family(strength: Strength, share: float, shared: float) -> Family:
        return Sparse(noise=noise(strength=strength, shared=shared), density=(share, share))

    return NoiseType(family=family, has_share=True)


def _attenuated(noise: type[Gaussian | Uniform]) -> NoiseType:
    def family(strength: Strength, share: float, shared: float) -> Family:
        wrapped = noise(strength=strength, shared=shared)
        return Attenuated(noise=wrapped, density=(share, share), factor=(ATTENUATION, ATTENUATION))

    return NoiseType(family=family, has_share=True)


def _salt_and_pepper(_: Strength, share: float, shared: float) -> Family:
    return SaltAndPepper(density=(share, share), shared=shared)


NOISE_TYPES: Mapping[str, NoiseType] = {
    "Gaussian": _dense(Gaussian),
    "uniform": _dense(Uniform),
    "Laplacian": _dense(Laplacian),
    "sparse Gaussian": _sparse(Gaussian),
    "sparse uniform": _sparse(Uniform),
    "attenuated Gaussian": _attenuated(Gaussian),
    "attenuated uniform": _attenuated(Uniform),
    "salt and pepper": NoiseType(family=_salt_and_pepper, has_strength=False, has_share=True),
}
"""The types of noise, by the names of their families."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseSettings:
    """The noise that an image gets.

    Attributes:
        noise_type: One of `NOISE_TYPES`.
        strength_grey: Standard deviation of the noisy values, in grey levels, from 0 to 255.
        share: Share of the values that are noisy, from 0 to 1; only sparse and attenuated noise and salt and
            pepper have it.
        shared: Whether the three channels share one pattern, so that the noise is grey.
        seed: Seed of the noise; the same settings give the same image the same noise.

    Raises:
        SettingError: If a setting is out of its range.
    """

    noise_type: NoiseType
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
        """Returns the noisy images, float (N, C, H, W), clipped and rounded to 8 bits as by a camera.

        Args:
            images: Clean images, float (N, C, H, W) in [0, 1], on the CPU.
        """
        family = self.noise_type.family(Strength.fixed(self.strength_grey), self.share, float(self.shared))
        generator = torch.Generator().manual_seed(self.seed)
        return Degradation(families=(family,))(images, generator=generator)


def check_seed(seed: int | None) -> None:
    """Refuses what is not a seed.

    Raises:
        SettingError: If it is not an integer from 0 to `HIGHEST_SEED`.
    """
    if not isinstance(seed, int) or not 0 <= seed <= HIGHEST_SEED:
        raise SettingError(f"a seed is {seed}; choose a whole number, 0 or above")


MOST_SIDE = 384
"""The largest height and width in pixels of an image in the demo; L11 needs seconds for such a square."""

MOST_PIXELS = 50_000_000
"""The largest width times height of an uploaded image; checked before anything is decoded."""

TOP = 5
"""How many classes of a classifier are shown."""

_SIGN_SIDE = 48


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoNets:
    """The nets of the demo, all on one device.

    Attributes:
        restorer: The net whose output is shown as the restored image.
        classifier: The classifier alone.
        fused: A classifier behind a restorer, which need not be the one above.
        device: The device of all three.
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
        """Loads the nets, each a packaged one by its name or one from a file.

        Args:
            restorer: The restorer whose output is shown.
            classifier: The classifier alone, from any supported library.
            fused: The fused classifier to compare it with.
            device: The device to run them on.
            weights: Local file of the classifier's weights, for timm and torchvision.

        Raises:
            MissingExtraError: If a library that a classifier needs is not installed.
            SettingError: If there is no net of a name, it has another task, or the classifier and the fused
                classifier differ in their number of classes.
            CheckpointError: If a file is missing or damaged.
        """
        pair, alone = load_classifier(fused), load_classifier(classifier, weights=weights)
        pair.pair()  # refuses a classifier without a restorer
        counts = count_classes(alone), count_classes(pair)
        if counts[0] != counts[1]:
            raise SettingError(
                f"{alone.name} has {counts[0]} classes and {pair.name} {counts[1]}; to compare their "
                "answers, choose a --classifier and a --fused classifier with the same classes"
            )
        nets = cls(
            restorer=load_net(restorer, task=RESTORING),
            classifier=alone,
            fused=pair,
            device=device,
        )
        for net in (nets.restorer, nets.classifier, nets.fused):
            net.module.to(device)
        return nets

    def restore(self, images: Tensor) -> Tensor:
        """Restores images (N, 3, H, W) of any size, a tile at a time; the result is not clipped."""
        return restorer_of(self.restorer, device=self.device)(images)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A class and its probability.

    Attributes:
        number: The class as an index.
        label: The name of the class.
        probability: In [0, 1].
    """

    number: int
    label: str
    probability: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """A classifier's answers for the clean and for the noisy image.

    Attributes:
        name: The name of the classifier.
        clean: The classes of the clean image, the most probable first.
        noisy: The classes of the noisy image, the most probable first.
    """

    name: str
    clean: tuple[Answer, ...]
    noisy: tuple[Answer, ...]

    @property
    def changed(self) -> bool:
        """Whether the noise changed the most probable class."""
        return self.clean[0].number != self.noisy[0].number


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoResult:
    """The images and answers of one run. Images are uint8 (3, H, W).

    Attributes:
        clean: The image without noise.
        noisy: The image with noise.
        pattern: What the restorer added to the noisy image, scaled to use all grey levels.
        restored: The noisy image, restored.
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


def run_demo(image: Image.Image, settings: NoiseSettings, nets: DemoNets) -> DemoResult:
    """Adds noise to an image, restores it, and classifies it.

    Each classifier reads the clean and the noisy image resized to its own size, as in training.

    Args:
        image: RGB, of any size; large ones take long, so pass them through `fitted` first.
        settings: The noise to add.
        nets: The restorer and the classifiers.
    """
    clean = to_float(pil_to_tensor(image))[None]
    with torch.inference_mode():
        noisy = settings.add(clean)
        found = nets.restore(noisy)
        shown = tensor_to_pil(to_uint8(noisy[0]))
        return DemoResult(
            clean=pil_to_tensor(image),
            noisy=to_uint8(noisy[0]),
            pattern=to_uint8(normalize_pattern(found - noisy)[0]),
            restored=to_uint8(found[0]),
            noisy_db=float(psnr(noisy, clean)),
            restored_db=float(psnr(to_float(to_uint8(found)), clean)),
            classifier=_answers(nets.classifier, image, shown, nets.device),
            fused=_answers(nets.fused, image, shown, nets.device),
        )


def draw_sign(label: int, seed: int) -> Image.Image:
    """Draws a synthetic traffic sign, RGB, of the size that the packaged classifiers read.

    Args:
        label: The class, an index into `CLASS_NAMES`.
        seed: Seed of the drawing.

    Raises:
        SettingError: If there is no such class, or the seed is negative.
    """
    check_seed(seed)
    rng = np.random.default_rng([seed, label])
    return Image.fromarray(draw_track(label, frames=1, rng=rng, size=_SIGN_SIDE)[0].transpose(1, 2, 0).copy())


def read_upload(path: Path) -> Image.Image:
    """Reads an uploaded image file as 8-bit RGB, rotated as its EXIF orientation says.

    Raises:
        ImageError: If it is not an image, is damaged or is too large; the message omits the file's folder.
    """
    try:
        with opened(path, most_pixels=MOST_PIXELS, way_out="choose a smaller image") as found:
            return to_rgb(found)
    except ImageError as error:
        if error.__cause__ is not None:  # the reader's own message, which helps nobody here
            raise ImageError(f"{path.name} is damaged or cut off; choose another image") from error
        raise ImageError(str(error).replace(str(path), path.name)) from error


def resized(image: Image.Image, size: int, *, fit: Fit = SQUASHED) -> Image.Image:
    """Returns the image at the size that a classifier reads, resized as in training if necessary."""
    return image if image.size == (size, size) else fit.fitted(image, size)


def fitted(image: Image.Image) -> Image.Image:
    """Returns the image, made smaller if its longer side is above `MOST_SIDE`."""
    scale = MOST_SIDE / max(image.size)
    if scale >= 1:
        return image
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def _answers(net: LoadedNet, clean: Image.Image, noisy: Image.Image, device: torch.device) -> Answers:
    read = torch.stack([pil_to_tensor(resized(image, net.size, fit=net.fit)) for image in (clean, noisy)])
    with evaluating(net.module):
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
