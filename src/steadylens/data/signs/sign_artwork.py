"""The drawings of the 43 synthetic traffic signs: symbols, the pen that draws them, and the shapes of signs.

A symbol is drawn in coordinates of its own, x to the right and y down, both in [-1, 1]. Letters are drawn as
lines, since a font would look different on another machine. A shape, a red triangle for example, draws the
board of a sign and then the symbol on it. The classes are those of the German Traffic Sign Recognition
Benchmark, in its order; the drawings are our own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

BLACK = (24, 24, 28)

WHITE = (238, 238, 234)

RED = (192, 28, 38)

BLUE = (22, 84, 168)

YELLOW = (244, 182, 28)

GREEN = (40, 140, 70)

GREY = (120, 122, 122)

Colour = tuple[int, int, int]

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pen:
    """Draws in `colour`, in coordinates whose origin is pixel (`x`, `y`) and whose unit is `unit` pixels."""

    canvas: ImageDraw.ImageDraw
    x: float
    y: float
    unit: float
    colour: Colour = BLACK

    def at(self, x: float, y: float, scale: float) -> "Pen":
        """Returns a pen whose origin is (x, y) and whose unit is `scale` of this one's."""
        return replace(self, x=self.x + x * self.unit, y=self.y + y * self.unit, unit=scale * self.unit)

    def in_colour(self, colour: Colour) -> "Pen":
        """Returns a pen of another colour."""
        return replace(self, colour=colour)

    def fill(self, *points: Point) -> None:
        """Fills a polygon."""
        self.canvas.polygon([self._pixel(point) for point in points], fill=(*self.colour, 255))

    def disc(self, x: float, y: float, radius: float) -> None:
        """Fills a circle."""
        corners = [self._pixel((x - radius, y - radius)), self._pixel((x + radius, y + radius))]
        self.canvas.ellipse(corners, fill=(*self.colour, 255))

    def stroke(self, *points: Point, width: float) -> None:
        """Draws a line with round joints and ends."""
        pixels = [self._pixel(point) for point in points]
        self.canvas.line(pixels, fill=(*self.colour, 255), width=round(width * self.unit))
        for x, y in points:
            self.disc(x, y, width / 2)

    def arrow(self, *points: Point, width: float) -> None:
        """Draws a line that ends in an arrowhead, whose tip is the last point."""
        (x, y), (tip_x, tip_y) = points[-2:]
        length = float(np.hypot(tip_x - x, tip_y - y))
        along_x, along_y = (tip_x - x) / length, (tip_y - y) / length
        neck = (tip_x - 1.6 * width * along_x, tip_y - 1.6 * width * along_y)
        wings = [
            (neck[0] - side * 1.5 * width * along_y, neck[1] + side * 1.5 * width * along_x)
            for side in (-1, 1)
        ]
        self.stroke(*points[:-1], neck, width=width)
        self.fill((tip_x, tip_y), *wings)

    def _pixel(self, point: Point) -> Point:
        return self.x + point[0] * self.unit, self.y + point[1] * self.unit


Symbol = Callable[[Pen], None]
"""Draws a symbol with a pen."""


def arc(x: float, y: float, radii: Point, start: float, stop: float) -> list[Point]:
    """Returns points on an ellipse; the angles are degrees, 0 to the right, growing clockwise."""
    angles = np.radians(np.linspace(start, stop, 33))
    return [(x + radii[0] * float(np.cos(a)), y + radii[1] * float(np.sin(a))) for a in angles]


def _strokes(letter: str) -> Sequence[Sequence[Point]]:
    ring = arc(0, 0, (0.5, 1), 0, 360)
    strokes: dict[str, Sequence[Sequence[Point]]] = {
        "0": [ring],
        "1": [[(-0.35, -0.5), (0.1, -1), (0.1, 1)]],
        "2": [[*arc(0, -0.48, (0.48, 0.52), 190, 395), (-0.48, 1), (0.52, 1)]],
        "3": [[*arc(0, -0.52, (0.44, 0.48), 195, 450), *arc(0, 0.48, (0.5, 0.52), 270, 525)]],
        "5": [[(0.42, -1), (-0.36, -1), (-0.42, -0.1), *arc(0, 0.4, (0.5, 0.6), 235, 505)]],
        "6": [arc(0, 0.42, (0.5, 0.58), 0, 360), arc(0.4, 0.42, (0.9, 1.45), 180, 262)],
        "7": [[(-0.5, -1), (0.5, -1), (-0.12, 1)]],
        "8": [arc(0, -0.52, (0.42, 0.48), 0, 360), arc(0, 0.48, (0.5, 0.52), 0, 360)],
        "O": [ring],
        "P": [[(-0.45, 1), (-0.45, -1), *arc(0, -0.45, (0.5, 0.55), 270, 450), (-0.45, 0.1)]],
        "S": [[*arc(0, -0.5, (0.48, 0.5), -25, -270), *arc(0, 0.5, (0.48, 0.5), -90, 155)]],
        "T": [[(-0.55, -1), (0.55, -1)], [(0, -1), (0, 1)]],
    }
    return strokes[letter]


def text(pen: Pen, letters: str, *, cell: Point, width: float) -> None:
    """Draws letters side by side; `cell` is the width and half the height of one letter."""
    left = -(len(letters) - 1) / 2
    for column, letter in enumerate(letters):
        for points in _strokes(letter):
            middle = (left + column) * cell[0]
            pen.stroke(*[(middle + 0.66 * x * cell[0], y * cell[1]) for x, y in points], width=width)


def number(pen: Pen, digits: str) -> None:
    """Draws a speed limit, two or three digits."""
    cell = (0.74, 0.56) if len(digits) == 2 else (0.56, 0.5)
    text(pen, digits, cell=cell, width=0.19 if len(digits) == 2 else 0.16)


def nothing(pen: Pen) -> None:
    """Draws no symbol."""


def inset(pen: Pen, symbol: Symbol, scale: float) -> None:
    """Draws a symbol at a smaller scale."""
    symbol(pen.at(0, 0, scale))


def car(pen: Pen) -> None:
    """Draws a car from behind."""
    pen.fill((-0.95, -0.05), (0.95, -0.05), (0.95, 0.5), (-0.95, 0.5))
    pen.fill((-0.75, 0), (-0.5, -0.6), (0.5, -0.6), (0.75, 0))
    pen.fill((-0.85, 0.4), (-0.4, 0.4), (-0.4, 0.8), (-0.85, 0.8))
    pen.fill((0.4, 0.4), (0.85, 0.4), (0.85, 0.8), (0.4, 0.8))


def lorry(pen: Pen) -> None:
    """Draws a lorry that drives to the left."""
    pen.fill((-0.35, -0.6), (1, -0.6), (1, 0.35), (-0.35, 0.35))
    pen.fill((-1, 0.35), (-1, -0.05), (-0.8, -0.35), (-0.45, -0.35), (-0.45, 0.35))
    for x in (-0.7, 0.2, 0.65):
        pen.disc(x, 0.42, 0.2)


def overtaking(pen: Pen, left: Symbol, colour: Colour) -> None:
    """Draws a car and, to its left in another colour, the vehicle that overtakes it."""
    left(pen.at(-0.45, 0, 0.46).in_colour(colour))
    car(pen.at(0.48, 0, 0.42))


def crossroads(pen: Pen) -> None:
    """Draws a main road that a side road crosses."""
    pen.fill((0, -1), (0.4, -0.3), (0.18, -0.3), (0.18, 0.95), (-0.18, 0.95), (-0.18, -0.3), (-0.4, -0.3))
    pen.fill((-0.65, 0.2), (0.65, 0.2), (0.65, 0.42), (-0.65, 0.42))


def exclamation(pen: Pen) -> None:
    """Draws an exclamation mark."""
    pen.fill((-0.2, -1), (0.2, -1), (0.11, 0.4), (-0.11, 0.4))
    pen.disc(0, 0.75, 0.2)


def bend(pen: Pen, side: int) -> None:
    """Draws a road that bends to the right (`side` = 1) or to the left (-1)."""
    pen.arrow((-0.4 * side, 0.9), (-0.4 * side, 0.1), (-0.2 * side, -0.25), (0.8 * side, -0.4), width=0.27)


def double_bend(pen: Pen) -> None:
    """Draws a road that bends to the left, then back."""
    pen.arrow((0.45, 0.9), (0.45, 0.4), (-0.35, 0.05), (-0.35, -0.25), (0.4, -1.05), width=0.26)


def bumps(pen: Pen) -> None:
    """Draws two humps of the road."""
    pen.fill((-1, 0.6), *arc(-0.45, 0.6, (0.5, 0.8), 180, 360), (1, 0.6), (1, 0.85), (-1, 0.85))
    pen.fill(*arc(0.45, 0.6, (0.5, 0.8), 180, 360))


def skid(pen: Pen) -> None:
    """Draws a car that leaves wavy tracks."""
    car(pen.at(0.08, -0.4, 0.55))
    for x in (-0.35, 0.4):
        pen.stroke((x, 0.15), (x + 0.22, 0.38), (x - 0.12, 0.62), (x + 0.1, 0.9), width=0.15)


def narrowing(pen: Pen) -> None:
    """Draws a road whose right edge moves in."""
    pen.stroke((-0.35, 0.9), (-0.35, -0.9), width=0.2)
    pen.stroke((0.55, 0.9), (0.55, 0.3), (0.15, -0.15), (0.15, -0.9), width=0.2)


def digger(pen: Pen) -> None:
    """Draws a worker with a shovel and a heap."""
    pen.disc(-0.1, -0.75, 0.2)
    pen.stroke((-0.2, -0.45), (-0.5, 0.1), width=0.32)
    pen.stroke((-0.5, 0.1), (-0.35, 0.85), width=0.22)
    pen.stroke((-0.5, 0.1), (-0.85, 0.85), width=0.22)
    pen.stroke((-0.2, -0.35), (0.2, 0.05), (-0.2, 0.25), width=0.15)
    pen.stroke((-0.45, 0.0), (0.5, 0.5), width=0.12)
    pen.fill((0.1, 0.9), (0.6, 0.2), (1.05, 0.9))


def signals(pen: Pen) -> None:
    """Draws three lamps."""
    pen.stroke((0, -0.6), (0, 0.6), width=0.75)
    for y, colour in ((-0.6, RED), (0, YELLOW), (0.6, GREEN)):
        pen.in_colour(colour).disc(0, y, 0.25)


def walker(pen: Pen) -> None:
    """Draws a person who walks."""
    pen.disc(0.05, -0.8, 0.2)
    pen.stroke((0.02, -0.4), (0, 0.05), width=0.36)
    pen.stroke((0, 0.1), (0.3, 0.5), (0.35, 0.95), width=0.2)
    pen.stroke((0, 0.1), (-0.15, 0.5), (-0.45, 0.9), width=0.2)
    pen.stroke((0, -0.45), (0.45, 0.0), width=0.15)
    pen.stroke((0, -0.45), (-0.45, -0.05), width=0.15)


def children(pen: Pen) -> None:
    """Draws two children, one larger, hand in hand."""
    walker(pen.at(-0.45, 0.2, 0.72))
    walker(pen.at(0.5, -0.05, 0.95))
    pen.stroke((-0.4, -0.1), (0.3, -0.2), width=0.13)


def bicycle(pen: Pen) -> None:
    """Draws a bicycle from the side."""
    for x in (-0.62, 0.62):
        pen.stroke(*arc(x, 0.35, (0.42, 0.42), 0, 360), width=0.14)
    pen.stroke((-0.62, 0.35), (-0.25, -0.3), (0.35, -0.3), (0, 0.35), (-0.62, 0.35), width=0.13)
    pen.stroke((0.62, 0.35), (0.25, -0.6), (0.55, -0.65), width=0.13)
    pen.stroke((0, 0.35), (-0.32, -0.5), width=0.13)
    pen.stroke((-0.5, -0.5), (-0.15, -0.5), width=0.15)


def snowflake(pen: Pen) -> None:
    """Draws a snowflake."""
    for angle in np.radians(np.arange(0, 360, 60) + 30):
        x, y = float(np.cos(angle)), float(np.sin(angle))
        pen.stroke((0, 0), (0.95 * x, 0.95 * y), width=0.14)
        for side in (-0.32, 0.32):
            tip = (0.85 * x - side * y, 0.85 * y + side * x)
            pen.stroke((0.5 * x, 0.5 * y), tip, width=0.12)


def deer(pen: Pen) -> None:
    """Draws a leaping deer."""
    pen.stroke((-0.5, 0.05), (0.35, -0.1), width=0.42)
    pen.stroke((0.4, -0.1), (0.62, -0.5), (0.9, -0.4), width=0.22)
    pen.stroke((0.6, -0.5), (0.4, -0.75), (0.55, -1.05), width=0.1)
    pen.stroke((0.6, -0.5), (0.75, -0.8), (0.7, -1.05), width=0.1)
    for hip, knee, hoof in ((-0.55, -0.8, -1.0), (-0.45, -0.3, -0.5), (0.4, 0.75, 0.6), (0.3, 0.55, 0.95)):
        pen.stroke((hip, 0.1), (knee, 0.5), (hoof, 0.9), width=0.15)


def turn(pen: Pen, side: int) -> None:
    """Draws an arrow that turns to the right (`side` = 1) or to the left (-1)."""
    pen.arrow((-0.3 * side, 0.75), (-0.3 * side, 0.0), (-0.05 * side, -0.25), (0.8 * side, -0.25), width=0.24)


def ahead(pen: Pen) -> None:
    """Draws an arrow straight up."""
    pen.arrow((0, 0.8), (0, -0.85), width=0.26)


def ahead_or(pen: Pen, side: int) -> None:
    """Draws an arrow straight up that forks to the right (`side` = 1) or to the left (-1)."""
    pen.arrow((-0.25 * side, 0.8), (-0.25 * side, -0.85), width=0.22)
    pen.arrow((-0.25 * side, 0.3), (0, 0.15), (0.8 * side, 0.15), width=0.22)


def keep(pen: Pen, side: int) -> None:
    """Draws an arrow down to the right (`side` = 1) or to the left (-1)."""
    pen.arrow((-0.55 * side, -0.55), (0.68 * side, 0.68), width=0.27)


def roundabout(pen: Pen) -> None:
    """Draws three arrows in a circle."""
    for start in (20, 140, 260):
        pen.arrow(*arc(0, 0, (0.64, 0.64), start, start - 88)[::4], width=0.2)


DRAWING_SIDE = 128
"""Height and width of the drawing of a class, in pixels."""

_OVERSAMPLING = 4  # Pillow draws without antialiasing, so draw larger and average

_FADED = (220, 200, 190)  # what any colour fades to in the sun

Shape = Callable[[Pen, Symbol], None]
"""Draws the board of a sign, then the symbol on it."""


def _round(
    pen: Pen, symbol: Symbol, *, border: Colour, background: Colour, colour: Colour, inner: float
) -> None:
    pen.in_colour(WHITE).disc(0, 0, 0.97)
    pen.in_colour(border).disc(0, 0, 0.93)
    pen.in_colour(background).disc(0, 0, inner)
    symbol(pen.at(0, 0, 0.72).in_colour(colour))


_ban = partial(_round, border=RED, background=WHITE, colour=BLACK, inner=0.7)

_order = partial(_round, border=BLUE, background=BLUE, colour=WHITE, inner=0.9)


def _end(pen: Pen, symbol: Symbol) -> None:
    _round(pen, symbol, border=GREY, background=WHITE, colour=GREY, inner=0.88)
    for shift in (-0.16, -0.08, 0, 0.08, 0.16):
        pen.stroke((-0.6 + shift, 0.6 + shift), (0.6 + shift, -0.6 + shift), width=0.05)


def _triangle(pen: Pen, symbol: Symbol, *, up: int) -> None:
    corners = [(0, -0.78 * up), (0.82, 0.66 * up), (-0.82, 0.66 * up)]
    for colour, width in ((WHITE, 0.3), (RED, 0.24)):
        pen.in_colour(colour).stroke(*corners, corners[0], width=width)
        pen.in_colour(colour).fill(*corners)
    pen.in_colour(WHITE).fill(*[(0.76 * x, 0.76 * y + 0.045 * up) for x, y in corners])
    symbol(pen.at(0, 0.2, 0.42))


_warning = partial(_triangle, up=1)

_yield = partial(_triangle, up=-1)


def _stop(pen: Pen, symbol: Symbol) -> None:
    for colour, radius in ((WHITE, 1.0), (RED, 0.93)):
        pen.in_colour(colour).fill(*arc(0, 0, (radius, radius), 22.5, 382.5)[::4])
    symbol(pen.at(0, 0, 0.9).in_colour(WHITE))


def _diamond(pen: Pen, symbol: Symbol) -> None:
    for colour, radius in ((BLACK, 0.98), (WHITE, 0.94), (YELLOW, 0.62)):
        pen.in_colour(colour).fill((0, -radius), (radius, 0), (0, radius), (-radius, 0))
    symbol(pen)


def _no_entry(pen: Pen, symbol: Symbol) -> None:
    _round(pen, symbol, border=RED, background=RED, colour=WHITE, inner=0.9)
    pen.in_colour(WHITE).fill((-0.72, -0.2), (0.72, -0.2), (0.72, 0.2), (-0.72, 0.2))


class Design(NamedTuple):
    """What a sign looks like: its shape and the symbol on it."""

    shape: Shape
    symbol: Symbol


DESIGNS = (
    *(Design(_ban, partial(number, digits=str(limit))) for limit in (20, 30, 50, 60, 70, 80)),
    Design(_end, partial(number, digits="80")),
    *(Design(_ban, partial(number, digits=str(limit))) for limit in (100, 120)),
    Design(_ban, partial(overtaking, left=car, colour=RED)),
    Design(_ban, partial(overtaking, left=lorry, colour=RED)),
    Design(_warning, crossroads),
    Design(_diamond, nothing),
    Design(_yield, nothing),
    Design(_stop, partial(text, letters="STOP", cell=(0.43, 0.35), width=0.13)),
    Design(_ban, nothing),
    Design(_ban, partial(inset, symbol=lorry, scale=0.78)),
    Design(_no_entry, nothing),
    Design(_warning, exclamation),
    Design(_warning, partial(bend, side=-1)),
    Design(_warning, partial(bend, side=1)),
    Design(_warning, double_bend),
    Design(_warning, bumps),
    Design(_warning, skid),
    Design(_warning, narrowing),
    Design(_warning, digger),
    Design(_warning, signals),
    Design(_warning, walker),
    Design(_warning, children),
    Design(_warning, bicycle),
    Design(_warning, snowflake),
    Design(_warning, deer),
    Design(_end, nothing),
    Design(_order, partial(turn, side=1)),
    Design(_order, partial(turn, side=-1)),
    Design(_order, ahead),
    Design(_order, partial(ahead_or, side=1)),
    Design(_order, partial(ahead_or, side=-1)),
    Design(_order, partial(keep, side=1)),
    Design(_order, partial(keep, side=-1)),
    Design(_order, roundabout),
    Design(_end, partial(overtaking, left=car, colour=GREY)),
    Design(_end, partial(overtaking, left=lorry, colour=GREY)),
)
"""The designs of the signs, in the order of `sources.CLASS_NAMES`."""


class SignImages(NamedTuple):
    """The sign of one class seen from the front: new (RGB), faded by the sun (RGB), and its outline (L)."""

    new: Image.Image
    faded: Image.Image
    outline: Image.Image


@cache
def sign_images(label: int) -> SignImages:
    """Returns the sign of a class, `DRAWING_SIDE` pixels a side; cached: copy before changing."""
    side = DRAWING_SIDE * _OVERSAMPLING
    image = Image.new("RGBA", (side, side))
    pen = Pen(canvas=ImageDraw.Draw(image), x=side / 2, y=side / 2, unit=side / 2)
    design = DESIGNS[label]
    design.shape(pen, design.symbol)
    drawing = image.reduce(_OVERSAMPLING)
    new = Image.merge("RGB", drawing.split()[:3])
    faded = Image.blend(new.convert("L").convert("RGB"), Image.new("RGB", new.size, _FADED), 0.4)
    return SignImages(new, faded, drawing.getchannel("A"))
