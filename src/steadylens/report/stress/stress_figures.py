"""Draws what the damage of the real world does to accuracy, and what attacks leave of it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from steadylens.records import Attacked, Measurement
from steadylens.report.drawing import (
    INK,
    QUIET,
    Illustration,
    common_legend,
    encoded,
    grid,
    line_styles,
    style_axes,
)
from steadylens.report.stress.stress_tables import (
    BOUNDED,
    Damage,
    attacked_records,
    base_of,
    bound_text,
    damages,
)
from steadylens.report.tables import grouped, source, unique

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def damage(found: Sequence[Damage]) -> "Figure":
    """Draws the difference of each network to the classifier alone by kind of damage, the worst on top."""
    base = base_of([*found[0].networks])
    others = [name for name in found[0].networks if name != base]
    order = sorted(found, key=lambda each: min(each.difference(name, base).value for name in others))
    height = 0.8 + 0.22 * len(order) * max(1, len(others) / 2)
    figure, (axes,) = grid(1, columns=1, height=height)
    axes.axvline(0, color=INK, linestyle="--", linewidth=1)
    styles = line_styles(others)
    for number, name in enumerate(others):
        rows = np.arange(len(order)) + (number - (len(others) - 1) / 2) * 0.6 / len(others)
        values = [each.difference(name, base) for each in order]
        means = 100 * np.array([each.value for each in values])
        ends = 100 * np.array([[each.lower, each.upper] for each in values])
        style = styles[name]
        axes.hlines(rows, ends[:, 0], ends[:, 1], color=style["color"], alpha=0.45, linewidth=2.5)
        axes.plot(
            means, rows, color=style["color"], marker=style["marker"], markersize=5, linestyle="", label=name
        )
    axes.set_yticks(range(len(order)), [each.name for each in order])
    axes.set_ylim(len(order) - 0.4, -0.6)
    style_axes(axes, x=f"accuracy less that of {base} (percentage points)".replace("$", r"\$"))
    common_legend(figure, axes.lines[1:])
    return figure


def attacks(records: Sequence[Attacked]) -> "Figure":
    """Draws accuracy by the bound of the change, a panel for each norm; dashed if the restorer is unknown."""
    groups = grouped(records, by=lambda record: record.norm)
    figure, panels = grid(len(groups), columns=2, height=3.6)
    styles = line_styles(unique(record.network for record in records))
    for axes, (norm, some) in zip(panels, groups.items(), strict=True):
        ways = grouped(some, by=lambda record: (record.network, record.knows_restorer))
        for (name, knows), shown in ways.items():
            by_bound = grouped(shown, by=lambda record: record.epsilon)
            epsilons = sorted(by_bound)
            worst = [
                min(by_bound[epsilon], key=lambda record: record.correct / record.samples)
                for epsilon in epsilons
            ]
            shares, lower, upper = 100 * np.transpose(
                [(each.correct / each.samples, each.lower, each.upper) for each in worst]
            )
            places, style = range(len(epsilons)), styles[name]
            label = name if knows else f"{name}, images made for the classifier alone"
            axes.fill_between(places, lower, upper, color=style["color"], alpha=0.15, linewidth=0)
            axes.plot(places, shares, label=label, linestyle="-" if knows else "--", **style)
        bounds = sorted({record.epsilon for record in some})
        axes.set_xticks(range(len(bounds)), [bound_text(norm, each) if each else "0" for each in bounds])
        axes.set_ylim(0, 101)
        style_axes(axes, x=BOUNDED[norm], y="accuracy (%)")
        axes.spines["left"].set_color(QUIET)
    common_legend(figure, panels[0].lines)
    return figure


def corruption_illustrations(records: Sequence[Measurement]) -> list[Illustration]:
    """Draws gains and losses by kind of damage, if two networks were measured."""
    found = damages(records)
    if not found or len(found[0].networks) < 2:
        return []
    measured = [record for each in found for some in each.networks.values() for record in some]
    drawn = Illustration(
        title="Damage by kind",
        caption="Accuracy less that of the classifier alone, the mean over severities, with 95 % intervals: "
        "what lies left of the dashed line is lost, what lies right of it is gained.",
        source=source(measured, count="images at each severity"),
        image=encoded(damage(found)),
    )
    return [drawn]


def attack_illustrations(records: Sequence[Measurement]) -> list[Illustration]:
    """Draws accuracy under attack, if there are records of attacks."""
    if not (found := attacked_records(records)):
        return []
    drawn = Illustration(
        title="Accuracy under attack",
        caption="Accuracy by the bound of the change, after the strongest attack that was measured; bands "
        "are 95 % Wilson intervals. A solid line is an attack on the whole network, end to end; on a dashed "
        "line, the images were made against the classifier alone.",
        source=source(found, count="images at each point"),
        image=encoded(attacks(found)),
    )
    return [drawn]
