"""Every file has a place of its own, and none is overwritten by accident.

A file is restored into another: in its own format, with all of its metadata.
"""

import errno
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from steadylens.errors import ImageError, SettingError, StorageError
from steadylens.images.decoding import MOST_PIXELS
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


def test_a_file_of_several_images_is_not_replaced_by_its_first(tmp_path: Path) -> None:
    pages = [Image.new("L", (15, 15), level) for level in (10, 200)]
    path = tmp_path / "a.tif"
    pages[0].save(path, save_all=True, append_images=pages[1:])
    before = path.read_bytes()

    def restored(target: Path) -> tuple[str, ...]:
        return restore_file(
            RestoreJob(source=path, target=target), restorer_of(GaussianSmoothing()), format=None,
            most_pixels=MOST_PIXELS, progress=lambda done, total: None,
        )  # fmt: skip

    with pytest.raises(
        ImageError, match=r"a\.tif holds several images, of which only the first would be kept"
    ):
        restored(path)
    assert path.read_bytes() == before
    assert restored(tmp_path / "b.tif") == ("of several images in the file, the first is restored",)
    assert path.read_bytes() == before
