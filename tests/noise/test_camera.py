"""Noise of cameras: mean, variance against brightness and correlation, against formulas and plain loops.

Tolerances are five standard errors of the measured number.
"""

import math
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steadylens.errors import ImageError, SettingError
from steadylens.noise.camera import Banded, Correlated, Demosaiced, PoissonGaussian, Resized
from steadylens.noise.degradation import Degradation
from steadylens.noise.families import Attenuated, Family, Gaussian, Range, SaltAndPepper, Sparse, Strength
from steadylens.noise.pool import NoisePool

SIGMA = Strength.fixed(20)
FAMILIES: list[Family] = [
    PoissonGaussian(strength=SIGMA),
    Demosaiced(strength=SIGMA),
    Resized(strength=SIGMA, shared=0),
    Correlated(strength=SIGMA),
    Banded(strength=SIGMA, shared=0),
]


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def flat(level: float = 0.5, *, samples: int = 60, size: int = 32) -> Tensor:
    return torch.full((samples, 3, size, size), level)


def noise_grey(family: Family, images: Tensor, *, seed: int = 1) -> Tensor:
    """Returns the noise that one family adds, in grey levels, neither clipped nor rounded."""
    degrade = Degradation(families=(family,), clip=False, quantize=False)
    return (degrade(images, generator=seeded(seed)) - images).double() * 255


def name_of(family: Any) -> str:
    return str(family.name)


def mean_over_samples(values: Tensor) -> tuple[float, float]:
    """Returns the mean of values with a mean for each sample, and five standard errors of it."""
    each = values.flatten(1).mean(dim=1)
    return float(each.mean()), 5 * float(each.std()) / math.sqrt(len(each))


@pytest.mark.parametrize("family", FAMILIES, ids=name_of)
def test_noise_has_mean_0_and_its_strength_on_mid_grey(family: Family) -> None:
    noise = noise_grey(family, flat(samples=300))
    mean, error = mean_over_samples(noise)
    assert mean == pytest.approx(0, abs=error)
    power, error = mean_over_samples(noise.square())
    assert power == pytest.approx(400, abs=error)
    assert error < 60


@pytest.mark.parametrize("level", [0.0, 0.1, 0.5, 1.0])
def test_poisson_gaussian_variance_is_linear_in_brightness(level: float) -> None:
    # 200 photons at white and 5 grey levels of reading: x / photons + read^2.
    family = PoissonGaussian.of_camera(photons=200, read_grey=5)
    noise = noise_grey(family, flat(level))
    mean, error = mean_over_samples(noise)
    assert mean == pytest.approx(0, abs=error)
    power, error = mean_over_samples(noise.square())
    assert power == pytest.approx(level / 200 * 255**2 + 25, abs=error)


def test_poisson_noise_without_reading_counts_photons() -> None:
    images = flat(0.3)
    noisy = images + noise_grey(PoissonGaussian.of_camera(photons=40), images).float() / 255
    counts = (noisy * 40).double()
    torch.testing.assert_close(counts, counts.round(), rtol=0, atol=1e-3)
    found = counts.round().flatten().long().bincount(minlength=41)[:41].numpy()
    expected = scipy.stats.poisson(12).pmf(np.arange(41)) * counts.numel()
    likely = expected > 10
    scaled = expected[likely] * found[likely].sum() / expected[likely].sum()
    assert scipy.stats.chisquare(found[likely], scaled).pvalue > 1e-6


@pytest.mark.parametrize("grey", [0.01, 0.15, 0.2])
def test_very_many_photons_keep_mean_and_variance(grey: float) -> None:
    # Below 0.18 grey levels the counts come from a normal distribution, above from Poisson's.
    images = flat(0.25, samples=100).double()
    noise = noise_grey(PoissonGaussian(strength=Strength.fixed(grey), read_share=0), images)
    mean, error = mean_over_samples(noise)
    assert mean == pytest.approx(0, abs=error)
    power, error = mean_over_samples(noise.square())
    assert power == pytest.approx(grey**2 / 2, abs=error)


def test_a_camera_is_told_by_its_photons_and_its_reading() -> None:
    family = PoissonGaussian.of_camera(photons=500, read_grey=3)
    variance = 0.5 / 500 + (3 / 255) ** 2
    assert family.strength.low_grey == pytest.approx(255 * math.sqrt(variance))
    assert family.read_share == pytest.approx((3 / 255) ** 2 / variance)


def correlations(noise: Tensor) -> dict[tuple[int, int], tuple[float, float]]:
    """Returns the autocorrelation of noise of 20 grey levels at several distances, with its tolerance."""
    found = {}
    for down, right in ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (0, 3)):
        height, width = noise.shape[-2:]
        product = noise[..., : height - down, : width - right] * noise[..., down:, right:] / 400
        found[down, right] = mean_over_samples(product)
    return found


@pytest.mark.parametrize("family", FAMILIES[:1], ids=name_of)
def test_poisson_gaussian_pixels_and_channels_are_independent(family: Family) -> None:
    noise = noise_grey(family, flat())
    for value, tolerance in correlations(noise).values():
        assert value == pytest.approx(0, abs=tolerance)
    value, tolerance = mean_over_samples(noise[:, 0] * noise[:, 1] / 400)
    assert value == pytest.approx(0, abs=tolerance)


def demosaiced_by_loop(raw: np.ndarray, first_row: int, first_column: int) -> np.ndarray:
    """Returns red, green and blue within the border: the mean of the nearest pixels that measured them."""
    height, width = raw.shape

    def colour(row: int, column: int) -> int:
        return (row + first_row) % 2 + (column + first_column) % 2  # red, green, blue: 0, 1, 2

    found = np.zeros((3, height - 2, width - 2))
    for wanted in range(3):
        for row in range(1, height - 1):
            for column in range(1, width - 1):
                around = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
                own = [place for place in around if colour(row + place[0], column + place[1]) == wanted]
                nearest = min(abs(down) + abs(right) for down, right in own)
                chosen = [(d, r) for d, r in own if abs(d) + abs(r) == nearest]
                found[wanted, row - 1, column - 1] = np.mean([raw[row + d, column + r] for d, r in chosen])
    return found


def test_demosaicing_equals_a_plain_loop() -> None:
    scene = torch.rand(8, 3, 5, 6, generator=seeded())
    family = Demosaiced(strength=Strength.fixed(0), mosaics_image=True)
    seen = scene.double() + noise_grey(family, scene) / 255
    for clean, found in zip(scene, seen, strict=True):
        padded = np.pad(clean.double().numpy(), ((0, 0), (1, 1), (1, 1)), mode="edge")
        rows, columns = np.indices(padded.shape[1:])
        possible = []
        for first_row in (0, 1):
            for first_column in (0, 1):
                measured = (rows + first_row) % 2 + (columns + first_column) % 2
                raw = np.take_along_axis(padded, np.asarray(measured)[None], axis=0)[0]
                possible.append(demosaiced_by_loop(raw, first_row, first_column))
        assert min(np.abs(found.numpy() - each).max() for each in possible) < 1e-6


def test_demosaiced_noise_is_correlated_as_a_plain_loop_makes_it() -> None:
    # The covariance of A n, for white n and the linear map A of the loop, is A A^T; averaged over places.
    side = 6
    maps = []
    for pixel in range(side**2):
        unit = np.zeros(side**2)
        unit[pixel] = 1
        maps.append(demosaiced_by_loop(unit.reshape(side, side), 0, 0))
    linear = np.stack(maps, axis=-1)  # (3, 4, 4, raw pixels): the pattern repeats after two
    power = np.square(linear).sum(axis=-1).mean()
    noise = noise_grey(Demosaiced(strength=SIGMA), flat(samples=200))
    for (down, right), (value, tolerance) in correlations(noise).items():
        expected = np.mean(
            [
                (linear[:, row, column] * linear[:, row + down, column + right]).sum(axis=-1)
                if max(row + down, column + right) < side - 2
                else np.zeros(3)
                for row in range(2 - down // 2)
                for column in range(2 - right // 2)
            ]
        )
        if max(down, right) < 3:
            assert value == pytest.approx(expected / power, abs=tolerance + 1e-3), (down, right)
    value, tolerance = mean_over_samples(noise[:, 0] * noise[:, 1] / 400)
    assert value == pytest.approx(0, abs=tolerance)


def test_the_mosaic_blurs_the_image_only_if_asked() -> None:
    images = torch.rand(6, 3, 9, 7, generator=seeded())
    still = Strength.fixed(0)
    assert noise_grey(Demosaiced(strength=still), images).abs().max() == 0
    assert noise_grey(Demosaiced(strength=still, mosaics_image=True), images).abs().max() > 20
    constant = torch.full((2, 3, 5, 5), 0.3)
    assert noise_grey(Demosaiced(strength=still, mosaics_image=True), constant).abs().max() < 1e-4


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_a_mosaic_needs_three_colours(channels: int) -> None:
    degrade = Degradation(families=(Demosaiced(),))
    with pytest.raises(ImageError, match=f"images have {channels} channels, noise of a Bayer mosaic needs 3"):
        degrade(torch.rand(2, channels, 8, 8), generator=seeded())


@pytest.mark.parametrize("scale", [1.0, 1.7, 2.0, 4.0])
def test_resized_noise_is_correlated_as_linear_interpolation_makes_it(scale: float) -> None:
    noise = noise_grey(Resized(strength=SIGMA, shared=0, scale=scale), flat(samples=400))
    starts = np.random.default_rng(1).random(400) if scale != 1 else np.linspace(0, 1, 401)[:-1]
    along = []
    for distance in (1, 2, 3):
        products = []
        for start in starts:
            # Row i of the map from the small grid to the pixels holds the two weights of pixel i.
            place = np.arange(32) / scale + start
            weights = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(int(place.max()) + 2)))
            power = np.square(weights).sum(axis=1).mean()
            products.append((weights[:-distance] * weights[distance:]).sum(axis=1).mean() / power)
        along.append(np.mean(products))
    for distance, expected in enumerate(along, start=1):
        value, tolerance = correlations(noise)[0, distance]
        assert value == pytest.approx(expected, abs=tolerance + 0.02)


def test_resized_noise_is_linear_within_every_pixel_of_the_small_image() -> None:
    noise = noise_grey(Resized(strength=SIGMA, shared=1, scale=4), flat(samples=5, size=30))[:, 0]
    for axis in (1, 2):
        bends = noise.diff(n=2, dim=axis).abs().amax(dim=3 - axis) > 1e-3  # (N, 28)
        # Of four pixels in a row one or two are beside a border between two pixels of the small image.
        bent = bends.unfold(1, 4, 1).sum(dim=2)
        assert ((bent == 1) | (bent == 2)).all()


@pytest.mark.parametrize("blur", [0, 0.5, 1, 2])
def test_correlated_noise_is_correlated_as_its_blur_makes_it(blur: float) -> None:
    noise = noise_grey(Correlated(strength=SIGMA, blur=(blur, blur)), flat(samples=300))
    unit = np.zeros(61)
    unit[30] = 1
    kernel = scipy.ndimage.gaussian_filter1d(unit, blur, truncate=9) if blur else unit
    along = np.correlate(kernel, kernel, "full")[60:] / np.square(kernel).sum()
    for (down, right), (value, tolerance) in correlations(noise).items():
        assert value == pytest.approx(along[down] * along[right], abs=tolerance + 2e-3), (down, right)


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("blur", [(0, 0), (0, 8), (8, 8)])
def test_correlated_noise_is_as_strong_at_the_border_as_within(blur: Range, channels: int) -> None:
    noise = noise_grey(Correlated(strength=SIGMA, blur=blur), torch.full((900, channels, 9, 9), 0.5))
    for part in (noise, noise[..., 0, :], noise[..., :, -1]):
        power, error = mean_over_samples(part.square())
        assert power == pytest.approx(400, abs=error)


def test_the_channels_of_a_sample_have_one_blur_and_what_they_share_another() -> None:
    noise = noise_grey(Correlated(strength=SIGMA, blur=(0, 3)), flat(samples=300, size=64))
    own = torch.stack([noise[:, 0] - noise[:, 1], noise[:, 1] - noise[:, 2]])
    first, second = (own[..., 1:] * own[..., :-1]).mean(dim=(2, 3)) / own.square().mean(dim=(2, 3))
    assert np.corrcoef(first.numpy(), second.numpy())[0, 1] > 0.95
    power = (noise[:, 0] * noise[:, 1]).mean(dim=(1, 2))
    shared = (noise[:, 0, :, 1:] * noise[:, 1, :, :-1]).mean(dim=(1, 2)) / power
    much = power > 100  # else there is little to divide by
    assert much.sum() > 100
    assert abs(np.corrcoef(first[much].numpy(), shared[much].numpy())[0, 1]) < 0.3


@pytest.mark.parametrize("family", FAMILIES, ids=name_of)
def test_no_images_get_no_noise_and_autocast_changes_none(family: Any) -> None:
    images = flat(samples=4)
    drawn = [noise_grey(family, images)]
    with torch.autocast("cpu", torch.bfloat16):
        drawn.append(noise_grey(family, images))
    assert torch.equal(*drawn)
    none, flags = torch.empty(0, 3, 8, 8), torch.empty(0, 1, 1, 1)
    assert family.draw_noise(none, sigma=flags, shared=flags > 0, generator=seeded()).shape == none.shape


def test_channels_share_half_the_power_of_correlated_noise_on_average_and_any_share_of_a_sample() -> None:
    noise = noise_grey(Correlated(strength=SIGMA, blur=(0, 0)), flat(samples=400))
    of_samples = (noise[:, 0] * noise[:, 1]).mean(dim=(1, 2)) / 400
    assert of_samples.mean().item() == pytest.approx(0.5, abs=5 * math.sqrt(1 / 12 / 400))
    assert of_samples.std().item() == pytest.approx(math.sqrt(1 / 12), abs=0.05)


def test_every_sample_of_correlated_noise_has_its_own_blur() -> None:
    noise = noise_grey(Correlated(strength=SIGMA, blur=(0, 3)), flat(samples=200))
    neighbours = (noise[..., 1:] * noise[..., :-1]).mean(dim=(1, 2, 3)) / noise.square().mean(dim=(1, 2, 3))
    assert neighbours.min().item() < 0.3
    assert neighbours.max().item() > 0.8


@pytest.mark.parametrize(("columns", "axis"), [(0, 3), (1, 2)])
@pytest.mark.parametrize("shared", [0, 1])
def test_bands_are_constant_along_their_lines_and_independent_across(
    columns: float, axis: int, shared: float
) -> None:
    noise = noise_grey(Banded(strength=SIGMA, shared=shared, columns=columns), flat(samples=300))
    assert float(noise.std(dim=axis).max()) < 1e-4
    lines = noise.select(axis, 0)  # (N, C, lines)
    assert scipy.stats.kstest(lines[:, 0].flatten().numpy(), scipy.stats.norm(0, 20).cdf).pvalue > 1e-6
    value, tolerance = mean_over_samples(lines[..., 1:] * lines[..., :-1] / 400)
    assert value == pytest.approx(0, abs=tolerance)
    value, tolerance = mean_over_samples(lines[:, 0] * lines[:, 1] / 400)
    assert value == pytest.approx(shared, abs=tolerance)


def test_bands_are_columns_as_often_as_asked() -> None:
    noise = noise_grey(Banded(strength=SIGMA, columns=0.3), flat(samples=1000, size=4))
    upright = noise.std(dim=2).amax(dim=(1, 2)) < 1e-4
    assert upright.double().mean().item() == pytest.approx(0.3, abs=5 * math.sqrt(0.21 / 1000))


@pytest.mark.parametrize("kind", [Resized, Banded])
def test_channels_share_one_pattern_as_often_as_asked(kind: Any) -> None:
    degrade = Degradation(families=(kind(strength=SIGMA, shared=0.5),), clip=False, quantize=False)
    drawn = degrade.draw(flat(samples=50, size=6), generator=seeded())
    spread = (drawn.images - 0.5).std(dim=1).amax(dim=(1, 2))
    assert torch.equal(spread < 1e-6, drawn.shared)
    assert 0 < drawn.shared.sum() < 50


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (PoissonGaussian, {"strength": 25}, r"strength is 25; give Strength\.fixed"),
        (PoissonGaussian, {"read_share": 2}, "read_share is 2, a probability"),
        (PoissonGaussian.of_camera, {"photons": 0}, "photons is 0, read_grey 0.0; give"),
        (PoissonGaussian.of_camera, {"photons": 9, "read_grey": -1}, "photons is 9, read_grey -1; give"),
        (Demosaiced, {"strength": (1, 2)}, r"strength is \(1, 2\); give"),
        (Resized, {"scale": 0.5}, "scale is 0.5; noise is enlarged"),
        (Resized, {"scale": math.inf}, "scale is inf; noise is enlarged"),
        (Resized, {"shared": -1}, "shared is -1"),
        (Correlated, {"blur": (2, 1)}, r"blur is \(2, 1\); a pair"),
        (Correlated, {"blur": 2}, "blur is 2; a pair"),
        (Correlated, {"blur": (-1, 1)}, r"blur is \(-1, 1\); a pair"),
        (Correlated, {"blur": (0, 9)}, r"blur is \(0, 9\); a pair .* <= 8 is needed"),
        (Banded, {"columns": 1.5}, "columns is 1.5"),
        (Sparse, {"noise": PoissonGaussian()}, "depends on the image; wrap Gaussian"),
        (Attenuated, {"noise": Banded()}, "depends on the image; wrap Gaussian"),
    ],
)
def test_bad_settings_are_refused_with_the_rule(kind: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        kind(**given)


@pytest.mark.parametrize("family", FAMILIES, ids=name_of)
def test_a_pool_refuses_noise_that_depends_on_the_image(family: Family) -> None:
    with pytest.raises(SettingError, match="depends on the image"):
        NoisePool.fill(Degradation(families=(family,)), generator=seeded())


def test_noise_itself_stays_within_minus_1_and_1() -> None:
    strong = Strength.fixed(300)
    for kind in (Resized, Correlated, Banded, Demosaiced):
        family: Any = kind(strength=strong)
        assert noise_grey(family, flat(samples=4)).abs().max().item() == pytest.approx(255, abs=1e-4)


def test_a_mixture_keeps_each_familys_noise_with_its_samples() -> None:
    # The images tell themselves apart by brightness, and each family by what its noise looks like.
    levels = torch.linspace(0.3, 0.7, 300).view(-1, 1, 1, 1).expand(-1, 3, 12, 12)
    families = (
        Gaussian(strength=Strength.fixed(2), shared=0),
        Banded(strength=Strength.fixed(2), columns=0),
        SaltAndPepper(density=(0.3, 0.3)),
        Resized(strength=Strength.fixed(2), shared=1),
    )
    degrade = Degradation(families=families, weights=(2, 1, 1, 1), clean_share=0.2, quantize=False)
    drawn = degrade.draw(levels, generator=seeded())
    noise = drawn.images - levels
    banded = (noise.std(dim=3) < 1e-6).flatten(1).all(dim=1) & (noise.abs().amax(dim=(1, 2, 3)) > 0)
    assert torch.equal(banded, drawn.family == 1)
    assert torch.equal(noise.abs().amax(dim=(1, 2, 3)) == 0, drawn.family == -1)
    assert torch.equal(noise.abs().amax(dim=(1, 2, 3)) > 0.25, drawn.family == 2)
    assert (noise.mean(dim=(1, 2, 3))[drawn.family != 2].abs() < 0.02).all()
    assert (drawn.family + 1).bincount(minlength=5).min() > 20
    assert (drawn.strength_grey[drawn.family == 1] == 2).all()
    assert torch.equal(drawn.images, degrade(levels, generator=seeded()))


def test_each_sample_has_its_own_strength() -> None:
    degrade = Degradation(
        families=(PoissonGaussian(strength=Strength(low_grey=1, high_grey=30)),), clip=False, quantize=False
    )
    drawn = degrade.draw(flat(samples=40), generator=seeded())
    measured = ((drawn.images - 0.5) * 255).double().square().mean(dim=(1, 2, 3)).sqrt()
    assert ((measured / drawn.strength_grey - 1).abs() < 5 / math.sqrt(2 * 3 * 32**2) + 0.01).all()
    assert len(set(drawn.strength_grey.tolist())) == 40
    assert (drawn.quality == 0).all()


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 5), st.just(3), st.integers(1, 9), st.integers(1, 9)),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    degrade=st.builds(
        Degradation,
        families=st.lists(
            st.sampled_from(
                [PoissonGaussian(), Demosaiced(), Demosaiced(mosaics_image=True), Resized(), Banded(),
                 Resized(scale=7.3), Correlated(), Gaussian(), SaltAndPepper()]
            ),
            min_size=1, max_size=3,
        ).map(tuple),
        versions=st.integers(1, 3),
        clean_share=st.sampled_from([0.0, 0.5, 1.0]),
        clip=st.booleans(),
        quantize=st.booleans(),
    ),
    seed=st.integers(0, 2**32),
)  # fmt: skip
def test_any_batch_keeps_its_type_and_size_and_its_own_values(
    shape: tuple[int, int, int, int], dtype: torch.dtype, degrade: Degradation, seed: int
) -> None:
    images = torch.rand(shape, generator=seeded(seed)).to(dtype)
    before = images.clone()
    noisy = degrade(images, generator=seeded(seed))
    assert torch.equal(images, before)
    assert noisy.shape == (shape[0] * degrade.versions, *shape[1:])
    assert noisy.dtype == dtype
    assert noisy.isfinite().all()
    if degrade.clip:
        assert ((noisy >= 0) & (noisy <= 1)).all()
    assert torch.equal(noisy, degrade(images, generator=seeded(seed)))
    if degrade.clean_share == 1 and not degrade.quantize:
        assert torch.equal(noisy, images.repeat_interleave(degrade.versions, dim=0))


@settings(max_examples=40, deadline=None)
@given(
    family=st.sampled_from([PoissonGaussian, Demosaiced, Resized, Correlated, Banded]),
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    seed=st.integers(0, 99),
)
def test_strength_0_leaves_images_as_they_are(family: Any, size: tuple[int, int], seed: int) -> None:
    images = torch.rand(3, 3, *size, generator=seeded(seed))
    degrade = Degradation(families=(family(strength=Strength.fixed(0)),), clip=False, quantize=False)
    assert torch.equal(degrade(images, generator=seeded(seed)), images)
