"""Restores images of any size and type with a trained net, one tile at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from steadylens.checkpoints.checkpoint import packaged_name
from steadylens.checkpoints.loading import LoadedNet, load
from steadylens.checkpoints.packaged import DEFAULT_RESTORER
from steadylens.devices import device_named, evaluating
from steadylens.errors import ImageError, SettingError
from steadylens.images.metadata.exif import with_thumbnail_of, without_thumbnails
from steadylens.images.pixels import key_scale, plain_mode
from steadylens.images.tensors import array_to_tensor, check_range, tensor_to_array
from steadylens.images.transparency import put_back_hidden, with_colours_continued
from steadylens.inference.tiling import ImageToImage, Tiling, in_tiles
from steadylens.nets.facts import CLASSIFYING, NetFacts, facts_of
from steadylens.nets.restoration import UnpaddedNet, is_padded
from steadylens.progress import ProgressCallback

TILE_ON_CPU = 272
"""Height and width of a tile in pixels, overlap included; `benchmarks/largeimages.py` compares others."""

TILE_ON_GPU = 512

MARGINS_IN_TILE = 16
"""A tile is at least so many margins wide, so that its overlap costs at most a third of the computation."""

LARGEST_TILE = 1024
"""The largest tile that is chosen for that reason; feature maps of larger ones take much memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Restorer:
    """A net with everything that is needed to run it on images of any size.

    Attributes:
        engine: The net, without padding if it has such a form.
        channels: How many channels the net reads.
        tiling: How images are cut into tiles.
        device: The device that the net computes on.
        strength: How much of the net's change is made, from 0 (the image stays) to 1 (all of it): the result
            is the image plus this times what the net would add, and only then rounded.
        packaged: The name of the packaged net that it runs; empty for any other.

    Raises:
        SettingError: If the strength is below 0 or above 1.
    """

    engine: ImageToImage
    channels: int
    tiling: Tiling
    device: torch.device
    strength: float = 1.0
    packaged: str = ""

    def __post_init__(self) -> None:
        """Refuses a strength that is no share."""
        if not 0 <= self.strength <= 1:
            raise SettingError(
                f"the strength is {self.strength}; it must be from 0, which keeps the image, to 1"
            )

    def __call__(self, images: Tensor, progress: ProgressCallback = lambda done, total: None) -> Tensor:
        """Returns the restored images, in the type and on the device of the given ones.

        Args:
            images: (N, C, H, W), uint8, uint16 or float in [0, 1]: grey (C is 1), grey with alpha (2), RGB
                (3) or RGB with alpha (4). Grey is restored as RGB with three equal channels; the result is
                their mean. Alpha stays unchanged. Where it is 0, the colours stay, too, and have no influence
                on the rest: the net sees the visible colours continued there.
            progress: Called after each tile with the number of tiles done and their total.

        Raises:
            ImageError: If the images are of another shape or type, are empty, or leave [0, 1] by far.
        """
        _check(images)
        images = images.detach()
        if self.strength == 0:
            progress(1, 1)
            return images.clone(memory_format=torch.preserve_format)
        colours = images.shape[1] - (images.shape[1] in (2, 4))
        seen, alpha = images[:, :colours], images[:, colours:]
        if alpha.shape[1]:
            seen = with_colours_continued(seen, alpha, margin=self.tiling.margin)
        restored = torch.empty_like(images, memory_format=torch.preserve_format)
        restored[:, colours:] = alpha
        with evaluating(self.engine):
            in_tiles(
                self.engine if colours in (self.channels, 3) else _grey(self.engine),
                seen,
                restored[:, :colours],
                tiling=self.tiling,
                device=self.device,
                progress=progress,
                at_once=getattr(self.engine, "streams", 1),
                strength=self.strength,
            )
        if alpha.shape[1]:
            put_back_hidden(restored[:, :colours], images[:, :colours], alpha)
        return restored


def restorer_of(
    net: str | Path | LoadedNet | ImageToImage,
    *,
    margin: int | None = None,
    tile: int | None = None,
    device: torch.device | str | None = None,
    strength: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> Restorer:
    """Prepares a net for images of any size; the arguments are those of `restore`.

    The net may also be a `LoadedNet`, which stays on its device, as any net that is not given by name.

    Raises:
        SettingError: If the net is a classifier or one of ours not in float32, its margin is unknown, the
            tile is too small, the strength is no number from 0 to 1, or a number format is given for
            something that is no `torch.nn.Module`.
        CheckpointError: If a file cannot be used.
    """
    device = device_named(device) if isinstance(device, str) else device
    packaged = ""
    if isinstance(net, str | Path):
        packaged = packaged_name(net)
        net = load(net).to(device).to(memory_format=torch.channels_last)
    elif isinstance(net, LoadedNet):
        packaged, net = net.packaged, net.module
    _check_types(net)
    place = _device_of(net) if device is None else device
    facts = facts_of(net)
    if margin is None or facts.task == CLASSIFYING:
        margin = _margin_of(net, facts)
    side = tile if tile is not None else _usual_tile(margin, facts, place)
    unpadded = UnpaddedNet(net) if is_padded(net) and margin == facts.margin == net.valid_margin else None
    tiling = Tiling(
        tile=side,
        margin=margin,
        smallest=facts.minimum_size,
        alignment=facts.alignment,
        surround=None if unpadded is None else unpadded.surround,
    )
    engine = unpadded or net
    if dtype != torch.float32:
        engine = _in_lower_precision(engine, dtype)
    return Restorer(
        engine=engine,
        channels=facts.channels,
        tiling=tiling,
        device=place,
        strength=strength,
        packaged=packaged,
    )


def _in_lower_precision(engine: ImageToImage, dtype: torch.dtype) -> ImageToImage:
    if not isinstance(engine, nn.Module):
        raise SettingError(
            f"a {type(engine).__name__} decides itself in which numbers it computes; leave out dtype"
        )
    from steadylens.inference.engines import TorchEngine  # noqa: PLC0415 - it takes a while to import

    return TorchEngine(engine, dtype=dtype)


def restore(
    image: Any,
    net: str | Path | ImageToImage = DEFAULT_RESTORER,
    *,
    margin: int | None = None,
    tile: int | None = None,
    device: torch.device | str | None = None,
    strength: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> Any:
    """Returns an image restored by a net, as the same kind of object.

    The image is processed one tile at a time; up to rounding, the result is the same as for the whole image.
    An image that is too small for the net is mirrored at its borders first. Grey is restored as RGB with
    three equal channels, and the result is their mean; alpha stays unchanged, and so do the colours where
    it is 0.

    A PIL image with a palette becomes RGB. One in CMYK becomes RGB without its colour profile. Black and
    white becomes grey. A transparent colour of 8 bits becomes alpha, one of 2 or 4 bits only if the image is
    not decoded yet. To restore many images, give a net instead of a name, so that it is loaded only once.

    Args:
        image: A PIL image of 8 bits a level, or of grey with 16; a NumPy array (H, W) or (H, W, C), uint8,
            uint16 or float in [0, 1]; or a tensor (C, H, W) or (N, C, H, W) of such a type. C is 1, 2, 3 or
            4: grey or RGB, alpha last. A float result is not clipped: it may leave [0, 1] by a little.
            `steadylens.to_uint8` clips and rounds a tensor, where 8 bits are wanted.
        net: A restorer of this package, the name of a packaged one, the path of a .safetensors file, or
            anything from images (N, 3, H, W), float32 in [0, 1], to images of the same shape.
        margin: How many pixels around it a pixel of the result depends on; None asks a net of this package.
        tile: Height and width of a tile in pixels, overlap included; None chooses by the net and the device.
        device: Where to compute. A net given by name is moved there; None means where the net is.
        strength: How much of the net's change is made, from 0 (the image stays as it is) to 1 (all of it).
            The blend is made before rounding.
        dtype: Number format of the net's products: float32, or bfloat16, which processors and GPUs with
            instructions for it compute several times as fast. The image itself stays exact.

    Raises:
        ImageError: If the image is of another kind, is empty, or leaves [0, 1] by far.
        SettingError: If the net is a classifier or one of ours not in float32, its margin is unknown, the
            tile is too small, or the strength is no number from 0 to 1.
        CheckpointError: If a file cannot be used.

    Example:
        >>> import numpy as np
        >>> import steadylens
        >>> steadylens.restore(np.zeros((60, 80, 3), np.uint8), "l3-gtsrb").shape
        (60, 80, 3)
    """
    if isinstance(image, str | Path):
        raise _no_image(image)
    restorer = restorer_of(net, margin=margin, tile=tile, device=device, strength=strength, dtype=dtype)
    match image:
        case Tensor():
            if image.ndim not in (3, 4):
                raise ImageError(
                    f"the tensor has shape {tuple(image.shape)}; images are (C, H, W) or (N, C, H, W)"
                )
            return restorer(image[None])[0] if image.ndim == 3 else restorer(image)
        case np.ndarray():
            return restore_array(image, restorer)
        case Image.Image():
            return _restored_picture(image, restorer)
    raise _no_image(image)


def tensor_of(image: Any) -> Tensor:
    """Returns one image, of the kinds that `restore` takes, as a tensor (C, H, W) with the levels it has.

    Raises:
        ImageError: If it is of another kind or shape, or several images.
    """
    match image:
        case Tensor() if image.ndim == 3:
            return image.detach()
        case Tensor():
            raise ImageError(f"the tensor has shape {tuple(image.shape)}; one image is (C, H, W)")
        case np.ndarray():
            return _tensor_of_array(image)
        case Image.Image():
            return _tensor_of_array(np.array(_plain(image)))
    raise _no_image(image)


def restore_array(
    array: NDArray[Any],
    restorer: Callable[[Tensor, ProgressCallback], Tensor],
    progress: ProgressCallback = lambda done, total: None,
) -> NDArray[Any]:
    """Returns an array (H, W) or (H, W, C) restored; see `restore`.

    Raises:
        ImageError: If the array is of another shape or type, is empty, or leaves [0, 1] by far.
    """
    restored = tensor_to_array(restorer(_tensor_of_array(array)[None], progress)[0])
    return restored.reshape(array.shape).astype(array.dtype, copy=False)


def _tensor_of_array(array: NDArray[Any]) -> Tensor:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in range(1, 5)):
        raise ImageError(
            f"the array has shape {array.shape}; an image is (H, W) or (H, W, C), where C, which comes last, "
            "is 1 to 4: grey or RGB, and alpha"
        )
    if array.dtype == bool:
        raise ImageError("the array is bool; give uint8, uint16 or float in [0, 1]")
    try:
        image = np.require(array, array.dtype.newbyteorder("="), ["C", "W"])
        return array_to_tensor(image if image.ndim == 3 else image[..., None])
    except TypeError as error:
        raise ImageError(f"the array is {array.dtype}; give uint8, uint16 or float in [0, 1]") from error


def _no_image(image: object) -> ImageError:
    if isinstance(image, str | Path):
        return ImageError(
            f"{str(image)!r} is a path, not an image; read it first, as in "
            f"restore(steadylens.read_image({str(image)!r}))"
        )
    return ImageError(
        f"a {type(image).__name__} is no image here; give a PIL image, a NumPy array or a tensor"
    )


def _restored_picture(image: Image.Image, restorer: Restorer) -> Image.Image:
    plain = _plain(image)
    pixels = restore_array(np.array(plain), restorer)
    restored = Image.fromarray(pixels)
    left_behind = {"transparency", *(("icc_profile",) if image.mode == "CMYK" else ())}
    restored.info = {name: value for name, value in image.info.items() if name not in left_behind}
    if isinstance(exif := restored.info.get("exif"), bytes):
        head = b"Exif\0\0" if exif.startswith(b"Exif\0\0") else b""
        levels = pixels[..., None] if pixels.ndim == 2 else pixels
        restored.info["exif"] = head + with_thumbnail_of(exif.removeprefix(head), levels)
    if isinstance(xmp := restored.info.get("xmp"), bytes):
        restored.info["xmp"] = without_thumbnails(xmp)
    return restored


def _plain(image: Image.Image) -> Image.Image:
    """Returns an image as grey or RGB, with alpha if something is transparent."""
    key = "transparency" in image.info
    if image.mode.startswith("I;16") and not key:
        return image
    if (known := plain_mode(image)) is None:
        raise ImageError(
            f"the image has mode {image.mode}{' and a transparent colour' if key else ''}, which is not "
            "restored; give its levels as an array of uint8, uint16 or float in [0, 1]"
        )
    mode = known[0] + ("A" if key and known[0] in ("L", "RGB") else "")
    if mode == image.mode:
        return image
    if (scale := key_scale(image)) != 1:
        image.load()
        image.info["transparency"] *= scale  # in the image itself, so that it is scaled only once
    return image.convert(mode)


def _usual_tile(margin: int, facts: NetFacts, device: torch.device) -> int:
    """Returns the height and width of a tile that costs little time and memory on a device."""
    least = TILE_ON_CPU if device.type == "cpu" else TILE_ON_GPU
    usual = max(least, min(MARGINS_IN_TILE * margin, LARGEST_TILE))
    return max(usual if facts.tile is None else facts.tile, 4 * margin + facts.alignment)


def _margin_of(net: ImageToImage, facts: NetFacts) -> int:
    """Returns the radius of a net's receptive field; refuses a classifier and an unknown margin."""
    if facts.task == CLASSIFYING:
        way_out = "restore with its .restorer" if hasattr(net, "restorer") else "give a restorer"
        raise SettingError(f"a {type(net).__name__} answers with classes, not with images; {way_out}")
    if facts.margin is None:
        raise SettingError(
            f"the margin of a {type(net).__name__} is not known; give the radius of its receptive field in "
            "pixels"
        )
    return facts.margin


def _device_of(engine: ImageToImage) -> torch.device:
    tensors = [*engine.parameters(), *engine.buffers()] if isinstance(engine, nn.Module) else []
    return tensors[0].device if tensors else torch.device("cpu")


def _grey(engine: ImageToImage) -> ImageToImage:
    return lambda images: engine(images.expand(-1, 3, -1, -1)).mean(1, keepdim=True)


def _check_types(engine: ImageToImage) -> None:
    if isinstance(engine, nn.Module) and facts_of(engine).kind is not None:
        kinds = {each.dtype for each in engine.parameters() if each.is_floating_point()} - {torch.float32}
        if kinds:
            raise SettingError(
                f"the net computes in {kinds.pop()}, images are given as float32; make it so by net.float()"
            )


def _check(images: Tensor) -> None:
    if images.ndim != 4 or not 1 <= images.shape[1] <= 4 or 0 in images.shape:
        raise ImageError(
            f"images have shape {tuple(images.shape)}; they need one to four channels (grey or RGB, alpha "
            "last) and at least one pixel"
        )
    if images.dtype not in (torch.uint8, torch.uint16) and not images.is_floating_point():
        raise ImageError(f"images are {images.dtype}; give uint8, uint16 or float in [0, 1]")
    if images.is_floating_point():
        if not bool(images.isfinite().all()):
            raise ImageError("float images hold values that are not finite; replace them first")
        check_range(images)
