"""The figures draw the numbers of the records."""

import math
import subprocess
import sys
from dataclasses import replace
from importlib import reload

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.lines import AxLine
from matplotlib.patches import StepPatch

from steadylens.errors import MissingExtraError
from steadylens.records import Contraction, Curve, Density, Hits, Restoring, Scatter, Stability
from steadylens.report import drawing, figures
from steadylens.report.tables import select
from tests.reading_figures import labelled, points_of
from tests.sample_records import CLASSIFIERS, RESTORERS, SIGMAS, sample_records

RECORDS = sample_records()
OWN = [row for row in select(RECORDS, Stability) if row.population == "own"]


def test_stability_draws_each_networks_accuracy_in_its_colour() -> None:
    (axes,) = figures.stability(OWN).axes
    for name, line in labelled(axes).items():
        rows = [row for row in OWN if row.network == name]
        x, y = points_of(line)
        assert x == list(SIGMAS)
        assert y == pytest.approx([100 * row.correct / row.samples for row in rows])
        assert line.get_color() == drawing.COLOURS[name]
    assert list(labelled(axes)) == list(CLASSIFIERS)


def test_stability_draws_the_interval_of_each_network_as_a_band() -> None:
    (axes,) = figures.stability(OWN[:11]).axes
    (band,) = axes.collections
    heights = np.asarray(band.get_paths()[0].vertices)[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx(
        (100 * min(row.lower for row in OWN[:11]), 100 * max(row.upper for row in OWN[:11]))
    )


def test_each_kind_of_noise_is_drawn_under_its_name_after_gaussian_noise() -> None:
    rows = [replace(row, noise="banded, clipped, 8-bit") for row in OWN]
    drawn = figures.stability_illustrations([*rows, *OWN])
    assert [each.title.partition(",")[0] for each in drawn] == ["Stability", "Stability under banded noise"]


def test_stability_sorts_strengths_whatever_the_order_of_the_records() -> None:
    (axes,) = figures.stability(OWN[::-1]).axes
    assert points_of(labelled(axes)["original"])[0] == list(SIGMAS)


def test_restoration_draws_psnr_and_gain_and_skips_the_infinite_psnr_of_clean_images() -> None:
    rows = select(RECORDS, Restoring)
    left, right = figures.restoration(rows).axes
    finite = [row for row in rows if row.network == "L9" and math.isfinite(row.noisy_db)]
    lines = labelled(left)
    assert points_of(lines["L9"])[1] == [row.restored_db for row in finite]
    assert points_of(lines["noisy images"])[1] == [row.noisy_db for row in finite]
    assert lines["noisy images"].get_linestyle() == "--"
    gains = [points_of(line)[1] for line in right.lines if line.get_color() == drawing.COLOURS["L9"]]
    assert gains[0] == pytest.approx([row.restored_db - row.noisy_db for row in finite])


def test_exploration_draws_scatters_with_their_fits() -> None:
    (row, *_) = rows = select(RECORDS, Scatter)
    line, parabola = figures.exploration(rows, [], []).axes
    for axes, fit in ((line, row.line), (parabola, row.parabola)):
        x, y = points_of(axes.lines[0])
        assert y == pytest.approx(np.poly1d(fit)(x).tolist())
        offsets = np.asarray(axes.collections[0].get_offsets())
        np.testing.assert_allclose(offsets, np.transpose([row.noisy_db, row.restored_db]))


def test_exploration_draws_contraction_against_the_diagonal() -> None:
    (row, *_) = rows = select(RECORDS, Contraction)
    (axes,) = figures.exploration([], rows, []).axes
    offsets = np.asarray(axes.collections[0].get_offsets())
    np.testing.assert_allclose(offsets, np.transpose([row.noise_norms, row.restored_norms]))
    diagonal = labelled(axes)["K = 1"]
    assert isinstance(diagonal, AxLine)
    assert (diagonal.get_xy1(), diagonal.get_slope()) == ((0, 0), 1)


def test_exploration_draws_hits_by_norm() -> None:
    rows = select(RECORDS, Hits)
    (axes,) = figures.exploration([], [], rows).axes
    steps = [patch for patch in axes.patches if isinstance(patch, StepPatch)]
    assert [step.get_data()[0].tolist() for step in steps] == [list(row.top1_by_norm) for row in rows]


def test_few_hits_are_counted_in_whole_numbers() -> None:
    row = replace(select(RECORDS, Hits)[0], norm_edges=(0.0, 1.0, 2.0), top1_by_norm=(1, 0))
    (axes,) = figures.exploration([], [], [row]).axes
    assert all(tick == int(tick) for tick in axes.get_yticks())


def test_exploration_has_the_four_panels_of_fig_3() -> None:
    rows = select(RECORDS, Scatter), select(RECORDS, Contraction), select(RECORDS, Hits)
    assert len(figures.exploration(*rows).axes) == 4


def test_densities_cut_off_a_very_high_bin_and_write_its_height() -> None:
    rows = select(RECORDS, Density)
    panels = figures.densities(rows).axes
    sparse = panels[2]
    tallest = 100 * max(rows[2].shares)
    assert sparse.get_ylim()[1] < tallest
    assert [text.get_text() for text in sparse.texts] == [f"{tallest:.0f} %"]
    assert panels[0].get_ylim()[1] > 100 * max(rows[0].shares)
    assert not panels[0].texts


def test_densities_of_noise_in_one_bin_alone_can_be_drawn() -> None:
    row = replace(select(RECORDS, Density)[0], edges_grey=(-1.0, 1.0), shares=(1.0,))
    (axes,) = figures.densities([row]).axes
    assert axes.get_ylim()[1] > 100


def test_training_draws_losses_on_a_logarithmic_axis_unless_some_are_negative() -> None:
    positive = select(RECORDS, Curve)[0]
    negative = replace(positive, losses=tuple(loss - 1 for loss in positive.losses))
    left, right = figures.training([positive, negative]).axes
    assert points_of(left.lines[0])[1] == list(positive.losses)
    assert (left.get_yscale(), right.get_yscale()) == ("log", "linear")


def test_the_drawing_of_the_method_has_the_parts_of_fig_1() -> None:
    texts = " ".join(text.get_text() for text in figures.method().axes[0].texts)
    assert all(part in texts for part in ("degradation", "restoration", "shortcut", "loss", "classifier"))


def test_networks_of_one_figure_differ_in_colour_and_in_marker() -> None:
    for names in (RESTORERS, CLASSIFIERS):
        assert len({drawing.COLOURS[name] for name in names}) == len(names)
        assert len({drawing.MARKERS[name] for name in names}) == len(names)


def test_the_fused_network_has_the_colour_of_its_restorer() -> None:
    assert drawing.COLOURS["restoration + original"] == drawing.COLOURS["L11"]


def test_another_network_has_a_colour_too() -> None:
    rows = [replace(row, network="my own") for row in OWN if row.network == "original"]
    (axes,) = figures.stability(rows).axes
    assert to_hex(axes.lines[0].get_color()) in drawing.OTHER_COLOURS


def test_other_networks_have_different_styles_and_the_same_ones_in_all_figures() -> None:
    names = [f"net {number}" for number in range(20)]
    restoring = next(row for row in select(RECORDS, Restoring) if math.isfinite(row.noisy_db))
    hits = select(RECORDS, Hits)[0]
    left, _ = figures.restoration([replace(restoring, network=name) for name in names]).axes
    looks = [(line.get_color(), line.get_marker()) for line in left.lines[1:]]
    assert len(set(looks)) == len(names)
    (axes,) = figures.exploration([], [], [replace(hits, network=name) for name in names]).axes
    steps = [patch for patch in axes.patches if isinstance(patch, StepPatch)]
    assert [to_hex(step.get_edgecolor()) for step in steps] == [colour for colour, _ in looks]


@pytest.mark.parametrize("ending", ["", " of a long name, and one more"])
def test_the_legend_of_two_panels_stands_outside_of_both_and_within_the_figure(ending: str) -> None:
    rows = select(RECORDS, Restoring)
    figure = figures.restoration([replace(row, network=row.network + ending) for row in rows])
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert not any(axes.get_legend() for axes in figure.axes)
    assert figure.bbox.x0 <= legend.get_window_extent().x0 < legend.get_window_extent().x1 <= figure.bbox.x1
    assert not any(legend.get_window_extent().overlaps(axes.get_window_extent()) for axes in figure.axes)


def test_the_same_figure_gives_the_same_svg() -> None:
    assert drawing.svg(figures.stability(OWN)) == drawing.svg(figures.stability(OWN))


def test_figures_leave_pyplot_alone() -> None:
    # In another process, because other tests may have loaded pyplot here.
    code = "import sys; from steadylens.report import drawing, figures; drawing.svg(figures.method()); "
    code += "sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_matplotlib_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"matplotlib is not installed.*steadylens\[report\]"):
        reload(drawing)
