"""What random layers draw for places a to b is rows a to b of what they draw for the whole batch."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn
from torchvision.ops import StochasticDepth  # type: ignore[import-untyped]

from steadylens import workers
from steadylens.errors import SettingError
from steadylens.nets.classification import SignNet
from steadylens.nets.restoration_unet import RestorationUNet
from steadylens.training.places import PlacedDraws, may_draw

TOTAL = 23

CUTS = (0, 4, 9, 12, 23)


class Noisy(nn.Module):
    """Draws in ways that are no layer's."""

    def forward(self, images: Tensor) -> Tensor:
        chosen = torch.bernoulli(images.flatten(1).sigmoid()).view_as(images)
        normal = torch.randn(len(images), 1, 1, 1) + torch.randn_like(images)
        return images * chosen + normal + torch.rand(()) + images.new_empty(1, 1, 6, 6).uniform_(-1, 1)


def attending(images: Tensor) -> Tensor:
    attention = nn.MultiheadAttention(6, 2, dropout=0.4, batch_first=True)
    for weight in attention.parameters():
        nn.init.constant_(weight, 0.3)
    tokens = images.flatten(1, 2)
    found: Tensor = attention(tokens, tokens, tokens, need_weights=False)[0]
    return found


LAYERS: dict[str, Callable[[Tensor], Tensor]] = {
    "Dropout": nn.Dropout(0.4),
    "Dropout2d": nn.Dropout2d(0.4),
    "AlphaDropout": nn.AlphaDropout(0.4),
    "timm's DropPath": DropPath(0.4),
    "torchvision's StochasticDepth": StochasticDepth(0.4, "row"),
    "StochasticDepth of the batch": StochasticDepth(0.4, "batch"),
    "MultiheadAttention": attending,
    "draws of its own": Noisy(),
}


def placed(layer: Callable[[Tensor], Tensor], images: Tensor, first: int, *, seed: int = 1) -> Tensor:
    with PlacedDraws(seed=seed, first=first, count=len(images), total=TOTAL):
        return layer(images)


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_draws_depend_on_the_place_alone(layer: Callable[[Tensor], Tensor]) -> None:
    images = torch.rand(TOTAL, 3, 6, 6, generator=torch.Generator().manual_seed(0)) + 0.5
    before = torch.random.get_rng_state()
    with torch.random.fork_rng():
        whole = placed(layer, images, 0)
        for seed, (first, stop) in enumerate(pairwise(CUTS)):
            torch.manual_seed(seed)  # the global generator does not count
            torch.testing.assert_close(placed(layer, images[first:stop], first), whole[first:stop])
        others = [placed(layer, images, 0, seed=seed) for seed in (2, 3, 4)]
    assert not all(torch.equal(whole, other) for other in others)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_sign_net_drops_the_same_units_in_parts_and_learns_the_same() -> None:
    net = SignNet(classes=4, width=0.1)
    images = torch.rand(TOTAL, 3, 48, 48, generator=torch.Generator().manual_seed(0))

    def gradient(cuts: tuple[int, ...]) -> Tensor:
        net.zero_grad()
        for first, stop in pairwise(cuts):
            torch.autograd.backward(placed(net, images[first:stop], first).square().sum())
        return torch.cat([weight.grad.flatten() for weight in net.parameters() if weight.grad is not None])

    torch.testing.assert_close(gradient(CUTS), gradient((0, TOTAL)), rtol=1e-3, atol=1e-4)


def test_dropout_keeps_each_value_with_its_probability() -> None:
    ones = torch.ones(TOTAL, 3, 40, 40)
    found = placed(nn.Dropout(0.3), ones, 0)
    assert sorted(set(found.flatten().tolist())) == pytest.approx([0, 1 / 0.7])
    assert float(found.mean()) == pytest.approx(1, abs=0.01)
    rows = (found == 0).flatten(1).float()
    assert len(set(map(tuple, rows.tolist()))) == TOTAL, "each image has a mask of its own"
    twice = placed(nn.Sequential(nn.Dropout(0.3), nn.Dropout(0.3)), ones, 0)
    assert float((twice == 0).float().mean()) == pytest.approx(1 - 0.7**2, abs=0.01), "two layers differ"


def test_only_nets_that_may_draw_are_watched() -> None:
    assert not may_draw(RestorationUNet())
    assert may_draw(SignNet())
    assert not may_draw(SignNet().eval())
    assert may_draw(Noisy().eval()), "an unknown module may draw in eval mode, too"


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (lambda images: images[torch.randperm(len(images))], "by randperm"),
        (lambda images: images * torch.rand(7, 3, 6, 6).sum(), r"shape \(7, 3, 6, 6\) for 5 images"),
        (lambda images: images * torch.rand(5, 1, 1, 1, generator=torch.Generator()), "by rand"),
    ],
)
def test_several_workers_refuse_draws_without_a_place(
    monkeypatch: pytest.MonkeyPatch, net: Callable[[Tensor], Tensor], message: str
) -> None:
    images = torch.rand(5, 3, 6, 6)
    placed(net, images, 0)  # one worker can
    monkeypatch.setattr(workers, "count", lambda: 2)
    with pytest.raises(SettingError, match=message):
        placed(net, images, 0)


def test_several_workers_refuse_to_draw_for_a_single_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "count", lambda: 2)
    with pytest.raises(SettingError, match=r"for a single image.* use a larger batch or fewer workers"):
        placed(nn.Dropout(0.3), torch.rand(1, 3, 6, 6), 0)


def test_attention_without_dropout_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "count", lambda: 2)
    tokens = torch.rand(2, 4, 6, requires_grad=True)
    placed(lambda x: nn.functional.scaled_dot_product_attention(x, x, x), tokens, 0)
