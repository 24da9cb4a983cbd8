"""Images that Python has already become a data set: the same pixels, however and in which order they come."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset, TensorDataset
from torchvision import transforms  # type: ignore[import-untyped]
from torchvision.datasets import FakeData, ImageFolder  # type: ignore[import-untyped]

from steadylens.data.datasets import Dataset, ImageSet, load_dataset
from steadylens.data.own_data import dataset_from
from steadylens.errors import DatasetError, ImageError, SettingError, SteadylensError
from steadylens.evaluation import experiments
from steadylens.evaluation.workflows import compare
from steadylens.images.preprocessing import Fit, Preprocessing
from steadylens.images.tensors import to_float
from steadylens.nets.classification import FusedClassifier, PreparedClassifier
from steadylens.nets.restoration import GaussianSmoothing
from steadylens.training.recipes import SMOKE
from steadylens.training.run import Run
from steadylens.training.stages import train_classifier, train_restorer
from tests.data.fruit import COUNTS, SIZE

PIXELS = torch.randint(0, 256, (12, 3, 5, 5), generator=torch.Generator().manual_seed(3)).to(torch.uint8)
LABELS = torch.arange(12) % 3
PAIRS = list(zip(PIXELS, LABELS.tolist(), strict=True))
NAMES = ("a", "b", "c")


class Stream(IterableDataset[tuple[Tensor, int]]):
    """Gives pairs one after another, and has a length all the same."""

    def __len__(self) -> int:
        return len(PAIRS)

    def __iter__(self) -> Any:
        return iter(PAIRS)


SOURCES: dict[str, Any] = {
    "bytes": TensorDataset(PIXELS, LABELS),
    "floats": TensorDataset(to_float(PIXELS), LABELS),
    "further columns": TensorDataset(to_float(PIXELS).double(), LABELS.int(), LABELS),
    "loader": DataLoader(TensorDataset(to_float(PIXELS), LABELS), batch_size=5, shuffle=True),
    "subset": Subset(TensorDataset(PIXELS, LABELS), range(11, -1, -1)),
    "halves": ConcatDataset([TensorDataset(PIXELS[:4], LABELS[:4]), TensorDataset(PIXELS[4:], LABELS[4:])]),
    "photographs": [(Image.fromarray(image.permute(1, 2, 0).numpy()), label) for image, label in PAIRS],
    "arrays": [(image.permute(1, 2, 0).numpy(), np.int64(label)) for image, label in PAIRS],
    "stream": Stream(),
    "streaming loader": DataLoader(Stream(), batch_size=4),
    "iterator": map(tuple, PAIRS),
}


def content(part: ImageSet) -> set[tuple[bytes, int]]:
    images = part.images.numpy()
    return {(image.tobytes(), int(label)) for image, label in zip(images, part.labels, strict=True)}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_every_way_gives_the_same_images_and_fingerprint(source: Any) -> None:
    data = dataset_from(test=source, class_names=NAMES)
    assert content(data.test) == {(image.numpy().tobytes(), label) for image, label in PAIRS}
    assert (len(data.test), len(data.train), len(data.validation)) == (12, 0, 0)
    assert data.fingerprint == dataset_from(test=SOURCES["bytes"], class_names=NAMES).fingerprint
    assert data.notes == ()


def test_an_image_folder_is_read_as_the_package_reads_it(fruit: Path) -> None:
    theirs = dataset_from(test=ImageFolder(str(fruit)), size=SIZE)
    ours = load_dataset(f"folder:{fruit}", size=SIZE, cache=fruit.parent / "cache")
    parts = (ours.train, ours.validation, ours.test)
    assert content(theirs.test) == set().union(*map(content, parts))
    assert theirs.class_names == tuple(COUNTS) == ours.class_names
    assert theirs.source == "ImageFolder"
    transform = transforms.Compose([transforms.Resize((SIZE, SIZE)), transforms.ToTensor()])
    some = Subset(ImageFolder(str(fruit), transform), range(9))
    loaded = dataset_from(test=DataLoader(some, batch_size=4))
    assert loaded.class_names == tuple(COUNTS)
    assert content(loaded.test) <= content(theirs.test)


def test_photographs_are_fitted_as_asked() -> None:
    images, fit = list(FakeData(size=4, image_size=(3, 8, 12), num_classes=2)), Fit(keeps_shape=True)
    data = dataset_from(test=images, size=6, fit=fit)
    expected = {np.asarray(fit.fitted(image, 6)).transpose(2, 0, 1).tobytes() for image, _ in images}
    assert {pixels for pixels, _ in content(data.test)} == expected
    assert data.fit == fit
    assert data.notes[0].startswith("the classes have no names and are called by their numbers, 0 to")
    tensors = [(transforms.ToTensor()(image), label) for image, label in images]
    assert content(dataset_from(test=tensors, size=6, fit=fit).test) == content(data.test)


def test_an_array_of_one_channel_is_grey() -> None:
    levels = PIXELS[0, 0].numpy()
    pairs = [[(levels, 0)], [(levels[..., None], 0)]]
    assert content(dataset_from(test=pairs[0]).test) == content(dataset_from(test=pairs[1]).test)


def test_a_size_must_be_a_number_of_pixels() -> None:
    with pytest.raises(SettingError, match="size is 0, it must be a number of pixels"):
        dataset_from(test=SOURCES["bytes"], size=0)


def test_what_was_done_to_images_is_noted() -> None:
    grey = TensorDataset(torch.full((4, 1, 5, 5), 0.3011), torch.zeros(4).long())
    over = TensorDataset(torch.full((4, 3, 5, 5), 1.02), torch.ones(4).long())
    lossy = DataLoader(TensorDataset(PIXELS, LABELS), batch_size=5, drop_last=True)
    data = dataset_from(train=over, validation=grey, test=lossy, class_names=NAMES)
    assert data.notes == (
        "train: values up to 0.02 outside [0, 1] are clipped",
        "validation: grey images are used with three equal channels",
        "validation: images are rounded to 8 bits, by up to 0.22 grey levels",
        "test: the loader gives 2 images fewer than its data set has",
    )
    same = dataset_from(train=SOURCES["floats"], test=SOURCES["bytes"], class_names=NAMES)
    assert same.notes == ("training images that equal test images: 12",)


class Flickering(TensorDataset):
    """Gives an image differently each time that it is read, as a transform for training does."""

    reads = 0

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        self.reads += 1
        image, label = super().__getitem__(index)  # type: ignore[no-untyped-call]
        return image + self.reads % 2 / 10, label


ZERO = torch.zeros(2).long()


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (
            TensorDataset(2 * to_float(PIXELS) - 1, LABELS),
            ImageError,
            r"float32 from -\d\S* to .*, it must be",
        ),
        (TensorDataset(PIXELS.float(), LABELS), ImageError, "divide grey levels by 255"),
        (TensorDataset(PIXELS.long(), LABELS), ImageError, r"torch\.int64 from"),
        (TensorDataset(torch.full((2, 3, 4, 4), float("nan")), ZERO), ImageError, "from nan to nan"),
        (TensorDataset(torch.rand(2, 2, 4, 4), ZERO), ImageError, r"image 0 is \(2, 4, 4\), it must be"),
        (TensorDataset(torch.rand(2, 48), ZERO), ImageError, r"image 0 is \(48,\)"),
        (TensorDataset(torch.rand(2, 3, 4, 4), torch.rand(2)), DatasetError, "label 0 is .* integer from 0"),
        (TensorDataset(torch.rand(2, 3, 4, 4), torch.eye(2)), DatasetError, "label 0 is"),
        (TensorDataset(torch.rand(2, 3, 4, 4), ZERO - 1), DatasetError, "labels are from -1 to -1"),
        (
            TensorDataset(torch.rand(2, 3, 4, 4)),
            DatasetError,
            "gives a tuple where a pair of image and label",
        ),
        (torch.rand(2, 3, 4, 4), DatasetError, "test gives a Tensor where a pair"),
        (Flickering(torch.rand(2, 3, 4, 4) / 2, ZERO), DatasetError, "first image differs when it is read"),
        (DataLoader(Flickering(torch.rand(2, 3, 4, 4) / 2, ZERO)), DatasetError, "its transform is random"),
        ([(PIXELS[0], 0), (PIXELS[1, :, :4], 1)], ImageError, "image 1 has 4x5 pixels, the first 5x5; give"),
        (TensorDataset(torch.rand(2, 3, 0, 4), ZERO), ImageError, r"image 0 is \(3, 0, 4\)"),
        ([(np.zeros((0, 4, 3), np.uint8), 0)], ImageError, r"image 0 is \(0, 4, 3\)"),
        ([(np.zeros((4, 4, 5), np.uint8), 0)], ImageError, r"image 0 is \(4, 4, 5\)"),
        ([(PIXELS[0], 10**12)], DatasetError, "label 0 is 1000000000000, .* from 0 to 999,999"),
        ([], DatasetError, "list gives no images"),
        (None, DatasetError, "test is None; give the images"),
        (3, DatasetError, "test is of type int, it must give pairs"),
    ],
)
def test_what_is_no_set_of_labelled_images_is_refused(
    source: Any, error: type[SteadylensError], message: str
) -> None:
    with pytest.raises(error, match=message):
        dataset_from(test=source)


def test_parts_must_agree(fruit: Path) -> None:
    (fruit.parent / "other" / "fig").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(fruit.parent / "other" / "fig" / "0.png")
    with pytest.raises(
        DatasetError, match="different classes: fig and apple, pear, quince; a label must mean"
    ):
        dataset_from(train=ImageFolder(str(fruit.parent / "other")), test=ImageFolder(str(fruit)), size=SIZE)
    with pytest.raises(ImageError, match="the parts have images of 3x5 and 5x5 pixels; give size and fit"):
        dataset_from(train=[(PIXELS[0, :, :3], 0)], test=SOURCES["bytes"])
    with pytest.raises(SettingError, match="class_names is 'abc', it must be a sequence"):
        dataset_from(test=SOURCES["bytes"], class_names="abc")


def test_a_run_refuses_what_is_no_data_set(tiny_data: Dataset) -> None:
    run = Run(data=tiny_data, recipe=SMOKE, seed=0, device=torch.device("cpu"))
    assert run.data is tiny_data
    with pytest.raises(SettingError, match="data is a TensorDataset, it must be a Dataset; make one with"):
        Run(data=SOURCES["bytes"], recipe=SMOKE, seed=0, device=torch.device("cpu"))


def test_a_training_without_training_images_says_so(tmp_path: Path) -> None:
    data = dataset_from(test=TensorDataset(torch.rand(4, 3, 48, 48), torch.arange(4) % 2))
    run = Run(data=data, recipe=SMOKE, seed=0, device=torch.device("cpu"))
    for train in (train_classifier, lambda run, path: train_restorer(run, "L3", path)):
        with pytest.raises(SettingError, match="there are no training images; give the data set some"):
            train(run, tmp_path / "net.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("undrawn")
def test_own_images_are_compared_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiments, "REPEATS", 1)
    levels = torch.arange(40) % 4
    images = ((levels + 0.5) / 4)[:, None, None, None] + 0.05 * torch.rand(40, 3, 8, 8)
    loader = DataLoader(TensorDataset(images, levels), batch_size=7, shuffle=True)
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))
    alone = PreparedClassifier(net, Preprocessing(size=8))
    pair = FusedClassifier(GaussianSmoothing(sigma_pixels=0.5), alone)
    data = dataset_from(test=loader, class_names=("dark", "dim", "light", "bright"))
    run = Run(data=data, recipe=SMOKE, seed=0, device=torch.device("cpu"))
    page = compare(run, alone, {"smoothed": pair}, tmp_path)
    text = page.read_text(encoding="utf-8")
    assert all(part in text for part in ("Accuracy by class", "Confusion matrices", "TensorDataset"))
