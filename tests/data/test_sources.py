"""Both layouts of the benchmark give the same images, labels and tracks."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from steadylens.data.datasets import Dataset, load_dataset
from steadylens.data.sources import CLASS_NAMES, Selection, list_gtsrb
from steadylens.data.splitting import Part
from steadylens.errors import DatasetError

SIDE = 8


BOX = (2, 1, 5, 4)  # X1, Y1, X2, Y2, inclusive: 4x4 pixels


TRAINING: list[tuple[int, int, int]] = [
    (label, track, frame) for label in (3, 14) for track in range(3) for frame in range(2)
]


TEST = [(0, 14), (1, 3), (4, 3)]  # number, label


def pixels(*seeds: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Returns a random image; the colour in the box identifies it."""
    image = np.random.default_rng(seeds).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    image[1:5, 2:6] = [10 * seeds[0], 10 * seeds[-1], 100 + len(seeds)]
    return image


def save(path: Path, image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def write_table(path: Path, rows: list[tuple[str, int]], *, column: str, separator: str) -> None:
    header = ["Width", "Height", "Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2", "ClassId"]
    lines = [[column, *header]] if column == "Filename" else [[*header, column]]
    for name, label in rows:
        numbers = [str(number) for number in (SIDE, SIDE, *BOX, label)]
        lines.append([name, *numbers] if column == "Filename" else [*numbers, name])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(separator.join(line) + "\n" for line in lines))


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """Returns the folder GTSRB of a tiny set in the official layout."""
    root = tmp_path / "official" / "GTSRB"
    labels: tuple[int, ...] = (3, 14)
    for label in labels:
        folder = root / "Final_Training" / "Images" / f"{label:05}"
        rows = []
        for own, track, frame in TRAINING:
            if own == label:
                rows.append((f"{track:05}_{frame:05}.ppm", label))
                save(folder / rows[-1][0], pixels(label, track, frame))
        write_table(folder / f"GT-{label:05}.csv", rows, column="Filename", separator=";")
    folder = root / "Final_Test" / "Images"
    for number, label in TEST:
        save(folder / f"{number:05}.ppm", pixels(label, number))
    rows = [(f"{number:05}.ppm", label) for number, label in TEST]
    write_table(folder / "GT-final_test.csv", rows, column="Filename", separator=";")
    return root


@pytest.fixture
def repackaged(tmp_path: Path) -> Path:
    """Returns the root of the same set in the repackaged layout, with folders in lower case."""
    root = tmp_path / "repackaged"
    rows = []
    for label, track, frame in TRAINING:
        name = f"{label}/{label:05}_{track:05}_{frame:05}.png"
        save(root / "train" / name, pixels(label, track, frame))
        rows.append((f"Train/{name}", label))
    write_table(root / "Train.csv", rows, column="Path", separator=",")
    for number, label in TEST:
        save(root / "Test" / f"{number:05}.png", pixels(label, number))
    rows = [(f"Test/{number:05}.png", label) for number, label in TEST]
    write_table(root / "Test.csv", rows, column="Path", separator=",")
    return root


@pytest.fixture(params=["official", "repackaged"])
def root(request: pytest.FixtureRequest) -> Path:
    """Returns each layout in turn."""
    folder: Path = request.getfixturevalue(request.param)
    return folder


def load(root: Path, *, size: int = 4) -> Dataset:
    return load_dataset(
        f"gtsrb:{root}", size=size, cache=root.parent / "cache", selection=Selection(validation_share=0.3)
    )


def table(root: Path, part: str) -> Path:
    """Returns the table of a part, in class 14 for training."""
    if (root / "Train.csv").exists():
        return root / ("Train.csv" if part == "train" else "Test.csv")
    tables = {
        "train": "Final_Training/Images/00014/GT-00014.csv",
        "test": "Final_Test/Images/GT-final_test.csv",
    }
    return root / tables[part]


def test_labels_and_tracks_are_those_of_the_names(root: Path) -> None:
    listing = list_gtsrb(root)
    train = [photograph for photograph in listing.photographs if photograph.part == Part.TRAIN]
    assert sorted((photograph.label, photograph.track) for photograph in train) == sorted(
        (label, f"class {label:02} track {track:05}") for label, track, _ in TRAINING
    )
    test = [photograph for photograph in listing.photographs if photograph.part == Part.TEST]
    assert [photograph.label for photograph in test] == [label for _, label in TEST]
    assert len({photograph.track for photograph in test}) == len(TEST)


def test_the_43_classes_have_different_names(root: Path) -> None:
    names = list_gtsrb(root).class_names
    assert names == CLASS_NAMES
    assert len(set(names)) == 43
    assert [names[label] for label in (0, 6, 13, 14, 17, 42)] == [
        "Speed limit (20km/h)",
        "End of speed limit (80km/h)",
        "Yield",
        "Stop",
        "No entry",
        "End of no passing by vehicles over 3.5 metric tons",
    ]


def test_the_crop_is_the_inclusive_box_to_the_pixel(root: Path) -> None:
    dataset = load(root)
    for image, (number, label) in zip(dataset.test.images, TEST, strict=True):
        golden = pixels(label, number)[1:5, 2:6].transpose(2, 0, 1)
        assert torch.equal(image, torch.from_numpy(golden))
    colours = sorted(tuple(image[:, 0, 0].tolist()) for image in dataset.train.images)
    assert {colour[0] for colour in colours} == {30, 140}
    assert (dataset.train.images == dataset.train.images[:, :, :1, :1]).all()  # no pixel from outside the box


def test_both_layouts_give_the_same_data(official: Path, repackaged: Path) -> None:
    first, second = load(official), load(repackaged)
    for part in ("train", "validation", "test"):
        ours, theirs = getattr(first, part), getattr(second, part)
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.labels, theirs.labels)
    assert first.fingerprint == second.fingerprint


def test_the_folder_above_may_be_given(root: Path) -> None:
    above = root.parent / "above"
    above.mkdir()
    root.rename(above / "GTSRB")
    assert len(list_gtsrb(above).photographs) == len(TRAINING) + len(TEST)


def test_images_that_no_table_names_are_not_read(root: Path) -> None:
    for folder in {path.parent for path in root.rglob("*.p[pn][mg]")}:
        (folder / "09999_00000.png").write_text("no image")
    assert len(load(root).test) == len(TEST)


def test_the_test_table_may_be_beside_the_folders(official: Path) -> None:
    for place in (official, official.parent):
        shutil.move(next(official.parent.rglob("GT-final_test.csv")), place / "GT-final_test.csv")
        assert len(load(official).test) == len(TEST)


def test_a_copy_in_the_exact_case_is_preferred(repackaged: Path) -> None:
    shutil.copytree(repackaged / "train", repackaged / "Train")
    paths = {photograph.path.partition("/")[0] for photograph in list_gtsrb(repackaged).photographs}
    assert paths == {"Train", "Test"}


def test_an_incomplete_benchmark_is_noted(root: Path) -> None:
    (note,) = load(root).notes
    assert note.startswith("12 training and 3 test images were found, of the benchmark's 39,209 and 12,630")


def test_a_byte_order_mark_and_blank_lines_do_no_harm(root: Path) -> None:
    path = table(root, "train")
    path.write_text("\ufeff" + path.read_text() + "\n\n")
    assert len(list_gtsrb(root).photographs) == len(TRAINING) + len(TEST)


def test_a_track_that_holds_a_test_image_is_left_out(root: Path) -> None:
    victim = next(path for path in root.rglob("*00001_00000.p*") if "14" in path.parent.name)
    save(victim, pixels(14, 0))  # test image 0
    dataset = load(root)
    assert len(dataset.train) + len(dataset.validation) == len(TRAINING) - 2
    assert dataset.notes[-1].endswith("2, because test images equal 1 of them: class 14 track 00001")


def test_a_missing_benchmark_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nowhere: No such file or directory; give a folder"):
        list_gtsrb(tmp_path / "nowhere")


def test_a_folder_of_another_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"neither Final_Training/Images .* nor Train\.csv"):
        list_gtsrb(tmp_path)


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_missing_table_is_named(root: Path, part: str) -> None:
    path = table(root, part)
    path.unlink()
    with pytest.raises(DatasetError, match="Final_Training" if path.name == "Train.csv" else path.name):
        list_gtsrb(root)


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_missing_column_is_named(root: Path, part: str) -> None:
    path = table(root, part)
    path.write_text(path.read_text().replace("Roi.X2", "Roi.X3"))
    with pytest.raises(DatasetError, match=rf"{path.name} lacks the column Roi\.X2; use the table"):
        list_gtsrb(root)


def test_an_empty_table_lacks_its_columns(root: Path) -> None:
    table(root, "test").write_text("")
    with pytest.raises(DatasetError, match=r"lacks the column .*ClassId, Roi\.X1"):
        list_gtsrb(root)


def test_all_missing_images_are_named_with_their_lines(root: Path) -> None:
    for name in ("00001", "00004"):
        next(root.rglob(f"{name}.p*")).unlink()
    with pytest.raises(DatasetError) as caught:
        list_gtsrb(root)
    first, second = str(caught.value).splitlines()
    assert re.search(r"line 3 names .*00001\.p.., which is not there$", first)
    assert re.search(r"line 4 names .*00004\.p.., which is not there; unpack the archive again$", second)


def test_a_table_that_is_not_text_is_refused(root: Path) -> None:
    table(root, "test").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(DatasetError, match="cannot be read"):
        list_gtsrb(root)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("stop", "ClassId is 'stop', it must be a whole number"),
        ("-1", "ClassId is '-1', it must be a whole number"),
        ("1.5", "ClassId is '1.5', it must be a whole number"),
        ("", "ClassId is '', it must be a whole number"),
        ("43", "ClassId is 43, it must be 0 to 42"),
    ],
)
def test_a_label_that_is_no_class_is_refused(official: Path, label: str, message: str) -> None:
    path = table(official, "test")
    path.write_text(path.read_text().replace(";14\n", f";{label}\n"))
    with pytest.raises(DatasetError, match=rf"GT-final_test\.csv, line 2: {message}"):
        list_gtsrb(official)


def test_a_short_row_is_refused(root: Path) -> None:
    path = table(root, "test")
    path.write_text(path.read_text() + "5\n")
    with pytest.raises(DatasetError, match="line 5 has 1 cells, too few"):
        list_gtsrb(root)


def test_a_training_name_without_track_is_refused(official: Path) -> None:
    folder = official / "Final_Training" / "Images" / "00014"
    (folder / "00000_00000.ppm").rename(folder / "sign.ppm")
    path = table(official, "train")
    path.write_text(path.read_text().replace("00000_00000.ppm", "sign.ppm"))
    with pytest.raises(DatasetError, match=r"names sign\.ppm, it must end in TRACK_FRAME"):
        list_gtsrb(official)


@pytest.mark.parametrize("box", ["2;1;8;4", "2;1;1;4"], ids=["outside", "empty"])
def test_a_box_that_leaves_its_image_is_refused(official: Path, box: str) -> None:
    path = table(official, "test")
    path.write_text(path.read_text().replace("2;1;5;4", box, 1))
    with pytest.raises(DatasetError, match=r"00000\.ppm: the box .* does not lie within the 8x8 image"):
        load(official)


def test_a_truncated_image_is_named(root: Path) -> None:
    path = next(root.rglob("00004.p*"))
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DatasetError, match=r"00004\.p.. cannot be read: .*; replace the file"):
        load(root)


def test_a_class_with_a_single_image_is_refused(official: Path) -> None:
    path = table(official, "train")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(DatasetError, match="class 'Stop' has a single image"):
        load(official)
