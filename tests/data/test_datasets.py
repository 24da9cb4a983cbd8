"""A source gives the same images, labels and parts every time, quickly the second time."""

import os
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import pytest
import torch
from PIL import Image
from torch import Tensor

from steadylens.data.datasets import Dataset, ImageSet, load_dataset
from steadylens.data.signs import synthetic_signs
from steadylens.data.sources import CLASS_NAMES, Selection
from steadylens.errors import DatasetError, ImageError, SettingError
from steadylens.images.preprocessing import Fit
from tests.data.fruit import COUNTS, SIZE, chosen_note, image_set, loaded, paint, same


def contents(part: ImageSet) -> list[tuple[int, int]]:
    """Returns label and green of every image."""
    return list(zip(part.labels.tolist(), part.images[:, 1, 0, 0].tolist(), strict=True))


def all_contents(dataset: Dataset) -> list[tuple[int, int]]:
    """Returns label and green of the images of all parts, sorted."""
    return sorted(contents(dataset.train) + contents(dataset.validation) + contents(dataset.test))


def test_every_image_is_in_one_part_with_its_label(fruit: Path) -> None:
    dataset = loaded(fruit)
    assert all_contents(dataset) == [(label, n) for label, k in enumerate(COUNTS.values()) for n in range(k)]
    for part in (dataset.train, dataset.validation, dataset.test):
        assert (part.images[:, 0, 0, 0] == 50 * part.labels).all()
        assert part.images.shape == (len(part), 3, SIZE, SIZE)
        assert part.images.is_contiguous()
    assert dataset.class_names == tuple(COUNTS)
    assert dataset.source == f"folder:{fruit}"
    assert dataset.notes == (chosen_note(7, 35),)


def test_a_fifth_is_for_test_and_the_given_share_of_the_rest_for_validation(fruit: Path) -> None:
    dataset = loaded(fruit)
    assert dataset.test.labels.bincount().tolist() == [4, 2, 1]
    assert dataset.validation.labels.bincount().tolist() == [4, 2, 1]
    assert dataset.train.labels.bincount().tolist() == [12, 6, 3]


def test_no_track_is_in_two_parts(fruit: Path) -> None:
    dataset = loaded(fruit)
    tracks = torch.cat([dataset.train.tracks, dataset.validation.tracks, dataset.test.tracks])
    assert sorted(tracks.tolist()) == list(range(sum(COUNTS.values())))


def test_the_seed_alone_changes_the_split(fruit: Path) -> None:
    first, again, other = loaded(fruit, seed=1), loaded(fruit, seed=1), loaded(fruit, seed=2)
    assert same(first, again)
    assert not same(first, other)
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_folders_of_parts_are_kept_apart(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for name, numbers in {"train": (0, 1), "val": (2,), "test": (3,)}.items():
        for label in range(2):
            for number in numbers:
                paint(root / name / "ab"[label] / f"{number}.png", 50 * label, number)
    dataset = loaded(root)
    assert contents(dataset.train) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert contents(dataset.validation) == [(0, 2), (1, 2)]
    assert contents(dataset.test) == [(0, 3), (1, 3)]


def test_training_images_that_equal_test_images_are_left_out(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for label in range(2):
        for number in range(4):
            paint(root / "train" / "ab"[label] / f"{number}.png", 50 * label, number)
        paint(root / "test" / "ab"[label] / "0.bmp", 50 * label, 3)
    dataset = loaded(root)
    numbers = [number for _, number in contents(dataset.train) + contents(dataset.validation)]
    assert sorted(numbers) == [0, 0, 1, 1, 2, 2]
    assert dataset.notes == (
        "images left out by whole tracks: 2, because test images equal 2 of them: "
        "train/a/3.png, train/b/3.png",
    )


def test_images_are_what_pillow_makes_of_them(fruit: Path) -> None:
    expected = {}
    for path in (fruit / "pear").iterdir():
        number = int(path.stem)
        pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        small = Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        expected[np.array(small).transpose(2, 0, 1).tobytes()] = number
    train = loaded(fruit).train
    found = {image.numpy().tobytes() for image in train.images[train.labels == 1]}
    assert len(found) == 6
    assert found <= expected.keys()


def stripe(path: Path, label: int, number: int) -> None:
    """Writes a photograph three times as wide as high, whose middle third has a colour of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (90, 30), (200, 0, number))
    image.paste((0, 50 + label, number), (30, 0, 60, 30))
    image.save(path)


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """Returns a folder of two classes of wide photographs."""
    for label in range(2):
        for number in range(5):
            stripe(tmp_path / "wide" / "ab"[label] / f"{number}.png", label, number)
    return tmp_path / "wide"


def test_the_centre_of_a_photograph_is_cut_out_undistorted(wide: Path) -> None:
    squashed = loaded(wide)
    cropped = loaded(wide, fit=Fit(keeps_shape=True))
    assert (squashed.fit, cropped.fit) == (Fit(), Fit(keeps_shape=True))
    assert (squashed.train.images[:, 0] > 100).any(), "the outer thirds are seen"
    assert (cropped.train.images[:, 0, :, 1:-1] == 0).all(), "the middle alone is seen"
    assert (cropped.train.images[:, 1, 2, 2] == 50 + cropped.train.labels).all()


def test_each_fit_has_images_and_a_fingerprint_of_its_own(wide: Path) -> None:
    fits = [Fit(), Fit(keeps_shape=True), Fit(keeps_shape=True, side=SIZE + 2)]
    found = [loaded(wide, fit=fit) for fit in fits]
    assert len({dataset.fingerprint for dataset in found}) == 3
    assert len(list((wide.parent / "cache").iterdir())) == 3
    spoil(wide)
    for fit, dataset in zip(fits, found, strict=True):
        assert same(loaded(wide, fit=fit), dataset)


def test_squashing_in_another_spelling_is_the_same_set(wide: Path) -> None:
    assert loaded(wide).fingerprint == loaded(wide, fit=Fit(side=SIZE)).fingerprint
    assert len(list((wide.parent / "cache").iterdir())) == 1


def test_the_fingerprint_of_squashed_photographs_is_golden(fruit: Path) -> None:
    assert loaded(fruit).fingerprint == "1f6903dd3d9a"


def test_a_fit_below_the_size_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=f"of which no {SIZE} can be cut out"):
        load_dataset("folder:no/where", size=SIZE, fit=Fit(side=SIZE - 1), cache=tmp_path)


def test_synthetic_signs_are_square_with_any_fit(drawn: Path) -> None:
    usual, cropped = (load_dataset("signs:1", size=16, fit=fit, cache=drawn) for fit in (Fit(), Fit(side=20)))
    assert same(usual, cropped)
    assert usual.fingerprint == cropped.fingerprint


def spoil(root: Path) -> None:
    """Makes every image unreadable without changing its length or its time of modification."""
    for path in root.rglob("*.*"):
        state = path.stat()
        path.write_bytes(bytes(state.st_size))
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_a_second_load_reads_no_image(fruit: Path) -> None:
    first = loaded(fruit)
    spoil(fruit)
    assert same(first, loaded(fruit))
    assert loaded(fruit, seed=9).fingerprint != first.fingerprint  # another split, from the same file
    assert len(list((fruit.parent / "cache").iterdir())) == 1


def test_another_size_is_decoded_again(fruit: Path) -> None:
    loaded(fruit)
    spoil(fruit)
    with pytest.raises(DatasetError, match="is not an image of a known format"):
        loaded(fruit, size=SIZE + 1)


def test_a_changed_image_is_noticed(fruit: Path) -> None:
    first = loaded(fruit)
    paint(fruit / "pear" / "00.png", 50, 200)
    second = loaded(fruit)
    assert all_contents(second).count((1, 200)) == 1
    assert second.fingerprint != first.fingerprint


def test_a_new_and_a_deleted_image_are_noticed(fruit: Path) -> None:
    loaded(fruit)
    paint(fruit / "pear" / "99.png", 50, 99)
    (fruit / "pear" / "00.png").unlink()
    dataset = loaded(fruit)
    assert (1, 99) in all_contents(dataset)
    assert (1, 0) not in all_contents(dataset)


def test_a_renamed_class_is_noticed(fruit: Path) -> None:
    first = loaded(fruit)
    (fruit / "pear").rename(fruit / "plum")
    second = loaded(fruit)
    assert second.class_names == ("apple", "plum", "quince")
    assert second.fingerprint != first.fingerprint


def test_the_data_set_may_move(fruit: Path) -> None:
    first = loaded(fruit)
    moved = fruit.rename(fruit.with_name("moved"))
    spoil(moved)
    second = loaded(moved)
    assert same(first, second)
    assert second.fingerprint == first.fingerprint


def test_a_damaged_cache_is_made_again_from_the_images(fruit: Path) -> None:
    first = loaded(fruit)
    (file,) = (fruit.parent / "cache").iterdir()
    content = bytearray(file.read_bytes())
    content[-100] ^= 255
    file.write_bytes(content)
    assert same(first, loaded(fruit))


def test_changing_a_data_set_does_not_change_the_cache(fruit: Path) -> None:
    first = loaded(fruit)
    before = first.train.images.clone()
    first.train.images.zero_()
    assert torch.equal(loaded(fruit).train.images, before)


def test_the_cache_is_in_the_users_cache_folder_by_default(
    fruit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[str] = []

    def place(name: str) -> Path:
        places.append(name)
        return fruit.parent / "home"

    monkeypatch.setattr(platformdirs, "user_cache_path", place)
    load_dataset(f"folder:{fruit}", size=SIZE)
    assert places == ["steadylens"]
    (file,) = (fruit.parent / "home").iterdir()
    assert file.name.startswith("folder-")


def test_progress_ends_with_all_images_and_is_silent_when_they_are_cached(fruit: Path) -> None:
    calls: list[tuple[int, int]] = []
    for _ in range(2):
        load_dataset(
            f"folder:{fruit}",
            size=SIZE,
            cache=fruit.parent,
            progress=lambda done, total: calls.append((done, total)),
        )
    assert calls == [(35, 35)]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a cache folder with the smallest set of synthetic signs."""
    cache = tmp_path_factory.mktemp("cache")
    load_dataset("signs:1", size=16, cache=cache)
    return cache


def test_synthetic_signs_have_43_classes_in_tracks_of_five(drawn: Path) -> None:
    dataset = load_dataset("signs:1", size=16, cache=drawn)
    assert dataset.class_names == CLASS_NAMES
    assert dataset.notes == ()
    for part, tracks in ((dataset.train, 1), (dataset.validation, 1), (dataset.test, 10)):
        assert part.images.shape == (43 * 5 * tracks, 3, 16, 16)
        assert part.labels.bincount().tolist() == [5 * tracks] * 43
        assert (part.tracks.view(-1, 5) == part.tracks[::5, None]).all()
        assert len(set(part.tracks.tolist())) == 43 * tracks
    tracks_of = [set(part.tracks.tolist()) for part in (dataset.train, dataset.validation, dataset.test)]
    assert not tracks_of[0] & tracks_of[1]
    assert not (tracks_of[0] | tracks_of[1]) & tracks_of[2]


def test_the_test_signs_do_not_depend_on_the_seed(drawn: Path) -> None:
    first, second = (load_dataset("signs:1", size=16, seed=seed, cache=drawn) for seed in (1, 2))
    assert torch.equal(first.test.images, second.test.images)
    assert not torch.equal(first.train.images, second.train.images)


def fake_track(label: int, *, frames: int, rng: np.random.Generator, size: int) -> object:
    """Returns random images in place of drawings."""
    return rng.integers(0, 256, (frames, 3, size, size), dtype=np.uint8)


@pytest.mark.parametrize(
    ("source", "count"), [("signs", 60), ("signs:60", 60), ("signs:33", 35), ("signs:3", 10)]
)
def test_the_number_of_synthetic_signs_is_about_the_one_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, count: int
) -> None:
    monkeypatch.setattr(synthetic_signs, "draw_track", fake_track)
    dataset = load_dataset(source, size=2, cache=tmp_path)
    assert len(dataset.train) + len(dataset.validation) == 43 * count
    assert len(dataset.test) == 43 * 50


def test_a_larger_set_of_synthetic_signs_contains_the_smaller_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic_signs, "draw_track", fake_track)
    few, many = (load_dataset(source, size=2, cache=tmp_path) for source in ("signs:10", "signs:20"))
    assert torch.equal(few.test.images, many.test.images)

    def pixels(dataset: Dataset) -> set[bytes]:
        images = torch.cat([dataset.train.images, dataset.validation.images])
        return {image.numpy().tobytes() for image in images}

    assert pixels(few) < pixels(many)


def test_an_old_cache_is_not_used_after_the_drawing_code_changed(
    drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load_dataset("signs:1", size=16, cache=drawn)
    monkeypatch.setattr(synthetic_signs, "draw_track", fake_track)
    assert load_dataset("signs:1", size=16, cache=drawn).fingerprint != before.fingerprint


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("mnist", "source is 'mnist', it must be signs, signs:N, gtsrb:DIR, folder:DIR, shards:DIR or"),
        ("some/folder", "source is 'some/folder', it must be"),
        ("", "source is '', it must be"),
        ("folder:", "source is 'folder:', it must be"),
        ("gtsrb", "source is 'gtsrb', it must be"),
        ("signs:many", "source is 'signs:many', the number of images per class must be 1 or more"),
        ("signs:0", "the number of images per class must be 1 or more"),
        ("signs:-5", "the number of images per class must be 1 or more"),
        ("folder:no/where", "no/where: No such file or directory; give a folder that can be read"),
        ("gtsrb:no/where", "no/where: No such file or directory; give a folder that can be read"),
    ],
)
def test_an_unknown_source_is_refused(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        load_dataset(source, cache=tmp_path)


def test_a_folder_without_its_kind_is_understood_and_told(tmp_path: Path) -> None:
    given: Any = tmp_path
    with pytest.raises(
        DatasetError,
        match=f"gtsrb:DIR, folder:DIR, shards:DIR or photographs:DIR; did you mean folder:{tmp_path}\\?$",
    ):
        load_dataset(str(tmp_path), cache=tmp_path)
    with pytest.raises(DatasetError, match=f"it must be a text .* give 'folder:{tmp_path}'"):
        load_dataset(given, cache=tmp_path)


def test_to_measure_all_images_of_a_test_folder_are_loaded(fruit: Path, tmp_path: Path) -> None:
    fruit.rename(tmp_path / "test")
    data = load_dataset(
        f"folder:{tmp_path}", size=SIZE, selection=Selection(training=False), cache=tmp_path / "cache"
    )
    assert [tested for _, _, _, tested in data.counts()] == list(COUNTS.values())
    assert (len(data.train), len(data.validation), data.notes) == (0, 0, ())


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, float("nan")])
def test_a_share_outside_0_to_1_is_refused_before_any_work(tmp_path: Path, share: float) -> None:
    with pytest.raises(SettingError, match=r"validation_share is .*, it must be above 0 and below 1"):
        load_dataset("folder:no/where", selection=Selection(validation_share=share), cache=tmp_path)


def test_a_size_below_one_pixel_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="size is 0, it must be at least 1 pixel"):
        load_dataset("folder:no/where", size=0, cache=tmp_path)


def test_a_truncated_image_is_named_and_nothing_is_cached(fruit: Path) -> None:
    path = fruit / "apple" / "00.png"
    path.write_bytes(path.read_bytes()[:44])
    with pytest.raises(DatasetError, match=r"apple/00\.png cannot be read: .*; replace the file"):
        loaded(fruit)
    assert not (fruit.parent / "cache").exists()


def test_a_class_with_a_single_image_is_refused(fruit: Path) -> None:
    paint(fruit / "fig" / "0.png", 0, 0)
    with pytest.raises(DatasetError, match="class 'fig' has a single image, which cannot be split"):
        loaded(fruit)


def test_a_single_class_is_refused(tmp_path: Path) -> None:
    for number in range(5):
        paint(tmp_path / "set" / "fig" / f"{number}.png", 0, number)
    with pytest.raises(DatasetError, match="classes with training images is 1, it must be at least 2"):
        loaded(tmp_path / "set")


@pytest.mark.parametrize(
    "indices",
    [[2, 0], torch.tensor([2, 0]), (2, 0)],
    ids=["list", "tensor", "tuple"],
)
def test_a_subset_keeps_images_labels_and_tracks_together(indices: Tensor | list[int]) -> None:
    subset = image_set().subset(indices)
    assert len(subset) == 2
    assert subset.images[:, 0, 0, 0].tolist() == [2, 0]
    assert subset.labels.tolist() == [0, 0]
    assert subset.tracks.tolist() == [1, 0]


def test_a_mask_chooses_a_subset() -> None:
    chosen = image_set()
    assert chosen.subset(chosen.labels == 1).images[:, 0, 0, 0].tolist() == [1, 3]


def test_a_subset_may_be_empty() -> None:
    assert len(image_set().subset([])) == 0


def test_a_subset_is_a_copy() -> None:
    whole = image_set()
    whole.subset([0, 1]).images.fill_(9)
    assert whole.images.max() == 3


def test_moving_to_the_same_device_copies_nothing() -> None:
    whole = image_set()
    assert whole.to("cpu").images.data_ptr() == whole.images.data_ptr()
    assert whole.to("meta").labels.device.type == "meta"


def test_an_image_set_is_frozen() -> None:
    whole = image_set()
    with pytest.raises(FrozenInstanceError):
        whole.labels = whole.tracks  # type: ignore[misc]


@pytest.mark.parametrize(
    ("images", "labels", "error", "message"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2).long(), ImageError, r"torch\.float32 .*convert them with"),
        (torch.zeros(2, 1, 4, 4).byte(), torch.zeros(2).long(), ImageError, r"\(N, 3, H, W\)"),
        (torch.zeros(3, 4, 4).byte(), torch.zeros(3).long(), ImageError, r"\(3, 4, 4\)"),
        (torch.zeros(2, 3, 4, 4).byte(), torch.zeros(3).long(), DatasetError, r"labels are .*2 images need"),
        (torch.zeros(2, 3, 4, 4).byte(), torch.zeros(2), DatasetError, r"labels are torch\.float32"),
    ],
)
def test_an_image_set_refuses_what_breaks_its_contract(
    images: Tensor, labels: Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ImageSet(images=images, labels=labels, tracks=torch.zeros(len(images)).long())
