"""Tests of the parts that figures share."""

from collections import Counter

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from steadylens.report.drawing import common_legend


def test_the_rows_of_a_legend_are_about_equally_long() -> None:
    figure = Figure(layout="constrained")
    common_legend(figure, [Line2D([], [], label=f"network {number}") for number in range(7)])
    figure.draw_without_rendering()
    (legend,) = figure.legends
    rows = Counter(round(text.get_window_extent().y0) for text in legend.get_texts())
    assert sorted(rows.values()) == [3, 4]
