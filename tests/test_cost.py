"""What the table of costs counts is what the nets are known to cost."""

import pytest
import torch
from torch import nn

from sample_records import PROVENANCE
from steadylens.classification import SignNet
from steadylens.cost import cost
from steadylens.fusion import FusedClassifier
from steadylens.records import Cost
from steadylens.restoration import GaussianSmoothing, RestorationNet

CPU = torch.device("cpu")
L11_PARAMETERS, L11_MULTIPLICATIONS = 397_411, 1_072_911_104
# The 1x1 convolution is computed within the next one, and so costs nothing.
SIGN_PARAMETERS, SIGN_MULTIPLICATIONS = 1_123_449, 76_305_612 - 3 * 48 * 48


def costs(networks: dict[str, nn.Module], *, size: int = 48, batches: tuple[int, ...] = (1,)) -> list[Cost]:
    seconds = {name: 10.0 * index for index, name in enumerate(networks)}
    nets = {name: network.eval() for name, network in networks.items()}
    return cost(nets, seconds, size=size, batches=batches, device=CPU, provenance=PROVENANCE)


def test_l11_costs_what_its_layers_add_up_to() -> None:
    (row,) = costs({"L11": RestorationNet(depth=11)})
    assert (row.parameters, row.multiplications) == (L11_PARAMETERS, L11_MULTIPLICATIONS)


def test_the_sign_net_costs_what_its_layers_add_up_to() -> None:
    (row,) = costs({"sign net": SignNet(classes=43)})
    assert (row.parameters, row.multiplications) == (SIGN_PARAMETERS, SIGN_MULTIPLICATIONS)


def test_a_fused_classifier_costs_its_two_parts_together() -> None:
    (row,) = costs({"fused": FusedClassifier(RestorationNet(depth=11), SignNet(classes=43))})
    assert row.parameters == L11_PARAMETERS + SIGN_PARAMETERS
    assert row.multiplications == L11_MULTIPLICATIONS + SIGN_MULTIPLICATIONS


def test_one_convolution_is_counted_as_by_hand() -> None:
    (row,) = costs({"convolution": nn.Conv2d(3, 5, 3)}, size=10)
    assert (row.parameters, row.multiplications) == (3 * 5 * 9 + 5, 8 * 8 * 3 * 5 * 9)


def test_what_has_nothing_to_learn_has_no_parameters() -> None:
    (row,) = costs({"smoothing": GaussianSmoothing()}, size=12)
    assert row.parameters == 0
    assert row.multiplications > 0


def test_each_batch_size_has_a_row_of_its_own_with_a_positive_time() -> None:
    rows = costs({"first": nn.Conv2d(3, 3, 1), "second": nn.Identity()}, size=8, batches=(1, 4))
    assert [(row.network, row.samples) for row in rows] == [
        ("first", 1), ("first", 4), ("second", 1), ("second", 4)
    ]  # fmt: skip
    assert all(row.milliseconds > 0 for row in rows)
    assert [row.training_seconds for row in rows] == [0, 0, 10, 10]
    assert {row.size for row in rows} == {8}


def test_a_time_is_wanted_for_every_network() -> None:
    with pytest.raises(KeyError, match="lonely"):
        cost({"lonely": nn.Identity()}, {}, size=8, device=CPU, provenance=PROVENANCE)
