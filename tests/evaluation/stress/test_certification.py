"""A certificate never goes beyond what is true of a linear classifier, whose radius is known."""

import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import binomtest, norm
from torch import Tensor, nn

from steadylens.errors import ImageError, SettingError
from steadylens.evaluation.stress.certification import (
    Certified,
    Certifying,
    certified_radius,
    certify_image,
    noisy_versions,
)
from steadylens.evaluation.stress.integer_noise import integer_noise
from steadylens.intervals import clopper_pearson_lower
from steadylens.nets.classification import SignNet

SIGMA = 0.25
SETTINGS = Certifying(first_versions=20, versions=200, batch=64)
SIDE = 4


class Plane(nn.Module):
    """A linear classifier of two classes: the sum over w (x - 1/2), plus an offset, against 0."""

    def __init__(self, *, offset: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        self.weights = torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
        self.offset = offset

    def margin(self, images: Tensor) -> Tensor:
        return ((images.double() - 0.5) * self.weights).sum(dim=(1, 2, 3)) + self.offset

    def forward(self, images: Tensor) -> Tensor:
        margin = self.margin(images)
        return torch.stack([margin, -margin], dim=1)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


IMAGE = torch.randint(0, 256, (3, SIDE, SIDE), dtype=torch.uint8, generator=generator(3))


def plane_at(distance: float) -> Plane:
    """Returns a plane at a distance from the image, which lies on the side of class 0.

    Without rounding, the smoothed plane is the plane itself: the image keeps its answer within the distance,
    and not beyond. Rounding hardly matters.
    """
    through_image = Plane()
    length = float(through_image.weights.double().norm())
    return Plane(offset=distance * length - float(through_image.margin(IMAGE[None] / 255)))


def true_radius(plane: Plane) -> float:
    """Returns the radius that the exact probability of class 0 certifies.

    Noise that is rounded to 8 bits has the variance of rounding beside its own.
    """
    margin = float(plane.margin(IMAGE[None] / 255))
    variance = float(plane.weights.double().square().sum()) * (SIGMA**2 + 1 / (12 * 255**2))
    return SIGMA * float(norm.ppf(norm.cdf(margin / math.sqrt(variance))))


def certified(plane: nn.Module, settings: Certifying, seed: int = 0) -> Certified:
    return certify_image(plane, IMAGE, sigma=SIGMA, settings=settings, generator=generator(seed))


@pytest.mark.parametrize("distance", [0.1, 0.3, 0.55])
def test_the_share_of_radii_above_the_true_one_stays_below_alpha(distance: float) -> None:
    alpha, trials = 0.1, 300
    plane, settings = plane_at(distance), replace(SETTINGS, alpha=alpha)
    assert true_radius(plane) == pytest.approx(distance, rel=0.001)
    found = [certified(plane, settings, seed) for seed in range(trials)]
    violations = sum(each.radius > true_radius(plane) for each in found)
    assert violations > 0, "the bound would be too careful"
    assert binomtest(violations, trials, alpha, alternative="greater").pvalue > 0.01
    assert all(each.answer == 0 for each in found if each.radius > 0)


def test_with_a_small_alpha_no_certificate_of_many_exceeds_the_true_radius() -> None:
    plane, settings = plane_at(0.4), replace(SETTINGS, alpha=1e-6)
    for seed in range(100):
        assert 0 < certified(plane, settings, seed).radius < true_radius(plane)


def test_an_attack_finds_another_answer_of_the_smoothed_net_outside_of_the_radius_alone() -> None:
    plane = plane_at(0.5)
    found = certified(plane, replace(SETTINGS, versions=5000))
    assert 0.4 < found.radius < 0.5
    # The worst change of a linear classifier is known: straight to the plane. Others near it are tried, too.
    worst = -plane.weights / plane.weights.norm()
    others = 0.5 * torch.randn(100, 3, SIDE, SIDE, generator=generator(4)) / math.sqrt(IMAGE.numel()) + worst
    directions = [worst, *(each / each.norm() for each in others)]
    noise = SIGMA * torch.randn(4000, *IMAGE.shape, generator=generator(5))

    def smoothed(change: Tensor) -> int:
        """Returns the answer of the smoothed net to an image that may lie between grey levels."""
        rounded = ((IMAGE / 255 + change + noise) * 255).round() / 255
        return int(plane(rounded).argmax(dim=1).bincount(minlength=2).argmax())

    assert all(smoothed(0.99 * found.radius * direction) == found.answer for direction in directions)
    assert smoothed(0.55 * worst) == 1 - found.answer


def test_the_bound_is_that_of_scipy_and_rounded_down() -> None:
    for count, versions, alpha in ((200, 200, 0.001), (190, 200, 0.001), (6000, 10_000, 0.05)):
        interval = binomtest(count, versions, alternative="greater").proportion_ci(1 - alpha, "exact")
        found = certified_radius(count, versions, alpha=alpha, sigma=0.5)
        assert found == pytest.approx(0.5 * norm.ppf(interval.low), rel=1e-8)
        bound = clopper_pearson_lower(count, versions, alpha)
        assert norm.cdf(found / 0.5) <= bound * (1 + 1e-15)


@pytest.mark.parametrize("count", [0, 50, 100, 110])
def test_it_abstains_where_the_probability_may_be_one_half(count: int) -> None:
    assert certified_radius(count, 200, alpha=0.001, sigma=0.25) == 0


def test_an_image_on_the_plane_gets_no_answer() -> None:
    found = [certified(plane_at(0.0), SETTINGS, seed) for seed in range(20)]
    assert {(each.answer, each.radius) for each in found} == {(-1, 0.0)}
    assert all(60 < each.count < 140 for each in found)


class Constant(nn.Module):
    """Gives the same logits to every image."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.expand(len(images), -1)


def certify_grey(network: nn.Module, **changes: object) -> Certified:
    settings = replace(SETTINGS, **changes)  # type: ignore[arg-type]
    image = torch.full((3, SIDE, SIDE), 128, dtype=torch.uint8)
    return certify_image(network, image, sigma=SIGMA, settings=settings, generator=generator(0))


def test_the_largest_radius_is_certified_where_all_versions_agree() -> None:
    found = certify_grey(Constant(0.0, 1.0, 0.5))
    assert (found.answer, found.count) == (1, SETTINGS.versions)
    assert found.radius == pytest.approx(SIGMA * norm.ppf(0.001 ** (1 / 200)), rel=1e-8)


@pytest.mark.parametrize("logits", [(1.0, 1.0), (math.nan, math.nan)])
def test_a_network_without_a_largest_logit_is_not_certified(logits: tuple[float, ...]) -> None:
    found = certify_grey(Constant(*logits))
    assert (found.answer, found.count, found.radius) == (-1, SETTINGS.versions, 0.0)


class Listening(nn.Module):
    """Notes the batches that it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.batches.append(images.clone())
        return torch.stack([images[:, 0, 0, 0], -images[:, 0, 0, 0]], dim=1)


def test_every_batch_has_one_shape_and_the_noise_does_not_depend_on_it() -> None:
    noisy, results = {}, set()
    for batch in (1, 7, 64, 220, 500):
        net = Listening()
        results.add(certify_grey(net, batch=batch))
        assert {each.shape for each in net.batches} == {(batch, 3, SIDE, SIDE)}
        noisy[batch] = torch.cat(net.batches)
        assert not noisy[batch][220:].any(), "zeros fill the last batch up"
        assert len(noisy[batch]) < 220 + batch
    assert all(torch.equal(each[:220], noisy[1]) for each in noisy.values())
    assert len(results) == 1


def test_large_images_are_drawn_in_several_parts_which_give_the_same_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image, noise = torch.zeros(3, SIDE, SIDE, dtype=torch.uint8), integer_noise(SIGMA)
    monkeypatch.setattr("steadylens.evaluation.stress.certification._DRAWN_VALUES", 5 * image.numel())
    parts = {
        batch: torch.cat([*noisy_versions(image, noise, total=23, batch=batch, generator=generator(1))])[:23]
        for batch in (1, 4, 5, 23, 30)
    }
    assert all(torch.equal(each, parts[1]) for each in parts.values())
    assert len(torch.unique(parts[1])) > 100


def test_noisy_versions_lie_on_the_grid_of_8_bits_and_are_not_clipped() -> None:
    net = Listening()
    certify_grey(net)
    levels = torch.cat(net.batches)[:220].double() * 255
    assert torch.equal((levels.round() / 255).float(), torch.cat(net.batches)[:220])
    assert levels.min() < -20
    assert levels.max() > 275
    assert float((levels - 128).std()) == pytest.approx(255 * SIGMA, rel=0.03)


def test_strong_noise_that_a_net_refuses_elsewhere_is_accepted_here() -> None:
    net = SignNet(classes=5).eval()
    image = torch.zeros(3, 48, 48, dtype=torch.uint8)
    settings = Certifying(first_versions=2, versions=12)
    (noisy,) = noisy_versions(image, integer_noise(1.0), total=4, batch=4, generator=generator(0))
    with pytest.raises(ImageError, match="they must lie in"):
        net(noisy)
    found = certify_image(net, image, sigma=1.0, settings=settings, generator=generator(0))
    assert 0 <= found.count <= 12
    with pytest.raises(ImageError, match="they must lie in"):
        net(noisy)


def test_a_net_in_train_mode_is_certified_in_eval_mode_and_keeps_its_mode() -> None:
    net = nn.Sequential(nn.Dropout(0.9), Listening())
    certify_grey(net)
    assert net.training
    (listening,) = [part for part in net.modules() if isinstance(part, Listening)]
    assert int((torch.cat(listening.batches)[:220] == 0).sum()) < 220, "nothing was dropped"


def test_a_net_in_bfloat16_is_another_one() -> None:
    seen = []

    class Noting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 2, SIDE)

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.layer(images).flatten(1)
            seen.append(logits.dtype)
            return logits

    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        seen.clear()
        certify_grey(Noting(), precision=precision)
        assert {*seen} == {dtype}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigmas": ()}, "give at least one, and each once"),
        ({"sigmas": (0.25, 0.25)}, "give at least one, and each once"),
        ({"sigmas": (0.25, 64.0)}, "divide grey levels by 255"),
        ({"first_versions": 0}, r"first_versions \(--n0\) is 0"),
        ({"versions": 0}, r"versions \(--n, --certify-n\) is 0"),
        ({"versions": 9}, "too few to certify anything at alpha 0.001"),
        ({"images": 0}, r"images \(--images, --certify-images\) is 0"),
        ({"batch": -1}, r"batch \(--batch\) is -1"),
        ({"alpha": 0.0}, r"alpha \(--alpha\) is 0\.0"),
        ({"alpha": 0.6}, r"alpha \(--alpha\) is 0\.6"),
        ({"precision": "float16"}, "precision is float16"),
    ],
)
def test_settings_that_certify_nothing_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Certifying(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("image", [IMAGE / 255, IMAGE[None], IMAGE.long()])
def test_an_image_that_is_not_of_8_bits_is_refused(image: Tensor) -> None:
    with pytest.raises(ImageError, match=r"uint8 \(C, H, W\) is certified"):
        certify_image(Plane(), image, sigma=SIGMA, settings=SETTINGS, generator=generator(0))


def test_an_alpha_below_what_is_unknown_of_the_noise_is_refused() -> None:
    with pytest.raises(SettingError, match="the noise itself is known to"):
        certify_grey(Constant(1.0, 0.0), alpha=1e-14)


def test_what_the_noise_leaves_unknown_is_taken_from_alpha() -> None:
    usual, careful = (certify_grey(Constant(1.0, 0.0), alpha=alpha).radius for alpha in (0.001, 4e-13))
    assert usual == pytest.approx(certified_radius(200, 200, alpha=0.001, sigma=SIGMA), rel=1e-9)
    assert careful < certified_radius(200, 200, alpha=4e-13, sigma=SIGMA) * (1 - 1e-3)


def test_batches_of_a_size_that_fits_are_taken_by_default() -> None:
    settings = Certifying(first_versions=100, versions=1000)
    small, large = torch.zeros(3, 48, 48, dtype=torch.uint8), torch.zeros(3, 500, 500, dtype=torch.uint8)
    assert settings.batch_for(small) == 10
    assert settings.batch_for(large) == 10
    assert replace(settings, batch=33).batch_for(small) == 33
