"""Tar files of the webdataset layout give the images and labels that folders with the same files give."""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from PIL import Image

from steadylens.data.datasets import Dataset, ImageSet, load_dataset
from steadylens.data.shards import expanded, list_shards
from steadylens.data.sources import Selection
from steadylens.data.splitting import Part
from steadylens.errors import DatasetError
from tests.data.fruit import SIZE, loaded, same

Files = Mapping[str, bytes]


def image(red: int, number: int, kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (7, 9), (red, number, 0)).save(content, kind)
    return content.getvalue()


def pack(path: Path, files: Files | list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items() if isinstance(files, Mapping) else files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def samples(label: int, numbers: range) -> dict[str, bytes]:
    """Returns images of a class, each with its label in one of the two ways."""
    files: dict[str, bytes] = {}
    for number in numbers:
        key = f"{label}{number:03}"
        files[f"{key}.png"] = image(50 * label, number)
        if number % 2:
            files[f"{key}.cls"] = f"{label}\n".encode()
        else:
            files[f"{key}.json"] = json.dumps({"label": label, "caption": "a fruit"}).encode()
    return files


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Returns a folder of tar files with three classes, two files for training and one for testing."""
    folder = tmp_path / "shards"
    for shard in range(2):
        numbers = range(10 * shard, 10 * shard + 5)
        pack(
            folder / f"train-{shard:04}.tar", samples(0, numbers) | samples(1, numbers) | samples(2, numbers)
        )
    pack(folder / "test-0000.tar", samples(0, range(30, 33)) | samples(1, range(30, 32)))
    return folder


def opened(place: Path | str, selection: Selection | None = None, *, memory: int = 2**30) -> Dataset:
    cache = Path(str(place).partition("shards")[0]) / "cache"
    return load_dataset(
        f"shards:{place}", size=SIZE, selection=selection or Selection(), cache=cache, memory=memory
    )


def pixels(images: ImageSet) -> list[tuple[int, list[int]]]:
    """Returns labels and pixels of images in an order of their own."""
    return sorted(zip(images.labels.tolist(), images.images.flatten(1).tolist(), strict=True))


def test_they_give_the_images_and_labels_of_a_folder_with_the_same_files(shards: Path) -> None:
    folder = shards.parent / "folder"
    for shard in shards.glob("*.tar"):
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.name.endswith(".png"):
                    path = folder / shard.name.partition("-")[0] / member.name[0] / member.name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    content = tar.extractfile(member)
                    assert content is not None
                    path.write_bytes(content.read())
    found, wanted = opened(shards), loaded(folder, validation_share=0.1)
    assert found.class_names == wanted.class_names == ("0", "1", "2")
    assert [len(part) for part in found._parts()] == [len(part) for part in wanted._parts()]
    assert pixels(found.test) == pixels(wanted.test)
    assert found.notes == ("the classes have no names and are called by their numbers, 0 to 2",)


def test_decoded_images_are_the_same_in_memory_and_in_the_file(shards: Path) -> None:
    first, second = opened(shards), opened(shards, memory=0)
    assert same(first, second)
    assert first.fingerprint == second.fingerprint
    (note,) = second.notes[1:]
    assert note.startswith("the decoded images, 0.0 GB, are not loaded into memory but stay in the cache")


@pytest.mark.parametrize(
    "pattern", ["{train,test}-{0000..0001}.tar", "*.tar", "t*-000?.tar", "train-0000.tar"]
)
def test_a_pattern_names_the_files(shards: Path, pattern: str) -> None:
    if pattern.startswith("{"):
        pack(shards / "test-0001.tar", samples(2, range(40, 42)))
    listing, _ = list_shards(f"{shards}/{pattern}")
    named = {photograph.path.partition("/")[0] for photograph in listing.photographs}
    assert named == (
        {"train-0000.tar"} if pattern.startswith("train") else {p.name for p in shards.iterdir()}
    )


def test_braces_mean_ranges_with_zeros_and_choices() -> None:
    assert expanded("a-{08..10}-{x,y}.tar") == [f"a-{n}-{c}.tar" for c in "xy" for n in ("08", "09", "10")]
    assert expanded("plain{}.tar") == ["plain{}.tar"]


def test_files_that_a_range_lacks_are_named(shards: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"there is no .*train-0002\.tar, .*train-0003\.tar; give a folder"
    ):
        list_shards(f"{shards}/train-{{0000..0003}}.tar")
    with pytest.raises(DatasetError, match=r"there is no .*none-\*\.tar; give a folder"):
        list_shards(f"{shards}/none-*.tar")


def test_a_folder_without_tar_files_is_refused_and_compressed_ones_are_named(tmp_path: Path) -> None:
    (tmp_path / "train-0.tar.gz").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"no files that end in \.tar; .*train-0\.tar\.gz is compressed"):
        list_shards(str(tmp_path))


def test_a_folder_in_between_names_the_part_too(tmp_path: Path) -> None:
    pack(tmp_path / "train" / "0000.tar", samples(0, range(3)) | samples(1, range(3)))
    pack(tmp_path / "val" / "0000.tar", samples(0, range(5, 6)) | samples(1, range(5, 6)))
    listing, _ = list_shards(str(tmp_path))
    assert {photograph.part for photograph in listing.photographs} == {Part.TRAIN, Part.TEST}
    assert listing.notes[0].startswith("there are no tar files of test images: those for validation are")


def test_without_named_parts_all_images_are_for_training(tmp_path: Path) -> None:
    pack(tmp_path / "0000.tar", samples(0, range(20)) | samples(1, range(20)))
    data = opened(tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == (28, 4, 8)


def test_a_file_of_an_unclear_part_is_refused(shards: Path) -> None:
    pack(shards / "more-0000.tar", samples(0, range(90, 92)))
    with pytest.raises(
        DatasetError, match=r"more-0000\.tar does not say whether it has training, validation"
    ):
        list_shards(str(shards))


def test_test_images_alone_are_enough_only_where_nothing_is_trained(tmp_path: Path) -> None:
    pack(tmp_path / "test-0.tar", samples(0, range(3)) | samples(1, range(3)))
    with pytest.raises(DatasetError, match="has no tar files of training images"):
        opened(tmp_path)
    assert len(opened(tmp_path, Selection(training=False)).test) == 6


def test_classes_are_named_beside_the_files_or_by_the_user(shards: Path) -> None:
    named = opened(shards, Selection(class_names=("apple", "pear", "quince")))
    assert named.class_names == ("apple", "pear", "quince")
    (shards / "classnames.txt").write_text("fig\nplum\nsloe\nlime\n", encoding="utf-8")
    data = opened(shards)
    assert data.class_names == ("fig", "plum", "sloe", "lime")
    assert "classes without images: 1, lime" in data.notes
    assert torch.equal(data.test.labels, named.test.labels)


def test_classes_may_be_labelled_by_name(tmp_path: Path) -> None:
    files: dict[str, bytes] = {}
    for number in range(20):
        name = ("pear", "apple")[number % 2]
        files |= {f"{number}.jpg": image(100 * (number % 2), number, "JPEG"), f"{number}.cls": name.encode()}
    pack(tmp_path / "0.tar", files)
    data = opened(tmp_path)
    assert data.class_names == ("apple", "pear")
    red = data.train.images[:, 0].float().mean(dim=(1, 2))
    assert torch.equal(red > 50, data.train.labels == 0)


PNG = image(1, 1)

WRONG: dict[str, tuple[list[tuple[str, bytes]], str]] = {
    "no label": ([("a/7.png", PNG)], r"a/7 has no label; add a/7\.cls, or a/7\.json with the entry label"),
    "json without label": ([("7.png", PNG), ("7.json", b"{}")], "7 has no label"),
    "no image": ([("7.cls", b"0")], "7 has a label, but no image"),
    "two images": ([("7.png", PNG), ("7.jpg", PNG), ("7.cls", b"0")], "7 has 2 images"),
    "twice": ([("7.png", PNG), ("7.cls", b"0"), ("7.png", PNG)], r"7 is there twice as \.png"),
    "negative": (
        [("7.png", PNG), ("7.json", b'{"label": -1}')],
        r"7 has a label that cannot be read, \.json: -1",
    ),
    "a list": ([("7.png", PNG), ("7.json", b'{"label": [1]}')], r"7 has a label that cannot be read"),
    "no JSON": ([("7.png", PNG), ("7.json", b"{")], r"7 has a label that cannot be read, \.json: "),
    "no text": ([("7.png", PNG), ("7.cls", b"\xff")], r"7 has a label that cannot be read, \.cls: "),
    "a damaged image": ([("7.png", PNG[:45]), ("7.cls", b"0")], r"train-0009\.tar/7\.png cannot be read"),
    "a number of no class": ([("7.png", PNG), ("7.cls", b"3")], r"7\.png is of class 3, but there are 3"),
}


@pytest.mark.parametrize(("files", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_sample_is_named_and_can_be_left_out(
    shards: Path, files: list[tuple[str, bytes]], message: str
) -> None:
    names = ("a", "b", "c")
    before = opened(shards, Selection(class_names=names))
    pack(shards / "train-0009.tar", files)
    with pytest.raises(DatasetError, match=f"(?s){message}.*--skip-damaged"):
        opened(shards, Selection(class_names=names))
    after = opened(shards, Selection(class_names=names, skip_damaged=True))
    assert len(after.train) + len(after.validation) == len(before.train) + len(before.validation)
    assert any("train-0009.tar" in note for note in after.notes)


@pytest.mark.parametrize("damage", ["cut within", "cut between", "garbled", "no tar"])
def test_a_damaged_tar_file_is_named_and_what_lies_before_the_damage_can_be_used(
    shards: Path, damage: str
) -> None:
    path = shards / "train-0001.tar"
    with tarfile.open(path) as tar:
        place = tar.getmembers()[6].offset_data
    content = path.read_bytes()
    path.write_bytes(
        {
            "cut within": content[: place + 20],
            "cut between": content[: place - 512],
            "garbled": content[: place - 512] + b"\x01" * 512 + content[place:],
            "no tar": b"\x01" * 5000,
        }[damage]
    )
    with pytest.raises(DatasetError, match=r"train-0001\.tar is (damaged|cut off).*; fetch it again"):
        opened(shards)
    data = opened(shards, Selection(skip_damaged=True))
    count = {"no tar": 15}.get(damage, 18)
    assert len(data.train) + len(data.validation) == count


def test_names_and_numbers_together_are_refused(shards: Path) -> None:
    pack(shards / "train-0009.tar", {"7.png": PNG, "7.cls": b"pear"})
    with pytest.raises(
        DatasetError, match=r"has classes by name, such as 'pear', and by number, such as 0 of"
    ):
        opened(shards)


def test_a_changed_tar_file_is_decoded_again(shards: Path) -> None:
    before = opened(shards)
    pack(shards / "test-0000.tar", samples(0, range(60, 63)))
    assert not same(before, opened(shards))
