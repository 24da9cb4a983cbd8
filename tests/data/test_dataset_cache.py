"""Images are made once and cached; a damaged cache is made again."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from steadylens.data.image_cache import Job, load_or_make, pixel_digests
from steadylens.data.mapped_images import MOST_IN_MEMORY, MappedImages
from steadylens.errors import DatasetError, StorageError

SIZE, FRAMES, COUNT = 4, 2, 150


def make(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (FRAMES, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)


def forbidden() -> Tensor:
    raise AssertionError("images are made although they are cached")


def load(path: Path, jobs: list[Job] | None = None, *, memory: int = MOST_IN_MEMORY) -> Tensor:
    jobs = [partial(make, seed) for seed in range(COUNT)] if jobs is None else jobs
    found = load_or_make(path, jobs, frames=FRAMES, size=SIZE, progress=None, memory=memory)
    assert isinstance(found.images, MappedImages) == (memory < EXPECTED.nbytes)
    assert torch.equal(found.digests, pixel_digests(found.images))
    assert found.notes == ()
    return found.images


EXPECTED = torch.cat([make(seed) for seed in range(COUNT)])


NONE: list[Job] = [forbidden] * COUNT


def test_images_are_in_the_order_of_their_jobs(tmp_path: Path) -> None:
    assert torch.equal(load(tmp_path / "a.safetensors"), EXPECTED)


def test_a_second_load_makes_nothing(tmp_path: Path) -> None:
    load(tmp_path / "a.safetensors")
    assert torch.equal(load(tmp_path / "a.safetensors", NONE), EXPECTED)
    assert len(list(tmp_path.iterdir())) == 1


def test_images_are_mapped_from_the_file_and_changing_them_does_not_change_it(tmp_path: Path) -> None:
    for _ in range(2):  # as they are made, and as they are read
        images = load(tmp_path / "a.safetensors")
        maps = Path("/proc/self/maps").read_text(encoding="utf-8") if Path("/proc/self/maps").exists() else ""
        assert not maps or str(tmp_path / "a.safetensors") in maps
        images.zero_()
        del images
    assert torch.equal(load(tmp_path / "a.safetensors", NONE), EXPECTED)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5000] ^= 1
    path.write_bytes(content)


def write_text(path: Path) -> None:
    path.write_text("no tensors")


def leave_digests_out(path: Path) -> None:
    save_file({"images": EXPECTED}, path)


def keep_fewer(path: Path) -> None:
    save_file({"images": EXPECTED[1:].clone(), "digests": pixel_digests(EXPECTED[1:])}, path)


def keep_floats(path: Path) -> None:
    save_file({"images": EXPECTED.float(), "digests": pixel_digests(EXPECTED)}, path)


@pytest.mark.parametrize(
    "damage", [cut, empty, flip_a_bit, write_text, leave_digests_out, keep_fewer, keep_floats]
)
@pytest.mark.parametrize("memory", [0, MOST_IN_MEMORY])
def test_a_damaged_file_is_made_again(tmp_path: Path, damage: Callable[[Path], None], memory: int) -> None:
    path = tmp_path / "a.safetensors"
    load(path, memory=memory)
    damage(path)
    assert torch.equal(load(path, memory=memory), EXPECTED)
    assert torch.equal(load(path, NONE, memory=memory), EXPECTED)  # the repaired file is read


def test_images_are_kept_in_memory_up_to_the_limit_and_in_the_file_beyond(tmp_path: Path) -> None:
    for memory in (EXPECTED.nbytes, EXPECTED.nbytes - 1):
        assert torch.equal(load(tmp_path / f"{memory}.safetensors", memory=memory), EXPECTED)


def test_both_ways_read_the_file_of_the_other(tmp_path: Path) -> None:
    load(tmp_path / "a.safetensors", memory=0)
    assert torch.equal(load(tmp_path / "a.safetensors", NONE), EXPECTED)
    load(tmp_path / "b.safetensors")
    assert torch.equal(load(tmp_path / "b.safetensors", NONE, memory=0), EXPECTED)
    stored = load_file(tmp_path / "a.safetensors")
    assert torch.equal(stored["images"], EXPECTED)


def test_progress_counts_images_up_to_all_of_them(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    jobs: list[Job] = [partial(make, seed) for seed in range(COUNT)]
    for _ in range(2):  # the second time they are cached
        load_or_make(
            tmp_path / "a.safetensors",
            jobs,
            frames=FRAMES,
            size=SIZE,
            progress=lambda done, total: calls.append((done, total)),
        )
    assert calls == [(128, 300), (256, 300), (300, 300)]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_job_that_raises_leaves_nothing_behind(tmp_path: Path, error: type[BaseException]) -> None:
    begun: list[int] = []

    def job(number: int) -> Tensor:
        begun.append(number)
        if number == 3:
            raise error("stop")
        return make(number)

    jobs: list[Job] = [partial(job, number) for number in range(5000)]
    with pytest.raises(error, match="stop"):
        load_or_make(tmp_path / "a.safetensors", jobs, frames=FRAMES, size=SIZE, progress=None)
    assert list(tmp_path.iterdir()) == []
    assert len(begun) < len(jobs)


def test_images_that_cannot_be_cached_come_with_a_note(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    jobs: list[Job] = [partial(make, 0)]
    path = tmp_path / "file" / "a.safetensors"
    found = load_or_make(path, jobs, frames=FRAMES, size=SIZE, progress=None)
    assert torch.equal(found.images, make(0))
    (note,) = found.notes
    assert note.startswith(f"the images are not kept for the next time: cannot write {path}")


@pytest.fixture(scope="module")
def full_disk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Returns the path of a cache, and what a process told that could not write it, first in memory."""
    path = tmp_path_factory.mktemp("full") / "a.safetensors"
    code = (
        "import resource, sys, torch\n"
        "from pathlib import Path\n"
        "from steadylens.data.image_cache import load_or_make\n"
        "from steadylens.errors import StorageError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "job = lambda: torch.zeros(1, 3, 64, 64, dtype=torch.uint8)\n"
        "settings = {'frames': 1, 'size': 64, 'progress': None}\n"
        "print(*load_or_make(Path(sys.argv[1]), [job], **settings).notes)\n"
        "try:\n"
        "    load_or_make(Path(sys.argv[1]), [job], **settings, memory=0)\n"
        "except StorageError as error:\n"
        "    print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return path, run.stdout.splitlines()


def test_a_full_disk_leaves_no_file_and_a_note(full_disk: tuple[Path, list[str]]) -> None:
    path, (note, _) = full_disk
    assert note.startswith("the images are not kept for the next time")
    assert list(path.parent.iterdir()) == []


def test_images_that_must_stay_in_the_file_need_space_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil._ntuple_diskusage(100, 99, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(
        StorageError, match=r"decoded images take 0.0 GB, .* has 0.0 GB free; .* with --cache"
    ):
        load(tmp_path / "a.safetensors", memory=0)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_of_a_large_file_is_removed_an_hour_later(tmp_path: Path) -> None:
    new, old, other = (tmp_path / f".{name}.safetensors" for name in ("a-" + "0" * 16, "a-" + "f" * 16, "a"))
    for path in (new, old, other):
        path.write_text("part")
    os.utime(old, (0, 0))
    os.utime(other, (0, 0))
    load(tmp_path / "a.safetensors", memory=0)
    assert [path.exists() for path in (new, old, other)] == [True, False, True]


def test_a_disk_that_becomes_full_ends_it_and_leaves_no_file(full_disk: tuple[Path, list[str]]) -> None:
    path, (_, error) = full_disk
    assert error.startswith(f"cannot write {path}: ")
    assert list(path.parent.iterdir()) == []


def test_images_that_cannot_be_read_are_black_and_named_in_either_way(tmp_path: Path) -> None:
    def broken(number: int) -> Tensor:
        raise DatasetError(f"{number} is broken")

    jobs: list[Job] = [partial(broken if seed in (3, 70) else make, seed) for seed in range(COUNT)]
    forbidding: list[Job] = [forbidden] * COUNT
    for memory in (0, MOST_IN_MEMORY):
        path = tmp_path / f"{memory}.safetensors"
        make_or_load = partial(load_or_make, path, frames=FRAMES, size=SIZE, progress=None, memory=memory)
        with pytest.raises(DatasetError, match=r"(?s)2 images cannot be used.*3 is broken.*70 is broken"):
            make_or_load(jobs)
        for each in (jobs, forbidding):
            found = make_or_load(each, skip_damaged=True)
            assert found.damaged == (3, 70)
            assert not found.images[6:8].any()
            assert torch.equal(found.images[8:140], EXPECTED[8:140])


def test_progress_tells_how_far_a_large_file_is_checked(tmp_path: Path) -> None:
    load(tmp_path / "a.safetensors", memory=0)
    calls: list[tuple[int, int]] = []
    load_or_make(
        tmp_path / "a.safetensors",
        NONE,
        frames=FRAMES,
        size=SIZE,
        progress=lambda done, total: calls.append((done, total)),
        memory=0,
    )
    assert calls == [(300, 300)]


@given(seeds=st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_digests_are_equal_exactly_where_images_are(seeds: list[int]) -> None:
    digests = pixel_digests(torch.stack([make(seed)[0] for seed in seeds])).tolist()
    assert [[one == other for one in digests] for other in digests] == [
        [one == other for one in seeds] for other in seeds
    ]


def test_no_images_have_no_digests() -> None:
    assert pixel_digests(torch.zeros(0, 3, 4, 4, dtype=torch.uint8)).shape == (0,)
