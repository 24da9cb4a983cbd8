"""The noise of an image is estimated by what a net would remove, and an image is called clean with care."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import steadylens
from steadylens.errors import ImageError
from steadylens.images.tensors import array_to_tensor
from steadylens.inference.inspecting.noise_level import (
    CLEAN_GREY,
    PART,
    NoiseLevel,
    noise_level,
    noise_level_of,
    places,
)
from steadylens.inference.restorer import Restorer, restorer_of
from steadylens.metrics import estimate_noise
from tests.inference.inspecting.scenes import enlarged_noise, levels, noise, scene

CLEAN = scene(256, 384)
BLIND = restorer_of(lambda images: images, margin=0)


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    return restorer_of("unet-gtsrb")


def level(image: Any, restorer: Restorer) -> NoiseLevel:
    return noise_level_of(array_to_tensor(image), restorer)


@pytest.mark.parametrize("scale", [1, 257])
def test_a_clean_image_is_clean(restorer: Restorer, scale: int) -> None:
    found = level(levels(CLEAN, scale), restorer)
    assert found.clean
    assert found.grey is not None
    assert found.grey < CLEAN_GREY


@pytest.mark.parametrize("sigma_grey", [2, 5, 10, 25, 50])
@pytest.mark.parametrize("scale", [1, 257])
def test_white_noise_is_estimated_in_grey_levels_of_255(
    restorer: Restorer, sigma_grey: float, scale: int
) -> None:
    found = level(levels(CLEAN + noise(CLEAN.shape, sigma_grey), scale), restorer)
    assert not found.clean
    assert found.grey == pytest.approx(sigma_grey, rel=0.12)
    assert found.coarse_grey == pytest.approx(sigma_grey, rel=0.2)


@pytest.mark.parametrize("sigma_grey", [3, 6, 12])
def test_noise_that_neighbours_share_is_not_called_clean(restorer: Restorer, sigma_grey: float) -> None:
    found = level(levels(CLEAN + enlarged_noise(CLEAN.shape, sigma_grey)), restorer)
    assert not found.clean
    blind = level(levels(CLEAN + enlarged_noise(CLEAN.shape, sigma_grey)), BLIND)
    assert (blind.grey, blind.clean) == (0, False), "a net that sees nothing does not decide alone"
    assert blind.coarse_grey == pytest.approx(sigma_grey, rel=0.4)


@pytest.mark.parametrize("sigma_grey", [3, 6, 12])
def test_noise_that_neighbours_share_is_known_by_the_net_for_it(sigma_grey: float) -> None:
    found = noise_level(levels(CLEAN + enlarged_noise(CLEAN.shape, sigma_grey)))
    assert found.coarse
    assert found.grey is not None
    assert found.grey < sigma_grey / 5, "the usual net hardly touches it"
    assert found.camera_grey == pytest.approx(sigma_grey, rel=0.4)


@pytest.mark.parametrize("sigma_grey", [0, 2, 6, 12])
def test_white_noise_is_not_coarse(sigma_grey: float) -> None:
    assert not noise_level(levels(CLEAN + noise(CLEAN.shape, sigma_grey))).coarse


def test_texture_that_is_everywhere_is_not_coarse() -> None:
    rows, columns = np.mgrid[:256, :384]
    cloth = 30 * (np.sin(0.45 * rows + 0.15 * columns) + np.sin(0.4 * columns))[..., None]
    found = noise_level(levels(CLEAN + cloth))
    assert found.may_be_coarse, "the flattest blocks cannot tell"
    assert not found.coarse


def test_only_the_usual_net_is_compared_with_the_one_for_coarse_noise() -> None:
    pixels = levels(CLEAN + enlarged_noise(CLEAN.shape, 6))
    for net in ("unet-camera", "l3-gtsrb", steadylens.load("unet-photos")):
        found = noise_level(pixels, net)
        assert (found.camera_grey, found.coarse) == (None, False)
    assert noise_level(pixels, "l3-gtsrb").may_be_coarse


@pytest.mark.parametrize(
    ("grey", "camera_grey", "coarse"),
    [(0.2, 0.69, False), (0.2, 0.7, True), (2, 3.4, False), (2, 3.5, True), (2, None, False)],
)
def test_noise_is_coarse_if_the_net_for_it_finds_enough_and_much_more(
    grey: float, camera_grey: float | None, coarse: bool
) -> None:
    assert NoiseLevel(grey=grey, coarse_grey=3, camera_grey=camera_grey).coarse == coarse


def test_noise_is_coarse_only_if_the_net_for_it_finds_a_fifth_of_what_the_flattest_blocks_show() -> None:
    assert NoiseLevel(grey=0.2, coarse_grey=9, camera_grey=1.8).coarse
    assert not NoiseLevel(grey=0.2, coarse_grey=9, camera_grey=1.79).coarse


def test_single_pixels_that_are_far_off_are_not_called_clean() -> None:
    def repairing(images: Tensor) -> Tensor:
        """Returns images in which the pixels that shine become dark."""
        return torch.where(images > 0.95, 0.3, images)

    image = levels(CLEAN)
    image[np.random.default_rng(0).random(image.shape[:2]) < 0.002] = 250
    repaired = restorer_of(repairing, margin=0)
    found = level(image, repaired)
    assert found.grey == 0, "in most blocks there is none"
    assert not found.clean
    assert level(levels(CLEAN), repaired).clean


def test_black_and_white_areas_neither_hide_noise_nor_make_it(restorer: Restorer) -> None:
    dark = CLEAN + noise(CLEAN.shape, 8)
    dark[:, : 3 * dark.shape[1] // 4] = -30  # cut off: three quarters of the picture are black
    assert level(levels(dark), restorer).grey == pytest.approx(8, rel=0.3)
    for colour in (0, 255):
        assert level(np.full((300, 300, 3), colour, np.uint8), restorer) == NoiseLevel()


def test_the_strength_of_the_restorer_does_not_count() -> None:
    pixels = levels(CLEAN + noise(CLEAN.shape, 10))
    weak, strong = (restorer_of("l3-gtsrb", strength=strength) for strength in (0.1, 1))
    assert level(pixels, weak) == level(pixels, strong)


def test_the_tiles_do_not_count() -> None:
    pixels = levels(CLEAN + noise(CLEAN.shape, 10))
    found = [noise_level(pixels, "l3-gtsrb", tile=tile) for tile in (24, 100, None)]
    assert found[0] == found[1] == found[2]


def test_all_kinds_of_images_give_one_answer() -> None:
    pixels = levels(CLEAN[..., :1] + noise((*CLEAN.shape[:2], 1), 10))
    expected = noise_level(pixels, "l3-gtsrb")
    assert noise_level(array_to_tensor(pixels), "l3-gtsrb") == expected
    assert noise_level(pixels[..., 0], "l3-gtsrb") == expected
    assert noise_level(Image.fromarray(pixels[..., 0]), "l3-gtsrb") == expected
    found = noise_level((pixels / 255).astype(np.float32), "l3-gtsrb")
    assert found.grey == pytest.approx(expected.grey, abs=0.02)


def test_alpha_has_no_influence_and_what_it_hides_is_not_looked_at(restorer: Restorer) -> None:
    pixels = levels(CLEAN + noise(CLEAN.shape, 10))
    alpha = np.random.default_rng(1).integers(1, 256, (*CLEAN.shape[:2], 1), dtype=np.uint8)
    assert level(np.concatenate([pixels, alpha], axis=2), restorer) == level(pixels, restorer)
    hidden = np.concatenate([pixels, np.zeros_like(alpha)], axis=2)
    assert not level(hidden, restorer).clean


def test_a_small_image_is_judged_by_its_pixels_alone_and_never_clean() -> None:
    def never(images: Tensor) -> Tensor:
        raise AssertionError("the net ran")

    for height, width in ((PART - 1, 500), (20, 30)):
        pixels = levels(scene(height, width) + noise((height, width, 3), 20))
        found = level(pixels, restorer_of(never, margin=0))
        expected = estimate_noise(array_to_tensor(pixels)[None].float() / 255).item()
        assert found.grey == pytest.approx(expected, abs=0.01)
        assert not found.clean
    assert level(np.zeros((3, 90, 3), np.uint8), BLIND) == NoiseLevel()
    assert not level(np.full((100, 100, 3), 90, np.uint8), BLIND).clean


@pytest.mark.parametrize(
    ("height", "width"), [(128, 128), (128, 2000), (375, 500), (700, 130), (3000, 4000), (9000, 200)]
)
def test_the_parts_lie_within_the_image_apart_from_each_other_and_are_few(height: int, width: int) -> None:
    found = places(height, width)
    assert 1 <= len(found) <= 64
    for top, left in found:
        assert 0 <= top <= height - PART
        assert 0 <= left <= width - PART
    tops, lefts = (sorted({*axis}) for axis in zip(*found, strict=True))
    for axis in (tops, lefts):
        assert all(after - before >= PART for before, after in pairwise(axis))
    assert len(found) == 1 or len(found) * PART**2 <= height * width / 2


def test_what_is_no_single_image_is_refused() -> None:
    for image, message in (
        ("a.png", "is a path, not an image; read it first"),
        (torch.rand(2, 3, 200, 200), r"one image is \(C, H, W\)"),
        (3, "a int is no image here"),
        (np.full((200, 200, 3), 90.0), "reach from 90 to 90"),
    ):
        with pytest.raises(ImageError, match=message):
            noise_level(image, "l3-gtsrb")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (NoiseLevel(grey=0.34, coarse_grey=0.16), "noise about 0.3 grey levels"),
        (NoiseLevel(grey=12.4, coarse_grey=14), "noise about 12 grey levels"),
        (NoiseLevel(grey=1, coarse_grey=7.31), "noise about 1.0 grey levels, or 7.3 if it is coarse"),
        (NoiseLevel(grey=1, coarse_grey=7.31, camera_grey=1.5), "noise about 1.0 grey levels"),
        (NoiseLevel(grey=1, coarse_grey=7.31, camera_grey=4), "coarse noise about 7.3 grey levels"),
        (NoiseLevel(), "noise that cannot be estimated"),
    ],
)
def test_a_level_reads_as_a_phrase(found: NoiseLevel, said: str) -> None:
    assert str(found) == said


def test_the_package_offers_it() -> None:
    assert steadylens.noise_level is noise_level
