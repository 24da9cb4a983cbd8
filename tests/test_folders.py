"""A folder a class is a data set, in the layouts that people have."""

from pathlib import Path

import pytest

from steadylens.errors import DatasetError
from steadylens.folders import list_folder
from steadylens.listing import scan_images
from steadylens.splitting import Part


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
    assert [(shot.part, shot.path, shot.label) for shot in listing.photographs] == [
        (Part.TRAIN, "cat/1.png", 0),
        (Part.TRAIN, "cat/deep/er/2.JPG", 0),
        (Part.TRAIN, "dog/1.webp", 1),
    ]
    assert len({shot.track for shot in listing.photographs}) == 3
    assert all(shot.box is None for shot in listing.photographs)


def test_hidden_files_and_folders_do_not_count(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.png", "cat/._1.png", "dog/1.png", "dog/.thumbs/1.png", ".trash/1.png")
    listing = list_folder(tmp_path)
    assert listing.class_names == ("cat", "dog")
    assert len(listing.photographs) == 2


@pytest.mark.parametrize("validation", ["val", "validation"])
def test_folders_of_parts_are_used(tmp_path: Path, validation: str) -> None:
    touch(tmp_path, "train/a/1.png", "train/b/1.png", f"{validation}/b/1.png", "test/a/1.png")
    parts = {shot.path: (shot.part, shot.label) for shot in list_folder(tmp_path).photographs}
    assert parts == {
        "train/a/1.png": (Part.TRAIN, 0),
        "train/b/1.png": (Part.TRAIN, 1),
        f"{validation}/b/1.png": (Part.VALIDATION, 1),
        "test/a/1.png": (Part.TEST, 0),
    }


def test_names_of_parts_may_be_capital(tmp_path: Path) -> None:
    touch(tmp_path, "Train/a/1.png", "Train/b/1.png", "TEST/a/1.png")
    assert [shot.part for shot in list_folder(tmp_path).photographs] == [Part.TRAIN, Part.TRAIN, Part.TEST]


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
        ([], "holds no images in class folders; put each class into its own folder"),
        (["1.png", "2.png"], "holds no images in class folders"),
        (["a/1.png", "b/1.txt"], "b holds no images; fill it or remove it"),
        (["train/a/1.png", "val/a/1.png"], "has train and val alone; give it both train and test"),
        (["train/1.png", "test/1.png"], "holds no images in class folders"),
        (["train/a/1.png", "test/b/1.png"], "b is a class that training lacks; add training images"),
    ],
)
def test_a_folder_without_usable_classes_is_refused(tmp_path: Path, files: list[str], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        list_folder(touch(tmp_path, *files))


@pytest.mark.parametrize("read", [list_folder, scan_images])
def test_a_missing_folder_is_named(tmp_path: Path, read: type) -> None:
    with pytest.raises(DatasetError, match="nowhere: No such file or directory; give a folder"):
        read(tmp_path / "nowhere")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="Not a directory"):
        list_folder(touch(tmp_path, "file") / "file")


def test_the_key_tells_any_change_of_the_files(tmp_path: Path) -> None:
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
