"""Records -> the paper's figures and the curves it lacks, with their captions.

Networks of the paper have one colour in all of them, others one by the order in which they are drawn. The
paper's colours are not known; these are told apart by people with any colour vision (Okabe and Ito).
"""

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, pairwise
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from steadylens.errors import MissingExtraError
from steadylens.records import Contraction, Curve, Density, Hits, Measurement, Restoring, Scatter, Stability
from steadylens.report.paper import ALONE, AUGMENTED, CITATION, FINE_TUNED, ORIGINAL, RESTORED, SMOOTHED
from steadylens.report.tables import SIGMA, grouped, select, source, unique

try:
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import FancyBboxPatch
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
except ImportError as error:
    raise MissingExtraError("matplotlib", "report") from error

if TYPE_CHECKING:
    from matplotlib.figure import Figure


INK = "#333333"

QUIET = "#8a8a8a"

COLOURS = {
    "L11": "#0072b2", "L9": "#56b4e9", "L7": "#009e73", "L5": "#e69f00", "L3": "#d55e00", "Dong": "#cc79a7",
    "Gaussian smoothing": "#8c6d31", "identity": "#767676",
    ORIGINAL: "#767676", FINE_TUNED: "#e69f00", SMOOTHED: "#8c6d31", AUGMENTED: "#d55e00",
    RESTORED: "#0072b2", ALONE: "#767676",
}  # fmt: skip
"""A network's colour. A fused network has that of its restorer."""

MARKERS = dict(zip(COLOURS, "osD^vPXddPXvod", strict=True))
"""A second way to tell networks apart, for prints without colour."""

OTHER_COLOURS = (
    "#332288", "#882255", "#117733", "#999933", "#44aa99", "#aa4499", "#cc6677", "#88ccee", "#ddcc77"
)  # fmt: skip

OTHER_MARKERS = "*sP^v"
"""Those of networks of other names (colours of Tol): forty-five pairs, all different."""

WIDTH = 9.4
"""Width of every figure in inches: shown at the same width, their letters have the same size."""

LEGEND_LETTERS, HANDLE_LETTERS = 100, 6
"""About how many letters stand side by side in the legend above a figure, and how many a handle takes."""

Colours = Mapping[str, str]

SIGMA_LABEL = r"$\sigma$ of the noise (grey levels of 255)"


def svg(figure: Figure) -> str:
    """Renders a figure; the same figure always gives the same text."""
    text = io.StringIO()
    with rc_context({"svg.hashsalt": "steadylens", "svg.fonttype": "path"}):
        figure.savefig(text, format="svg", dpi=200, metadata={"Date": None})
    return text.getvalue()


def method() -> Figure:
    """Draws how the restoration net is trained (Sec. 4.1) and where it then stands (Sec. 4.2)."""
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(-1, 100), ylim=(1, 39), aspect="equal")
    axes.set_axis_off()
    image, net, other = "#f4f4f4", "#d6e8f5", "#fdebd0"
    axes.text(0, 36.5, "Training the restoration net", fontsize=9, color=QUIET)
    trained = (
        ("clean\n$x$", 0, 10, image), ("degradation\nmodule", 14, 26, other),
        ("noisy\n$x + \\nu$", 30, 40, image), ("restoration\nnet", 44, 56, net),
        ("+", 63, 66, other), ("restored\n$F(x + \\nu)$", 70, 81, image),
        ("loss\n$\\|x - F(x + \\nu)\\|^2$", 85, 99, other),
    )  # fmt: skip
    _draw_chain(axes, 22, trained)
    _draw_path(axes, (35, 28), (35, 32), (64.5, 32), (64.5, 28))
    _draw_path(axes, (5, 22), (5, 17), (92, 17), (92, 22))
    axes.text(49.5, 32.7, "shortcut", ha="center", fontsize=8, color=QUIET)
    axes.text(59.2, 25.7, "pattern", ha="center", fontsize=8, color=QUIET)
    axes.text(0, 11.5, "Using it", fontsize=9, color=QUIET)
    used = (
        ("any\nimage", 0, 14, image), ("restoration\nnet, frozen", 20, 37, net),
        ("restored\nimage", 43, 57, image), ("classifier,\nfine-tuned", 63, 80, other),
        ("answer", 86, 99, image),
    )  # fmt: skip
    _draw_chain(axes, 2, used)
    return figure


def densities(rows: Sequence[Density]) -> Figure:
    """Draws the histogram of each noise family's values (Fig. 1), a bin that towers cut off and labelled."""
    figure, panels = _grid(len(rows), columns=5, height=1.7)
    for axes, row in zip(panels, rows, strict=True):
        shares = 100 * np.asarray(row.shares)
        second, tallest = np.sort(np.append(shares, 0))[-2:]
        top = 1.15 * (2 * second if tallest > 4 * second > 0 else tallest)
        axes.stairs(shares, row.edges_grey, fill=True, color=COLOURS["L11"])
        axes.set_ylim(0, top or 1)
        if tallest > top:
            axes.text(0.54, 0.88, f"{tallest:.0f} %", transform=axes.transAxes, fontsize=8, color=INK)
        _dressed(axes, title=f"{row.family}\n{row.strength_grey:g} grey levels")
    _shared_labels(figure, "value of the noise (grey levels of 255)", "share of values (%)")
    return figure


def training(curves: Sequence[Curve]) -> Figure:
    """Draws the loss of each stage, on a logarithmic axis where it is positive throughout."""
    figure, panels = _grid(len(curves), columns=4, height=1.9)
    for axes, curve in zip(panels, curves, strict=True):
        axes.plot(curve.steps, curve.losses, color=COLOURS["L11"], linewidth=1.2)
        axes.ticklabel_format(axis="x", style="plain")
        axes.locator_params(axis="x", nbins=4)
        if min(curve.losses, default=0) > 0:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_locator(NullLocator())
        _dressed(axes, title=curve.stage)
    _shared_labels(figure, "step", "mean loss")
    return figure


def restoration(rows: Sequence[Restoring]) -> Figure:
    """Draws by the noise's strength each net's mean PSNR, the noisy images' dashed, and the gain."""
    figure, (left, right) = _grid(2, columns=2, height=3.8)
    finite = [row for row in rows if np.isfinite((row.noisy_db, row.restored_db)).all()]
    noisy = sorted({row.sigma_grey: row.noisy_db for row in finite}.items())
    left.plot(*np.transpose(noisy), color=INK, linestyle="--", marker=".", label="noisy images")
    right.axhline(0, color=INK, linestyle="--")
    networks = grouped(finite, by=lambda row: row.network)
    styles = _line_styles(networks)
    for name, some in networks.items():
        points = {row.sigma_grey: (row.restored_db, row.restored_db - row.noisy_db) for row in some}
        restored, gain = np.transpose([points[sigma] for sigma in sorted(points)])
        left.plot(sorted(points), restored, label=name, **styles[name])
        right.plot(sorted(points), gain, **styles[name])
    _dressed(left, x=SIGMA_LABEL, y="mean PSNR (dB)")
    _dressed(right, x=SIGMA_LABEL, y="gain over the noisy images (dB)")
    _common_legend(figure, left.lines)
    return figure


def stability(rows: Sequence[Stability]) -> Figure:
    """Draws each network's accuracy against the noise's strength, its interval as a band (Table 4)."""
    figure, (axes,) = _grid(1, columns=1, height=4.2)
    networks = grouped(rows, by=lambda row: row.network)
    styles = _line_styles(networks)
    for name, some in networks.items():
        points = {row.sigma_grey: (row.correct / row.samples, row.lower, row.upper) for row in some}
        sigmas = sorted(points)
        share, lower, upper = 100 * np.transpose([points[sigma] for sigma in sigmas])
        axes.fill_between(sigmas, lower, upper, color=styles[name]["color"], alpha=0.2, linewidth=0)
        axes.plot(sigmas, share, label=name, **styles[name])
    _dressed(axes, x=SIGMA_LABEL, y="accuracy (%)")
    axes.legend(frameon=False, loc="lower left")
    return figure


def exploration(
    scatters: Sequence[Scatter], contractions: Sequence[Contraction], hits: Sequence[Hits]
) -> Figure:
    """Draws the four panels of Fig. 3, those that there are records for.

    Args:
        scatters: Top left with their lines, top right with their parabolas.
        contractions: Bottom left, with the diagonal K = 1 above which no contraction reaches.
        hits: Bottom right.
    """
    rows: tuple[Scatter | Contraction | Hits, ...] = (*scatters, *contractions, *hits)
    styles = _line_styles(unique(row.network for row in rows))
    colours = {name: style["color"] for name, style in styles.items()}
    draws: list[Callable[[Axes], None]] = []
    if scatters:
        draws.append(partial(_draw_scatters, colours, "line", [(row, row.line) for row in scatters]))
        draws.append(partial(_draw_scatters, colours, "parabola", [(row, row.parabola) for row in scatters]))
    if contractions:
        draws.append(partial(_draw_contractions, colours, contractions))
    if hits:
        draws.append(partial(_draw_hits, colours, hits))
    figure, panels = _grid(len(draws), columns=2, height=3.7)
    for axes, draw in zip(panels, draws, strict=True):
        draw(axes)
    _common_legend(
        figure, [Line2D([], [], label=name, color=colour, linewidth=2.5) for name, colour in colours.items()]
    )
    return figure


def _draw_scatters(
    colours: Colours, fit: str, rows: Sequence[tuple[Scatter, Sequence[float]]], axes: Axes
) -> None:
    for row, coefficients in rows:
        colour, noisy = colours[row.network], np.asarray(row.noisy_db)
        axes.scatter(noisy, row.restored_db, s=4, alpha=0.3, color=colour, linewidths=0, rasterized=True)
        grid = np.linspace(noisy.min(), noisy.max(), 50)
        axes.plot(grid, np.polyval(coefficients, grid), color=colour)
    axes.axline((30, 30), slope=1, color=QUIET, linestyle=":", linewidth=1)
    _dressed(axes, title=f"with fitted {fit}", x="PSNR of noisy images (dB)", y="PSNR of restored (dB)")


def _draw_contractions(colours: Colours, rows: Sequence[Contraction], axes: Axes) -> None:
    for row in rows:
        points = row.noise_norms, row.restored_norms
        axes.scatter(*points, s=4, alpha=0.4, color=colours[row.network], linewidths=0, rasterized=True)
    axes.axline((0, 0), slope=1, color=INK, linestyle="--", linewidth=1, label="K = 1")
    axes.set(xlim=(0, None), ylim=(0, None))
    axes.legend(frameon=False, loc="upper left")
    _dressed(axes, title="contraction", x=r"$\|\nu\|$", y=r"$\|F(x + \nu) - F(x)\|$")


def _draw_hits(colours: Colours, rows: Sequence[Hits], axes: Axes) -> None:
    for row in rows:
        axes.stairs(row.top1_by_norm, row.norm_edges, color=colours[row.network], linewidth=1.6)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    _dressed(axes, title="best PSNR of all nets (top-1 hits)", x=r"$\|\nu\|$", y="noisy images")


def _grid(count: int, *, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    rows = -(-count // columns)
    figure = Figure(figsize=(WIDTH, height * rows + 0.4), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, 1 + index) for index in range(count)]


def _dressed(axes: Axes, *, title: str = "", x: str = "", y: str = "") -> None:
    axes.set_title(title, fontsize=9, loc="left", color=INK)
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.tick_params(labelsize=8, color=QUIET, labelcolor=INK)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)


def _shared_labels(figure: Figure, x: str, y: str) -> None:
    figure.supxlabel(x, fontsize=10, color=INK)
    figure.supylabel(y, fontsize=10, color=INK)


def _common_legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Names what several panels show, above all of them, where it hides nothing."""
    widths = [len(str(handle.get_label())) + HANDLE_LETTERS for handle in handles]
    columns = len(handles) if sum(widths) <= LEGEND_LETTERS else max(1, LEGEND_LETTERS // max(widths))
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, frameon=False)


def _line_styles(networks: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Returns how to draw each network, so that those of other names differ from each other."""
    others = zip(cycle(OTHER_COLOURS), cycle(OTHER_MARKERS), strict=False)
    styles = {}
    for name in networks:
        colour, marker = (COLOURS[name], MARKERS[name]) if name in COLOURS else next(others)
        styles[name] = {"color": colour, "marker": marker, "markersize": 4.5, "linewidth": 1.6}
    return styles


def _draw_chain(axes: Axes, bottom: float, boxes: Sequence[tuple[str, float, float, str]]) -> None:
    """Draws boxes (text, left edge, right edge, colour) and an arrow from each to the next."""
    for text, left, right, colour in boxes:
        shape = "round,pad=0,rounding_size=1.2"
        box = FancyBboxPatch((left, bottom), right - left, 6, shape, facecolor=colour, edgecolor=QUIET)
        axes.add_patch(box)
        axes.text((left + right) / 2, bottom + 3, text, ha="center", va="center", fontsize=9, color=INK)
    for (_, _, start, _), (_, end, _, _) in pairwise(boxes):
        _draw_path(axes, (start, bottom + 3), (end, bottom + 3))


def _draw_path(axes: Axes, *points: tuple[float, float]) -> None:
    axes.plot(*np.transpose(points[:-1]), color=QUIET, linewidth=1)
    style = {"arrowstyle": "-|>", "color": QUIET, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=points[-1], xytext=points[-2], arrowprops=style)


@dataclass(frozen=True, kw_only=True, slots=True)
class Illustration:
    """A figure ready for a page: everything in it is text.

    Attributes:
        caption: One sentence on how to read it.
        source: What it shows and where it comes from.
        image: The SVG file in base64.
    """

    title: str
    caption: str
    source: str
    image: str


def method_illustrations(records: Sequence[Measurement]) -> list[Illustration]:
    """Draws both parts of Fig. 1, if there are densities of noise."""
    if not (rows := select(records, Density)):
        return []
    drawn = Illustration(
        title="Figure 1. The method",
        caption="The restoration net is trained alone; then it is frozen and the classifier is fine-tuned "
        "behind it.",
        source=f"After {CITATION}.",
        image=_encoded(method()),
    )
    noise = Illustration(
        title="Figure 1. Noise of the degradation module",
        caption="What single values of noise look like, for each family at one strength; a bin that towers "
        "over the others is cut off and bears its height.",
        source=source(rows, count="values in a histogram"),
        image=_encoded(densities(rows)),
    )
    return [drawn, noise]


def training_illustrations(records: Sequence[Measurement]) -> list[Illustration]:
    """Draws the training curves, if there are any."""
    if not (curves := [curve for curve in select(records, Curve) if curve.steps]):
        return []
    drawn = Illustration(
        title="Training curves",
        caption="Mean loss of each stage, step by step.",
        source=source(curves, count="images in a stage"),
        image=_encoded(training(curves)),
    )
    return [drawn]


def restoration_illustrations(records: Sequence[Measurement]) -> list[Illustration]:
    """Draws PSNR by strength, then Fig. 3, each once for every way in which noisy images were stored."""
    finite = [row for row in select(records, Restoring) if isfinite(row.noisy_db)]
    by_sigma = grouped(finite, by=lambda row: row.noise).values()
    explored = [row for row in records if isinstance(row, Scatter | Contraction | Hits)]
    by_noise = grouped(explored, by=lambda row: row.noise).values()
    return [*map(_restoration, by_sigma), *map(_exploration, by_noise)]


def stability_illustrations(records: Sequence[Measurement]) -> list[Illustration]:
    """Draws accuracy by strength once for every way of storing and population of images."""
    groups = grouped(select(records, Stability), by=lambda row: (row.population == "all", row.noise))
    return [_stability(groups[key]) for key in sorted(groups)]


def _restoration(rows: Sequence[Restoring]) -> Illustration:
    return Illustration(
        title="Restoration by strength of noise",
        caption=f"Mean PSNR by {SIGMA}, and its gain: a net helps where its curve lies above the dashed one, "
        "and harms where it lies below.",
        source=source(rows, count="images at each point"),
        image=_encoded(restoration(rows)),
    )


def _exploration(rows: Sequence[Scatter | Contraction | Hits]) -> Illustration:
    figure = exploration(select(rows, Scatter), select(rows, Contraction), select(rows, Hits))
    return Illustration(
        title="Figure 3. Restoration net by net",
        caption="Top: PSNR of each noisy image before and after each net, with a fitted line and parabola; "
        "on the dotted diagonal a net changes nothing. Bottom: the noise that comes out of a net against "
        "that which goes in, and how strong the noise is where each net restores best.",
        source=source(rows, count="noisy images, some of which are drawn"),
        image=_encoded(figure),
    )


def _stability(rows: Sequence[Stability]) -> Illustration:
    own = rows[0].population == "own"
    return Illustration(
        title=f"Stability, on {'the images that each network classifies correctly' if own else 'all images'}",
        caption=f"Accuracy by {SIGMA} of the noise; bands are 95 % Wilson intervals.",
        source=source(rows, count="noisy images at each point"),
        image=_encoded(stability(rows)),
    )


def _encoded(figure: "Figure") -> str:
    return base64.b64encode(svg(figure).encode()).decode("ascii")
