"""A file is restored into another: in its own format, with all of its metadata."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from torch import Tensor, nn

from steadylens.errors import ImageError, SettingError
from steadylens.images.reading import FIRST_OF_SEVERAL, LAYOUT_LEFT_OUT, read_image_file
from steadylens.inference.image_files import RestoreSettings, restore_file
from steadylens.inference.jobs import RestoreJob
from steadylens.inference.restorer import restorer_of
from steadylens.nets.restoration import GaussianSmoothing
from steadylens.progress import ProgressCallback

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8)


def test_a_turned_photograph_is_restored_upright_with_its_alpha_and_what_it_said(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (10, 15, 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 8, "maker"
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif, icc_profile=b"profile" * 30)
    told: list[tuple[int, int]] = []
    notes = restore_file(
        RestoreJob(
            source=tmp_path / "a.png", target=tmp_path / "out" / "b.png", view=tmp_path / "out" / "view.png"
        ),
        restorer_of(GaussianSmoothing(), tile=13),
        settings=RestoreSettings(),
        progress=lambda done, total: told.append((done, total)),
    ).notes
    with Image.open(tmp_path / "out" / "b.png") as image:
        assert image.size == (10, 15)
        assert np.array_equal(np.array(image)[..., 3], np.rot90(pixels)[..., 3])
        assert not np.array_equal(np.array(image)[..., :3], np.rot90(pixels)[..., :3])
        assert image.info["icc_profile"] == b"profile" * 30
        assert (image.getexif()[0x0112], image.getexif()[0x010F]) == (1, "maker")
    with Image.open(tmp_path / "out" / "view.png") as view:
        assert (view.mode, view.size) == ("RGB", (10, 15))
    assert told[-1][0] == told[-1][1] > 1
    assert notes[-1].startswith("view.png shows what was removed: nothing at 128")


def restored(
    source: Path, target: Path, *, progress: ProgressCallback = lambda done, total: None, **settings: Any
) -> tuple[str, ...]:
    """Restores a file with a net that changes nothing."""
    job = RestoreJob(source=source, target=target)
    settings_of_files = RestoreSettings(**settings)
    return restore_file(
        job, restorer_of(lambda x: x, margin=0), settings=settings_of_files, progress=progress
    ).notes


def test_an_animation_is_not_replaced_by_its_first_image(tmp_path: Path) -> None:
    frames = [Image.new("L", (15, 15), level) for level in (10, 200)]
    path = tmp_path / "a.png"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    before = path.read_bytes()
    with pytest.raises(
        ImageError, match=r"a\.png also holds further images, which would be lost; restore it"
    ):
        restored(path, path)
    assert path.read_bytes() == before
    assert restored(path, tmp_path / "b.png") == ("of several images in the file, the first is restored",)
    assert path.read_bytes() == before


STACK = np.random.default_rng(0).integers(0, 65536, (5, 20, 30), dtype=np.uint16)


@pytest.mark.parametrize("in_place", [False, True])
def test_all_pages_of_a_stack_are_restored(tmp_path: Path, *, in_place: bool) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", STACK, imagej=True, metadata={"axes": "ZYX", "Labels": list("abcde")}
    )
    target = tmp_path / ("a.tif" if in_place else "b.tif")
    told: list[tuple[int, int]] = []
    assert restored(tmp_path / "a.tif", target, progress=lambda done, total: told.append((done, total))) == ()
    assert told == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
    with tifffile.TiffFile(target) as file:
        assert np.array_equal(file.asarray(), STACK)
        assert file.imagej_metadata is not None
        assert file.imagej_metadata["Labels"] == list("abcde")
    if not in_place:
        assert restored(target, tmp_path / "c.png", format="PNG") == (FIRST_OF_SEVERAL, LAYOUT_LEFT_OUT)
        assert np.array_equal(read_image_file(tmp_path / "c.png").pixels[..., 0], STACK[0])


def test_a_page_that_cannot_be_read_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(STACK[0])
        file.write(STACK[1].astype(np.float32))
    before = (tmp_path / "a.tif").read_bytes()
    for name in ("a.tif", "b.tif"):
        with pytest.raises(ImageError, match=r"^page 2 of 2: .*a\.tif holds pixel values in 32-bit floating"):
            restored(tmp_path / "a.tif", tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]
    assert (tmp_path / "a.tif").read_bytes() == before


def test_a_motion_photograph_is_not_replaced_by_its_picture(tmp_path: Path) -> None:
    video = b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 8
    xmp = b'<x xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" GCamera:MotionPhoto="1" a:b="c"/>'
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(tmp_path / "a.jpg", xmp=xmp)
    path = tmp_path / "a.jpg"
    path.write_bytes(path.read_bytes() + video)
    before = path.read_bytes()
    with pytest.raises(
        ImageError, match=r"also holds a video \(2,060 bytes behind the picture\), which would"
    ):
        restored(path, path)
    assert path.read_bytes() == before
    (note,) = restored(path, tmp_path / "b.jpg")
    assert note == "left out, since only the picture is restored: a video (2,060 bytes behind the picture)"
    after = read_image_file(tmp_path / "b.jpg")
    assert (after.left_out, after.notes) == ((), ())
    assert b"MotionPhoto" not in after.metadata.xmp
    assert b'a:b="c"' in after.metadata.xmp


def test_a_background_lies_behind_every_page(tmp_path: Path) -> None:
    pages = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 4), dtype=np.uint8)
    pages[..., 3] = 0
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="rgb", extrasamples=["unassalpha"])
    restored(tmp_path / "a.tif", tmp_path / "b.tif", background=(1, 2, 3))
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        assert file.asarray().shape == (3, 20, 30, 3)
        assert (file.asarray() == (1, 2, 3)).all()


def written(tmp_path: Path, pixels: Any, name: str = "b.png", **settings: Any) -> Path:
    """Restores pixels by an identity into a file, and returns that."""
    Image.fromarray(pixels).save(tmp_path / "a.png")
    job = RestoreJob(source=tmp_path / "a.png", target=tmp_path / name)
    restore_file(job, restorer_of(nn.Identity()), settings=RestoreSettings(**settings))
    return job.target


@pytest.mark.parametrize("name", ["JPEG", "PPM"])
def test_what_a_format_cannot_store_is_refused_before_the_net_runs(tmp_path: Path, name: str) -> None:
    def never(images: Tensor) -> Tensor:
        raise AssertionError("the net ran")

    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    job = RestoreJob(source=tmp_path / "a.png", target=tmp_path / "out" / "b")
    with pytest.raises(ImageError, match=rf"alpha, which {name} does not hold; .*such as --flatten white"):
        restore_file(job, restorer_of(never, margin=0), settings=RestoreSettings(format=name))
    assert not (tmp_path / "out").exists()


def test_a_background_takes_the_place_of_alpha(tmp_path: Path) -> None:
    pixels = PIXELS.copy()
    pixels[:5, :, 3], pixels[5:, :, 3] = 0, 255
    path = written(tmp_path, pixels, format="PPM", background=(255, 128, 0))
    read = read_image_file(path).pixels
    assert (read[:5] == (255, 128, 0)).all()
    assert np.array_equal(read[5:], pixels[5:, :, :3])


def test_an_opaque_image_has_no_use_for_a_background(tmp_path: Path) -> None:
    path = written(tmp_path, PIXELS[..., :3], background=(255, 255, 255))
    assert np.array_equal(read_image_file(path).pixels, PIXELS[..., :3])


def test_the_quality_is_that_of_the_file(tmp_path: Path) -> None:
    sizes = [
        written(tmp_path, PIXELS[..., :3], format="JPEG", quality=quality).stat().st_size
        for quality in (None, 95, 40)
    ]
    assert sizes[0] == sizes[1] > sizes[2]


@pytest.mark.parametrize("quality", [0, 101, -3])
def test_a_quality_that_there_is_not_is_refused(quality: int) -> None:
    with pytest.raises(SettingError, match=rf"quality is {quality}, it must be 1 to 100"):
        RestoreSettings(quality=quality)


def test_a_format_of_exact_pixels_has_no_quality() -> None:
    with pytest.raises(SettingError, match="PNG keeps every pixel value and has no quality"):
        RestoreSettings(format="PNG", quality=90)


@pytest.mark.parametrize("name", ["a.png", "b.png"])
def test_times_are_kept_if_that_is_asked_for(tmp_path: Path, name: str) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    os.utime(tmp_path / "a.png", ns=(10**18 + 5_000, 10**18 + 7_000))
    job = RestoreJob(source=tmp_path / "a.png", target=tmp_path / name)
    restore_file(job, restorer_of(nn.Identity()), settings=RestoreSettings(keep_times=True))
    assert (tmp_path / name).stat().st_mtime_ns == 10**18 + 7_000
    restore_file(job, restorer_of(nn.Identity()), settings=RestoreSettings())
    assert (tmp_path / name).stat().st_mtime_ns > 10**18 + 7_000


def test_the_hash_of_a_result_is_told_before_it_takes_the_place_of_the_source(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS[..., :3]).save(path)
    before, told = path.read_bytes(), []

    def announce(sha256: str) -> None:
        assert path.read_bytes() == before
        told.append(sha256)

    restored = restore_file(
        RestoreJob(source=path, target=path), restorer_of(GaussianSmoothing()),
        settings=RestoreSettings(), announce=announce,
    )  # fmt: skip
    assert told == [restored.sha256] == [hashlib.sha256(path.read_bytes()).hexdigest()]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError])
def test_a_file_whose_restoring_ends_at_the_last_moment_is_as_it_was(
    tmp_path: Path, stop: type[BaseException]
) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS[..., :3]).save(path)
    before = path.read_bytes()

    def announce(sha256: str) -> None:
        raise stop

    job = RestoreJob(source=path, target=path, view=tmp_path / "view.png")
    with pytest.raises(stop):
        restore_file(job, restorer_of(GaussianSmoothing()), settings=RestoreSettings(), announce=announce)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
