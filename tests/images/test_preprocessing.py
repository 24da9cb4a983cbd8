"""A photograph becomes the square that the libraries make of it."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms  # type: ignore[import-untyped]

from steadylens.errors import ImageError, SettingError
from steadylens.images.preprocessing import Fit

SIDES = st.integers(1, 90)
INTERPOLATIONS = st.sampled_from(list(Image.Resampling))
FITS = st.builds(
    Fit,
    keeps_shape=st.booleans(),
    side=st.none() | st.integers(1, 999),
    interpolation=INTERPOLATIONS,
    floors=st.booleans(),
)
TORCHVISION = {
    Image.Resampling.NEAREST: transforms.InterpolationMode.NEAREST,
    Image.Resampling.BILINEAR: transforms.InterpolationMode.BILINEAR,
    Image.Resampling.BICUBIC: transforms.InterpolationMode.BICUBIC,
    Image.Resampling.LANCZOS: transforms.InterpolationMode.LANCZOS,
    Image.Resampling.BOX: transforms.InterpolationMode.BOX,
    Image.Resampling.HAMMING: transforms.InterpolationMode.HAMMING,
}


def photograph(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width * 100 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and one.tobytes() == other.tobytes()


# Squares.


@given(width=SIDES, height=SIDES, side=st.integers(20, 60), size=st.integers(1, 20), how=INTERPOLATIONS)
def test_a_crop_is_the_one_of_torchvision(
    width: int, height: int, side: int, size: int, how: Image.Resampling
) -> None:
    image = photograph(width, height)
    steps = [transforms.Resize(side, TORCHVISION[how]), transforms.CenterCrop(size)]
    fitted = Fit(keeps_shape=True, side=side, interpolation=how).fitted(image, size)
    assert same(fitted, transforms.Compose(steps)(image))


@given(width=SIDES, height=SIDES, side=st.integers(20, 60), size=st.integers(1, 20))
def test_squashing_beyond_the_size_and_cutting_is_that_of_torchvision(
    width: int, height: int, side: int, size: int
) -> None:
    image = photograph(width, height)
    steps = [transforms.Resize((side, side)), transforms.CenterCrop(size)]
    assert same(Fit(side=side).fitted(image, size), transforms.Compose(steps)(image))


@given(width=SIDES, height=SIDES, size=st.integers(1, 40))
def test_the_plain_fit_squashes_with_pillow(width: int, height: int, size: int) -> None:
    image = photograph(width, height)
    expected = image.resize((size, size), Image.Resampling.BILINEAR)
    assert same(Fit().fitted(image, size), expected)
    assert same(Fit(side=size).fitted(image, size), expected)


@pytest.mark.parametrize(("floors", "start"), [(True, 1), (False, 2)])
def test_an_odd_margin_is_halved_as_transformers_or_as_torchvision_do(floors: bool, start: int) -> None:
    image = photograph(13, 10)
    expected = image.crop((start, 0, start + 10, 10))
    assert same(Fit(keeps_shape=True, floors=floors).fitted(image, 10), expected)


def test_the_plain_fit_is_known_in_either_spelling() -> None:
    assert Fit().is_plain(48)
    assert Fit(side=48).is_plain(48)
    others = [Fit(side=50), Fit(keeps_shape=True), Fit(interpolation=Image.Resampling.BICUBIC)]
    assert not any(fit.is_plain(48) for fit in others)
    assert Fit(side=48, floors=True).simplest(48) == Fit()
    assert [fit.simplest(48) for fit in others] == others


# Text.


@given(fit=FITS)
def test_the_text_of_a_fit_is_read_back(fit: Fit) -> None:
    assert Fit.parse(str(fit)) == fit


@pytest.mark.parametrize(
    ("text", "fit"),
    [
        ("squash", Fit()),
        ("crop", Fit(keeps_shape=True)),
        ("crop:256", Fit(keeps_shape=True, side=256)),
        ("crop:256:bicubic", Fit(keeps_shape=True, side=256, interpolation=Image.Resampling.BICUBIC)),
        ("squash:bicubic:floor", Fit(interpolation=Image.Resampling.BICUBIC, floors=True)),
    ],
)
def test_a_fit_is_written_in_few_words(text: str, fit: Fit) -> None:
    assert (str(fit), Fit.parse(text)) == (text, fit)


@pytest.mark.parametrize(
    "text",
    ["", "pad", "crop:", "crop:large", "crop:2.5", "crop:-3", "crop:256:cubic", "crop:floor:256", "CROP"],
)
def test_another_text_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(
        SettingError, match=re.escape(f"a fit is {text!r}; it must be squash or crop") + ".*crop:256:bicubic"
    ):
        Fit.parse(text)


# What is refused.


def test_a_square_larger_than_what_is_resized_to_is_refused() -> None:
    with pytest.raises(
        SettingError, match="resized to 200 pixels, of which no 224 can be cut out; resize to at least 224"
    ):
        Fit(keeps_shape=True, side=200).fitted(photograph(10, 10), 224)


@pytest.mark.parametrize("side", [0, -1])
def test_a_side_without_pixels_is_refused(side: int) -> None:
    with pytest.raises(SettingError, match=f"resized to {side} pixels, it must be at least 1"):
        Fit(side=side)


def test_an_image_so_narrow_that_it_would_become_huge_is_refused() -> None:
    with pytest.raises(ImageError, match=r"10000x1 pixels would become 2560000x256, .*use a less narrow one"):
        Fit(keeps_shape=True, side=256).fitted(Image.new("RGB", (10_000, 1)), 224)
