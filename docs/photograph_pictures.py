"""Draws the picture of docs/photographs.md: crops of two photographs, noisy, restored and as they were.

Usage: python docs/photograph_pictures.py PHOTOGRAPHS docs/images/photographs.jpg
PHOTOGRAPHS is the folder that docs/training_photographs.py wrote. Both photographs were for validation.
"""

import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from steadylens import load, read_image, restore, to_float, to_uint8
from steadylens.images.tensors import tensor_to_pil
from steadylens.noise.degradation import gaussian_degradation

CROPS = (("cc0/budgie-extreme-desert-hike.jpg", (0.345, 0.832)), ("cc0/pop-nasa-45068.jpg", (0.4, 0.56)))
"""Files, and the centres of the crops as shares of width and height."""

SIGMA_GREY = 25.0
SIDE, SHRINK, SCALE, TITLE = 128, 2, 2, 28
NETS = ("unet-gtsrb", "unet-photos")


def main(folder: Path, out: Path) -> None:
    """Writes the picture."""
    columns = ("noisy", *NETS, "as it was")
    picture = Image.new(
        "RGB", (len(columns) * (SIDE * SCALE + 4) - 4, TITLE + len(CROPS) * (SIDE * SCALE + 4))
    )
    picture.paste("white", (0, 0, *picture.size))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(18)
    for column, title in enumerate(columns):
        draw.text((column * (SIDE * SCALE + 4), 2), title, fill="black", font=font)
    for row, (file, (x, y)) in enumerate(CROPS):
        clean = crop(folder / file, x, y)
        generator = torch.Generator().manual_seed(row)
        noisy = gaussian_degradation(SIGMA_GREY)(clean, generator=generator)
        shown = [noisy, *(restore(noisy, load(net)) for net in NETS), clean]
        for column, image in enumerate(shown):
            tile = tensor_to_pil(to_uint8(image[0])).resize(
                (SIDE * SCALE, SIDE * SCALE), Image.Resampling.NEAREST
            )
            picture.paste(tile, (column * (SIDE * SCALE + 4), TITLE + row * (SIDE * SCALE + 4)))
    picture.save(out, quality=88)


def crop(path: Path, x: float, y: float) -> torch.Tensor:
    """Returns a part of a photograph at half of its size, (1, 3, SIDE, SIDE)."""
    whole = to_float(read_image(path))
    left, top = (
        int(share * side) - SIDE * SHRINK // 2 for share, side in ((x, whole.shape[2]), (y, whole.shape[1]))
    )
    part = whole[None, :, top : top + SIDE * SHRINK, left : left + SIDE * SHRINK]
    return torch.nn.functional.avg_pool2d(part, SHRINK)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
