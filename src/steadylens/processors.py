"""What an image processor of transformers does, found out: size, mean, deviation and fit."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from steadylens.classification import ChannelNormalization
from steadylens.errors import CheckpointError, MissingExtraError, SettingError, SteadylensError
from steadylens.fitting import Fit
from steadylens.images import GREY_LEVELS, to_float

_SMALL_EDGE = 384
"""Below it, a processor with a share to crop cuts the centre out; from it on, it squashes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Processing:
    """What an image processor makes of images.

    Attributes:
        size: Height and width of what it makes, in pixels.
        mean: What it subtracts from each channel, for images in [0, 1].
        std: What it then divides each channel by.
        fit: How it makes squares of photographs.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fit: Fit


def image_processing(folder: Path, *, fit: Fit | None = None) -> Processing:
    """Reads the image processor that `save_pretrained` wrote into a folder, and tries it on some images.

    Args:
        folder: Holds preprocessor_config.json.
        fit: How photographs are to become squares, or None for how the processor does it.

    Raises:
        MissingExtraError: If transformers is not installed.
        CheckpointError: If there is no image processor.
        SettingError: If it does more than to resize, crop, scale and normalise.
    """
    try:
        from transformers import AutoImageProcessor  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("transformers", "transformers") from error
    try:
        read: Any = AutoImageProcessor.from_pretrained  # it is not typed
        # Without the last argument the user might be asked to run the folder's own code.
        processor = read(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder} holds no image processor; save that of the classifier there with save_pretrained"
        ) from error

    try:
        return _tried(folder, processor, fit)
    except SteadylensError:
        raise
    except Exception as error:  # whatever a foreign processor raises
        reason = " ".join(str(error).split())
        raise SettingError(
            f"the image processor of {folder} cannot be understood ({reason}); give the classifier to "
            "PreparedClassifier with a mean and a deviation of its own"
        ) from error


def _tried(folder: Path, processor: Any, fit: Fit | None) -> Processing:
    """Finds what a processor does by trying it on images."""

    def process(image: Tensor, **settings: bool) -> Tensor:
        array = image.permute(1, 2, 0).numpy()
        return processor(array, return_tensors="pt", **settings)["pixel_values"][0]  # type: ignore[no-any-return]

    pixels = torch.randint(256, (3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    kept = {"do_resize": False, "do_center_crop": False}
    black, white, some = (process(image, **kept) for image in (pixels * 0, pixels * 0 + 255, pixels))
    std = 1 / (white - black).double().mean(dim=(1, 2))
    mean = -black.double().mean(dim=(1, 2)) * std
    normalization = ChannelNormalization(mean.tolist(), std.tolist())
    height, width = process(pixels).shape[-2:]
    if height != width or not torch.allclose(normalization(to_float(pixels)[None])[0], some, atol=1e-4):
        raise SettingError(
            f"the image processor of {folder} does more than make images square, scale and normalise them; "
            "give the classifier to PreparedClassifier with a mean and a deviation of its own"
        )
    found = fit or _fit_of(processor)
    if fit is None and not _agrees(process, normalization, found, height):
        raise SettingError(
            f"the image processor of {folder} makes squares of photographs in a way that is not made here, "
            f"unlike {found}; give a fit that is near it, as crop:SIDE"
        )
    return Processing(size=height, mean=tuple(mean.tolist()), std=tuple(std.tolist()), fit=found)


def _fit_of(processor: Any) -> Fit:
    size, share = dict(processor.size), getattr(processor, "crop_pct", None)
    edge = size.get("shortest_edge") or 0
    keeps_shape = edge > 0 and (share is None or edge < _SMALL_EDGE)
    side = int(edge / share) if keeps_shape and share else edge
    return Fit(
        keeps_shape=keeps_shape,
        side=side or size.get("height"),
        interpolation=Image.Resampling(processor.resample),
        floors=True,
    )


def _agrees(
    process: Callable[[Tensor], Tensor], normalization: ChannelNormalization, fit: Fit, size: int
) -> bool:
    """Says whether a fit makes the same of oblong images as the processor, which may round otherwise."""
    random = np.random.default_rng(0)
    for shape in ((90, 131, 3), (127, 90, 3)):
        levels = random.integers(0, 256, shape, dtype=np.uint8)
        mine = np.array(fit.fitted(Image.fromarray(levels), size))
        theirs = process(torch.from_numpy(levels).permute(2, 0, 1)) * normalization.std + normalization.mean
        apart = theirs[0] - to_float(torch.from_numpy(mine).permute(2, 0, 1))
        if apart.abs().mean() > 1 / GREY_LEVELS:
            return False
    return True
