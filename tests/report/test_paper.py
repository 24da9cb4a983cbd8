"""The paper's numbers agree with each other and with our nets."""

from itertools import pairwise

import pytest
from torch import nn

from steadylens.evaluation.experiments import multiplications, parameters
from steadylens.nets.classification import SignNet
from steadylens.nets.restoration import DongNet, RestorationNet
from steadylens.report import paper
from tests.paper import (
    CLASSIFIER_PARAMETERS,
    ENSEMBLE_TOP1_PERCENT,
    EXPLORATORY_IMAGES,
    FUSED_PARAMETERS,
    NOISY_VERSIONS,
    TABLE_1,
    TEST_IMAGES,
)

NETS: dict[str, RestorationNet | DongNet] = {
    **{f"L{depth}": RestorationNet(depth=depth) for depth in (11, 9, 7, 5, 3)},
    "Dong": DongNet(),
}


def test_tables_1_and_2_have_the_same_nets() -> None:
    assert list(TABLE_1) == list(paper.TABLE_2) == list(NETS)


@pytest.mark.parametrize("network", TABLE_1)
def test_table_1_agrees_with_itself(network: str) -> None:
    row = TABLE_1[network]
    inputs = (3, *row.maps[:-1])
    layers = zip(inputs, row.maps, row.kernels, strict=True)
    assert row.parameters == sum((before * side**2 + 1) * after for before, after, side in layers)
    assert row.field == 1 + sum(side - 1 for side in row.kernels) == 2 * row.margin + 1


@pytest.mark.parametrize("network", TABLE_1)
def test_table_1_agrees_with_our_nets(network: str) -> None:
    row, net = TABLE_1[network], NETS[network]
    convolutions = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    assert row.maps == tuple(layer.out_channels for layer in convolutions)
    assert row.kernels == tuple(layer.kernel_size[0] for layer in convolutions)
    assert (row.parameters, row.field, row.margin) == (parameters(net), net.field, net.margin)


def test_table_2_gives_each_noisy_image_to_one_net_and_to_two() -> None:
    samples = EXPLORATORY_IMAGES * NOISY_VERSIONS
    assert samples == 189_450
    assert sum(row.top1 for row in paper.TABLE_2.values()) == samples
    assert sum(row.top2 for row in paper.TABLE_2.values()) == 2 * samples
    assert all(row.top1 <= row.top2 <= samples for row in paper.TABLE_2.values())


def test_table_2_contradicts_the_shares_of_l11_in_the_text() -> None:
    hits = paper.TABLE_2["L11"]
    assert (hits.top1 / 189_450, hits.top2 / 189_450) == pytest.approx((0.505, 0.775), abs=5e-4)


def test_the_exploratory_images_are_a_tenth_of_the_test_images() -> None:
    assert EXPLORATORY_IMAGES * 10 == TEST_IMAGES


@pytest.mark.parametrize("row", paper.TABLE_3.values(), ids=paper.TABLE_3)
def test_table_3_rises_with_k(row: paper.TopAccuracy) -> None:
    printed = (row.top1_percent, row.top2_percent, row.top5_percent)
    shares = [percent for percent in printed if percent is not None]
    assert sorted(shares) == shares
    assert 0 < shares[0] <= shares[-1] < 100


def test_restoration_raises_the_single_net_above_the_ensemble() -> None:
    restored = paper.TABLE_3["restoration + single"].top1_percent
    assert restored > ENSEMBLE_TOP1_PERCENT > paper.TABLE_3["single"].top1_percent


@pytest.mark.parametrize("row", paper.TABLE_4.values(), ids=paper.TABLE_4)
def test_table_4_has_a_percentage_for_each_strength_and_falls(row: paper.NoisyAccuracy) -> None:
    assert len(row.percent) == len(paper.SIGMAS_GREY) == 11
    assert all(weak >= strong for weak, strong in pairwise(row.percent))
    assert 0 < row.percent[-1] < row.percent[0] <= 100


@pytest.mark.parametrize("row", paper.TABLE_4.values(), ids=paper.TABLE_4)
def test_table_4_overall_is_the_mean_of_its_row_to_rounding(row: paper.NoisyAccuracy) -> None:
    # Each printed entry may be off by 0.05, and so may the printed mean.
    assert row.overall_percent == pytest.approx(sum(row.percent) / len(row.percent), abs=0.1)


def test_the_strengths_of_table_4_rise() -> None:
    assert all(weak < strong for weak, strong in pairwise(paper.SIGMAS_GREY))


def test_the_classifier_and_the_fused_net_have_the_parameters_of_the_paper() -> None:
    assert parameters(SignNet(classes=43)) == CLASSIFIER_PARAMETERS
    assert TABLE_1["L11"].parameters + CLASSIFIER_PARAMETERS == FUSED_PARAMETERS


def test_restoring_costs_fourteen_times_what_classifying_does() -> None:
    restoring = multiplications(NETS["L11"], channels=3, size=48)
    classifying = multiplications(SignNet(classes=43), channels=3, size=48)
    assert restoring == pytest.approx(1.07e9, rel=0.005)
    assert classifying == pytest.approx(0.076e9, rel=0.01)
    assert round(restoring / classifying) == 14


def test_the_citation_names_the_authors_and_the_year() -> None:
    assert all(part in paper.CITATION for part in ("Aghdam", "Heravi", "Puig", "2016"))
