"""The plates of the 43 synthetic traffic signs, seen straight on: new, and wholly faded.

A plate draws its ground and rim and hands the symbol a pen for the inner part. The classes have the order
of the German Traffic Sign Recognition Benchmark; the drawings are our own.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

from PIL import Image, ImageDraw

from steadylens import pictographs as symbols
from steadylens.pictographs import BLACK, BLUE, GREY, RED, WHITE, YELLOW, Colour, Pen, Symbol, arc

MASTER_SIDE = 128
"""Height and width of the drawing of a class, in pixels."""

_OVERSAMPLING = 4  # Pillow draws without antialiasing: draw larger, then average
_ASHEN = (220, 200, 190)  # what the sun leaves of any paint, in the end

Plate = Callable[[Pen, Symbol], None]


def _round(pen: Pen, symbol: Symbol, *, rim: Colour, ground: Colour, ink: Colour, inner: float) -> None:
    pen.dip(WHITE).disc(0, 0, 0.97)
    pen.dip(rim).disc(0, 0, 0.93)
    pen.dip(ground).disc(0, 0, inner)
    symbol(pen.at(0, 0, 0.72).dip(ink))


_ban = partial(_round, rim=RED, ground=WHITE, ink=BLACK, inner=0.7)
_order = partial(_round, rim=BLUE, ground=BLUE, ink=WHITE, inner=0.9)


def _end(pen: Pen, symbol: Symbol) -> None:
    _round(pen, symbol, rim=GREY, ground=WHITE, ink=GREY, inner=0.88)
    for shift in (-0.16, -0.08, 0, 0.08, 0.16):
        pen.stroke((-0.6 + shift, 0.6 + shift), (0.6 + shift, -0.6 + shift), width=0.05)


def _triangle(pen: Pen, symbol: Symbol, *, up: int) -> None:
    corners = [(0, -0.78 * up), (0.82, 0.66 * up), (-0.82, 0.66 * up)]
    for ink, width in ((WHITE, 0.3), (RED, 0.24)):
        pen.dip(ink).stroke(*corners, corners[0], width=width)
        pen.dip(ink).fill(*corners)
    pen.dip(WHITE).fill(*[(0.76 * x, 0.76 * y + 0.045 * up) for x, y in corners])
    symbol(pen.at(0, 0.2, 0.42))


_warning = partial(_triangle, up=1)
_yield = partial(_triangle, up=-1)


def _stop(pen: Pen, symbol: Symbol) -> None:
    for ink, radius in ((WHITE, 1.0), (RED, 0.93)):
        pen.dip(ink).fill(*arc(0, 0, (radius, radius), 22.5, 382.5)[::4])
    symbol(pen.at(0, 0, 0.9).dip(WHITE))


def _diamond(pen: Pen, symbol: Symbol) -> None:
    for ink, radius in ((BLACK, 0.98), (WHITE, 0.94), (YELLOW, 0.62)):
        pen.dip(ink).fill((0, -radius), (radius, 0), (0, radius), (-radius, 0))
    symbol(pen)


def _no_entry(pen: Pen, symbol: Symbol) -> None:
    _round(pen, symbol, rim=RED, ground=RED, ink=WHITE, inner=0.9)
    pen.dip(WHITE).fill((-0.72, -0.2), (0.72, -0.2), (0.72, 0.2), (-0.72, 0.2))


class _Design(NamedTuple):
    name: str
    plate: Plate
    symbol: Symbol


_DESIGNS = (
    *(
        _Design(f"speed limit {n}", _ban, partial(symbols.number, digits=str(n)))
        for n in (20, 30, 50, 60, 70, 80)
    ),
    _Design("end of speed limit 80", _end, partial(symbols.number, digits="80")),
    *(_Design(f"speed limit {n}", _ban, partial(symbols.number, digits=str(n))) for n in (100, 120)),
    _Design("no overtaking", _ban, partial(symbols.overtaking, left=symbols.car, ink=RED)),
    _Design("no overtaking by lorries", _ban, partial(symbols.overtaking, left=symbols.lorry, ink=RED)),
    _Design("priority at the next crossing", _warning, symbols.crossroads),
    _Design("priority road", _diamond, symbols.nothing),
    _Design("yield", _yield, symbols.nothing),
    _Design("stop", _stop, partial(symbols.text, letters="STOP", cell=(0.43, 0.35), width=0.13)),
    _Design("no vehicles", _ban, symbols.nothing),
    _Design("no lorries", _ban, partial(symbols.inset, symbol=symbols.lorry, scale=0.78)),
    _Design("no entry", _no_entry, symbols.nothing),
    _Design("danger", _warning, symbols.exclamation),
    _Design("bend to the left", _warning, partial(symbols.bend, side=-1)),
    _Design("bend to the right", _warning, partial(symbols.bend, side=1)),
    _Design("double bend", _warning, symbols.double_bend),
    _Design("bumpy road", _warning, symbols.bumps),
    _Design("slippery road", _warning, symbols.skid),
    _Design("road narrows", _warning, symbols.narrowing),
    _Design("road works", _warning, symbols.digger),
    _Design("traffic signals", _warning, symbols.signals),
    _Design("pedestrians", _warning, symbols.walker),
    _Design("children", _warning, symbols.children),
    _Design("cyclists", _warning, symbols.bicycle),
    _Design("snow or ice", _warning, symbols.snowflake),
    _Design("wild animals", _warning, symbols.deer),
    _Design("end of all limits", _end, symbols.nothing),
    _Design("turn right", _order, partial(symbols.turn, side=1)),
    _Design("turn left", _order, partial(symbols.turn, side=-1)),
    _Design("ahead only", _order, symbols.ahead),
    _Design("ahead or right", _order, partial(symbols.ahead_or, side=1)),
    _Design("ahead or left", _order, partial(symbols.ahead_or, side=-1)),
    _Design("keep right", _order, partial(symbols.keep, side=1)),
    _Design("keep left", _order, partial(symbols.keep, side=-1)),
    _Design("roundabout", _order, symbols.roundabout),
    _Design("end of no overtaking", _end, partial(symbols.overtaking, left=symbols.car, ink=GREY)),
    _Design(
        "end of no overtaking by lorries", _end, partial(symbols.overtaking, left=symbols.lorry, ink=GREY)
    ),
)

CLASS_NAMES: tuple[str, ...] = tuple(design.name for design in _DESIGNS)
"""The names of the 43 classes; a label is a place in this tuple."""


class Paint(NamedTuple):
    """One class's sign straight on: new (RGB), wholly faded (RGB), and its outline (L)."""

    new: Image.Image
    faded: Image.Image
    outline: Image.Image


@cache
def paint(label: int) -> Paint:
    """Returns the sign of a class, `MASTER_SIDE` pixels a side; it is shared, so never draw on it."""
    side = MASTER_SIDE * _OVERSAMPLING
    image = Image.new("RGBA", (side, side))
    pen = Pen(canvas=ImageDraw.Draw(image), x=side / 2, y=side / 2, unit=side / 2)
    design = _DESIGNS[label]
    design.plate(pen, design.symbol)
    master = image.reduce(_OVERSAMPLING)
    new = Image.merge("RGB", master.split()[:3])
    ashen = Image.new("RGB", new.size, _ASHEN)
    return Paint(new, Image.blend(new.convert("L").convert("RGB"), ashen, 0.4), master.getchannel("A"))
