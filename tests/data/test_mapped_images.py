"""Images in a file give what the same images in memory give, and are read only when they are used."""

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from steadylens.data import mapped_images
from steadylens.data.datasets import ImageSet
from steadylens.data.image_cache import pixel_digests
from steadylens.data.mapped_images import MappedImages, blocks
from steadylens.errors import SettingError
from steadylens.images.tensors import to_float
from tests.mapped import in_file

COUNT = 12

MEMORY = torch.randint(256, (COUNT, 3, 5, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> MappedImages:
    found = in_file(MEMORY, tmp_path_factory.mktemp("mapped") / "a.safetensors")
    assert isinstance(found, MappedImages)
    return found


def same(found: Tensor, wanted: Tensor) -> bool:
    return type(found) is Tensor and found.device == wanted.device and torch.equal(found, wanted)


INDICES = torch.tensor([[3, 0], [-1, 3]])

READS: dict[str, Callable[[Tensor], Tensor]] = {
    "an index": lambda each: each[4],
    "a negative index": lambda each: each[-2],
    "a slice": lambda each: each[2:7],
    "a slice with steps": lambda each: each[1::3],
    "a slice of all": lambda each: each[:],
    "a slice beyond the end": lambda each: each[:50],
    "an empty slice": lambda each: each[5:5],
    "a list": lambda each: each[[5, 5, 0]],
    "indices": lambda each: each[INDICES[0]],
    "indices of two axes": lambda each: each[INDICES],
    "no indices": lambda each: each[INDICES[0][:0]],
    "a mask": lambda each: each[torch.arange(COUNT) % 3 == 0],
    "indices and channels": lambda each: each[INDICES[0], torch.tensor([2, 0])],
    "patches": lambda each: each[
        INDICES[0][:, None, None, None],
        torch.arange(3)[None, :, None, None],
        torch.tensor([[1, 2], [3, 4]])[:, None, :, None],
        torch.tensor([[0, 1], [2, 3]])[:, None, None, :],
    ],
    "index_select": lambda each: each.index_select(0, INDICES[0]),
    "another axis": lambda each: each[:, 1],
    "an axis of one": lambda each: each[None],
    "floats": to_float,
    "a sum": lambda each: each.sum(dim=0, dtype=torch.int64),
    "a comparison": lambda each: each == 7,
    "a join": lambda each: torch.cat([each, each[:2]]),
    "a copy": lambda each: each.clone(),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("inference", [False, True])
def test_images_in_a_file_give_what_those_in_memory_give(
    images: MappedImages, read: Callable[[Tensor], Tensor], inference: bool
) -> None:
    with torch.inference_mode(inference):
        assert same(read(images), read(MEMORY))
        places = torch.tensor([7, 2, 2, 9, 11, 0, 1, 3, 5, 8, 4, 6])
        assert same(read(images.rows(places)), read(MEMORY[places]))


@given(indices=st.lists(st.integers(-COUNT, COUNT - 1), max_size=20))
def test_any_indices_give_what_they_give_in_memory(images: MappedImages, indices: list[int]) -> None:
    chosen = torch.tensor(indices, dtype=torch.int64)
    assert same(images[chosen], MEMORY[chosen])
    assert same(images.rows(chosen)[:], MEMORY[chosen])


@pytest.mark.parametrize("index", [COUNT, -COUNT - 1])
def test_an_index_beyond_the_images_is_refused(images: MappedImages, index: int) -> None:
    for wrong in (index, torch.tensor([0, index])):
        with pytest.raises(IndexError):
            images[wrong]


def test_they_look_like_a_tensor(images: MappedImages) -> None:
    assert isinstance(images, Tensor)
    assert (len(images), images.shape, images.dtype, images.ndim) == (COUNT, MEMORY.shape, torch.uint8, 4)
    assert (images.nbytes, images.device) == (MEMORY.nbytes, torch.device("cpu"))
    assert repr(images).startswith("MappedImages((12, 3, 5, 5), device=cpu, file=")


def test_choosing_splitting_and_moving_read_nothing(
    images: MappedImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object) -> Tensor:
        raise AssertionError("pixels are read")

    with monkeypatch.context() as patch:
        patch.setattr(mapped_images._PixelFile, "read", forbidden)
        tracks = torch.arange(COUNT)
        chosen = ImageSet(images=images, labels=tracks % 2, tracks=tracks).subset(tracks >= 3).to("meta")
        parts = torch.split(images.rows(torch.arange(3, COUNT)), 4)
        assert [len(part) for part in parts] == [4, 4, 1]
        assert (chosen.images.device, chosen.labels.device) == (torch.device("meta"),) * 2
        again = chosen.images.to("cpu")
        assert images.cpu() is images
        assert images.detach() is images
        assert copy.deepcopy(images) is images
    assert same(again[:], MEMORY[3:])
    assert same(torch.cat([part[:] for part in parts]), MEMORY[3:])


def test_what_is_read_is_on_the_device_that_they_were_moved_to(images: MappedImages) -> None:
    elsewhere = images.to("meta")
    for read in (elsewhere[:3], elsewhere[torch.tensor([1, 2])], elsewhere[1]):
        assert type(read) is Tensor
        assert read.device == torch.device("meta")


def test_they_cannot_be_changed(images: MappedImages) -> None:
    changes: tuple[Callable[[], object], ...] = (images.zero_, lambda: images.__setitem__(0, 0))
    for change in changes:
        with pytest.raises(SettingError, match=r"stay in a file cannot be changed; change a copy"):
            change()
    assert same(images[:], MEMORY)


def test_more_than_memory_may_take_is_not_read_at_once(
    images: MappedImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped_images, "MOST_IN_MEMORY", MEMORY.nbytes - 1)
    monkeypatch.setattr(mapped_images, "BLOCK_BYTES", 300)
    with pytest.raises(
        SettingError, match=r"12 images, 0.0 GB, are asked for at once, .* such as images\[:500\]"
    ):
        to_float(images)
    assert same(images[:11], MEMORY[:11])
    assert torch.equal(pixel_digests(images), pixel_digests(MEMORY))
    assert torch.equal(torch.cat(list(blocks(images))), MEMORY)


def test_another_process_gets_the_place_of_the_images_and_not_their_pixels(images: MappedImages) -> None:
    sent = pickle.dumps(images.rows(torch.tensor([3, 1])))
    assert len(sent) < 2000
    assert same(pickle.loads(sent)[:], MEMORY[[3, 1]])  # noqa: S301 - we have just made it


def test_they_are_read_after_the_file_was_removed(tmp_path: Path) -> None:
    images = in_file(MEMORY, tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").unlink()
    assert same(images[:], MEMORY)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the resident memory")
def test_reading_all_of_a_large_file_leaves_little_of_it_in_memory(tmp_path: Path) -> None:
    code = (
        "import re, sys, torch\n"
        "from pathlib import Path\n"
        "from steadylens.data.image_cache import _header, pixel_digests\n"
        "from steadylens.data import mapped_images\n"
        "mapped_images._MOST_RESIDENT = 2**24\n"
        "def resident():\n"
        "    return 1024 * int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "shape = (2000, 3, 224, 224)\n"
        "path = Path(sys.argv[1])\n"
        "with path.open('wb') as file:\n"
        "    size = file.write(_header(shape, 2000)) + 8 * 2000 + 2000 * 3 * 224 * 224 + 2000\n"
        "    file.truncate(size)\n"  # a hole, which takes no place on the disk
        "before = resident()\n"
        "digests = pixel_digests(mapped_images.MappedImages.of_file(path))\n"
        "assert len(set(digests.tolist())) == 1\n"
        "print(size / 2**20, (resident() - before) / 2**20)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True, check=True
    )
    size, grown = map(float, done.stdout.split())
    assert size > 280
    assert grown < 200
