"""A sign net of another width has the same form; that of width 1 is the published one."""

import math

import pytest
import torch
from torch import nn

from steadylens.errors import SettingError
from steadylens.evaluation.experiments import parameters
from steadylens.nets.architecture import build, describe
from steadylens.nets.classification import SignNet
from tests.paper import CLASSIFIER_PARAMETERS

WIDTHS = (0.05, 0.1, 0.33, 0.77, 1.0, 1.41, 1.5, 2.0)


def test_the_net_of_width_1_has_the_parameters_of_the_paper() -> None:
    assert parameters(SignNet(width=1)) == CLASSIFIER_PARAMETERS == 1_123_449
    assert SignNet(width=1).state_dict().keys() == SignNet().state_dict().keys()


def maps_of(net: SignNet) -> list[int]:
    return [layer.out_channels for layer in net.features if isinstance(layer, nn.Conv2d)][1:]


@pytest.mark.parametrize("width", WIDTHS)
def test_the_maps_are_even_and_in_proportion(width: float) -> None:
    net = SignNet(classes=7, width=width).eval()
    hidden = net.head[1]
    assert isinstance(hidden, nn.Linear)
    for maps, published in zip((*maps_of(net), hidden.out_features), (100, 150, 250, 300), strict=True):
        assert maps % 2 == 0, "two groups share them"
        assert maps >= 2
        assert abs(maps - width * published) <= 1
    with torch.no_grad():
        assert net(torch.rand(2, 3, 48, 48)).shape == (2, 7)


def test_a_wider_net_has_more_parameters() -> None:
    counts = [parameters(SignNet(width=width)) for width in WIDTHS]
    assert counts == sorted(set(counts))


@pytest.mark.parametrize("width", [0.5, 1.5])
def test_a_net_is_built_again_as_wide_as_it_is(width: float) -> None:
    net = SignNet(classes=5, standardize=True, width=width)
    again = build(describe(net))
    assert isinstance(again, SignNet)
    again.load_state_dict(net.state_dict())
    assert describe(again) == describe(net)
    assert f"classes=5, standardize=True, width={width}" in str(net)


def test_the_published_width_is_not_described_so_that_old_files_stay_as_they_are() -> None:
    old = {"kind": "SignNet", "classes": 5, "standardize": True}
    again = build(old)
    assert isinstance(again, SignNet)
    assert again.width == 1
    assert describe(again) == describe(SignNet(classes=5, standardize=True, width=1)) == old
    assert "width" not in str(again)


@pytest.mark.parametrize("width", [0.0, 0.049, -1.0, math.inf, math.nan])
def test_a_width_that_leaves_no_maps_is_refused(width: float) -> None:
    with pytest.raises(SettingError, match=f"width is {width}, a factor on .* at least 0.05"):
        SignNet(width=width)
