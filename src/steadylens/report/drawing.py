"""What all figures of a report share: colours, markers, axes, legends, and their form as text.

Each network of the paper has one colour in all figures; other networks get colours in the order in which they
are drawn. People with any colour vision can distinguish the colours (Okabe and Ito).
"""

import base64
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from steadylens.errors import MissingExtraError
from steadylens.report.paper import (
    ALONE,
    AUGMENTED,
    FINE_TUNED,
    ORIGINAL,
    RESTORED,
    SMOOTHED,
    TOGETHER,
    WIDER,
)

try:
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
except ImportError as error:
    raise MissingExtraError("matplotlib", "report") from error

INK = "#333333"

QUIET = "#8a8a8a"

COLOURS = {
    "L11": "#0072b2", "L9": "#56b4e9", "L7": "#009e73", "L5": "#e69f00", "L3": "#d55e00", "Dong": "#cc79a7",
    "UNet": "#332288", "Gaussian smoothing": "#8c6d31", "identity": "#767676",
    ORIGINAL: "#767676", FINE_TUNED: "#e69f00", SMOOTHED: "#8c6d31", AUGMENTED: "#d55e00",
    RESTORED: "#0072b2", TOGETHER: "#332288", WIDER: "#117733", ALONE: "#767676",
}  # fmt: skip
"""The colour of each network; a fused network has the colour of its restorer."""

MARKERS = dict(zip(COLOURS, "osD^vP*XddPXvo*hd", strict=True))
"""The marker of each network, for prints without colour."""

OTHER_COLOURS = (
    "#882255", "#6699cc", "#661100", "#999933", "#44aa99", "#aa4499", "#cc6677", "#88ccee", "#ddcc77"
)  # fmt: skip

OTHER_MARKERS = "*sP^v"
"""Markers of other networks; with the colours of Tol above they give 45 different pairs."""

WIDTH = 9.4
"""Width of every figure in inches: at the same width, text has the same size in all figures."""

LEGEND_LETTERS, HANDLE_LETTERS = 100, 6
"""About how many letters fit into a line of the legend, and how many a legend's symbol takes."""

MOST_LETTERS = 24
"""How many letters of a name stand in a confusion matrix."""


def svg(figure: Figure) -> str:
    """Returns a figure as SVG; the same figure always gives the same text."""
    text = io.StringIO()
    with rc_context({"svg.hashsalt": "steadylens", "svg.fonttype": "path"}):
        figure.savefig(text, format="svg", dpi=200, metadata={"Date": None})
    return text.getvalue()


def encoded(figure: Figure) -> str:
    """Returns a figure as SVG in base64, as an `Illustration` holds it."""
    return base64.b64encode(svg(figure).encode()).decode("ascii")


def literal(name: str, *, most: int | None = MOST_LETTERS) -> str:
    """Returns a name that matplotlib shows as it is, shortened if it is long."""
    short = name if most is None or len(name) <= most else f"{name[: most - 1]}\N{HORIZONTAL ELLIPSIS}"
    return short.replace("$", r"\$")


def grid(count: int, *, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    """Returns a figure with so many panels, row by row; `height` is that of a row in inches."""
    rows = -(-count // columns)
    figure = Figure(figsize=(WIDTH, height * rows + 0.4), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, 1 + index) for index in range(count)]


def style_axes(axes: Axes, *, title: str = "", x: str = "", y: str = "") -> None:
    """Gives a panel its title, labels, grid and colours."""
    axes.set_title(title, fontsize=9, loc="left", color=INK)
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.tick_params(labelsize=8, color=QUIET, labelcolor=INK)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)


def shared_labels(figure: Figure, x: str, y: str) -> None:
    """Labels the axes of all panels together."""
    figure.supxlabel(x, fontsize=10, color=INK)
    figure.supylabel(y, fontsize=10, color=INK)


def common_legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Puts one legend above all panels."""
    widths = [len(str(handle.get_label())) + HANDLE_LETTERS for handle in handles]
    fits_one_row = sum(widths) <= LEGEND_LETTERS
    most = max(1, len(handles) if fits_one_row else LEGEND_LETTERS // max(widths))
    rows = max(1, math.ceil(len(handles) / most))
    columns = math.ceil(len(handles) / rows)  # no more, so that the rows are about equally long
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, frameon=False)


def line_styles(networks: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Returns the line style of each network, different for each."""
    others = zip(cycle(OTHER_COLOURS), cycle(OTHER_MARKERS), strict=False)
    styles = {}
    for name in networks:
        colour, marker = (COLOURS[name], MARKERS[name]) if name in COLOURS else next(others)
        styles[name] = {"color": colour, "marker": marker, "markersize": 4.5, "linewidth": 1.6}
    return styles


@dataclass(frozen=True, kw_only=True, slots=True)
class Illustration:
    """A figure for the page, as text.

    Attributes:
        caption: How to read the figure, in one sentence.
        source: What it shows and where the records come from.
        image: The SVG file in base64.
    """

    title: str
    caption: str
    source: str
    image: str
