"""Where a synthetic traffic sign stands: sky, house fronts, foliage, a pole, the edge of another sign."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Floats = NDArray[np.float32]

# Pairs of colours in grey levels: a sky's upper and lower one, a texture's darkest and lightest one.
_SKIES = np.array(
    [
        [[90, 140, 205], [175, 200, 225]],
        [[225, 230, 235], [250, 250, 250]],
        [[150, 155, 160], [195, 195, 195]],
        [[70, 80, 105], [200, 165, 130]],
    ]
)
_TEXTURES = np.array(
    [
        [[14, 28, 12], [120, 150, 70]],
        [[22, 30, 16], [185, 190, 120]],
        [[40, 24, 12], [205, 150, 60]],
        [[30, 26, 24], [150, 140, 130]],
        [[60, 62, 66], [130, 132, 134]],
    ]
)
_WALLS = np.array([[188, 174, 150], [150, 88, 70], [205, 205, 200], [120, 120, 125], [214, 190, 120]])
_BOARDS = np.array([[186, 32, 42], [235, 235, 230], [30, 80, 160], [240, 190, 40]])


def noise_field(rng: np.random.Generator, *, cells: tuple[int, ...], side: int) -> Floats:
    """Draws a smooth random field with details of several sizes.

    Args:
        rng: Source of randomness.
        cells: The number of grid cells along a side, octave by octave, coarse to fine.
        side: Height and width in pixels.

    Returns:
        The field, (side, side), scaled to reach exactly from 0 to 1.
    """
    sum_so_far = Image.new("F", (1, 1))
    for count in cells:
        enlarged = sum_so_far.resize((count, count), Image.Resampling.BICUBIC)
        sum_so_far = Image.fromarray(np.asarray(enlarged) + rng.random((count, count), dtype=np.float32))
    field: Floats = np.array(sum_so_far.resize((side, side), Image.Resampling.BICUBIC))
    field -= field.min()
    field /= field.max()
    return field


def draw_backdrop(rng: np.random.Generator, *, side: int) -> Image.Image:
    """Draws a cluttered street scene, RGB, `side` pixels high and wide, with its middle left for a sign."""
    scene = _sky(rng, side)
    if rng.random() < 0.4:
        _build(scene, rng)
    if rng.random() < 0.75:
        _grow(scene, rng)
    canvas = ImageDraw.Draw(scene)
    if rng.random() < 0.6:
        middle, half = side * rng.normal(0.5, 0.02), side * rng.uniform(0.015, 0.035)
        canvas.rectangle((middle - half, side / 2, middle + half, side), fill=_shade(rng, [125, 127, 130]))
    if rng.random() < 0.25:
        _add_board(canvas, rng, side)
    return scene


def _sky(rng: np.random.Generator, side: int) -> Image.Image:
    pair = _SKIES[rng.integers(len(_SKIES))] * rng.uniform(0.75, 1.05)
    two_pixels = Image.fromarray(pair.clip(0, 255).astype(np.uint8)[:, None])
    return two_pixels.resize((side, side), Image.Resampling.BILINEAR)


def _build(scene: Image.Image, rng: np.random.Generator) -> None:
    """Draws house fronts with rows of windows over the scene."""
    canvas, side = ImageDraw.Draw(scene), scene.width
    for _ in range(rng.integers(1, 4)):
        left, top = side * rng.uniform(-0.3, 0.8), side * rng.uniform(-0.2, 0.6)
        right = left + side * rng.uniform(0.25, 0.7)
        canvas.rectangle((left, top, right, side), fill=_shade(rng, _WALLS[rng.integers(len(_WALLS))]))
        glass, step = _shade(rng, [70, 78, 88]), side * rng.uniform(0.1, 0.22)
        for x in np.arange(left + 0.3 * step, right - 0.7 * step, step):
            for y in np.arange(top + 0.4 * step, side, 1.4 * step):
                canvas.rectangle((x, y, x + 0.55 * step, y + 0.8 * step), fill=glass)


def _grow(scene: Image.Image, rng: np.random.Generator) -> None:
    """Pastes foliage, bare twigs or the like over the part of the scene below a ragged border."""
    side = scene.width
    dark, light = _TEXTURES[rng.integers(len(_TEXTURES))]
    details = noise_field(rng, cells=(5, 14, 40), side=side)[..., None] ** rng.uniform(1, 2.5)
    texture = Image.fromarray((dark + (light - dark) * details).astype(np.uint8))
    slope = rng.normal([0, 0.6], 0.5)
    place = np.linspace(-0.5, 0.5, side, dtype=np.float32)
    height = slope[0] * place + slope[1] * place[:, None] + rng.uniform(-0.1, 0.6)
    covered = height + 0.7 * (noise_field(rng, cells=(4, 16), side=side) - 0.5) > 0
    scene.paste(texture, mask=Image.fromarray((covered * 255).astype(np.uint8)))


def _add_board(canvas: ImageDraw.ImageDraw, rng: np.random.Generator, side: int) -> None:
    """Draws the part of another sign that reaches into the scene from above or below."""
    middle, radius = side * rng.normal(0.5, 0.05), side * rng.uniform(0.25, 0.4)
    height = side * rng.uniform(0.2, 0.25) + radius
    y = side / 2 + height * rng.choice([-1, 1]) * 1.4
    outer, inner = (_shade(rng, _BOARDS[i]) for i in rng.choice(len(_BOARDS), 2, replace=False))
    for reach, ink in ((radius, outer), (0.75 * radius, inner)):
        corners = (middle - reach, y - reach, middle + reach, y + reach)
        if rng.random() < 0.5:
            canvas.ellipse(corners, fill=ink)
        else:
            canvas.rectangle(corners, fill=ink)


def _shade(rng: np.random.Generator, colour: object) -> tuple[int, int, int]:
    red, green, blue = (np.asarray(colour) * rng.uniform(0.6, 1.2) + rng.normal(0, 6, 3)).clip(0, 255)
    return int(red), int(green), int(blue)
