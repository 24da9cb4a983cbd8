"""Pictures show what they say: the right pixels, and exactly the answers that restoring saved."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from steadylens.data.datasets import ImageSet
from steadylens.evaluation.experiments import example_densities
from steadylens.evaluation.samples import DENSITY_BINS, noise_densities, restored_samples, saved_answers
from steadylens.images.tensors import to_float, to_uint8
from steadylens.nets.classification import FusedClassifier
from steadylens.nets.restoration import RestorationNet, initialize_xavier, normalize_pattern
from steadylens.noise.degradation import gaussian_degradation
from steadylens.randomness import derived_generator
from steadylens.records import Picture
from tests.sample_records import PROVENANCE

NAMES = ("red", "green", "blue", "nothing")
DEGRADATION = gaussian_degradation(20)


@pytest.fixture(scope="module")
def images() -> ImageSet:
    """Returns images of three of the four classes, in a mixed order."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.tensor([2, 0, 0, 1, 2, 1])
    pixels = torch.randint(0, 256, (6, 3, 13, 13), generator=generator, dtype=torch.uint8)
    return ImageSet(images=pixels, labels=labels, tracks=torch.arange(6))


@pytest.fixture(scope="module")
def net() -> RestorationNet:
    net = RestorationNet(depth=3)
    initialize_xavier(net, generator=torch.Generator().manual_seed(6))
    return net.eval()


def decoded(png: str) -> Tensor:
    with Image.open(io.BytesIO(base64.b64decode(png))) as opened:
        assert (opened.format, opened.mode) == ("PNG", "RGB")
        return torch.from_numpy(np.array(opened)).permute(2, 0, 1)


def samples(net: RestorationNet, images: ImageSet) -> list[Picture]:
    return restored_samples(net, images, NAMES, DEGRADATION, provenance=PROVENANCE)


def test_each_class_that_there_is_has_one_row(net: RestorationNet, images: ImageSet) -> None:
    assert [(row.figure, row.title) for row in samples(net, images)] == [
        (2, "red"), (2, "green"), (2, "blue")
    ]  # fmt: skip


def test_the_panels_hold_the_pixels_of_the_first_image_of_the_class(
    net: RestorationNet, images: ImageSet
) -> None:
    clean = to_float(images.images[[1, 3, 0]])
    noisy = DEGRADATION(clean, generator=derived_generator(3, "pictures"))
    with torch.no_grad():
        pattern = net.pattern(noisy)
        expected = {
            "clean": clean,
            "noisy": noisy,
            "pattern": pattern + 0.5,
            "restored": net(noisy),
            "pattern, normalised": normalize_pattern(pattern),
        }
    for index, row in enumerate(samples(net, images)):
        assert [caption for caption, _ in row.panels] == list(expected)
        for caption, png in row.panels:
            difference = decoded(png).int() - to_uint8(expected[caption][index]).int()
            assert difference.abs().max() <= (caption not in ("clean", "noisy"))


class Channel(nn.Module):
    """Answers the channel that is brightest at the first pixel."""

    def forward(self, images: Tensor) -> Tensor:
        return images[:, :, 0, 0]


class Turning(nn.Module):
    """Restores by turning the channels around, which only helps images that were turned before."""

    def forward(self, images: Tensor) -> Tensor:
        return images.roll(1, dims=1)


@pytest.fixture
def turned() -> ImageSet:
    """Returns four images: right only alone, right only turned, right only turned, never right."""
    labels = torch.tensor([0, 1, 2, 0])
    pixels = torch.zeros(4, 3, 2, 2, dtype=torch.uint8)
    for index, brightest in enumerate((0, 0, 1, 1)):
        pixels[index, brightest] = 200 + index
    return ImageSet(images=pixels, labels=labels, tracks=torch.arange(4))


def saved(images: ImageSet, *, limit: int = 12) -> list[Picture]:
    fused = FusedClassifier(Turning(), Channel())
    return saved_answers(Channel(), fused, images, NAMES, limit=limit, provenance=PROVENANCE)


def test_saved_answers_are_those_wrong_alone_and_right_behind_the_restorer(turned: ImageSet) -> None:
    rows = saved(turned)
    assert [(row.figure, row.title) for row in rows] == [(4, "green"), (4, "blue")]
    assert [[caption for caption, _ in row.panels] for row in rows] == [
        ["alone: red", "restored: green"],
        ["alone: green", "restored: blue"],
    ]
    for row, index in zip(rows, (1, 2), strict=True):
        alone, restored = (decoded(png) for _, png in row.panels)
        assert torch.equal(alone, turned.images[index])
        assert torch.equal(restored, turned.images[index].roll(1, dims=0))


def test_no_more_saved_answers_are_shown_than_wished(turned: ImageSet) -> None:
    assert [row.title for row in saved(turned, limit=1)] == ["green"]


def test_nothing_is_shown_when_the_original_is_never_wrong(turned: ImageSet) -> None:
    assert saved(turned.subset([0])) == []


def test_nothing_is_shown_when_restoring_saves_no_answer(turned: ImageSet) -> None:
    assert saved(turned.subset([0, 3])) == []


def test_densities_are_shares_between_edges_of_the_strength() -> None:
    for row in noise_densities(example_densities(), provenance=PROVENANCE):
        assert len(row.shares) == DENSITY_BINS
        assert (row.edges_grey[0], row.edges_grey[-1]) == pytest.approx((-80, 80))
        assert min(row.shares) >= 0
        assert 0.98 < sum(row.shares) <= 1 + 1e-6


def test_densities_have_the_deviation_of_their_family() -> None:
    # Thinning keeps a share of the values, or weakens the others: the variance is the mean of both.
    factors = {
        "Gaussian": 1.0,
        "uniform": 1.0,
        "Laplacian": 1.0,
        "sparse Gaussian": 0.3**0.5,
        "attenuated Gaussian": (0.5 + 0.5 * 0.3**2) ** 0.5,
    }
    rows = noise_densities(example_densities(), provenance=PROVENANCE)
    assert [row.family for row in rows] == list(factors)
    for row in rows:
        edges, shares = np.array(row.edges_grey), np.array(row.shares)
        middles = (edges[1:] + edges[:-1]) / 2
        deviation = float(np.sqrt((shares * middles**2).sum() / shares.sum()))
        # A Laplacian has 0.35 % of its values, and 7 % of its variance, beyond the four deviations shown.
        assert deviation == pytest.approx(row.strength_grey * factors[row.family], rel=0.05)
