"""Every file has a place of its own, and none is overwritten by accident."""

import errno
import os
import re
from pathlib import Path

import pytest

from steadylens.errors import SettingError, StorageError
from steadylens.inference.jobs import format_named, plan_jobs


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
            r"a\.png and .*deep/a\.png would both become .*out/a\.png; restore them one after the other",
        ),
        (["a.png", "a.bmp"], "out", ".webp", False, r"both become .*a\.webp; .*omit --format"),
        (["a.png", "a.png.pattern.png"], "out", None, True, r"both become .*out/a\.png\.pattern\.png"),
        (["a.png", "deep"], "deep", None, False, "written over .*deep/a.png, which is to be restored"),
        (["a.png", "a.png.pattern.png"], None, None, True, "written over|both become"),
        (["a.png"], "new.gif", None, False, r"new\.gif ends like an image that cannot be written; .*\.webp"),
        (["a.png"], "new.pgm", None, False, r"new\.pgm ends like an image that cannot be written"),
        (["a.png", "a.bmp"], "new.png", None, False, r"new\.png ends like an image file, and 2 paths may"),
        (["deep"], "new.png", None, False, r"new\.png ends like an image file, and the folder .*deep may"),
        (["a.png"], "a.png", None, False, r"a\.png would be written over .*a\.png, which is to be restored"),
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


@pytest.mark.parametrize("out", ["notes.txt", "a.png/deep/er", "a.png/deep.png"])
def test_a_file_is_no_folder_to_write_to(folder: Path, out: str) -> None:
    with pytest.raises(StorageError, match=r"(a\.png|notes\.txt) is no folder; choose another place"):
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


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("new.png", "PNG"), ("new.JPG", "JPEG"), ("new.jpeg", "JPEG"), ("new.tif", "TIFF"),
        ("new.webp", "WEBP"), ("new.bmp", "BMP"), ("new.pnm", "PPM"), ("new", None), ("run.v2", None),
    ],
)  # fmt: skip
def test_the_ending_of_a_file_to_write_names_its_format(tmp_path: Path, name: str, expected: str) -> None:
    assert format_named(tmp_path / name) == expected
    (tmp_path / name).mkdir()
    assert format_named(tmp_path / name) is None, "it is a folder, whatever it is called"


def test_a_single_file_may_be_written_to_a_file_of_any_name(folder: Path, tmp_path: Path) -> None:
    (job,) = plan_jobs([folder / "a.png"], tmp_path / "deep" / "new.jpg", view=True).jobs
    assert job.written == (tmp_path / "deep" / "new.jpg", tmp_path / "deep" / "new.jpg.pattern.png")


def places(out: Path, *paths: Path) -> list[str]:
    return [str(job.target.relative_to(out)) for job in plan_jobs(paths, out).jobs]


def test_several_folders_keep_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("2023/trip/1.png", "2024/trip/1.png", "2024/home/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    out, old, new = tmp_path / "out", tmp_path / "2023" / "trip", tmp_path / "2024" / "trip"
    assert places(out, old) == ["1.png"]
    assert places(out, old, old) == ["1.png"]
    assert places(out, old, tmp_path / "2024" / "home") == ["trip/1.png", "home/1.png"]
    assert places(out, old, new) == ["2023/trip/1.png", "2024/trip/1.png"]
    monkeypatch.chdir(old)
    assert places(out, Path(), Path("../../2024/trip")) == ["2023/trip/1.png", "2024/trip/1.png"]


def test_links_to_folders_are_told_and_not_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "e.png").touch()
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "deep" / "loop").symlink_to(folder)
    plan = plan_jobs([folder], None)
    assert {path.name for path in plan.linked} == {"link", "loop"}
    assert [job.source.name for job in plan.jobs] == ["a.png", "b.jpg", "c.TIF"]
    named = plan_jobs([folder / "link"], None)
    assert [job.source.name for job in named.jobs] == ["e.png"], "a link that is given by name is followed"


def test_a_file_that_links_name_too_is_restored_in_place_once(folder: Path) -> None:
    (folder / "again.png").symlink_to(folder / "a.png")
    plan = plan_jobs([folder], None)
    assert [job.target.name for job in plan.jobs] == ["a.png", "b.jpg", "c.TIF"]
