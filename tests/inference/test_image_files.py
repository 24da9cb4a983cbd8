"""Every file has a place of its own, and none is overwritten by accident.

A file is restored into another: in its own format, with all of its metadata.
"""

import errno
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from steadylens.errors import ImageError, SettingError, StorageError
from steadylens.images.decoding import MOST_PIXELS
from steadylens.images.reading import FIRST_OF_SEVERAL, LAYOUT_LEFT_OUT, read_image_file
from steadylens.inference.image_files import RestoreJob, plan_jobs, restore_file
from steadylens.inference.restorer import restorer_of
from steadylens.nets.restoration import GaussianSmoothing


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Returns a folder with images at two depths, and with what is none."""
    root = tmp_path / "in"
    for name in ("b.jpg", "a.png", "deep/er/c.TIF", "notes.txt", ".hidden.png", ".hidden/d.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def test_a_folder_is_mirrored_in_order(folder: Path, tmp_path: Path) -> None:
    plan = plan_jobs([folder], tmp_path / "out")
    jobs, places = plan.jobs, ["a.png", "b.jpg", "deep/er/c.TIF"]
    assert [job.source for job in jobs] == [folder / place for place in places]
    assert plan.others == (folder / "notes.txt",), "what is left out is told, hidden files are not"
    assert [job.target for job in jobs] == [tmp_path / "out" / place for place in places]
    assert [path for job in jobs for path in job.written] == [job.target for job in jobs]
    assert not (tmp_path / "out").exists()


def test_a_file_keeps_its_name_alone_and_may_have_any(folder: Path, tmp_path: Path) -> None:
    (job,) = plan_jobs([folder / "notes.txt"], tmp_path).jobs
    assert job.target == tmp_path / "notes.txt"


def test_another_format_has_another_ending(folder: Path, tmp_path: Path) -> None:
    jobs = plan_jobs([folder], tmp_path, suffix=".png").jobs
    assert [job.target.name for job in jobs] == ["a.png", "b.png", "c.png"]


def test_what_was_removed_goes_beside(folder: Path, tmp_path: Path) -> None:
    jobs = plan_jobs([folder], tmp_path / "out", view=True).jobs
    assert jobs[1].written == (tmp_path / "out" / "b.jpg", tmp_path / "out" / "b.jpg.pattern.png")


def test_in_place_the_file_behind_a_link_is_meant(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to(folder / "a.png")
    (job,) = plan_jobs([tmp_path / "link.png"], None).jobs
    assert job.target == (folder / "a.png").resolve()


def test_what_lies_in_the_folder_to_write_to_is_not_restored_again(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "a.png").write_bytes(b"")
    jobs = plan_jobs([folder], folder / "out").jobs
    assert [job.source.name for job in jobs] == ["a.png", "b.jpg", "c.TIF"]


@pytest.mark.parametrize(
    ("names", "out", "suffix", "view", "message"),
    [
        (["none.png"], "out", None, False, "none.png does not exist; name files or folders"),
        (["deep/empty"], "out", None, False, r"deep/empty holds no image files, which end in \.bmp"),
        (["."], ".", None, False, "a.bmp would be written over .*a.bmp, which is to be restored"),
        (
            ["a.png", "deep/a.png"],
            "out",
            None,
            False,
            r"a\.png and .*deep/a\.png would both become .*out/a\.png",
        ),
        (["a.png", "a.bmp"], "out", ".webp", False, r"both become .*a\.webp; .*omit --format"),
        (["a.png", "a.png.pattern.png"], "out", None, True, r"both become .*out/a\.png\.pattern\.png"),
        (["a.png", "deep"], "deep", None, False, "written over .*deep/a.png, which is to be restored"),
        (["a.png", "a.png.pattern.png"], None, None, True, "written over|both become"),
    ],
)
def test_what_would_clash_is_refused(
    tmp_path: Path, names: list[str], out: str | None, suffix: str | None, *, view: bool, message: str
) -> None:
    (tmp_path / "deep" / "empty").mkdir(parents=True)
    for name in ("a.png", "a.bmp", "deep/a.png", "a.png.pattern.png"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(SettingError, match=re.compile(message)):
        plan_jobs(
            [tmp_path / name for name in names],
            None if out is None else tmp_path / out,
            suffix=suffix,
            view=view,
        )


@pytest.mark.parametrize("out", ["a.png", "a.png/deep/er"])
def test_a_file_is_no_folder_to_write_to(folder: Path, out: str) -> None:
    with pytest.raises(StorageError, match=r"a\.png is no folder; choose another place"):
        plan_jobs([folder / "b.jpg"], folder / out)


def test_a_folder_that_is_called_as_an_image_might_be_is_no_obstacle(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "image").mkdir(parents=True)
    assert len(plan_jobs([folder], tmp_path / "out").jobs) == 3


def test_what_is_named_twice_is_done_once(folder: Path, tmp_path: Path) -> None:
    plan = plan_jobs([folder / "a.png", folder, folder / "a.png"], tmp_path / "out")
    assert [job.source.name for job in plan.jobs] == ["a.png", "b.jpg", "c.TIF"]


def test_a_folder_that_cannot_be_searched_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look = os.scandir

    def refusing(path: str) -> object:  # root may look into any
        if Path(path).name == "deep":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return look(path)

    monkeypatch.setattr(os, "scandir", refusing)
    plan = plan_jobs([folder], folder.parent / "out")
    assert [job.source.name for job in plan.jobs] == ["a.png", "b.jpg"]
    told = f"{folder / 'deep'} cannot be searched: Permission denied; change its permissions"
    assert plan.unread == (told,)


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
        restorer_of(GaussianSmoothing(), tile=13), format=None, most_pixels=MOST_PIXELS,
        progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
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


def restored(source: Path, target: Path, **options: Any) -> tuple[str, ...]:
    """Restores a file with a net that changes nothing."""
    settings = {"format": None, "most_pixels": MOST_PIXELS, "progress": lambda done, total: None} | options
    return restore_file(
        RestoreJob(source=source, target=target), restorer_of(lambda x: x, margin=0), **settings
    )


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
