"""A file that is judged clean stays as it is, byte for byte, unless something else is asked for."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from steadylens.errors import ImageError, StorageError
from steadylens.images.reading import read_image_file
from steadylens.inference.batch import CLEAN, BatchSettings, restore_files
from steadylens.inference.image_files import RestoredFile, RestoreSettings, restore_file
from steadylens.inference.inspecting.noise_level import MEDIAN_SHARE, noise_level
from steadylens.inference.jobs import RestoreJob
from steadylens.inference.restorer import Restorer, restorer_of
from steadylens.inference.results import InPlaceHistory, ResultLog, read_results
from tests.inference.inspecting.scenes import levels, noise, scene

PIXELS = levels(scene(140, 180))
NOISY = levels(scene(140, 180) + noise((140, 180, 3), 20))


def brighter(images: torch.Tensor) -> torch.Tensor:
    """Adds so little that a clean image is found clean, and still the next grey level."""
    return images + 0.6 / 255


RESTORER = restorer_of(brighter, margin=0)


def opened() -> Restorer:
    return RESTORER


def restored(
    source: Path, target: Path, *, view: Path | None = None, told: list[str] | None = None, **settings: Any
) -> RestoredFile:
    heard: list[str] = [] if told is None else told
    return restore_file(
        RestoreJob(source=source, target=target, view=view), RESTORER,
        settings=RestoreSettings(**settings), announce=heard.append,
    )  # fmt: skip


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "bmp", "ppm"])
def test_a_clean_file_is_copied_byte_for_byte(tmp_path: Path, suffix: str) -> None:
    source, target = tmp_path / f"a.{suffix}", tmp_path / "out" / f"b.{suffix}"
    Image.fromarray(PIXELS).save(source, quality=95)
    os.utime(source, ns=(10**18 + 5_000, 10**18 + 7_000))
    found = restored(source, target, keep_times=True)
    assert found.clean
    assert found.noise_grey is not None
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_mtime_ns == 10**18 + 7_000
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    assert restored(source, tmp_path / f"c.{suffix}").clean
    assert (tmp_path / f"c.{suffix}").stat().st_mtime_ns > 10**18 + 7_000


def test_a_clean_file_is_restored_if_that_is_asked_for_and_a_noisy_one_anyway(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    told: list[str] = []
    found = restored(tmp_path / "a.png", tmp_path / "b.png", always=True, told=told)
    assert (found.clean, told) == (False, [found.sha256])
    assert np.array_equal(read_image_file(tmp_path / "b.png").pixels, PIXELS + 1)
    Image.fromarray(NOISY).save(tmp_path / "n.png")
    assert not restored(tmp_path / "n.png", tmp_path / "m.png").clean
    assert np.array_equal(read_image_file(tmp_path / "m.png").pixels, np.minimum(NOISY, 254) + 1)


def test_in_place_a_clean_file_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    told: list[str] = []
    Image.fromarray(PIXELS).save(path)
    before = path.stat()
    assert restored(path, path, told=told).clean
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert told == [], "nothing was restored"
    assert [*tmp_path.iterdir()] == [path]


def test_what_would_be_lost_by_replacing_a_file_stays_in_a_clean_one(tmp_path: Path) -> None:
    for name, pixels in (("clean.png", PIXELS), ("noisy.png", NOISY)):
        first, second = Image.fromarray(pixels), Image.fromarray(pixels[::-1])
        first.save(tmp_path / name, save_all=True, append_images=[second])
    before = (tmp_path / "clean.png").read_bytes()
    assert restored(tmp_path / "clean.png", tmp_path / "clean.png").clean
    assert (tmp_path / "clean.png").read_bytes() == before
    with pytest.raises(ImageError, match="which would be lost; restore it into a folder"):
        restored(tmp_path / "noisy.png", tmp_path / "noisy.png")
    with pytest.raises(ImageError, match="which would be lost; restore it into a folder"):
        restored(tmp_path / "clean.png", tmp_path / "clean.png", always=True)


def test_another_format_is_written_without_restoring(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.bmp")
    found = restored(tmp_path / "a.bmp", tmp_path / "b.png", format="PNG")
    assert found.clean
    content = read_image_file(tmp_path / "b.png")
    assert content.format == "PNG"
    assert np.array_equal(content.pixels, PIXELS)
    assert restored(tmp_path / "a.bmp", tmp_path / "c.bmp", format="BMP").clean
    assert (tmp_path / "c.bmp").read_bytes() == (tmp_path / "a.bmp").read_bytes()


def test_a_quality_and_a_background_are_heeded(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", quality=98)
    assert restored(tmp_path / "a.jpg", tmp_path / "b.jpg", quality=30).clean
    assert (tmp_path / "b.jpg").stat().st_size < (tmp_path / "a.jpg").stat().st_size / 2
    alpha = np.full((140, 180, 1), 255, np.uint8)
    alpha[:8, :8] = 100
    Image.fromarray(np.concatenate([PIXELS, alpha], axis=2)).save(tmp_path / "a.png")
    assert restored(tmp_path / "a.png", tmp_path / "b.png", background=(255, 0, 0)).clean
    read = read_image_file(tmp_path / "b.png").pixels
    assert read.shape == PIXELS.shape
    assert np.array_equal(read[8:], PIXELS[8:])
    assert (read[:8, :8, 0] > PIXELS[:8, :8, 0]).all()
    Image.fromarray(PIXELS).save(tmp_path / "opaque.png")
    assert restored(tmp_path / "opaque.png", tmp_path / "c.png", background=(255, 0, 0)).clean
    assert (tmp_path / "c.png").read_bytes() == (tmp_path / "opaque.png").read_bytes()


def test_the_view_of_a_clean_file_shows_that_nothing_was_removed(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    found = restored(tmp_path / "a.png", tmp_path / "b.png", view=tmp_path / "view.png")
    assert "nothing at 128, 0 grey levels at 255" in found.notes[-1]
    assert (read_image_file(tmp_path / "view.png").pixels == 128).all()


def test_a_view_does_not_stay_beside_a_file_that_could_not_be_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(StorageError, match="No space left on device"):
        restored(tmp_path / "a.png", tmp_path / "out" / "b.png", view=tmp_path / "out" / "view.png")
    assert [*(tmp_path / "out").iterdir()] == []


def test_a_stack_is_clean_if_all_pages_are(tmp_path: Path) -> None:
    for name, pages in (("clean.tif", [PIXELS, PIXELS]), ("noisy.tif", [PIXELS, NOISY])):
        tifffile.imwrite(tmp_path / name, np.stack(pages), photometric="rgb")
    assert restored(tmp_path / "clean.tif", tmp_path / "a.tif").clean
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "clean.tif").read_bytes()
    assert not restored(tmp_path / "noisy.tif", tmp_path / "b.tif").clean
    assert np.array_equal(tifffile.imread(tmp_path / "b.tif")[0], PIXELS + 1)
    assert restored(tmp_path / "noisy.tif", tmp_path / "c.png", format="PNG").clean, "the first is all of it"


def test_a_batch_tells_clean_files_and_restores_them_later_if_asked_to(tmp_path: Path) -> None:
    path, log = tmp_path / "a.png", tmp_path / "log.jsonl"
    Image.fromarray(PIXELS).save(path)
    job = RestoreJob(source=path, target=path)
    told: list[tuple[int, int]] = []

    def results(*, always: bool) -> list[Any]:
        history = InPlaceHistory.opened(tmp_path / "noted.txt", log=log)
        settings = BatchSettings(files=RestoreSettings(always=always), history=history)
        with ResultLog(log) as lines:
            found = [
                *restore_files(
                    [job], opened, settings=settings, progress=lambda done, total: told.append((done, total))
                )
            ]
            lines.write(found[0])
        return [(each.state, each.reason) for each in found]

    assert results(always=False) == results(always=False) == [("clean", CLEAN)]
    assert told[-1] == (0, 0), "it took no time"
    assert results(always=True) == [("restored", "")]
    assert np.array_equal(read_image_file(path).pixels, PIXELS + 1)
    ((state, reason),) = results(always=True)
    assert (state, "in place before" in reason) == ("skipped", True)
    first, *_, last = read_results(log)
    assert first.noise_grey == pytest.approx(0.6 / MEDIAN_SHARE, abs=0.01)
    assert first.coarse_noise_grey == noise_level(PIXELS, brighter, margin=0).coarse_grey
    assert last.sha256 == read_results(log)[-2].sha256
