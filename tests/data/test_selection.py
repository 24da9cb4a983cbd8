"""Damaged images are named or left out, classes are numbered as in a list, and data have a fingerprint."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from steadylens.data.datasets import Dataset, ImageSet, load_dataset
from steadylens.data.sources import Selection
from steadylens.errors import DatasetError, ImageError
from tests.data.fruit import SIZE, chosen_note, image_set, loaded, paint, same


def damage(root: Path, *names: str) -> None:
    for name in names:
        (root / name).write_bytes((root / name).read_bytes()[:44])


def test_all_damaged_images_are_named_at_once(fruit: Path) -> None:
    names = ("apple/00.png", "apple/03.bmp", "quince/02.png")
    damage(fruit, *names)
    with pytest.raises(
        DatasetError, match="3 images cannot be used; leave them out with --skip-damaged"
    ) as caught:
        loaded(fruit)
    assert [
        line.count(name) for line, name in zip(str(caught.value).splitlines()[1:], names, strict=True)
    ] == [1] * 3
    assert not (fruit.parent / "cache").exists()


def test_damaged_images_are_left_out_as_if_they_were_not_there(fruit: Path) -> None:
    damage(fruit, "pear/04.png", "pear/05.bmp")

    def skipped() -> Dataset:
        return load_dataset(
            f"folder:{fruit}", size=SIZE, cache=fruit.parent / "cache", selection=Selection(skip_damaged=True)
        )

    first, again = skipped(), skipped()
    with pytest.raises(DatasetError, match="2 images cannot be used"):
        loaded(fruit)
    (fruit / "pear" / "04.png").unlink()
    (fruit / "pear" / "05.bmp").unlink()
    without = skipped()
    assert same(first, without)
    assert same(again, without)
    assert first.fingerprint == again.fingerprint == without.fingerprint
    for data in (first, again):
        assert data.notes == (
            chosen_note(7, 33),
            "images left out because they cannot be read: 2, pear/04.png, pear/05.bmp",
        )


def test_classes_are_numbered_as_in_a_list(fruit: Path) -> None:
    usual = loaded(fruit)
    names = ("quince", "banana", "apple", "pear")
    listed = load_dataset(
        f"folder:{fruit}", size=SIZE, cache=fruit.parent / "cache", selection=Selection(class_names=names)
    )
    assert listed.class_names == names
    assert (listed.test.images[:, 0, 0, 0] == torch.tensor([100, -1, 0, 50])[listed.test.labels]).all()
    assert torch.equal(
        listed.test.images,
        load_dataset(f"folder:{fruit}", size=SIZE, cache=fruit.parent / "cache").test.images,
    ), "the same images are tested on"
    assert listed.notes == (chosen_note(7, 35), "classes without images: 1, banana")
    assert listed.fingerprint != usual.fingerprint
    assert usual.numbered_as(usual.class_names) is usual
    with pytest.raises(DatasetError, match=r"lacks pear, quince, of which folder:.* has images"):
        usual.numbered_as(["apple"])
    with pytest.raises(DatasetError, match="are not all different"):
        usual.numbered_as(["apple", "pear", "quince", "pear"])


def test_an_order_that_other_libraries_do_not_share_is_noted_unless_it_is_given(tmp_path: Path) -> None:
    for label in range(11):
        for number in range(3):
            paint(tmp_path / "set" / str(label) / f"{number}.png", 20 * label, number)
    note, chosen = loaded(tmp_path / "set").notes
    assert "0, 1, 10, 2" in note
    given = loaded(tmp_path / "set").numbered_as([str(label) for label in range(11)])
    assert (given.test.images[:, 0, 0, 0] == 20 * given.test.labels).all()
    selection = Selection(class_names=given.class_names)
    again = load_dataset(f"folder:{tmp_path / 'set'}", size=SIZE, cache=tmp_path, selection=selection)
    assert again.notes == (chosen,)


def own(images: ImageSet, **changes: object) -> Dataset:
    given: dict[str, object] = {"class_names": ("a", "b"), "source": "own", **changes}
    return Dataset(train=images, validation=images.subset([]), test=images, **given)  # type: ignore[arg-type]


def test_the_fingerprint_changes_with_every_pixel_label_name_and_part() -> None:
    images = image_set()
    pixel = images.images.clone()
    pixel[3, 2, 1, 1] ^= 1
    data = [
        own(images),
        own(ImageSet(images=pixel, labels=images.labels, tracks=images.tracks)),
        own(ImageSet(images=images.images, labels=images.labels.flip(0), tracks=images.tracks)),
        own(images, class_names=("a", "c")),
        own(images.subset([0, 1, 2])),
        replace(own(images), train=images.subset([0, 1])),
        replace(own(images), validation=images.subset([0]), train=images.subset([1, 2, 3])),
        own(ImageSet(images=images.images.view(4, 3, 1, 4), labels=images.labels, tracks=images.tracks)),
    ]
    assert len({each.fingerprint for each in data}) == len(data)
    assert own(image_set()).fingerprint == data[0].fingerprint == own(images, source="moved").fingerprint


def test_what_keeps_the_images_keeps_the_fingerprint_and_what_changes_them_does_not(fruit: Path) -> None:
    data = loaded(fruit)
    assert data.to("cpu").fingerprint == data.unlabelled().fingerprint == data.fingerprint
    assert data.unlabelled(("x",)).class_names == ("x",)
    assert not data.unlabelled().test.labels.any()
    assert replace(data, train=data.train.subset([0, 1])).fingerprint != data.fingerprint


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"class_names": ("a",)}, DatasetError, "labels are from 0 to 1, but there are 1 class names"),
        ({"class_names": ("a", "a")}, DatasetError, "the class names a, a are not all different"),
        (
            {
                "test": ImageSet(
                    images=torch.zeros(1, 3, 4, 4).byte(),
                    labels=torch.zeros(1).long(),
                    tracks=torch.zeros(1).long(),
                )
            },
            ImageError,
            "the parts have images of .* pixels; give all of them one size",
        ),
    ],
)
def test_a_data_set_refuses_parts_that_do_not_belong_together(
    changes: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        replace(own(image_set()), **changes)  # type: ignore[arg-type]


def test_each_class_is_counted_in_each_part(fruit: Path) -> None:
    assert loaded(fruit).counts() == [("apple", 12, 4, 4), ("pear", 6, 2, 2), ("quince", 3, 1, 1)]
