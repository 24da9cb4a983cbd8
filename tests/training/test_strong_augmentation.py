"""Blur against SciPy and Pillow, light against its formula, and hidden parts and noise as documented."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import correlate, map_coordinates
from scipy.optimize import least_squares
from torch import Tensor

from steadylens.training.augmentation import StrongAugmentation, _blur_by_motion
from tests.augmenting import STILL, seeded, uniform_within

# Blur.


def test_a_share_of_the_batch_is_blurred_half_by_motion_and_half_by_shrinking() -> None:
    image = torch.rand(1, 3, 20, 20, generator=seeded(1))
    blurred = replace(STILL, blurred_share=0.4)(image.expand(50, -1, -1, -1), generator=seeded())
    changed = [one for one in blurred if not torch.allclose(one, image[0], atol=1e-5)]
    assert len(changed) == 20
    # Those that were shrunk, all to one size, are alike; no two motions are.
    alike = [sum(torch.allclose(one, other) for other in changed) for one in changed]
    assert sorted(alike) == [1] * 10 + [10] * 10


def motions(images: Tensor, *, seed: int = 0) -> tuple[Tensor, NDArray[np.float64]]:
    """Returns images blurred by motion, and the length in pixels and the angle of each motion."""
    drawn = torch.rand(2, len(images), generator=seeded(seed), dtype=images.dtype).double().numpy()
    return _blur_by_motion(images, seeded(seed)), np.stack([2 + 7 * drawn[0], math.pi * drawn[1]], axis=1)


@pytest.mark.parametrize(("height", "width"), [(24, 24), (17, 6), (1, 2)])
def test_motion_is_the_mean_of_the_image_along_a_line(height: int, width: int) -> None:
    images = torch.rand(6, 2, height, width, generator=seeded(4), dtype=torch.float64)
    rows, columns = np.indices((height, width))
    blurred, lines = motions(images)
    for image, found, (length, angle) in zip(images, blurred, lines, strict=True):
        for channel in range(2):
            seen = [
                map_coordinates(
                    image[channel].numpy(),
                    [rows + along * math.sin(angle), columns + along * math.cos(angle)],
                    order=1,
                    mode="nearest",
                )
                for along in np.linspace(-length / 2, length / 2, 33)
            ]
            np.testing.assert_allclose(found[channel].numpy(), np.mean(seen, axis=0), atol=1e-9)


def test_motion_spreads_a_point_over_2_to_9_pixels_and_loses_no_light() -> None:
    points = torch.zeros(400, 1, 15, 15, dtype=torch.float64)
    points[:, :, 7, 7] = 1
    spread = motions(points)[0].numpy()[:, 0]
    np.testing.assert_allclose(spread.sum(axis=(1, 2)), 1)
    rows, columns = np.indices((15, 15)) - 7
    np.testing.assert_allclose([(spread * axis).sum(axis=(1, 2)) for axis in (rows, columns)], 0, atol=1e-9)
    lit = spread > 1e-9
    reach = np.sqrt((lit * (rows**2 + columns**2)).max(axis=(1, 2)))
    assert reach.min() >= 1
    assert reach.max() <= 4.5 + math.sqrt(2)
    across, down = ((spread * axis**2).sum(axis=(1, 2)) for axis in (columns, rows))
    # The variance of a line is a twelfth of its squared length; linear interpolation adds up to 1/4 a side.
    lengths = np.sqrt(12 * (across + down))
    assert 2 <= lengths.min() < 3.5
    assert 8 < lengths.max() < math.sqrt(9**2 * 1.07 + 6)


def test_every_channel_of_an_image_is_blurred_by_the_same_motion() -> None:
    images = torch.rand(5, 3, 15, 15, generator=seeded(2), dtype=torch.float64)
    images[:, 0] = 0
    images[:, 0, 7, 7] = 1
    for image, blurred in zip(images.numpy(), motions(images)[0].numpy(), strict=True):
        for channel in (1, 2):
            expected = correlate(image[channel], blurred[0], mode="nearest")
            np.testing.assert_allclose(blurred[channel], expected, atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_an_image_of_too_few_pixels_is_pillows_shrunk_and_enlarged(seed: int) -> None:
    image = torch.rand(40, 50, generator=seeded(9))
    blurred = replace(STILL, blurred_share=1)(image.expand(2, 1, -1, -1), generator=seeded(seed))
    resized = {}
    for percent in range(300, 701, 5):
        size = round(50 * percent / 1000), round(40 * percent / 1000)
        small = Image.fromarray(image.numpy()).resize(size, Image.Resampling.BILINEAR)
        resized[size] = np.asarray(small.resize((50, 40), Image.Resampling.BILINEAR))
    fits = [np.allclose(one[0], back, atol=1e-4) for one in blurred.numpy() for back in resized.values()]
    assert sum(fits) == 1


# Light.


def relit(amounts: NDArray[np.float64], image: NDArray[np.float64]) -> NDArray[np.float64]:
    """The light as the documentation has it: a power, less or more colour, gains, a slope and an offset."""
    gamma, saturation, slope_x, slope_y, offset, *gains = amounts
    _, height, width = image.shape
    powers = image ** math.exp(gamma)
    grey = powers.mean(axis=0)
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    uneven = np.exp(slope_x * x + slope_y * y)
    coloured = [grey + (power - grey) * (1 + saturation) for power in powers]
    lit = [math.exp(gain) * one * uneven for gain, one in zip(gains, coloured, strict=True)]
    return np.asarray(np.stack(lit) + offset)


def test_light_is_gamma_saturation_slopes_gains_and_an_offset_of_each_image() -> None:
    # Weak light and medium levels, so that nothing is clipped; then the amounts can be found again.
    light, count = 0.3, 80
    images = 0.1 + 0.3 * torch.rand(count, 3, 4, 5, generator=seeded(1), dtype=torch.float64)
    found = []
    for image, lit in zip(images, replace(STILL, light=light)(images, generator=seeded()), strict=True):

        def error(
            amounts: NDArray[np.float64], image: Tensor = image, lit: Tensor = lit
        ) -> NDArray[np.float64]:
            return np.asarray(relit(amounts, image.numpy()) - lit.numpy()).ravel()

        fit = least_squares(error, np.zeros(8), xtol=1e-12)
        np.testing.assert_allclose(fit.fun, 0, atol=1e-7)
        found.append(fit.x / light)
    gamma, saturation, slope_x, slope_y, offset, *gains = np.transpose(found)
    assert uniform_within(gamma, 0.4)
    assert uniform_within(saturation, 0.4)
    assert uniform_within(slope_x, 0.35)
    assert uniform_within(slope_y, 0.35)
    assert uniform_within(offset, 0.05)
    brightness = np.mean(gains, axis=0)
    assert 0.6 < abs(brightness).max() <= 0.8
    tints = np.array(gains) - brightness
    assert 0.05 < abs(tints).max() <= 0.2


@pytest.mark.parametrize("channels", [1, 3])
def test_brighter_stays_brighter_in_every_light(channels: int) -> None:
    # The same draws for every level, as there is a generator of the same seed for each.
    levels = torch.arange(0, 256, 5) / 255
    strong = StrongAugmentation(blurred_share=0, hidden_share=0, noise_grey=0)
    lit = torch.stack(
        [strong(level.expand(12, channels, 3, 3).clone(), generator=seeded(2)) for level in levels]
    )
    assert (lit.diff(dim=0) >= 0).all()
    assert (lit[-1] - lit[0] > 0.1).all()


def test_light_changes_brightness_by_a_factor_of_up_to_2() -> None:
    images = torch.full((500, 1, 5, 5), 0.2)
    middles = replace(STILL, light=1)(images, generator=seeded())[:, 0, 2, 2]
    assert float(middles.min()) < 0.1
    assert float(middles.max()) > 0.4


# Hidden rectangles.


def hidden_parts(height: int, width: int, *, share: float, count: int) -> list[NDArray[np.float64]]:
    """Returns the hidden rectangle of each image that has one: its place, its size and its colour."""
    images = torch.rand(count, 3, height, width, generator=seeded(1), dtype=torch.float64)
    parts = []
    for image, shown in zip(
        images, replace(STILL, hidden_share=share)(images, generator=seeded()), strict=True
    ):
        rows, columns = np.nonzero(((shown - image).abs() > 1e-5).any(dim=0).numpy())
        if len(rows):
            top, left, tall, wide = rows.min(), columns.min(), np.ptp(rows) + 1, np.ptp(columns) + 1
            inside = shown[:, top : top + tall, left : left + wide].flatten(1)
            assert len(rows) == tall * wide, "it is a full rectangle"
            assert torch.equal(inside, inside[:, :1].expand_as(inside)), "of one flat colour"
            parts.append(np.array([top, left, tall, wide, *inside[:, 0].tolist()]))
    return parts


def test_a_share_of_the_images_has_a_hidden_rectangle() -> None:
    found = len(hidden_parts(20, 20, share=0.35, count=600))
    assert scipy.stats.binomtest(found, 600, 0.35).pvalue > 0.01
    assert hidden_parts(20, 20, share=0, count=100) == []


def test_it_is_a_tenth_to_a_third_of_each_side_anywhere_and_of_any_colour() -> None:
    height, width = 40, 60
    parts = np.array(hidden_parts(height, width, share=1, count=200))
    top, left, tall, wide, *colours = parts.T
    assert len(parts) == 200
    for length, side, begin in ((tall, height, top), (wide, width, left)):
        assert 0.1 * side - 1 <= length.min() < 0.14 * side
        assert 0.3 * side < length.max() <= 0.33 * side + 1
        assert begin.min() <= 1
        assert (begin + length).max() >= side - 1
    assert 0 <= np.min(colours) < 0.1
    assert 0.9 < np.max(colours) <= 1


# Noise.


def test_three_in_ten_images_have_noise_of_uniformly_drawn_strength() -> None:
    images = torch.full((600, 3, 30, 30), 128 / 255)
    noisy = replace(STILL, noise_grey=20)(images, generator=seeded()) * 255
    sigmas = noisy.flatten(1).std(dim=1).numpy()
    some = sigmas[sigmas > 0]
    assert scipy.stats.binomtest(len(some), 600, 0.3).pvalue > 0.01
    assert scipy.stats.kstest(some, scipy.stats.uniform(0, 20).cdf).pvalue > 0.01
    assert abs(float(noisy.mean()) - 128) < 0.1


def test_noisy_images_are_stored_in_8_bits_and_others_are_not() -> None:
    images = torch.rand(40, 3, 8, 8, generator=seeded(1))
    stored = replace(STILL, noise_grey=100)(images, generator=seeded()) * 255
    torch.testing.assert_close(stored, stored.round(), rtol=0, atol=1e-4)
    assert (int(stored.min()), int(stored.max())) == (0, 255)
    plain = STILL(images, generator=seeded()) * 255
    assert (plain - plain.round()).abs().max() > 0.1
