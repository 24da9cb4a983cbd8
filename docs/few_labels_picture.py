"""Draws the picture of docs/gains.md: accuracy by the number of labelled tracks, at each strength of noise.

Usage: python docs/few_labels_picture.py results/benchmarks/few_labels-seeds.jsonl docs/images/few_labels.svg
The first is the file that benchmarks/few_labels.py keeps.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from steadylens.files import replacing
from steadylens.report.drawing import common_legend, grid, line_styles, style_axes, svg
from steadylens.report.paper import FINE_TUNED, ORIGINAL, RESTORED, TOGETHER

SIGMAS = (0, 15, 25, 40)
"""Strengths of the noise in the order of the file's accuracies, in grey levels."""

DRAWN_AS = {
    "clean images": ORIGINAL,
    "clean images, behind the restorer": "L9",
    "noisy images": FINE_TUNED,
    "noisy images, behind the frozen restorer": RESTORED,
    "noisy images, together with the restorer": TOGETHER,
}
"""The network of a report whose colour and marker each way of training has."""


def whole_seeds(entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Returns the entries of the seeds for which every number of tracks was measured."""
    counts = {entry["tracks"] for entry in entries}
    found = {(entry["tracks"], entry["seed"]) for entry in entries}
    return [entry for entry in entries if all((count, entry["seed"]) in found for count in counts)]


def drawn(entries: Sequence[Mapping[str, Any]]) -> Figure:
    """Returns the picture: a line through the means of each way, and a dot for each seed."""
    counts = sorted({entry["tracks"] for entry in entries})
    styles = line_styles(DRAWN_AS.values())
    figure, panels = grid(len(SIGMAS), columns=2, height=3.0)
    for index, (sigma, axes) in enumerate(zip(SIGMAS, panels, strict=True)):
        for way, network in DRAWN_AS.items():
            found = {
                count: [entry["accuracies"][way][index] for entry in entries if entry["tracks"] == count]
                for count in counts
            }
            axes.plot(counts, [fmean(found[count]) for count in counts], label=way, **styles[network])
            dots = [(count, value) for count, values in found.items() for value in values]
            axes.plot(*zip(*dots, strict=True), ".", color=styles[network]["color"], alpha=0.4)
        axes.set_xscale("log")
        axes.set_xticks(counts, labels=[str(count) for count in counts], minor=False)
        axes.set_xticks([], minor=True)
        style_axes(axes, title=f"sigma {sigma}", x="labelled tracks a class", y="accuracy (%)")
    common_legend(figure, [line for line in panels[0].lines if line.get_label() in DRAWN_AS])
    return figure


def main(kept: Path, out: Path) -> None:
    """Writes the picture."""
    entries = whole_seeds([json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()])
    with replacing(out) as temporary:
        temporary.write_text(svg(drawn(entries)), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
