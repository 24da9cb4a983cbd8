"""A net's valid form is the net on an image that is surrounded with what the net pads it with."""

import pytest
import torch

from steadylens.errors import ImageError
from steadylens.initialization import initialize_xavier
from steadylens.restoration import DongNet, RestorationNet
from steadylens.validform import ValidForm

NETS = (
    RestorationNet(5),
    RestorationNet(5, padding="reflect"),
    DongNet(),
    DongNet(padding="reflect"),
    RestorationNet(3, channels=1),
)


@pytest.mark.parametrize("net", NETS, ids=str)
def test_what_surrounds_an_image_is_what_the_net_pads_it_with(net: RestorationNet | DongNet) -> None:
    initialize_xavier(net, generator=torch.Generator().manual_seed(0))
    images = torch.rand(2, net.channels, 15, 22, generator=torch.Generator().manual_seed(1))
    form = ValidForm(net)
    found = form(form.surround(images, [net.margin] * 4))
    torch.testing.assert_close(found, net(images), rtol=0, atol=1e-6)


def test_an_image_is_surrounded_on_the_sides_that_are_named() -> None:
    found = ValidForm(RestorationNet(5)).surround(torch.ones(1, 3, 4, 4), (1, 0, 2, 0))
    assert found.shape == (1, 3, 6, 5)
    assert found[..., :2, :].sum() == 0
    assert found[..., :, :1].sum() == 0


def test_an_image_below_the_field_is_refused() -> None:
    with pytest.raises(ImageError, match="at least 7x7 are needed"):
        ValidForm(RestorationNet(5))(torch.rand(1, 3, 6, 9))


def test_the_weights_are_those_of_the_net() -> None:
    net = RestorationNet(3)
    pairs = zip(ValidForm(net).parameters(), net.parameters(), strict=True)
    assert all(one is other for one, other in pairs)
