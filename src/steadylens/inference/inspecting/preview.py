"""A picture of one part of an image, before and after, from a fraction of the work of restoring all of it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, features
from torch.nn.functional import avg_pool2d

from steadylens.images.decoding import MOST_PIXELS
from steadylens.images.pixels import Pixels, flattened, in_8_bits
from steadylens.images.reading import ImageContent, Metadata, read_image_file
from steadylens.images.tensors import array_to_tensor
from steadylens.images.writing import write_image_file
from steadylens.inference.inspecting.noise_level import BLOCK, PART, Examined, NoiseLevel, examined
from steadylens.inference.restorer import Restorer, restore_array

SHOWN = 256
"""Height and width in pixels of the part that is shown, at most."""

ENLARGED = 2
"""How many pixels of the picture, each way, show one of the image: noise is fine."""

GAP = 8
"""Pixels between the two, and around what is written above them."""

WHITE = (255, 255, 255)


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """What a preview shows.

    Attributes:
        level: The noise of the whole image.
        left: First column of the part that is shown.
        top: First row of it.
        width: Its width in pixels.
        height: Its height in pixels.
    """

    level: NoiseLevel
    left: int
    top: int
    width: int
    height: int


def write_preview(
    source: Path | str,
    target: Path | str,
    restorer: Restorer,
    *,
    background: tuple[int, int, int] = WHITE,
    most_pixels: int = MOST_PIXELS,
) -> Preview:
    """Writes a picture of a part of an image file, before and after it is restored, side by side.

    The part is chosen where much is removed and there is much detail, so that both can be judged. Its pixels
    are those of the whole image when it is restored, each as a square of 2x2. Of several pages, the first
    is shown.

    Args:
        source: The file to read.
        target: The PNG file to write; one that exists is replaced.
        restorer: What restores it; its strength counts.
        background: Red, green and blue, 0 to 255, behind what is transparent.
        most_pixels: Larger images (width times height) are refused.

    Raises:
        ImageError: If the source cannot be read.
        StorageError: If the picture cannot be written.
    """
    content = read_image_file(Path(source), most_pixels=most_pixels)
    seen = examined(array_to_tensor(content.pixels), restorer)
    top, left = _telling_place(seen, *content.pixels.shape[:2])
    rows, columns = (
        slice(start, start + min(SHOWN, side))
        for start, side in zip((top, left), content.pixels.shape[:2], strict=True)
    )
    after = _restored_part(content.pixels, rows, columns, restorer)
    sides = [_shown(part, background) for part in (content.pixels[rows, columns], after)]
    share = "" if restorer.strength == 1 else f", strength {restorer.strength:g}"
    picture = _side_by_side(sides, (f"before: {seen.level}", f"after{share}"))
    profile = content.metadata.icc_profile if picture.shape[-1] == len(content.pixels[0, 0]) else b""
    metadata = Metadata(icc_profile=profile)
    write_image_file(
        Path(target), ImageContent(pixels=picture, format="PNG", lossless=True, metadata=metadata)
    )
    height, width = after.shape[:2]
    return Preview(level=seen.level, left=left, top=top, width=width, height=height)


def _telling_place(seen: Examined, height: int, width: int) -> tuple[int, int]:
    """Returns the top and left of the part of an image where most is removed from most detail."""
    top, left = (height - PART) // 2, (width - PART) // 2
    if seen.places:
        removed = avg_pool2d((seen.after - seen.before).square().mean(1, keepdim=True), BLOCK).sqrt()
        # Means of 2x2 pixels, since what is left of the noise is no detail.
        calm = avg_pool2d(seen.after.mean(1, keepdim=True), 2)
        down, across = (calm.diff(dim=axis).abs().flatten(1).mean(1) for axis in (2, 3))
        telling = removed.flatten(1).median(1).values * (down + across)
        top, left = seen.places[int(telling.argmax())]
    inset = (SHOWN - PART) // 2
    return (
        min(max(0, top - inset), max(0, height - SHOWN)),
        min(max(0, left - inset), max(0, width - SHOWN)),
    )


def _restored_part(pixels: Pixels, rows: slice, columns: slice, restorer: Restorer) -> Pixels:
    """Returns a part of the restored image, from as much of the image as the net sees around it."""
    margin, alignment = restorer.tiling.margin, restorer.tiling.alignment
    around, kept = [], []
    for span, side in zip((rows, columns), pixels.shape[:2], strict=True):
        start = max(0, span.start - margin) // alignment * alignment
        stop = min(side, -(-(span.stop + margin) // alignment) * alignment)
        around.append(slice(start, stop))
        kept.append(slice(span.start - start, span.stop - start))
    return restore_array(pixels[tuple(around)], restorer)[tuple(kept)]


def _shown(pixels: Pixels, background: tuple[int, int, int]) -> NDArray[np.uint8]:
    if pixels.shape[-1] in (2, 4):
        pixels = flattened(pixels, background)
    levels = pixels if pixels.dtype == np.uint8 else in_8_bits(pixels)
    return levels.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)


def _side_by_side(sides: list[NDArray[np.uint8]], titles: tuple[str, str]) -> NDArray[np.uint8]:
    height, width, channels = sides[0].shape
    size = 16
    font = ImageFont.load_default(size) if features.check("freetype2") else ImageFont.load_default()
    above = size + 2 * GAP
    canvas = np.full((above + height, 2 * width + GAP, channels), 255, np.uint8)
    image = Image.fromarray(canvas[..., 0] if channels == 1 else canvas)
    draw = ImageDraw.Draw(image)
    for number, title in enumerate(titles):
        texts = (title, title.partition(":")[0], "")  # as much as there is room for
        text = next(text for text in texts if draw.textlength(text, font=font) <= width)
        draw.text((number * (width + GAP), GAP), text, fill=0 if channels == 1 else (0, 0, 0), font=font)
    canvas = np.array(image).reshape(canvas.shape)
    for number, side in enumerate(sides):
        left = number * (width + GAP)
        canvas[above:, left : left + width] = side
    return canvas
