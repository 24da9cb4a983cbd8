"""Each file is told as soon as it is done, a bad one stops no other, and progress is weighted by pixels."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from steadylens.errors import SettingError
from steadylens.inference import batch
from steadylens.inference.batch import BatchSettings, restore_files
from steadylens.inference.image_files import RestoreSettings
from steadylens.inference.jobs import RestoreJob
from steadylens.inference.restorer import Restorer, restorer_of
from steadylens.inference.results import InPlaceHistory

SETTINGS = BatchSettings(files=RestoreSettings())

DEADLY = 251
"""The level of grey that ends the process that restores it."""


def made(folder: Path, *sizes: int, level: int = 90) -> list[RestoreJob]:
    """Returns jobs for grey squares of these sides."""
    for number, side in enumerate(sizes):
        Image.new("L", (side, side), level).save(folder / f"{number}.png")
    return [
        RestoreJob(source=folder / f"{number}.png", target=folder / "out" / f"{number}.png")
        for number in range(len(sizes))
    ]


def opened(tile: int | None = None) -> Restorer:
    return restorer_of(nn.Identity(), tile=tile)


def opened_deadly() -> Restorer:
    def net(images: Tensor) -> Tensor:
        if images.mul(255).round().eq(DEADLY).all():
            os._exit(9)
        return images

    return restorer_of(net, margin=0)


def test_progress_counts_pixels_of_files_and_within_them(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    jobs = made(tmp_path, 10, 100, 30)
    (tmp_path / "1.png").rename(tmp_path / "1.bmp")
    jobs[1] = RestoreJob(source=tmp_path / "1.bmp", target=jobs[1].target)  # the content decides
    results = restore_files(
        jobs, partial(opened, 50), settings=SETTINGS, progress=lambda done, total: told.append((done, total))
    )
    assert [each.state for each in results] == ["restored"] * 3
    assert told[0] == (0, 11_000)
    assert (100 + 2_500, 11_000) in told, "a quarter of the large one"
    assert told[-1] == (11_000, 11_000)
    assert told == sorted(told)


def test_what_takes_no_time_does_not_count_for_the_time_that_is_left(tmp_path: Path) -> None:
    jobs = made(tmp_path, 100, 100, 100, 100)
    (tmp_path / "0.png").write_bytes((tmp_path / "0.png").read_bytes()[:60])  # its size can be told
    history = InPlaceHistory.opened(tmp_path / "noted.txt")
    in_place = RestoreJob(source=tmp_path / "1.png", target=tmp_path / "1.png")
    settings = BatchSettings(files=RestoreSettings(), history=history)
    assert [each.state for each in restore_files([in_place], opened, settings=settings)] == ["restored"]
    settings = BatchSettings(files=RestoreSettings(), history=InPlaceHistory.opened(tmp_path / "noted.txt"))
    told: list[tuple[int, int]] = []
    results = restore_files(
        [jobs[0], in_place, *jobs[2:]], opened, settings=settings,
        progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    assert [each.state for each in results] == ["failed", "skipped", "restored", "restored"]
    assert [told[0], told[1], told[2], told[-1]] == [
        (0, 40_000), (0, 30_000), (0, 20_000), (20_000, 20_000)
    ]  # fmt: skip


def test_results_come_one_by_one(tmp_path: Path) -> None:
    results = restore_files(made(tmp_path, 9, 9), opened, settings=SETTINGS)
    assert next(results).file == str(tmp_path / "0.png")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["0.png"]
    results.close()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["0.png"]


def test_where_memory_runs_out_that_is_said_of_the_file(tmp_path: Path) -> None:
    def net(images: Tensor) -> Tensor:
        if images.shape[-1] == 10:
            torch.empty(2**58, dtype=torch.uint8)
        return images

    jobs = made(tmp_path, 9, 10, 11)
    first, second, third = restore_files(jobs, lambda: restorer_of(net, margin=0), settings=SETTINGS)
    assert (first.state, third.state) == ("restored", "restored")
    assert (second.state, second.reason) == ("failed", "memory ran out; give a smaller --tile")


def test_what_is_wrong_with_the_code_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **settings: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(batch, "restore_file", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        list(restore_files(made(tmp_path, 9), opened, settings=SETTINGS))


def test_a_process_that_dies_takes_no_other_file_with_it(tmp_path: Path) -> None:
    jobs = made(tmp_path, 40, 50, 60)
    Image.new("L", (50, 50), DEADLY).save(tmp_path / "1.png")
    told: list[tuple[int, int]] = []
    results = restore_files(
        jobs, opened_deadly, settings=BatchSettings(files=RestoreSettings(), processes=2),
        progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    states = {Path(each.file).name: each for each in results}
    assert {name: each.state for name, each in states.items()} == {
        "0.png": "restored", "1.png": "failed", "2.png": "restored"
    }  # fmt: skip
    assert "process that restored it died, most likely since memory ran out" in states["1.png"].reason
    assert told[-1] == (40**2 + 60**2, 40**2 + 60**2)
    for name in ("0.png", "2.png"):
        with Image.open(tmp_path / name) as before, Image.open(tmp_path / "out" / name) as after:
            assert np.array_equal(np.asarray(before), np.asarray(after))


def test_there_is_at_least_one_process() -> None:
    with pytest.raises(SettingError, match="there are 0 processes, at least 1 is needed"):
        BatchSettings(files=RestoreSettings(), processes=0)


def test_what_another_process_wrote_meanwhile_is_left_alone(tmp_path: Path) -> None:
    jobs = made(tmp_path, 9, 10)
    results = restore_files(jobs, opened)
    next(results)
    jobs[1].target.write_bytes(b"by another process")
    (second,) = results
    assert (second.state, second.reason) == ("skipped", batch.OUTPUT_EXISTS)
    assert jobs[1].target.read_bytes() == b"by another process"
    replacing = restore_files(jobs, opened, settings=BatchSettings(overwrite=True))
    assert [each.state for each in replacing] == ["restored"] * 2
