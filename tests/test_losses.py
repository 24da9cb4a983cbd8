"""The losses against plain loops over images, channels, rows and columns."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steadylens.losses import LogSquaredError, SquaredError

shapes = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))


def drawn_pair(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator), torch.rand(shape, generator=generator)


def plain_squared_errors(restored: Tensor, clean: Tensor) -> list[float]:
    count, channels, height, width = restored.shape
    return [
        sum(
            (clean[image, channel, row, column].item() - restored[image, channel, row, column].item()) ** 2
            for channel in range(channels)
            for row in range(height)
            for column in range(width)
        )
        for image in range(count)
    ]


@settings(deadline=None)
@given(shape=shapes, seed=st.integers(0, 100))
def test_the_squared_error_is_summed_over_pixels_and_channels_of_each_image(
    shape: tuple[int, ...], seed: int
) -> None:
    restored, clean = drawn_pair(shape, seed)
    assert SquaredError()(restored, clean).tolist() == pytest.approx(plain_squared_errors(restored, clean))


@settings(deadline=None)
@given(shape=shapes, seed=st.integers(0, 100), floor=st.sampled_from([1e-8, 1e-5, 0.1]))
def test_the_logarithm_is_of_the_mean_squared_error_and_the_floor(
    shape: tuple[int, ...], seed: int, floor: float
) -> None:
    restored, clean = drawn_pair(shape, seed)
    values = clean[0].numel()
    expected = [math.log(error / values + floor) for error in plain_squared_errors(restored, clean)]
    assert LogSquaredError(floor=floor)(restored, clean).tolist() == pytest.approx(
        expected, rel=1e-5, abs=1e-5
    )


def test_the_squared_error_of_a_larger_patch_is_larger_as_eq_3_has_it() -> None:
    small, large = (SquaredError()(torch.full((1, 3, s, s), 0.5), torch.zeros(1, 3, s, s)) for s in (18, 36))
    assert [small.item(), large.item()] == [3 * 18**2 / 4, 3 * 36**2 / 4]


def test_the_logarithm_does_not_depend_on_the_size_of_the_patch() -> None:
    for size in (1, 18, 36):
        shape = (1, 3, size, size)
        loss = LogSquaredError(floor=0.0)(torch.full(shape, 0.5), torch.zeros(shape))
        assert loss.item() == pytest.approx(math.log(0.25))


def test_the_gradient_of_the_squared_error_is_twice_the_difference() -> None:
    restored, clean = drawn_pair((2, 3, 4, 4))
    restored.requires_grad_()
    torch.autograd.backward(SquaredError()(restored, clean).sum())
    torch.testing.assert_close(restored.grad, 2 * (restored.detach() - clean))


def test_equal_images_lose_nothing_but_the_floor() -> None:
    clean, _ = drawn_pair((2, 3, 4, 4))
    assert SquaredError()(clean, clean).tolist() == [0, 0]
    assert LogSquaredError()(clean, clean).tolist() == pytest.approx([math.log(1e-5)] * 2)


def test_the_floor_is_50_decibels() -> None:
    clean, _ = drawn_pair((1, 3, 4, 4))
    loss = LogSquaredError()(clean, clean).item()
    assert -10 * loss / math.log(10) == pytest.approx(50)


def test_the_gradient_of_the_logarithm_is_finite_where_nothing_is_wrong() -> None:
    clean, _ = drawn_pair((1, 3, 4, 4))
    restored = clean.clone().requires_grad_()
    torch.autograd.backward(LogSquaredError()(restored, clean).sum())
    assert restored.grad is not None
    assert not restored.grad.any()


@pytest.mark.parametrize("error", [0.4, 0.04])
def test_a_decibel_counts_the_same_at_any_strength(error: float) -> None:
    clean, loss = torch.zeros(1, 3, 4, 4), LogSquaredError(floor=0.0)
    halved = loss(clean + error, clean) - loss(clean + error / 2, clean)
    assert halved.item() == pytest.approx(math.log(4), abs=1e-5)
