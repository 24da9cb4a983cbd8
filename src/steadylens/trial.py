"""A trial of the nets on one image: noise of a chosen kind, what is restored, and what classifiers answer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from steadylens.decoding import opened
from steadylens.errors import ImageError, SettingError
from steadylens.fitting import Fit
from steadylens.images import SQUASHED, to_float, to_rgb, to_uint8
from steadylens.inference import restorer_of
from steadylens.kinds import Noise, check_seed
from steadylens.metrics import psnr
from steadylens.opening import Opened, count_classes, open_classifier, open_restorer
from steadylens.restoration import normalize_pattern
from steadylens.signs import draw_track

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

    restorer: Opened
    classifier: Opened
    fused: Opened
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
        pair, alone = open_classifier(fused), open_classifier(classifier, weights=weights)
        pair.fused()  # refuses a classifier without a restorer
        counts = count_classes(alone), count_classes(pair)
        if counts[0] != counts[1]:
            raise SettingError(
                f"{alone.name} tells {counts[0]} classes apart and {pair.name} {counts[1]}; to compare their "
                "answers, name a --classifier and a --fused pair of the same classes"
            )
        nets = cls(restorer=open_restorer(restorer), classifier=alone, fused=pair, device=device)
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


def _answers(net: Opened, clean: Image.Image, noisy: Image.Image, device: torch.device) -> Answers:
    read = torch.stack([_levels(resized(image, net.size, fit=net.fit)) for image in (clean, noisy)])
    first, second = net.module(to_float(read).to(device)).softmax(dim=1).cpu()
    return Answers(name=net.name, clean=_top(net, first), noisy=_top(net, second))


def _top(net: Opened, probabilities: Tensor) -> tuple[Answer, ...]:
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
