"""The colours that alpha hides have no influence on what is visible, and are not changed themselves.

They are filled with the visible colours around them before the net sees them, as far as it can see.
"""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from steadylens.images.transparency import with_colours_continued
from steadylens.inference.restorer import restore, restorer_of
from steadylens.nets.restoration import GaussianSmoothing


def disc(hidden: tuple[int, int, int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Returns a sprite, uint8 (64, 64, 4), clean and noisy, with a soft edge and one hidden colour."""
    large = Image.new("L", (512, 512))
    ImageDraw.Draw(large).ellipse((80, 80, 432, 432), fill=255)
    alpha = np.array(large.resize((64, 64), Image.Resampling.BOX))
    rows, columns = np.mgrid[:64, :64]
    colours = np.dstack([120 + rows, 220 - columns, np.full((64, 64), 90)])
    noisy = colours + np.random.default_rng(0).normal(0, 15, colours.shape)
    both = [np.rint(each).clip(0, 255) for each in (colours, noisy)]
    clean, dirty = (
        np.dstack([np.where(alpha[..., None] > 0, each, hidden), alpha]).astype(np.uint8) for each in both
    )
    return clean, dirty


def error(found: NDArray[Any], clean: NDArray[Any]) -> float:
    """Returns the error in grey levels of the visible pixels within three pixels of the edge."""
    hidden = clean[..., 3] == 0
    near = sum(np.roll(hidden, (down, across), (0, 1)) for down in range(-3, 4) for across in range(-3, 4))
    edge = (near > 0) & ~hidden
    return float(np.sqrt(np.mean((found[edge][:, :3].astype(float) - clean[edge][:, :3]) ** 2)))


@pytest.mark.parametrize("net", ["l11-gtsrb", "unet-gtsrb"])
def test_the_edge_of_a_sprite_is_restored_as_well_whatever_is_hidden(net: str) -> None:
    found = {}
    for hidden in ((0, 0, 0), (255, 0, 255)):
        clean, noisy = disc(hidden)
        restored = restore(noisy, net)
        found[hidden] = error(restored, clean)
        assert found[hidden] < 0.7 * error(noisy, clean)
        assert np.array_equal(restored[..., 3], noisy[..., 3])
        below = noisy[..., 3] == 0
        assert np.array_equal(restored[below], noisy[below]), "what is hidden is not changed"
    assert found[0, 0, 0] == found[255, 0, 255]


@pytest.mark.parametrize("kind", [torch.uint8, torch.uint16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("colours", [1, 3])
def test_what_is_hidden_has_no_influence_in_any_type(kind: torch.dtype, colours: int) -> None:
    top = {torch.uint8: 255, torch.uint16: 65535}.get(kind, 1)
    visible = torch.rand(2, colours, 40, 50, generator=torch.manual_seed(0))
    alpha = torch.ones(2, 1, 40, 50)
    alpha[0, :, 10:30, :20], alpha[1, :, :, 30:] = 0, 0

    def image(hidden: float) -> Tensor:
        image = torch.cat([torch.where(alpha > 0, visible, hidden), alpha], dim=1) * top
        return (image if kind.is_floating_point else image.round()).to(kind)

    restorer = restorer_of(GaussianSmoothing(sigma_pixels=2), tile=40)
    one, other = restorer(image(0.0)), restorer(image(1.0))
    shown = (alpha > 0).expand(-1, colours + 1, -1, -1)
    assert torch.equal(one.double()[shown], other.double()[shown])
    assert torch.equal(one.double()[~shown], image(0.0).double()[~shown])


def test_one_colour_is_continued_exactly_and_as_far_as_was_asked() -> None:
    alpha = torch.zeros(1, 1, 200, 150, dtype=torch.uint8)
    alpha[..., 90:110, 70:80] = 1
    colours = torch.where(alpha > 0, 200, 7).to(torch.uint8)
    for margin in (1, 5, 16, 40):
        filled = with_colours_continued(colours, alpha, margin=margin)
        within = filled[..., 90 - margin : 110 + margin, 70 - margin : 80 + margin]
        assert bool((within == 200).all())
        assert bool(((filled == 200) | (filled == 7)).all())


def test_the_number_of_rows_at_a_time_changes_nothing() -> None:
    dice = torch.manual_seed(0)
    colours, alpha = torch.rand(1, 3, 301, 77, generator=dice), torch.rand(1, 1, 301, 77, generator=dice)
    alpha = torch.where(alpha > 0.995, alpha, 0)
    whole = with_colours_continued(colours, alpha, margin=16)
    parts = with_colours_continued(colours, alpha, margin=16, band=1)
    assert torch.allclose(whole, parts, atol=1e-6)
    assert not torch.equal(whole, colours)


def test_an_image_in_which_nothing_is_hidden_or_all_is_kept_as_it_is() -> None:
    colours = torch.rand(1, 3, 20, 20, generator=torch.manual_seed(0))
    assert with_colours_continued(colours, torch.ones(1, 1, 20, 20), margin=8) is colours
    hidden = torch.zeros(1, 1, 20, 20)
    assert torch.equal(with_colours_continued(colours, hidden, margin=8), colours)
    image = torch.cat([colours, hidden], dim=1)
    assert torch.equal(restorer_of(GaussianSmoothing())(image), image)
