"""What a file of a net depends on shows in the key of its weights."""

import pytest
import torch
from torch import nn

from steadylens.classification import SignNet
from steadylens.restoration import GaussianSmoothing, RestorationNet
from steadylens.trainingfiles import weights_key


def test_a_key_of_weights_tells_any_change() -> None:
    net = RestorationNet(depth=3)
    before = weights_key(net)
    assert before == weights_key(net.to(memory_format=torch.channels_last))
    with torch.no_grad():
        next(iter(net.parameters()))[0, 0, 0, 0] += 1e-3
    assert weights_key(net) != before


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (nn.Identity(), GaussianSmoothing(sigma_pixels=0.7)),
        (GaussianSmoothing(sigma_pixels=0.7), GaussianSmoothing(sigma_pixels=0.8)),
    ],
)
def test_nets_without_weights_have_keys_of_their_own(one: nn.Module, other: nn.Module) -> None:
    assert weights_key(one) != weights_key(other)


def test_padding_is_part_of_the_key() -> None:
    zeros, reflected = RestorationNet(depth=3), RestorationNet(depth=3, padding="reflect")
    reflected.load_state_dict(zeros.state_dict())
    assert weights_key(zeros) != weights_key(reflected)


def test_the_sign_nets_normalisation_is_part_of_the_key() -> None:
    published, standardizing = SignNet(), SignNet(standardize=True)
    standardizing.load_state_dict(published.state_dict())
    assert weights_key(published) != weights_key(standardizing)
