"""Changes of pose against SciPy's, changes of light against known images; nothing else changes an image."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import affine_transform
from torch import Tensor

from steadylens.errors import ImageError, SettingError
from steadylens.training.augmentation import Augmentation, Augmenting, StrongAugmentation
from tests.augmenting import STILL, seeded, uniform_within

NONE = Augmentation(rotation_degrees=0, scale=0, shift=0, brightness=0, contrast=0)
each_kind = pytest.mark.parametrize(
    "augmentation", [Augmentation(), StrongAugmentation()], ids=["mild", "strong"]
)


def textured_ramps(count: int, height: int, width: int) -> Tensor:
    """Three channels: the row, the column (both as a share of 100 pixels) and noise.

    Interpolation is exact on a ramp, so a moved ramp tells which point of the image each pixel shows.
    """
    images = torch.rand(count, 3, height, width, generator=seeded(9))
    images[:, 0] = torch.arange(height)[:, None] / 100
    images[:, 1] = torch.arange(width)[None, :] / 100
    return images


def shown_points(moved: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The linear map and the point that the central pixel shows, of one moved image, in pixels."""
    ramps = moved[:2].double().numpy() * 100
    row, column = (length // 2 for length in ramps.shape[1:])
    centre = ramps[:, row, column]
    down, right = ramps[:, row + 1, column] - centre, ramps[:, row, column + 1] - centre
    return np.stack([down, right], axis=1), centre


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(rotation_degrees=180, scale=0.9, shift=1, brightness=1, contrast=0.9),
        StrongAugmentation(
            rotation_degrees=180, scale=2, stretch=1, shear=1, shift=1, unmoved_share=0.3, light=3,
            blurred_share=1, hidden_share=1, noise_grey=100,
        ),
    ],
    ids=["mild", "strong"],
)  # fmt: skip
@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 1000),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 12), st.integers(1, 12)),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_shape_type_and_range_are_kept(
    augmentation: Augmenting, seed: int, shape: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    images = torch.rand(shape, generator=seeded(seed), dtype=dtype)
    changed = augmentation(images, generator=seeded(seed))
    assert (changed.shape, changed.dtype) == (images.shape, images.dtype)
    assert ((changed >= 0) & (changed <= 1)).all()


@pytest.mark.parametrize("augmentation", [NONE, STILL], ids=["mild", "strong"])
@pytest.mark.parametrize(("height", "width"), [(13, 9), (2, 1)])
def test_nothing_changes_when_all_amounts_are_0(augmentation: Augmenting, height: int, width: int) -> None:
    images = torch.rand(4, 3, height, width, generator=seeded(1))
    images[0], images[1] = 0, 1  # the darkest and the brightest stay so, too
    torch.testing.assert_close(augmentation(images, generator=seeded()), images, rtol=0, atol=3e-6)


@each_kind
def test_the_generator_alone_decides(augmentation: Augmenting) -> None:
    images, state = torch.rand(8, 3, 12, 12, generator=seeded(1)), torch.get_rng_state()
    first = augmentation(images, generator=seeded(5))
    assert torch.equal(augmentation(images, generator=seeded(5)), first)
    assert not torch.equal(augmentation(images, generator=seeded(6)), first)
    assert torch.equal(torch.get_rng_state(), state)


@each_kind
def test_the_images_themselves_are_left_alone(augmentation: Augmenting) -> None:
    images = torch.rand(8, 3, 12, 12, generator=seeded(1))
    kept = images.clone()
    augmentation(images, generator=seeded())
    assert torch.equal(images, kept)


@each_kind
def test_each_image_is_changed_by_amounts_of_its_own(augmentation: Augmenting) -> None:
    images = torch.rand(1, 3, 12, 12, generator=seeded(1)).expand(8, -1, -1, -1)
    changed = augmentation(images, generator=seeded())
    assert len({image.numpy().tobytes() for image in changed}) == 8


@pytest.mark.parametrize(("height", "width"), [(24, 24), (20, 30)], ids=["square", "oblong"])
@pytest.mark.parametrize(
    "augmentation",
    [
        replace(NONE, rotation_degrees=25),
        replace(NONE, scale=0.3),
        replace(NONE, shift=0.2),
        replace(NONE, rotation_degrees=180, scale=0.2, shift=0.1),
        replace(STILL, stretch=0.3),
        replace(STILL, shear=0.4),
        replace(STILL, rotation_degrees=180, scale=0.2, stretch=0.2, shear=0.3, shift=0.1),
    ],
    ids=["rotation", "scale", "shift", "all", "stretch", "shear", "all and more"],
)
def test_a_moved_image_equals_scipys_of_the_same_move(
    augmentation: Augmenting, height: int, width: int
) -> None:
    images = textured_ramps(6, height, width)
    for image, moved in zip(images, augmentation(images, generator=seeded()), strict=True):
        linear, centre = shown_points(moved)
        offset = centre - linear @ [height // 2, width // 2]
        expected = affine_transform(image[2].double().numpy(), linear, offset=offset, order=1, mode="nearest")
        np.testing.assert_allclose(moved[2].numpy(), expected, atol=2e-3)


@pytest.mark.parametrize(("height", "width"), [(24, 24), (20, 30)], ids=["square", "oblong"])
def test_a_rotation_turns_about_the_centre_and_bends_nothing(height: int, width: int) -> None:
    images = textured_ramps(200, height, width)
    angles = []
    for moved in replace(NONE, rotation_degrees=30)(images, generator=seeded()):
        linear, point = shown_points(moved)
        np.testing.assert_allclose(linear @ linear.T, np.eye(2), atol=1e-3)
        assert np.linalg.det(linear) > 0
        middle = np.array([(height - 1) / 2, (width - 1) / 2])
        np.testing.assert_allclose(point - middle, linear @ ([height // 2, width // 2] - middle), atol=1e-3)
        angles.append(math.degrees(math.atan2(linear[1, 0], linear[0, 0])))
    assert scipy.stats.kstest(angles, scipy.stats.uniform(-30, 60).cdf).pvalue > 0.01
    assert max(map(abs, angles)) <= 30.1


def test_a_scale_enlarges_and_shrinks_both_sides_alike() -> None:
    sizes = []
    for moved in replace(NONE, scale=0.3)(textured_ramps(200, 24, 30), generator=seeded()):
        linear, _ = shown_points(moved)
        np.testing.assert_allclose(linear, np.eye(2) * linear[0, 0], atol=1e-3)
        sizes.append(1 / linear[0, 0])
    assert scipy.stats.kstest(sizes, scipy.stats.uniform(0.7, 0.6).cdf).pvalue > 0.01


def test_a_shift_is_a_share_of_each_side() -> None:
    shifts = []
    for moved in replace(NONE, shift=0.2)(textured_ramps(200, 20, 30), generator=seeded()):
        linear, point = shown_points(moved)
        np.testing.assert_allclose(linear, np.eye(2), atol=1e-3)
        shifts.append((point - [10, 15]) / [20, 30])
    for share in np.transpose(shifts):
        assert scipy.stats.kstest(share, scipy.stats.uniform(-0.2, 0.4).cdf).pvalue > 0.01
        assert abs(share).max() <= 0.2 + 1e-4
    assert abs(scipy.stats.pearsonr(*np.transpose(shifts)).statistic) < 0.2


def test_a_shift_moves_a_bright_pixel_by_what_the_ramps_say() -> None:
    images = textured_ramps(20, 24, 24)
    images[:, 2] = 0
    images[:, 2, 12, 12] = 1
    for moved in replace(NONE, shift=0.2)(images, generator=seeded()):
        _, point = shown_points(moved)
        light = moved[2].double().numpy()
        rows, columns = np.indices(light.shape)
        seen = np.array([(light * rows).sum(), (light * columns).sum()]) / light.sum()
        # A pixel that shows a point farther on sees the content come nearer by as much.
        np.testing.assert_allclose(seen, 24 - point, atol=1e-3)


@pytest.mark.parametrize(
    "augmentation",
    [
        replace(NONE, rotation_degrees=90, shift=0.5, scale=0.5),
        replace(STILL, rotation_degrees=90, shift=0.5, scale=0.5, stretch=0.5, shear=0.5, blurred_share=1),
    ],
    ids=["mild", "strong"],
)
def test_the_border_is_repeated_outwards(augmentation: Augmenting) -> None:
    images = torch.full((8, 3, 16, 16), 0.4)
    torch.testing.assert_close(augmentation(images, generator=seeded()), images)


def test_brightness_shifts_the_level_of_the_whole_image() -> None:
    images = 0.4 + 0.2 * torch.rand(300, 3, 4, 4, generator=seeded(1))
    offsets = (replace(NONE, brightness=0.3)(images, generator=seeded()) - images).flatten(1)
    torch.testing.assert_close(offsets, offsets[:, :1].expand_as(offsets), rtol=0, atol=1e-5)
    assert scipy.stats.kstest(offsets[:, 0].numpy(), scipy.stats.uniform(-0.3, 0.6).cdf).pvalue > 0.01


def test_contrast_stretches_about_the_images_mean() -> None:
    images = 0.4 + 0.2 * torch.rand(300, 3, 4, 4, generator=seeded(1))
    changed = replace(NONE, contrast=0.5)(images, generator=seeded()).flatten(1)
    before = images.flatten(1) - images.flatten(1).mean(dim=1, keepdim=True)
    after = changed - changed.mean(dim=1, keepdim=True)
    torch.testing.assert_close(changed.mean(dim=1), images.flatten(1).mean(dim=1))
    gains = (after * before).sum(dim=1) / before.square().sum(dim=1)
    torch.testing.assert_close(after, gains[:, None] * before, rtol=0, atol=1e-5)
    assert scipy.stats.kstest(gains.numpy(), scipy.stats.uniform(0.5, 1.0).cdf).pvalue > 0.01


def test_levels_are_clipped_to_the_range() -> None:
    white, black = torch.ones(50, 3, 4, 4), torch.zeros(50, 3, 4, 4)
    changed = replace(NONE, brightness=0.5)(torch.cat([white, black]), generator=seeded())
    assert changed[:50].max() == 1
    assert changed[50:].min() == 0


# The strong augmentation: pose.


@pytest.mark.parametrize(("height", "width"), [(24, 24), (20, 30)], ids=["square", "oblong"])
def test_a_strong_move_is_a_stretch_a_shear_a_turn_and_a_shift_of_the_drawn_amounts(
    height: int, width: int
) -> None:
    strong = replace(STILL, rotation_degrees=30, scale=0.3, stretch=0.2, shear=0.25, shift=0.15)
    drawn = []
    for moved in strong(textured_ramps(200, height, width), generator=seeded(3)):
        linear, point = shown_points(moved)
        # From (row, column) to (x, y); then a turn times what is left, whose diagonal is positive.
        turn, rest = np.linalg.qr(linear[::-1, ::-1])
        signs = np.sign(np.diag(rest))
        turn, rest = turn * signs, rest * signs[:, None]
        middle, centre = np.array([height // 2, width // 2]), (np.array([height, width]) - 1) / 2
        shift = (point - centre - linear @ (middle - centre)) / [height, width]
        sizes = -np.log(np.diag(rest))
        drawn.append(
            [
                math.degrees(math.atan2(turn[1, 0], turn[0, 0])),
                sizes.mean(),
                (sizes[0] - sizes[1]) / 2,
                rest[0, 1] / rest[1, 1],
                *shift,
            ]
        )
    amounts = (30, 0.3, 0.2, 0.25, 0.15, 0.15)
    columns = np.transpose(drawn)
    assert [uniform_within(column, most) for column, most in zip(columns, amounts, strict=True)] == [True] * 6
    correlations = np.corrcoef(columns) - np.eye(6)
    assert abs(correlations).max() < 0.25


@pytest.mark.parametrize(("height", "width"), [(16, 16), (9, 14), (1, 3)])
def test_unmoved_images_are_shifted_by_whole_pixels_and_stay_sharp(height: int, width: int) -> None:
    image = torch.rand(1, 3, height, width, generator=seeded(1))
    strong = replace(STILL, rotation_degrees=90, scale=1, stretch=1, shear=1, shift=1, unmoved_share=1)
    shifts = {}
    for down in range(-2, 3):
        for right in range(-2, 3):
            rows, columns = torch.arange(height) + down, torch.arange(width) + right
            shifts[down, right] = image[0][:, rows.clamp(0, height - 1)][:, :, columns.clamp(0, width - 1)]
    seen = set()
    for moved in strong(image.expand(300, -1, -1, -1), generator=seeded()):
        fitting = [
            shift for shift, whole in shifts.items() if torch.allclose(moved, whole, rtol=0, atol=1e-5)
        ]
        assert fitting
        seen.update(fitting)
    assert seen == shifts.keys()


def test_unmoved_images_are_shifted_equally_often_by_each_number_of_pixels() -> None:
    shifted = replace(STILL, unmoved_share=1)(textured_ramps(500, 12, 12), generator=seeded())
    shifts = np.array([shown_points(image)[1] - 6 for image in shifted])
    np.testing.assert_allclose(shifts, shifts.round(), atol=1e-3)
    for axis in shifts.T:
        counts = [int((axis.round() == pixels).sum()) for pixels in range(-2, 3)]
        assert sum(counts) == 500
        assert scipy.stats.chisquare(counts).pvalue > 0.001


def test_the_share_of_unmoved_images_is_the_setting() -> None:
    images = textured_ramps(600, 12, 12)
    moved = replace(STILL, rotation_degrees=20, unmoved_share=0.3)(images, generator=seeded())
    straight = sum(np.allclose(shown_points(image)[0], np.eye(2), atol=1e-4) for image in moved)
    assert scipy.stats.binomtest(straight, 600, 0.3).pvalue > 0.01


# Refusals.


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((Augmentation, name) for name in ("rotation_degrees", "shift", "brightness")),
        *((StrongAugmentation, name) for name in ("rotation_degrees", "scale", "stretch", "shear")),
        *((StrongAugmentation, name) for name in ("shift", "light", "noise_grey")),
    ],
)
@pytest.mark.parametrize("amount", [-0.1, math.nan, math.inf])
def test_an_amount_that_is_negative_or_no_number_is_refused(
    kind: type[Augmentation] | type[StrongAugmentation], name: str, amount: float
) -> None:
    with pytest.raises(SettingError, match=f"{name} is {amount}, it must be a number of at least 0"):
        kind(**{name: amount})


@pytest.mark.parametrize("name", ["scale", "contrast"])
@pytest.mark.parametrize("amount", [-0.1, 1.0, math.nan])
def test_a_relative_amount_outside_0_to_1_is_refused(name: str, amount: float) -> None:
    with pytest.raises(SettingError, match=rf"{name} is {amount}, it must lie in \[0, 1\)"):
        replace(NONE, **{name: amount})


@pytest.mark.parametrize("name", ["unmoved_share", "blurred_share", "hidden_share"])
@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_share_outside_0_to_1_is_refused(name: str, share: float) -> None:
    with pytest.raises(SettingError, match=rf"{name} is {share}, it must lie in \[0, 1\]"):
        replace(STILL, **{name: share})


@each_kind
def test_stored_images_are_refused(augmentation: Augmenting) -> None:
    with pytest.raises(ImageError, match=r"torch\.uint8.*to_float"):
        augmentation(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), generator=seeded())
