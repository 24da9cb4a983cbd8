"""Draws the paper's figures, and curves that the paper lacks, from records."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from math import isfinite

import numpy as np

from steadylens.errors import MissingExtraError
from steadylens.records import (
    Confusion,
    Contraction,
    Curve,
    Density,
    Hits,
    Measurement,
    Restoring,
    Scatter,
    Stability,
)
from steadylens.report.class_tables import latest_confusions
from steadylens.report.drawing import (
    COLOURS,
    INK,
    QUIET,
    WIDTH,
    Illustration,
    common_legend,
    encoded,
    grid,
    line_styles,
    literal,
    shared_labels,
    style_axes,
)
from steadylens.report.noise_names import noise_words
from steadylens.report.paper import CITATION
from steadylens.report.tables import SIGMA, grouped, select, source, unique

try:
    from matplotlib.axes import Axes
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import FancyBboxPatch
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
except ImportError as error:
    raise MissingExtraError("matplotlib", "report") from error

MOST_MATRICES = 6
"""How many confusion matrices are drawn: those of the first networks."""

MOST_NAMED_CLASSES = 12
"""Up to how many classes a confusion matrix has names and numbers; others have the numbers of classes."""

Colours = Mapping[str, str]

SIGMA_LABEL = r"$\sigma$ of the noise (grey levels of 255)"


def method() -> Figure:
    """Draws how the restoration net is trained (Sec. 4.1) and where it is used (Sec. 4.2)."""
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


def densities(records: Sequence[Density]) -> Figure:
    """Draws a histogram of each family's noise (Fig. 1); a very high bin is cut off and labelled."""
    figure, panels = grid(len(records), columns=5, height=1.7)
    for axes, record in zip(panels, records, strict=True):
        shares = 100 * np.asarray(record.shares)
        second, tallest = np.sort(np.append(shares, 0))[-2:]
        top = 1.15 * (2 * second if tallest > 4 * second > 0 else tallest)
        axes.stairs(shares, record.edges_grey, fill=True, color=COLOURS["L11"])
        axes.set_ylim(0, top or 1)
        if tallest > top:
            axes.text(0.54, 0.88, f"{tallest:.0f} %", transform=axes.transAxes, fontsize=8, color=INK)
        style_axes(axes, title=f"{record.family}\n{record.strength_grey:g} grey levels")
    shared_labels(figure, "value of the noise (grey levels of 255)", "share of values (%)")
    return figure


def training(curves: Sequence[Curve]) -> Figure:
    """Draws the loss of each stage, on a logarithmic axis if all its values are positive."""
    figure, panels = grid(len(curves), columns=4, height=1.9)
    for axes, curve in zip(panels, curves, strict=True):
        axes.plot(curve.steps, curve.losses, color=COLOURS["L11"], linewidth=1.2)
        axes.ticklabel_format(axis="x", style="plain")
        axes.locator_params(axis="x", nbins=4)
        if min(curve.losses, default=0) > 0:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_locator(NullLocator())
        style_axes(axes, title=curve.stage)
    shared_labels(figure, "step", "mean loss")
    return figure


def restoration(records: Sequence[Restoring]) -> Figure:
    """Draws each net's mean PSNR and gain by strength of noise; dashed lines are the noisy images."""
    figure, (left, right) = grid(2, columns=2, height=3.8)
    finite = [record for record in records if np.isfinite((record.noisy_db, record.restored_db)).all()]
    noisy = sorted({record.sigma_grey: record.noisy_db for record in finite}.items())
    left.plot(*np.transpose(noisy), color=INK, linestyle="--", marker=".", label="noisy images")
    right.axhline(0, color=INK, linestyle="--")
    networks = grouped(finite, by=lambda record: record.network)
    styles = line_styles(networks)
    for name, some in networks.items():
        points = {each.sigma_grey: (each.restored_db, each.restored_db - each.noisy_db) for each in some}
        restored, gain = np.transpose([points[sigma] for sigma in sorted(points)])
        left.plot(sorted(points), restored, label=name, **styles[name])
        right.plot(sorted(points), gain, **styles[name])
    style_axes(left, x=SIGMA_LABEL, y="mean PSNR (dB)")
    style_axes(right, x=SIGMA_LABEL, y="gain over the noisy images (dB)")
    common_legend(figure, left.lines)
    return figure


def stability(records: Sequence[Stability]) -> Figure:
    """Draws each network's accuracy by strength of noise, with its interval as a band (Table 4)."""
    figure, (axes,) = grid(1, columns=1, height=4.2)
    networks = grouped(records, by=lambda record: record.network)
    styles = line_styles(networks)
    for name, some in networks.items():
        points = {each.sigma_grey: (each.correct / each.samples, each.lower, each.upper) for each in some}
        sigmas = sorted(points)
        share, lower, upper = 100 * np.transpose([points[sigma] for sigma in sigmas])
        axes.fill_between(sigmas, lower, upper, color=styles[name]["color"], alpha=0.2, linewidth=0)
        axes.plot(sigmas, share, label=name, **styles[name])
    style_axes(axes, x=SIGMA_LABEL, y="accuracy (%)")
    axes.legend(frameon=False, loc="lower left")
    return figure


def exploration(
    scatters: Sequence[Scatter], contractions: Sequence[Contraction], hits: Sequence[Hits]
) -> Figure:
    """Draws those of the four panels of Fig. 3 that there are records for.

    Args:
        scatters: For the top left with fitted lines and the top right with fitted parabolas.
        contractions: For the bottom left, with the diagonal K = 1: below it the net contracts.
        hits: For the bottom right.
    """
    records: tuple[Scatter | Contraction | Hits, ...] = (*scatters, *contractions, *hits)
    styles = line_styles(unique(record.network for record in records))
    colours = {name: style["color"] for name, style in styles.items()}
    draws: list[Callable[[Axes], None]] = []
    if scatters:
        lines = [(record, record.line) for record in scatters]
        parabolas = [(record, record.parabola) for record in scatters]
        draws.append(partial(_draw_scatters, colours, "line", lines))
        draws.append(partial(_draw_scatters, colours, "parabola", parabolas))
    if contractions:
        draws.append(partial(_draw_contractions, colours, contractions))
    if hits:
        draws.append(partial(_draw_hits, colours, hits))
    figure, panels = grid(len(draws), columns=2, height=3.7)
    for axes, draw in zip(panels, draws, strict=True):
        draw(axes)
    common_legend(
        figure, [Line2D([], [], label=name, color=colour, linewidth=2.5) for name, colour in colours.items()]
    )
    return figure


def confusion(records: Sequence[Confusion]) -> Figure:
    """Draws a confusion matrix of each network; classes without images have no row."""
    figure, panels = grid(len(records), columns=min(2, len(records)), height=4.6)
    for axes, record in zip(panels, records, strict=True):
        labels = sorted({label for label, _, _ in record.cells})
        counts = np.zeros((len(labels), len(record.class_names)))
        for label, answer, count in record.cells:
            counts[labels.index(label), answer] += count if answer >= 0 else 0
        images = [sum(count for own, _, count in record.cells if own == label) for label in labels]
        shares = 100 * counts / np.array(images)[:, None]
        drawn = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=100), aspect="auto")
        style_axes(axes, title=literal(record.network, most=None), x="answer", y="class")
        axes.grid(visible=False)
        if len(record.class_names) <= MOST_NAMED_CLASSES:
            names = [literal(name) for name in record.class_names]
            axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
            axes.set_yticks(range(len(labels)), [names[label] for label in labels])
            for (row, column), share in np.ndenumerate(shares):
                if share:
                    ink = "white" if share > 40 else INK
                    axes.text(column, row, f"{share:.3g}", ha="center", va="center", fontsize=7, color=ink)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            rows = range(0, len(labels), -(-len(labels) // 10))
            axes.set_yticks(rows, [str(labels[row]) for row in rows])
    figure.colorbar(drawn, ax=panels, label="images of the class (%)", shrink=0.6)
    return figure


def _draw_scatters(
    colours: Colours, fit: str, records: Sequence[tuple[Scatter, Sequence[float]]], axes: Axes
) -> None:
    for record, coefficients in records:
        colour, noisy = colours[record.network], np.asarray(record.noisy_db)
        axes.scatter(noisy, record.restored_db, s=4, alpha=0.3, color=colour, linewidths=0, rasterized=True)
        grid = np.linspace(noisy.min(), noisy.max(), 50)
        axes.plot(grid, np.polyval(coefficients, grid), color=colour)
    axes.axline((30, 30), slope=1, color=QUIET, linestyle=":", linewidth=1)
    style_axes(axes, title=f"with fitted {fit}", x="PSNR of noisy images (dB)", y="PSNR of restored (dB)")


def _draw_contractions(colours: Colours, records: Sequence[Contraction], axes: Axes) -> None:
    for record in records:
        points = record.noise_norms, record.restored_norms
        axes.scatter(*points, s=4, alpha=0.4, color=colours[record.network], linewidths=0, rasterized=True)
    axes.axline((0, 0), slope=1, color=INK, linestyle="--", linewidth=1, label="K = 1")
    axes.set(xlim=(0, None), ylim=(0, None))
    axes.legend(frameon=False, loc="upper left")
    style_axes(axes, title="contraction", x=r"$\|\nu\|$", y=r"$\|F(x + \nu) - F(x)\|$")


def _draw_hits(colours: Colours, records: Sequence[Hits], axes: Axes) -> None:
    for record in records:
        axes.stairs(record.top1_by_norm, record.norm_edges, color=colours[record.network], linewidth=1.6)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    style_axes(axes, title="best PSNR of all nets (top-1 hits)", x=r"$\|\nu\|$", y="noisy images")


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


def method_illustrations(records: Sequence[Measurement]) -> list[Illustration]:
    """Draws both parts of Fig. 1, if there are records of noise densities."""
    if not (measured := select(records, Density)):
        return []
    drawn = Illustration(
        title="Figure 1. The method",
        caption="The restoration net is trained first; then it is frozen, and the classifier is fine-tuned "
        "behind it.",
        source=f"After {CITATION}.",
        image=encoded(method()),
    )
    noise = Illustration(
        title="Figure 1. Noise of the degradation module",
        caption="The distribution of noise values of each family at one strength; a bin far higher than the "
        "others is cut off and labelled with its height.",
        source=source(measured, count="values in a histogram"),
        image=encoded(densities(measured)),
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
        image=encoded(training(curves)),
    )
    return [drawn]


def restoration_illustrations(records: Sequence[Measurement]) -> list[Illustration]:
    """Draws PSNR by strength, then Fig. 3, each once for every noise mode."""
    finite = [record for record in select(records, Restoring) if isfinite(record.noisy_db)]
    by_sigma = grouped(finite, by=lambda record: record.noise).values()
    explored = [record for record in records if isinstance(record, Scatter | Contraction | Hits)]
    by_noise = grouped(explored, by=lambda record: record.noise).values()
    return [*map(_restoration, by_sigma), *map(_exploration, by_noise)]


def accuracy_illustrations(records: Sequence[Measurement]) -> list[Illustration]:
    """Draws the confusion matrices of the networks, if there are records of them."""
    if not (shown := latest_confusions(records)[:MOST_MATRICES]):
        return []
    drawn = Illustration(
        title="Confusion matrices",
        caption="Share of the clean test images of each class (rows) that get each answer (columns): right "
        "answers are on the diagonal. Colours rise faster at small shares, so that rare errors show.",
        source=source(shown, count="test images"),
        image=encoded(confusion(shown)),
    )
    return [drawn]


def stability_illustrations(records: Sequence[Measurement]) -> list[Illustration]:
    """Draws accuracy by strength once for every noise mode and population of images."""
    groups = grouped(select(records, Stability), by=lambda record: (record.population == "all", record.noise))
    kinds = ["Gaussian", *unique(noise_words(noise).name for _, noise in groups)]
    order = sorted(groups, key=lambda key: (kinds.index(noise_words(key[1]).name), *key))
    return [_stability(groups[key]) for key in order]


def _restoration(records: Sequence[Restoring]) -> Illustration:
    return Illustration(
        title="Restoration by strength of noise",
        caption=f"Mean PSNR by {SIGMA}, and its gain: a net helps where its curve is above the dashed line, "
        "and harms where it is below.",
        source=source(records, count="images at each point"),
        image=encoded(restoration(records)),
    )


def _exploration(records: Sequence[Scatter | Contraction | Hits]) -> Illustration:
    figure = exploration(select(records, Scatter), select(records, Contraction), select(records, Hits))
    return Illustration(
        title="Figure 3. Restoration net by net",
        caption="Top: PSNR of each noisy image before and after each net, with a fitted line and parabola; "
        "on the dotted diagonal a net changes nothing. Bottom: the norm of the noise after the net against "
        "the norm before it, and how strong the noise is where each net restores best.",
        source=source(records, count="noisy images, some of which are drawn"),
        image=encoded(figure),
    )


def _stability(records: Sequence[Stability]) -> Illustration:
    own = records[0].population == "own"
    noise = noise_words(records[0].noise)
    under = "" if noise.gaussian else f" under {noise.name} noise"
    return Illustration(
        title=f"Stability{under}, on "
        f"{'the images that each network classifies correctly' if own else 'all images'}",
        caption=f"Accuracy by {SIGMA} of the noise; bands are 95 % Wilson intervals.",
        source=source(records, count="noisy images at each point"),
        image=encoded(stability(records)),
    )
