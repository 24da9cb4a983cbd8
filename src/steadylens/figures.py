"""Records -> the paper's figures and the curves it lacks. Every network has one colour in all of them.

The paper's colours are not known; these are told apart by people with any colour vision (Okabe and Ito).
"""

import base64
import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from steadylens.errors import MissingExtraError
from steadylens.records import Contraction, Curve, Density, Hits, Picture, Restoring, Scatter, Stability
from steadylens.tables import grouped, unique

try:
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import FancyBboxPatch
except ImportError as error:
    raise MissingExtraError("matplotlib", "report") from error

INK = "#333333"
QUIET = "#8a8a8a"
COLOURS = {
    "L11": "#0072b2", "L9": "#56b4e9", "L7": "#009e73", "L5": "#e69f00", "L3": "#d55e00", "Dong": "#cc79a7",
    "Gaussian smoothing": "#8c6d31", "identity": "#767676",
    "original": "#767676", "fine-tuned on noisy images": "#e69f00",
    "Gaussian smoothing as first layer": "#8c6d31", "strong noise augmentation": "#d55e00",
    "restoration + original": "#0072b2",
}  # fmt: skip
"""A network's colour. A fused network has that of its restorer."""

MARKERS = dict(zip(COLOURS, "osD^vPXddPXvo", strict=True))
"""A second way to tell networks apart, for prints without colour."""

OTHER_COLOURS = ("#332288", "#882255", "#117733", "#999933")

SIGMA_LABEL = r"$\sigma$ of the noise (grey levels of 255)"


def svg(figure: Figure) -> str:
    """Renders a figure; the same figure always gives the same text."""
    text = io.StringIO()
    with rc_context({"svg.hashsalt": "steadylens", "svg.fonttype": "path"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def method() -> Figure:
    """Draws how the restoration net is trained (Sec. 4.1) and where it then stands (Sec. 4.2)."""
    figure = Figure(figsize=(9.4, 3.4), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(-1, 95), ylim=(0, 34), aspect="equal")
    axes.set_axis_off()
    trained = (
        "clean\n$x$",
        "degradation\nmodule",
        "noisy\n$x + \\nu$",
        "restoration\nnet",
        "restored\n$F(x + \\nu)$",
    )
    used = ("any\nimage", "restoration\nnet, frozen", "restored\nimage", "classifier,\nfine-tuned", "answer")
    for bottom, title, texts in ((21, "Training", trained), (2, "Use", used)):
        axes.text(-0.6, bottom + 8.5, title, fontsize=9, color=QUIET)
        for index, text in enumerate(texts):
            _draw_box(axes, 20 * index, bottom, text, colour="#d6e8f5" if index % 2 else "#f3f3f3")
            if index:
                _draw_arrow(axes, (20 * index - 6.4, bottom + 3), (20 * index - 0.6, bottom + 3))
    return figure


def densities(rows: Sequence[Density]) -> Figure:
    """Draws the histogram of each noise family's values (Fig. 1), a bin that towers cut off and labelled."""
    figure, panels = _grid(len(rows), columns=5, size=(1.9, 1.7))
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
    figure, panels = _grid(len(curves), columns=3, size=(3.1, 2.0))
    for axes, curve in zip(panels, curves, strict=True):
        axes.plot(curve.steps, curve.losses, color=COLOURS["L11"], linewidth=1.2)
        axes.ticklabel_format(axis="x", style="plain")
        axes.locator_params(axis="x", nbins=4)
        if min(curve.losses, default=0) > 0:
            axes.set_yscale("log")
        _dressed(axes, title=curve.stage)
    _shared_labels(figure, "step", "mean loss")
    return figure


def restoration(rows: Sequence[Restoring]) -> Figure:
    """Draws the mean PSNR of each net against the noise's strength, and that of the noisy images dashed."""
    figure, axes = _single()
    finite = [row for row in rows if np.isfinite((row.noisy_db, row.restored_db)).all()]
    noisy = sorted({row.sigma_grey: row.noisy_db for row in finite}.items())
    axes.plot(*np.transpose(noisy), color=INK, linestyle="--", label="noisy images")
    for name, some in grouped(finite, by=lambda row: row.network).items():
        points = sorted({row.sigma_grey: row.restored_db for row in some}.items())
        axes.plot(*np.transpose(points), label=name, **_line_style(name))
    _dressed(axes, x=SIGMA_LABEL, y="mean PSNR (dB)")
    axes.legend(frameon=False, loc="upper right", ncols=2)
    return figure


def stability(rows: Sequence[Stability]) -> Figure:
    """Draws each network's accuracy against the noise's strength, its interval as a band (Table 4)."""
    figure, axes = _single()
    for name, some in grouped(rows, by=lambda row: row.network).items():
        points = {row.sigma_grey: (row.correct / row.samples, row.lower, row.upper) for row in some}
        sigmas = sorted(points)
        share, lower, upper = 100 * np.transpose([points[sigma] for sigma in sigmas])
        axes.fill_between(sigmas, lower, upper, color=_colour(name), alpha=0.2, linewidth=0)
        axes.plot(sigmas, share, label=name, **_line_style(name))
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
    draws: list[Callable[[Axes], None]] = []
    if scatters:
        draws.append(partial(_draw_scatters, "line", [(row, row.line) for row in scatters]))
        draws.append(partial(_draw_scatters, "parabola", [(row, row.parabola) for row in scatters]))
    if contractions:
        draws.append(partial(_draw_contractions, contractions))
    if hits:
        draws.append(partial(_draw_hits, hits))
    figure, panels = _grid(len(draws), columns=2, size=(4.7, 3.7))
    for axes, draw in zip(panels, draws, strict=True):
        draw(axes)
    rows: tuple[Scatter | Contraction | Hits, ...] = (*scatters, *contractions, *hits)
    names = unique(row.network for row in rows)
    handles = [Line2D([], [], label=name, color=_colour(name), linewidth=2.5) for name in names]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
    return figure


def pictures(rows: Sequence[Picture]) -> Figure:
    """Draws rows of images, each pixel as a square (Fig. 2 and 4)."""
    columns = max(len(row.panels) for row in rows)
    figure, panels = _grid(len(rows) * columns, columns=columns, size=(1.6, 1.75))
    for index, axes in enumerate(panels):
        row, column = rows[index // columns], index % columns
        axes.set_axis_off()
        if column < len(row.panels):
            caption, image = row.panels[column]
            axes.imshow(np.asarray(Image.open(io.BytesIO(base64.b64decode(image)))), interpolation="nearest")
            axes.set_title(f"{row.title}\n{caption}" if column == 0 else caption, fontsize=8, loc="left")
    return figure


def _draw_scatters(fit: str, rows: Sequence[tuple[Scatter, Sequence[float]]], axes: Axes) -> None:
    for row, coefficients in rows:
        colour, noisy = _colour(row.network), np.asarray(row.noisy_db)
        axes.scatter(noisy, row.restored_db, s=3, alpha=0.15, color=colour, linewidths=0, rasterized=True)
        grid = np.linspace(noisy.min(), noisy.max(), 50)
        axes.plot(grid, np.polyval(coefficients, grid), color=colour)
    axes.axline((30, 30), slope=1, color=QUIET, linestyle=":", linewidth=1)
    _dressed(axes, title=f"with fitted {fit}", x="PSNR of noisy images (dB)", y="PSNR of restored (dB)")


def _draw_contractions(rows: Sequence[Contraction], axes: Axes) -> None:
    for row in rows:
        points = row.noise_norms, row.restored_norms
        axes.scatter(*points, s=3, alpha=0.25, color=_colour(row.network), linewidths=0, rasterized=True)
    axes.axline((0, 0), slope=1, color=INK, linestyle="--", linewidth=1)
    axes.text(0.60, 0.66, "K = 1", transform=axes.transAxes, color=INK, ha="right")
    _dressed(axes, title="contraction", x=r"$\|\nu\|$", y=r"$\|F(x + \nu) - F(x)\|$")


def _draw_hits(rows: Sequence[Hits], axes: Axes) -> None:
    for row in rows:
        axes.stairs(row.top1_by_norm, row.norm_edges, color=_colour(row.network), linewidth=1.6)
    _dressed(axes, title="best PSNR of all nets (top-1 hits)", x=r"$\|\nu\|$", y="noisy images")


def _single() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    return figure, figure.add_subplot()


def _grid(count: int, *, columns: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    columns = min(count, columns)
    rows = -(-count // columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows + 0.4), layout="constrained")
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


def _colour(network: str) -> str:
    others = OTHER_COLOURS[sum(network.encode()) % len(OTHER_COLOURS)]
    return COLOURS.get(network, others)


def _line_style(network: str) -> dict[str, Any]:
    marker = MARKERS.get(network, "*")
    return {"color": _colour(network), "marker": marker, "markersize": 4.5, "linewidth": 1.6}


def _draw_box(axes: Axes, left: float, bottom: float, text: str, *, colour: str) -> None:
    box = FancyBboxPatch((left, bottom), 13, 6, "round,pad=0.6", facecolor=colour, edgecolor=QUIET)
    axes.add_patch(box)
    axes.text(left + 6.5, bottom + 3, text, ha="center", va="center", fontsize=9, color=INK)


def _draw_arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    style = {"arrowstyle": "-|>", "color": QUIET, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=end, xytext=start, arrowprops=style)
