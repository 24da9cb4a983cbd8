"""A photograph comes out as `steadylens restore` writes it, and is held no longer than allowed."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms
from PIL.ExifTags import Base

from steadylens.errors import ImageError, SettingError
from steadylens.images.writing import WRITABLE_FORMATS
from steadylens.inference.image_files import RestoreSettings, restore_file
from steadylens.inference.jobs import RestoreJob
from steadylens.inference.restorer import Restorer, restorer_of
from steadylens.serving.pages.photographs import (
    EXACT_PIXELS,
    MOST_IN_NAME,
    GoneError,
    Photograph,
    PhotographStore,
    plain_name,
    restored_photograph,
)

ENOUGH = 10_000_000


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    return restorer_of("l3-gtsrb", device="cpu")


def noisy(height: int = 40, width: int = 60, channels: int = 3, dtype: Any = np.uint8) -> NDArray[Any]:
    rng = np.random.default_rng(height)
    top = np.iinfo(dtype).max
    smooth = np.linspace(0.2, 0.8, height * width).reshape(height, width, 1)
    pixels = np.clip(smooth + rng.normal(0, 0.08, (height, width, channels)), 0, 1)
    return (pixels * top).round().astype(dtype)


def written(name: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noisy()).save(buffer, name, **options)
    return buffer.getvalue()


def phone() -> bytes:
    """Returns a JPEG as a telephone held upright writes it: turned, with EXIF and a colour profile."""
    exif = Image.Exif()
    exif[Base.Orientation], exif[Base.Model] = 6, "Pocket 7"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return written("JPEG", quality=92, exif=exif, icc_profile=profile)


def tiff_16() -> bytes:
    """Returns a TIFF of 16-bit colours."""
    from tifffile import imwrite  # noqa: PLC0415

    buffer = io.BytesIO()
    imwrite(buffer, noisy(dtype=np.uint16), photometric="rgb")
    return buffer.getvalue()


def transparent() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noisy(channels=4)).save(buffer, "PNG")
    return buffer.getvalue()


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("IMG_1.JPG", phone()),
        ("scan.tif", tiff_16()),
        ("cut-out.png", transparent()),
        ("web.webp", written("WEBP", lossless=True)),
        ("grey.png", written("PNG")),
    ],
)
def test_the_download_is_the_file_that_the_command_writes(
    name: str, content: bytes, restorer: Restorer, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    job = RestoreJob(source=tmp_path / name, target=tmp_path / f"restored-{name}")
    known = restore_file(job, restorer, settings=RestoreSettings(always=True))
    photograph = restored_photograph(content, name, restorer, most_pixels=ENOUGH)
    encoded = photograph.encoded(strength=1, format_name=photograph.formats[0])
    assert encoded.content == job.target.read_bytes()
    assert photograph.noise.grey == known.noise_grey


def test_a_photograph_of_a_telephone_stands_upright_in_the_views_and_the_file(restorer: Restorer) -> None:
    photograph = restored_photograph(phone(), "IMG_1.JPG", restorer, most_pixels=ENOUGH)
    encoded = photograph.encoded(strength=0.5, format_name="JPEG")
    assert (encoded.name, encoded.media_type) == ("IMG_1-restored.JPG", "image/jpeg")
    file = opened(encoded.content)
    assert file.size == (40, 60)
    assert (file.getexif()[Base.Orientation], file.getexif()[Base.Model]) == (1, "Pocket 7")
    for restored in (False, True):
        view = opened(photograph.view(restored=restored).content)
        assert view.size == (40, 60)
        assert view.info["icc_profile"] == file.info["icc_profile"]


@given(strength=st.floats(0, 1))
def test_a_strength_is_a_blend_that_is_rounded_once(strength: float) -> None:
    photograph = held(noisy(9, 7))
    file = photograph.encoded(strength=strength, format_name="PNG")
    before, after = photograph.source.pixels.astype(float), photograph.restored.astype(float)
    exact = before + np.float32(strength) * (after - before)
    assert np.abs(np.asarray(opened(file.content)) - exact).max() <= 0.5 + 1e-3


def test_strength_0_is_the_photograph_and_strength_1_what_the_net_returns(restorer: Restorer) -> None:
    content = written("PNG")
    photograph = restored_photograph(content, "a.png", restorer, most_pixels=ENOUGH)
    whole = restorer(torch.from_numpy(noisy()).permute(2, 0, 1)[None])[0].permute(1, 2, 0)
    for strength, expected in ((0, noisy()), (1, whole.numpy())):
        file = photograph.encoded(strength=strength, format_name="PNG")
        assert np.array_equal(np.asarray(opened(file.content)), expected)


@pytest.mark.parametrize("wrong", [{"strength": 1.01}, {"strength": float("nan")}, {"format_name": "GIF"}])
def test_what_cannot_be_had_is_refused(wrong: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"strength": 1.0, "format_name": "PNG"}
    with pytest.raises(SettingError, match="choose"):
        held(noisy()).encoded(**settings | wrong)


def held(pixels: NDArray[Any], name: str = "a.png") -> Photograph:
    """Returns a photograph that another net has restored."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return restored_photograph(
        buffer.getvalue(), name, lambda images, progress: 255 - images, most_pixels=ENOUGH
    )


def test_a_view_shows_what_browsers_can_show() -> None:
    small = held(noisy())
    assert np.array_equal(np.asarray(opened(small.view(restored=True).content)), 255 - noisy())
    clear = held(np.dstack([noisy(), np.zeros((40, 60), np.uint8)]))
    assert (np.asarray(opened(clear.view(restored=False).content)) == 255).all()  # on white
    deep = restored_photograph(tiff_16(), "a.tif", lambda images, progress: images, most_pixels=ENOUGH)
    view = np.asarray(opened(deep.view(restored=True).content))
    assert np.abs(view - noisy(dtype=np.uint16) / 257).max() <= 0.5
    large = held(noisy(EXACT_PIXELS // 1000 + 1, 1000)).view(restored=False)
    assert (large.media_type, opened(large.content).size) == ("image/jpeg", (1000, EXACT_PIXELS // 1000 + 1))


def test_formats_are_those_that_keep_the_picture_with_its_own_first() -> None:
    assert held(noisy()).formats == ("PNG", "JPEG", "TIFF", "WEBP")
    assert held(noisy(channels=4)).formats == ("PNG", "TIFF", "WEBP")
    assert "WEBP" not in held(noisy(1, WRITABLE_FORMATS["WEBP"].largest_side + 1)).formats


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("IMG_1.JPG", "IMG_1.JPG"),
        ("C:\\fakepath\\sea.png", "sea.png"),
        ("/etc/../passwd", "passwd"),
        ("..", "photograph"),
        ("", "photograph"),
        ('a"b\r\nc<d>.png', "abcd.png"),
        ("fdp.\u202egpj", "fdp.gpj"),
        ("Žluťoučký kůň 日本.webp", "Žluťoučký kůň 日本.webp"),
        ("x" * 300 + ".jpeg", "x" * (MOST_IN_NAME - 5) + ".jpeg"),
    ],
)
def test_a_name_is_kept_without_what_no_name_should_have(name: str, expected: str) -> None:
    assert plain_name(name) == expected


@pytest.mark.parametrize(
    ("name", "format_name", "expected"),
    [
        ("a.jpeg", "JPEG", "a-restored.jpeg"),
        ("a.JPG", "PNG", "a-restored.png"),
        ("a.b.png", "WEBP", "a.b-restored.webp"),
        ("2024.06.01 sea", "JPEG", "2024.06.01 sea-restored.jpg"),
        ("wrong.png", "TIFF", "wrong-restored.tiff"),
    ],
)
def test_the_restored_file_is_named_after_the_photograph(name: str, format_name: str, expected: str) -> None:
    assert held(noisy(5, 5), name).file_name(format_name) == expected


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "holiday.jpg is empty"),
        (b"a letter to you", "holiday.jpg is not an image of a known format: JPEG, PNG, TIFF or WebP"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "holiday.jpg is a HEIC image"),
        (phone()[:900], "holiday.jpg cannot be read: it is cut off"),
        (written("BMP"), "holiday.jpg is not an image of a known format"),
    ],
)
def test_a_bad_file_is_refused_by_name(content: bytes, told: str, restorer: Restorer) -> None:
    with pytest.raises(ImageError, match=f"^{told}"):
        restored_photograph(content, "holiday.jpg", restorer, most_pixels=ENOUGH)


def test_a_photograph_of_too_many_pixels_is_refused_before_it_takes_memory(restorer: Restorer) -> None:
    asked: list[int] = []
    with pytest.raises(ImageError, match=r"^a\.jpg has 60x40 pixels.* choose a smaller one"):
        restored_photograph(phone(), "a.jpg", restorer, most_pixels=2399, admit=asked.append)
    assert asked == []
    photograph = restored_photograph(phone(), "a.jpg", restorer, most_pixels=2400, admit=asked.append)
    assert asked == [photograph.bytes] == [2 * 3 * 2400]


def test_of_several_pages_the_first_is_restored_and_said_so(restorer: Restorer) -> None:
    buffer = io.BytesIO()
    first, second = Image.fromarray(noisy()), Image.fromarray(noisy(20, 20))
    first.save(buffer, "TIFF", save_all=True, append_images=[second])
    photograph = restored_photograph(buffer.getvalue(), "stack.tif", restorer, most_pixels=ENOUGH)
    assert any("the first is restored" in note for note in photograph.source.notes)
    file = opened(photograph.encoded(strength=1, format_name="TIFF").content)
    assert (file.size, getattr(file, "n_frames", 1)) == ((60, 40), 1)


class Clock:
    """A clock that stands until it is told to go on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_photograph_is_held_until_nobody_asks_for_it() -> None:
    clock = Clock()
    store = PhotographStore(most_bytes=10**6, idle_seconds=100, clock=clock)
    photograph = held(noisy())
    first, second = store.add(photograph), store.add(photograph)
    assert first != second
    clock.now = 90
    assert store.get(first) is photograph
    clock.now = 150
    assert store.get(first) is photograph
    with pytest.raises(GoneError, match="choose it again"):
        store.get(second)
    store.forget(first)
    store.forget("nobody")
    assert len(store) == 0


def test_what_was_asked_for_longest_ago_makes_room() -> None:
    photograph = held(noisy())
    store = PhotographStore(most_bytes=3 * photograph.bytes, idle_seconds=100, clock=Clock())
    first, second, third = (store.add(photograph) for _ in range(3))
    store.get(first)
    store.make_room(photograph.bytes)
    assert len(store) == 2
    with pytest.raises(GoneError):
        store.get(second)
    assert store.get(first) is store.get(third) is photograph
    store.make_room(10**9)
    assert len(store) == 0
