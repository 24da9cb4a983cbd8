"""Synthetic traffic signs: the properties of tracks, and how hard the classes are to distinguish."""

import re
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from steadylens.data.signs.sign_artwork import (
    DESIGNS,
    bumps,
    car,
    crossroads,
    deer,
    digger,
    lorry,
    roundabout,
    sign_images,
    signals,
)
from steadylens.data.signs.synthetic_signs import MINIMUM_SIZE, draw_track
from steadylens.data.sources import CLASS_NAMES
from steadylens.errors import SettingError

CLASSES = len(CLASS_NAMES)


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def sample(tracks: int, *, seed: int) -> NDArray[np.float64]:
    """Returns one view each of many tracks of every class, (classes, tracks, 3, 48, 48) in grey levels."""
    rng = generator(seed)
    views = [[draw_track(label, frames=1, rng=rng)[0] for _ in range(tracks)] for label in range(CLASSES)]
    return np.array(views, np.float64)


@pytest.fixture(scope="module")
def unseen() -> NDArray[np.float64]:
    return sample(6, seed=7)


def standardise(images: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns each image as a vector of mean 0 and standard deviation 1."""
    flat = images.reshape(*images.shape[:2], -1)
    flat = flat - flat.mean(-1, keepdims=True)
    return np.asarray(flat / flat.std(-1, keepdims=True))


def test_there_are_43_classes_with_different_names() -> None:
    assert CLASSES == 43
    assert len(set(CLASS_NAMES)) == CLASSES


def test_the_drawings_are_in_the_order_of_the_class_names() -> None:
    for name, design in zip(CLASS_NAMES, DESIGNS, strict=True):
        drawn = design.symbol if isinstance(design.symbol, partial) else partial(design.symbol)
        if limit := re.search(r"\d+(?=km/h)", name):
            assert drawn.keywords["digits"] == limit[0]
        if "side" in drawn.keywords:
            assert drawn.keywords["side"] == (-1 if "left" in name else 1)
        if "passing" in name and drawn.keywords:
            assert drawn.keywords["left"] is (lorry if "3.5 metric tons" in name else car)


def test_drawings_without_settings_have_the_number_of_their_class() -> None:
    names = {crossroads: "Right-of-way", bumps: "Bumpy", signals: "Traffic signals", deer: "Wild animals"}
    symbols = [design.symbol for design in DESIGNS]
    for symbol, name in {**names, digger: "Road work", roundabout: "Roundabout"}.items():
        assert CLASS_NAMES[symbols.index(symbol)].startswith(name)


@pytest.mark.parametrize("frames", [1, 4])
@pytest.mark.parametrize("size", [MINIMUM_SIZE, 33, 48, 80])
def test_a_track_is_8_bit_rgb_of_the_size_asked_for(frames: int, size: int) -> None:
    track = draw_track(7, frames=frames, rng=generator(0), size=size)
    assert track.dtype == np.uint8
    assert track.shape == (frames, 3, size, size)
    assert track.flags.c_contiguous


def test_equal_generators_draw_equal_tracks_whatever_was_drawn_before() -> None:
    first = draw_track(3, frames=3, rng=generator(5))
    for label in range(CLASSES):
        draw_track(label, frames=1, rng=generator(label))
    np.testing.assert_array_equal(draw_track(3, frames=3, rng=generator(5)), first)


def test_other_seeds_draw_other_tracks() -> None:
    tracks = [draw_track(3, frames=1, rng=generator(seed)) for seed in range(8)]
    assert len({track.tobytes() for track in tracks}) == len(tracks)


def test_the_global_generator_is_not_touched() -> None:
    np.random.seed(11)
    expected = np.random.random()
    np.random.seed(11)
    draw_track(3, frames=2, rng=generator(0))
    assert np.random.random() == expected


def test_views_of_one_sign_differ_less_than_views_of_different_signs() -> None:
    rng = generator(1)
    tracks = np.array([draw_track(1, frames=4, rng=rng) for _ in range(40)], np.float64)
    thumbnails = tracks.mean(axis=(-2, -1))  # (tracks, frames, 3)
    within = thumbnails.std(axis=1).mean()
    between = thumbnails.mean(axis=1).std(axis=0).mean()
    assert 0 < within < 0.4 * between
    assert all(len({view.tobytes() for view in track}) == 4 for track in tracks)


def test_the_last_view_is_nearest_and_has_more_detail_than_the_first() -> None:
    rng = generator(2)
    tracks = np.array([draw_track(1, frames=6, rng=rng) for _ in range(30)], np.float64)
    detail = np.abs(np.diff(tracks, 2, axis=-1)).mean(axis=(0, 2, 3, 4))
    assert detail[-1] > 1.1 * detail[0]


def test_dark_and_bright_photographs_both_occur(unseen: NDArray[np.float64]) -> None:
    brightness = unseen.mean(axis=(-3, -2, -1))
    assert np.percentile(brightness, 5) < 45
    assert np.percentile(brightness, 95) > 140
    assert 60 < np.median(brightness) < 110


def test_the_new_signs_differ_pairwise_by_more_than_one_grey_level_on_average() -> None:
    drawings = np.array(
        [np.asarray(sign_images(label).new.reduce(2)) for label in range(CLASSES)], np.float64
    )
    distances = np.abs(drawings[:, None] - drawings[None]).mean(axis=(2, 3, 4))
    assert distances[~np.eye(CLASSES, dtype=bool)].min() > 1


def test_the_sensor_noise_of_the_images_is_weak(unseen: NDArray[np.float64]) -> None:
    # The Laplacian of white noise has sqrt(20) times its deviation; the calmest patch has little else.
    laplacian = 4 * unseen[..., 1:-1, 1:-1] - unseen[..., :-2, 1:-1] - unseen[..., 2:, 1:-1]
    laplacian -= unseen[..., 1:-1, :-2] + unseen[..., 1:-1, 2:]
    patches = laplacian[..., :44, :44].reshape(*laplacian.shape[:3], 11, 4, 11, 4).std(axis=(-3, -1))
    calmest = np.percentile(patches, 10, axis=(-2, -1)) / np.sqrt(20)
    assert np.median(calmest) < 2


def test_nearest_class_means_are_well_above_chance_and_far_from_perfect(
    unseen: NDArray[np.float64],
) -> None:
    means = standardise(sample(12, seed=6)).mean(axis=1)  # (classes, pixels)
    guesses = (standardise(unseen) @ means.T / np.linalg.norm(means, axis=1)).argmax(axis=-1)
    accuracy = (guesses == np.arange(CLASSES)[:, None]).mean()
    assert 0.25 < accuracy < 0.9  # chance: 0.023


@pytest.mark.parametrize("label", [-1, 43])
def test_a_label_without_a_class_is_refused(label: int) -> None:
    with pytest.raises(SettingError, match=rf"label is {label}, .* 0 to 42"):
        draw_track(label, frames=1, rng=generator(0))


@pytest.mark.parametrize("frames", [-2, 0])
def test_a_track_without_views_is_refused(frames: int) -> None:
    with pytest.raises(SettingError, match=rf"frames is {frames}, .* at least 1"):
        draw_track(0, frames=frames, rng=generator(0))


@pytest.mark.parametrize("size", [0, MINIMUM_SIZE - 1])
def test_images_too_small_for_a_sign_are_refused(size: int) -> None:
    with pytest.raises(SettingError, match=rf"size is {size}, .* at least {MINIMUM_SIZE}"):
        draw_track(0, frames=1, rng=generator(0), size=size)
