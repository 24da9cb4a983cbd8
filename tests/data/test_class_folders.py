"""Folders with one folder per class are data sets; folders of parts have many names, and are no classes."""

from pathlib import Path

import pytest
from timm.data.readers.reader_image_folder import find_images_and_targets
from torchvision.datasets import ImageFolder  # type: ignore[import-untyped]

from steadylens.data.class_folders import list_folder, natural_order, order_notes, part_named
from steadylens.data.sources import scan_images
from steadylens.data.splitting import Part
from steadylens.errors import DatasetError


def touch(root: Path, *names: str) -> Path:
    """Makes empty files: listing does not open them."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def test_class_folders_are_read_at_any_depth(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.png", "cat/deep/er/2.JPG", "dog/1.webp", "dog/notes.txt", "README.md", "loose.png")
    listing = list_folder(tmp_path)
    assert listing.class_names == ("cat", "dog")
    assert [(photograph.part, photograph.path, photograph.label) for photograph in listing.photographs] == [
        (Part.TRAIN, "cat/1.png", 0),
        (Part.TRAIN, "cat/deep/er/2.JPG", 0),
        (Part.TRAIN, "dog/1.webp", 1),
    ]
    assert len({photograph.track for photograph in listing.photographs}) == 3
    assert all(photograph.box is None for photograph in listing.photographs)


def test_hidden_files_and_folders_are_skipped(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.png", "cat/._1.png", "dog/1.png", "dog/.thumbs/1.png", ".trash/1.png")
    listing = list_folder(tmp_path)
    assert listing.class_names == ("cat", "dog")
    assert len(listing.photographs) == 2


@pytest.mark.parametrize("validation", ["val", "validation"])
def test_folders_of_parts_are_used(tmp_path: Path, validation: str) -> None:
    touch(tmp_path, "train/a/1.png", "train/b/1.png", f"{validation}/b/1.png", "test/a/1.png")
    parts = {
        photograph.path: (photograph.part, photograph.label)
        for photograph in list_folder(tmp_path).photographs
    }
    assert parts == {
        "train/a/1.png": (Part.TRAIN, 0),
        "train/b/1.png": (Part.TRAIN, 1),
        f"{validation}/b/1.png": (Part.VALIDATION, 1),
        "test/a/1.png": (Part.TEST, 0),
    }


def test_names_of_parts_may_be_capital(tmp_path: Path) -> None:
    touch(tmp_path, "Train/a/1.png", "Train/b/1.png", "TEST/a/1.png")
    assert [photograph.part for photograph in list_folder(tmp_path).photographs] == [
        Part.TRAIN,
        Part.TRAIN,
        Part.TEST,
    ]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    touch(tmp_path, "bus/1.png", "train/1.png")
    assert list_folder(tmp_path).class_names == ("bus", "train")


def test_folders_beside_train_and_test_are_noted(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/1.png", "extra/1.png")
    listing = list_folder(tmp_path)
    assert len(listing.photographs) == 3
    assert listing.notes == (f"{tmp_path} has folders beside train and test that are not read: extra",)


def test_files_of_other_formats_are_counted(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "a/2.HEIC", "a/3.heic", "a/deep/4.gif", "b/1.png", "b/notes", "README.md")
    (note,) = list_folder(tmp_path).notes
    assert note == (
        f"{tmp_path} has files of no format that is read here, left out: 2 .heic, 1 .gif, 1 without an ending"
    )


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "a" / "2.png").symlink_to(tmp_path / "absent.png")
    with pytest.raises(DatasetError, match=r"2\.png is a link that leads nowhere; remove it"):
        list_folder(tmp_path)


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    touch(tmp_path, "store/1.png", "set/b/1.png")
    (tmp_path / "set" / "a").symlink_to(tmp_path / "store", target_is_directory=True)
    assert list_folder(tmp_path / "set").class_names == ("a", "b")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "contains no class folders with images; put each class into a folder"),
        (["1.png", "2.png"], "contains no class folders with images"),
        (["a/1.png", "b/1.txt", "c/1.txt"], "class folders without images: .*b, .*c; fill or remove them"),
        (["train/1.png", "test/1.png"], "train contains no class folders with images"),
        (["train/a/1.png", "test/b/1.png", "test/c/1.png"], "classes without training images: .*b, .*c; add"),
    ],
)
def test_a_folder_without_usable_classes_is_refused(tmp_path: Path, files: list[str], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        list_folder(touch(tmp_path, *files))


@pytest.mark.parametrize("read", [list_folder, scan_images])
def test_a_missing_folder_is_named(tmp_path: Path, read: type) -> None:
    with pytest.raises(DatasetError, match="nowhere: No such file or directory; give a folder"):
        read(tmp_path / "nowhere")


def test_a_file_instead_of_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="Not a directory"):
        list_folder(touch(tmp_path, "file") / "file")


def test_the_key_changes_with_every_change_of_the_files(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/1.png")
    keys = [list_folder(tmp_path).key()]
    assert list_folder(tmp_path).key() == keys[0]
    (tmp_path / "a" / "1.png").write_text("longer")
    keys.append(list_folder(tmp_path).key())
    (tmp_path / "a" / "1.png").rename(tmp_path / "a" / "2.png")
    keys.append(list_folder(tmp_path).key())
    touch(tmp_path, "b/2.png")
    keys.append(list_folder(tmp_path).key())
    assert len(set(keys)) == 4


def parts_of(folder: Path) -> dict[str, set[str]]:
    """Returns the top folders whose images are in each part."""
    found: dict[str, set[str]] = {}
    for photograph in list_folder(folder).photographs:
        found.setdefault(photograph.part.name, set()).add(photograph.path.partition("/")[0])
    return found


@pytest.mark.parametrize(
    ("train", "validation"),
    [
        ("train", "valid"),
        ("train", "val"),
        ("training", "validation"),
        ("TRAIN", "Dev"),
        ("train", "eval"),
        ("train_images", "val_images"),
        ("train2017", "val2017"),
    ],
)
def test_without_test_images_the_validation_images_are_tested_on(
    train: str, validation: str, tmp_path: Path
) -> None:
    touch(tmp_path, f"{train}/a/1.png", f"{train}/b/1.png", f"{validation}/a/1.png", f"{validation}/b/1.png")
    listing = list_folder(tmp_path)
    assert listing.class_names == ("a", "b")
    assert parts_of(tmp_path) == {"TRAIN": {train}, "TEST": {validation}}
    (note,) = listing.notes
    assert f"the images in {validation} are the test images" in note


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Training", "Testing"),
        ("train", "test"),
        ("Final_Train", "Final Test"),
        ("trainset", "testset"),
        ("TrainImages", "TestDir"),
    ],
)
def test_training_and_test_folders_have_many_names(train: str, test: str, tmp_path: Path) -> None:
    touch(tmp_path, f"{train}/a/1.png", f"{train}/b/1.png", f"{test}/a/1.png", "__MACOSX/a/1.png")
    listing = list_folder(tmp_path)
    assert parts_of(tmp_path) == {"TRAIN": {train}, "TEST": {test}}
    assert listing.notes == ()


def test_unlabelled_images_are_no_class_and_are_not_read(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.png", "train/b/1.png", "val/a/1.png", "unlabeled/1.png", "test/1.png")
    listing = list_folder(tmp_path)
    assert listing.class_names == ("a", "b")
    assert parts_of(tmp_path) == {"TRAIN": {"train"}, "TEST": {"val"}}
    assert "that are not read: test, unlabeled" in listing.notes[0]


def test_what_an_archive_leaves_behind_is_no_class(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/1.png", "__MACOSX/a/1.png", "__MACOSX/1.png", "a/@eaDir/1.png")
    listing = list_folder(tmp_path)
    assert (listing.class_names, len(listing.photographs)) == (("a", "b"), 2)


@pytest.mark.parametrize(
    "name", ["station", "train station", "steam-train", "validator", "testament", "1", "_"]
)
def test_other_names_mean_no_part(name: str) -> None:
    assert part_named(name) is None


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ["train/a/1.png", "train/b/1.png"],
            r"no class folders but train; give .*train itself, or add test or val",
        ),
        (
            ["train/a/1.png", "train/b/1.png", "test/1.png"],
            "no class folders but test and train; give .*train itself",
        ),
        (["val/a/1.png", "test/a/1.png"], "no class folders but test and val; add train"),
        (["cat/1.png", "dog/1.png", "test/1.png"], "has test beside cat, dog: a name of a part"),
        (["cat/1.png", "dog/1.png", "Validation/cat/1.png"], "has Validation beside cat, dog"),
        (["train/a/1.png", "train/b/1.png", "bus/1.png"], "has train beside bus"),
        (["cat/1.png", "dog/1.png", "unlabeled/1.png"], "has unlabeled beside cat, dog"),
        (
            ["train/a/1.png", "train/b/1.png", "val/a/1.png", "eval/a/1.png"],
            "has eval and val, which both mean validation images; keep one",
        ),
        (
            ["train/a/1.png", "Train/b/1.png", "test/a/1.png"],
            "has Train and train, which both mean train images",
        ),
        (
            ["X_train/a/1.png", "X_train/b/1.png", "X_test/a/1.png"],
            "each of which contains a, so X_test, X_train seem to be parts",
        ),
        (
            ["Training/a/1.png", "PublicTest/a/1.png", "PrivateTest/a/1.png"],
            "has Training beside PrivateTest, PublicTest",
        ),
        (["all/train/a/1.png", "all/test/a/1.png"], "one class folder, all, .* give folder:.*/all itself"),
        (["all/test/a/1.png", "__MACOSX/x/y/1.png"], "one class folder, all, .* give folder:.*/all itself"),
        (["up/all/train/a/1.png", "up/all/val/a/1.png"], "folder, up/all, .* give folder:.*/up/all itself"),
        (
            ["all/train/a/1.png", "all/test/a/1.png", "papers/1.png"],
            "all contains test, train, so it seems to be the data set .* give folder:.*/all itself",
        ),
        (
            ["train/train/a/1.png", "train/train/b/1.png", "test/test/a/1.png"],
            "train has one class folder, train, which contains a, b; .* move them up into .*train",
        ),
    ],
)
def test_names_of_parts_among_classes_and_folders_above_them_are_refused(
    tmp_path: Path, files: list[str], message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        list_folder(touch(tmp_path, *files))


@pytest.mark.parametrize(
    ("files", "tested", "notes"),
    [
        (["test/b/1.png", "test/a/1.png", "test/a/2.png"], 3, 0),
        (["val/b/1.png", "val/a/1.png"], 2, 1),
        (["val/b/1.png", "val/a/1.png", "test/b/1.png"], 1, 0),
        (["test/b/1.png", "test/a/1.png", "train/no-class.png"], 2, 1),
    ],
)
def test_to_measure_only_test_images_are_needed(
    files: list[str], tested: int, notes: int, tmp_path: Path
) -> None:
    folder = touch(tmp_path, *files)
    with pytest.raises(DatasetError, match=r"no class folders|contains no class folders"):
        list_folder(folder)
    found = list_folder(folder, training=False)
    assert found.class_names == ("a", "b")
    assert [photograph.part for photograph in found.photographs].count(Part.TEST) == tested
    assert not any(photograph.part == Part.TRAIN for photograph in found.photographs)
    assert len(found.notes) == notes


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["train/a/1.png", "train/b/1.png"], "no class folders but train; give .*train itself"),
        (["cat/1.png", "dog/1.png", "test/cat/1.png"], "has test beside cat, dog"),
        (["test/photos/a/1.png", "test/photos/b/1.png"], "one class folder, photos, which contains a, b"),
    ],
)
def test_to_measure_parts_and_classes_must_be_clear_too(
    files: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match=message):
        list_folder(touch(tmp_path, *files), training=False)


def test_parts_within_classes_and_parts_of_other_names_are_noted(tmp_path: Path) -> None:
    touch(tmp_path, "inside/cat/train/1.png", "inside/cat/test/1.png", "inside/dog/train/1.png")
    touch(tmp_path, "outside/fold1/cat/1.png", "outside/fold1/dog/1.png", "outside/fold2/cat/1.png")
    for folder, same in (("inside", "train"), ("outside", "cat")):
        (note,) = list_folder(tmp_path / folder).notes
        assert f"contains {same}, whose images are read together" in note


@pytest.mark.parametrize(
    "names",
    [("0", "1", "10", "11", "2"), ("apple", "Banana", "cherry"), ("class1", "class10", "class9"), ("a", "b")],
)
def test_the_orders_of_torchvision_and_timm_are_known(names: tuple[str, ...], tmp_path: Path) -> None:
    touch(tmp_path, *(f"{name}/1.png" for name in names))
    ours = list_folder(tmp_path).class_names
    assert list(ours) == ImageFolder(str(tmp_path)).classes
    of_timm = find_images_and_targets(str(tmp_path))[1]
    assert natural_order(ours) == sorted(of_timm, key=of_timm.__getitem__)
    notes = order_notes(ours)
    assert bool(notes) == (natural_order(ours) != list(ours))
    if notes:
        assert f"torchvision does: {', '.join(ours)}; timm numbers them {', '.join(of_timm)}." in notes[0]
