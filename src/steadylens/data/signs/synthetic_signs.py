"""Synthetic traffic signs: drawings of the 43 classes of the German benchmark, as a car's camera sees them.

One track is one physical sign: its background, wear and light stay the same, while distance, pose and blur
vary from frame to frame. The background is sky, houses or foliage. Sensor noise stays below two grey levels,
because the package adds and measures noise itself.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from steadylens.data.signs.sign_artwork import DRAWING_SIDE, SignImages, arc, sign_images
from steadylens.data.sources import CLASS_NAMES
from steadylens.errors import SettingError
from steadylens.images.tensors import GREY_LEVELS

Floats = NDArray[np.float32]

# Pairs of colours in grey levels: top and bottom of a sky; the darkest and lightest colour of a texture.
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
    """Returns a smooth random field with details of several sizes.

    Args:
        rng: Source of randomness.
        cells: The number of grid cells along a side, from the coarsest grid to the finest.
        side: Height and width in pixels.

    Returns:
        The field, (side, side), scaled to [0, 1].
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
    """Returns a street scene, RGB, `side` pixels high and wide, with room for a sign in its middle."""
    scene = _sky(rng, side)
    if rng.random() < 0.4:
        _add_houses(scene, rng)
    if rng.random() < 0.75:
        _add_foliage(scene, rng)
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


def _add_houses(scene: Image.Image, rng: np.random.Generator) -> None:
    """Draws houses with rows of windows onto the scene."""
    canvas, side = ImageDraw.Draw(scene), scene.width
    for _ in range(rng.integers(1, 4)):
        left, top = side * rng.uniform(-0.3, 0.8), side * rng.uniform(-0.2, 0.6)
        right = left + side * rng.uniform(0.25, 0.7)
        canvas.rectangle((left, top, right, side), fill=_shade(rng, _WALLS[rng.integers(len(_WALLS))]))
        glass, step = _shade(rng, [70, 78, 88]), side * rng.uniform(0.1, 0.22)
        for x in np.arange(left + 0.3 * step, right - 0.7 * step, step):
            for y in np.arange(top + 0.4 * step, side, 1.4 * step):
                canvas.rectangle((x, y, x + 0.55 * step, y + 0.8 * step), fill=glass)


def _add_foliage(scene: Image.Image, rng: np.random.Generator) -> None:
    """Pastes foliage, bare twigs or a similar texture onto one side of the scene, with a ragged edge."""
    side = scene.width
    dark, light = _TEXTURES[rng.integers(len(_TEXTURES))]
    details = noise_field(rng, cells=(5, 14, 40), side=side)[..., None] ** rng.uniform(1, 2.5)
    texture = Image.fromarray((dark + (light - dark) * details).astype(np.uint8))
    slope = rng.normal([0, 0.6], 0.5)
    position = np.linspace(-0.5, 0.5, side, dtype=np.float32)
    height = slope[0] * position + slope[1] * position[:, None] + rng.uniform(-0.1, 0.6)
    covered = height + 0.7 * (noise_field(rng, cells=(4, 16), side=side) - 0.5) > 0
    scene.paste(texture, mask=Image.fromarray((covered * 255).astype(np.uint8)))


def _add_board(canvas: ImageDraw.ImageDraw, rng: np.random.Generator, side: int) -> None:
    """Draws a part of another sign at the upper or lower edge of the scene."""
    middle, radius = side * rng.normal(0.5, 0.05), side * rng.uniform(0.25, 0.4)
    height = side * rng.uniform(0.2, 0.25) + radius
    y = side / 2 + height * rng.choice([-1, 1]) * 1.4
    outer, inner = (_shade(rng, _BOARDS[i]) for i in rng.choice(len(_BOARDS), 2, replace=False))
    for reach, colour in ((radius, outer), (0.75 * radius, inner)):
        corners = (middle - reach, y - reach, middle + reach, y + reach)
        if rng.random() < 0.5:
            canvas.ellipse(corners, fill=colour)
        else:
            canvas.rectangle(corners, fill=colour)


def _shade(rng: np.random.Generator, colour: object) -> tuple[int, int, int]:
    red, green, blue = (np.asarray(colour) * rng.uniform(0.6, 1.2) + rng.normal(0, 6, 3)).clip(0, 255)
    return int(red), int(green), int(blue)


MINIMUM_SIZE = 16
"""The smallest images in which the classes can be distinguished, in pixels."""

_CANVAS_SCALE = 2  # a frame is composed at twice its size, for finer blur and resolution

_LOWEST_RESOLUTION = 15  # pixels, as in the smallest images of the benchmark


@dataclass(frozen=True, kw_only=True, slots=True)
class _Track:
    """The properties that all frames of one physical sign share.

    Attributes:
        sign: The weathered sign, RGBA, on a transparent background.
        backdrop: The scene behind it, RGB, somewhat larger than a frame.
        gain: Brightness of each channel, 1 for the colours of the drawing.
        gamma: Exponent of the camera's tone curve.
        haze: Light that haze and the lens add to every pixel, as a share of the gain.
        noise_grey: Standard deviation of the sensor's noise, in grey levels.
        tilt: Rotation in radians.
        squeeze: Ratio of width to height, below 1 where the sign is seen at an angle.
        resolutions: Pixels along the frame's side at the farthest and at the nearest point.
    """

    sign: Image.Image
    backdrop: Image.Image
    gain: Floats
    gamma: float
    haze: float
    noise_grey: float
    tilt: float
    squeeze: float
    resolutions: tuple[float, float]


def draw_track(label: int, *, frames: int, rng: np.random.Generator, size: int = 48) -> NDArray[np.uint8]:
    """Draws one physical sign in several views, from the farthest to the nearest.

    Args:
        label: The class, an index into `sources.CLASS_NAMES`.
        frames: The number of views.
        rng: Source of all randomness; the same state gives the same track.
        size: Height and width of a view in pixels.

    Returns:
        The views, RGB, (frames, 3, size, size).

    Raises:
        SettingError: If there is no class of this number, or there are too few frames or pixels.
    """
    if not 0 <= label < len(CLASS_NAMES):
        raise SettingError(f"label is {label}, it must be the number of a class, 0 to {len(CLASS_NAMES) - 1}")
    if frames < 1:
        raise SettingError(f"frames is {frames}, a track needs at least 1 view")
    if size < MINIMUM_SIZE:
        raise SettingError(f"size is {size}, the signs need at least {MINIMUM_SIZE} pixels a side")
    track = _start_track(label, rng, size)
    approach = np.sort(rng.random(frames))
    views = [_take_photograph(track, step, rng, size) for step in approach]
    return np.stack(views).transpose(0, 3, 1, 2).copy()


def _start_track(label: int, rng: np.random.Generator, size: int) -> _Track:
    nearest = float(size * np.exp(rng.normal(0.1, 0.4)))
    return _Track(
        sign=_weathered(sign_images(label), rng),
        backdrop=draw_backdrop(rng, side=size * 5 // 4),
        gain=(np.exp(min(rng.normal(-0.35, 0.5), 0.35)) * np.exp(rng.normal(0, 0.06, 3))).astype(np.float32),
        gamma=float(rng.uniform(0.8, 1.3)),
        haze=float(0.25 * rng.beta(1, 4)),
        noise_grey=float(rng.uniform(0, 1.5)),
        tilt=float(rng.normal(0, 0.08)),
        squeeze=float(1 - abs(rng.normal(0, 0.08))),
        resolutions=(nearest * rng.uniform(0.35, 0.8), nearest),
    )


def _weathered(drawings: SignImages, rng: np.random.Generator) -> Image.Image:
    """Returns a sign, RGBA, faded and dirty, sometimes with a shadow, leaves or a sticker on it."""
    faded = Image.blend(drawings.new, drawings.faded, 0.65 * rng.beta(1, 3))
    dirt = noise_field(rng, cells=(4, 20), side=DRAWING_SIDE) ** 2
    light = 1 - 0.7 * rng.beta(1, 3) * dirt
    if rng.random() < 0.2:
        shadow = noise_field(rng, cells=(2, int(rng.integers(3, 12))), side=DRAWING_SIDE)
        light *= 1 - rng.uniform(0.3, 0.6) * (8 * (shadow - 0.5) + 0.5).clip(0, 1)
    colours = np.asarray(faded) * light[..., None]
    sign = Image.fromarray(colours.astype(np.uint8))
    sign.putalpha(drawings.outline)
    if rng.random() < 0.12:
        _add_cover(sign, rng)
    return sign


def _add_cover(sign: Image.Image, rng: np.random.Generator) -> None:
    """Draws a sticker, or leaves at one edge, onto the sign."""
    canvas = ImageDraw.Draw(sign)
    if rng.random() < 0.3:
        x, y = rng.uniform(0.25, 0.65, 2) * DRAWING_SIDE
        width, height = rng.uniform(0.08, 0.2, 2) * DRAWING_SIDE
        canvas.rectangle((x, y, x + width, y + height), fill=(*rng.integers(30, 240, 3).tolist(), 255))
        return
    angle = rng.uniform(0, 2 * np.pi)
    centre = DRAWING_SIDE * (0.5 + 0.42 * np.array([np.cos(angle), np.sin(angle)]))
    colour = rng.uniform(0.3, 1.1) * np.array([90, 120, 50])
    for _ in range(rng.integers(4, 14)):
        x, y = rng.normal(centre, 0.1 * DRAWING_SIDE)
        outline = arc(x, y, (12 * rng.uniform(0.5, 1), 5), 0, 360)
        canvas.polygon(outline, fill=(*(colour * rng.uniform(0.6, 1.3)).astype(int).tolist(), 255))


def _take_photograph(track: _Track, step: float, rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """Returns one view, (size, size, 3), at `step` of the approach, from 0 (far) to 1 (near)."""
    canvas = _CANVAS_SCALE * size
    scene = _compose(track, rng, canvas)
    blur = canvas * 0.007 * rng.exponential()
    if blur > 0.5:  # weaker blur does not show at this resolution
        scene = scene.filter(ImageFilter.GaussianBlur(blur))
    if rng.random() < 0.2:
        angle, length = rng.uniform(0, np.pi), canvas * rng.uniform(0.02, 0.07)
        scene = _motion_blur(scene, length * np.cos(angle), length * np.sin(angle))
    far, near = track.resolutions
    resolution = int(np.clip(far * (near / far) ** step, _LOWEST_RESOLUTION, canvas))
    small = scene.resize((resolution,) * 2, Image.Resampling.BOX)
    exposed = Image.fromarray(_expose(np.asarray(small), track, rng))
    return np.array(exposed.resize((size, size), Image.Resampling.BILINEAR))


def _compose(track: _Track, rng: np.random.Generator, canvas: int) -> Image.Image:
    """Puts the sign in front of the backdrop, in a random pose."""
    width = track.backdrop.width * rng.uniform(0.55, 0.8)
    left, top = rng.uniform([0.3, 0], [0.7, 1]) * (track.backdrop.width - width)
    box = (left, top, left + width, top + width)
    scene = track.backdrop.resize((canvas, canvas), Image.Resampling.BILINEAR, box)
    reach = rng.uniform(0.7, 1.0)
    angle = track.tilt + rng.normal(0, 0.03)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    square = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    corners = square * [track.squeeze, 1] @ turn * reach + rng.normal(0, 0.03, (4, 2))
    corners += rng.uniform(-1, 1, 2) * (0.03 + 0.5 * (1 - reach))
    coefficients = _perspective((corners + 1) * canvas / 2, (square + 1) * DRAWING_SIDE / 2)
    sign = track.sign.transform(
        (canvas, canvas), Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BILINEAR
    )
    scene.paste(sign, mask=sign)
    return scene


def _perspective(seen: NDArray[np.float64], flat: NDArray[np.float64]) -> list[float]:
    """Returns Pillow's eight coefficients of the perspective that maps four seen points to flat ones."""
    rows = []
    for (x, y), (u, v) in zip(seen, flat, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    return [float(coefficient) for coefficient in np.linalg.solve(np.array(rows), flat.ravel())]


def _motion_blur(scene: Image.Image, across: float, down: float) -> Image.Image:
    """Averages copies of the scene that are shifted along a line; border pixels are repeated."""
    path = np.rint(np.linspace(-0.5, 0.5, 7)[:, None] * [down, across]).astype(int)
    margin = int(np.abs(path).max())
    padded = np.pad(np.array(scene), ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    total = np.zeros((scene.height, scene.width, 3), np.uint16)
    for y, x in path + margin:
        total += padded[y : y + scene.height, x : x + scene.width]
    return Image.fromarray((total // len(path)).astype(np.uint8))


def _expose(scene: NDArray[np.uint8], track: _Track, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Applies brightness, a gradient of light and sensor noise, and clips to 8 bits as a camera does."""
    side = scene.shape[0]
    position = np.linspace(-0.5, 0.5, side, dtype=np.float32)
    down, across = rng.normal(0, 0.25, 2).tolist()
    gradient = (1 + down * position[:, None] + across * position).clip(0.3)[..., None]
    gain = track.gain * float(np.exp(rng.normal(0, 0.12)))
    light = (scene / np.float32(GREY_LEVELS)) ** track.gamma * gain * gradient
    noise = track.noise_grey * rng.standard_normal(scene.shape, np.float32)
    levels = GREY_LEVELS * (light + track.haze * gain.mean()) + noise
    exposed: NDArray[np.uint8] = np.rint(levels.clip(0, GREY_LEVELS)).astype(np.uint8)
    return exposed
