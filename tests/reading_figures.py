"""Reads lines of figures, for tests."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D


def points_of(line: Line2D) -> tuple[list[float], list[float]]:
    x, y = line.get_data()
    return np.asarray(x, dtype=float).tolist(), np.asarray(y, dtype=float).tolist()


def labelled(axes: Axes) -> dict[str, Line2D]:
    return {str(line.get_label()): line for line in axes.lines}
