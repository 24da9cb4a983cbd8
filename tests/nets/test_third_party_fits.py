"""Photographs become the squares that their libraries make; an image processor is imitated, or refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from torchvision import models  # type: ignore[import-untyped]
from torchvision.transforms.functional import pil_to_tensor, to_pil_image  # type: ignore[import-untyped]

from steadylens.data.datasets import load_dataset
from steadylens.errors import CheckpointError, SettingError
from steadylens.images.preprocessing import Fit
from steadylens.images.tensors import to_float
from steadylens.nets.third_party import (
    image_processing,
    timm_classifier,
    torchvision_classifier,
    transformers_classifier,
)
from tests.nets.library_nets import pixels, timm_net, vit_folder

pytestmark = pytest.mark.usefixtures("silent")

MOST, MEAN = 2.01 / 255, 0.1 / 255
"""How far a pixel may be off, and all of them on average: a tensor is rounded otherwise than by Pillow."""


BICUBIC = Image.Resampling.BICUBIC


PROCESSORS: dict[str, Any] = {
    "squash:32": lambda: transformers.ViTImageProcessor(size={"height": 32, "width": 32}),
    "squash:36:bicubic": lambda: transformers.DeiTImageProcessor(
        size={"height": 36, "width": 36}, crop_size={"height": 32, "width": 32}
    ),
    "crop:45:bicubic": lambda: transformers.ConvNextImageProcessor(
        size={"shortest_edge": 40}, crop_pct=0.875
    ),
    "squash:384:bicubic": lambda: transformers.ConvNextImageProcessor(size={"shortest_edge": 384}),
    "crop:32:bicubic": lambda: transformers.BitImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ),
    "crop:40": lambda: transformers.MobileNetV1ImageProcessor(
        size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}
    ),
}


def photograph(width: int, height: int) -> Image.Image:
    """Returns a photograph of edges and smooth parts, in which a shift by a pixel is seen."""
    random = np.random.default_rng(width)
    coarse = Image.fromarray(random.integers(0, 256, (height // 6, width // 6, 3), dtype=np.uint8))
    return coarse.resize((width, height), BICUBIC)


@pytest.mark.parametrize("name", PROCESSORS)
def test_the_squares_are_those_of_the_processor(name: str, tmp_path: Path) -> None:
    processor = PROCESSORS[name]()
    processor.save_pretrained(tmp_path)
    found = image_processing(tmp_path)
    assert found.fit == Fit.parse(f"{name}:floor").simplest(found.size)
    read: Any = transformers.AutoImageProcessor.from_pretrained
    again = read(tmp_path)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (found.mean, found.std))
    for shape in ((90, 120), (131, 100), (102, 101)):
        image = photograph(*shape)
        mine = torch.from_numpy(np.array(found.fit.fitted(image, found.size))).permute(2, 0, 1) / 255
        theirs = again(image, return_tensors="pt")["pixel_values"][0] * std + mean
        assert theirs.shape == mine.shape
        apart = (mine - theirs).abs()
        assert float(apart.max()) <= MOST
        assert float(apart.mean()) <= MEAN


def test_mean_and_deviation_are_those_of_the_processor(tmp_path: Path) -> None:
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
    transformers.ViTImageProcessor(image_mean=mean, image_std=std).save_pretrained(tmp_path)
    found = image_processing(tmp_path)
    assert found.size == 224
    assert found.mean == pytest.approx(mean, abs=1e-6)
    assert found.std == pytest.approx(std, abs=1e-6)


def test_a_processor_that_swaps_channels_is_refused(tmp_path: Path) -> None:
    transformers.MobileViTImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(SettingError, match="does more than make images square, scale and normalise them"):
        image_processing(tmp_path)


def test_a_fit_that_is_not_known_can_be_said_by_hand(tmp_path: Path) -> None:
    transformers.LevitImageProcessor().save_pretrained(tmp_path)  # it has a ratio of its own
    with pytest.raises(SettingError, match=r"in a way that is not supported, .*; give a fit"):
        image_processing(tmp_path)
    fit = Fit(keeps_shape=True, side=256, interpolation=BICUBIC)
    assert image_processing(tmp_path, fit=fit).fit is fit


def test_a_folder_without_a_processor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no image processor; save that of the classifier"):
        image_processing(tmp_path)


@pytest.mark.parametrize("shape", [(90, 121), (133, 70), (64, 64)])
@pytest.mark.parametrize(
    ("name", "fit"),
    [
        ("test_resnet", "crop:168"),
        ("resnet10t.c3_in1k", "crop:201:bicubic"),
        ("dla34", "crop:256"),
        ("convnextv2_atto.fcmae_ft_in1k", "crop:256:bicubic"),
        ("tf_efficientnetv2_b0", "crop:219:bicubic"),
        ("coat_lite_medium_384", "squash:384:bicubic"),
    ],
)
def test_photographs_are_fitted_as_by_the_evaluation_of_timm(
    name: str, fit: str, shape: tuple[int, int]
) -> None:
    with torch.device("meta"):  # the weights do not matter
        classifier = timm_classifier(name)
    assert str(classifier.fit) == fit
    pretrained: Any = timm.get_pretrained_cfg(name)
    resolve: Any = timm.data.config.resolve_data_config
    config = resolve({}, pretrained_cfg=pretrained.to_dict())
    transform = create_transform(**config)
    image = to_pil_image(torch.nn.functional.interpolate(pixels(24)[:1], size=shape)[0])
    mine = pil_to_tensor(classifier.fit.fitted(image, classifier.input_size))
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close((to_float(mine) - mean) / std, transform(image), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(90, 121), (133, 70), (64, 64)])
@pytest.mark.parametrize(
    ("name", "fit"),
    [
        ("shufflenet_v2_x0_5", "crop:256"),
        ("resnet50", "crop:232"),
        ("efficientnet_b0", "crop:256:bicubic"),
        ("swin_v2_t", "crop:260:bicubic"),
    ],
)
def test_photographs_are_fitted_as_by_the_preset_of_torchvision(
    name: str, fit: str, shape: tuple[int, int]
) -> None:
    with torch.device("meta"):
        classifier = torchvision_classifier(name)
    assert str(classifier.fit) == fit
    preset = models.get_model_weights(name).DEFAULT.transforms()
    image = to_pil_image(torch.nn.functional.interpolate(pixels(24)[:1], size=shape)[0])
    mine = pil_to_tensor(classifier.fit.fitted(image, classifier.input_size))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preset.mean, preset.std))
    torch.testing.assert_close((to_float(mine) - mean) / std, preset(image), rtol=0, atol=1e-5)


def test_photographs_from_a_folder_are_answered_as_behind_the_transform_of_timm(tmp_path: Path) -> None:
    net, files = timm_net(), []
    for label in "ab":
        for number in range(4):
            files.append(tmp_path / "images" / label / f"{number}.png")
            files[-1].parent.mkdir(parents=True, exist_ok=True)
            shape = (60 + 7 * number, 90)
            image = torch.nn.functional.interpolate(pixels(16, seed=len(files))[:1], size=shape)[0]
            to_pil_image(image).save(files[-1])
    torch.save(net.state_dict(), tmp_path / "net.pth")
    classifier = timm_classifier("test_resnet", weights=tmp_path / "net.pth")
    data = load_dataset(
        f"folder:{tmp_path / 'images'}", size=classifier.input_size, fit=classifier.fit, cache=tmp_path
    )
    transform = create_transform(**resolve_model_data_config(net))  # type: ignore[no-untyped-call]
    with torch.inference_mode():
        expected = net(torch.stack([transform(Image.open(path)) for path in files]))
        images = torch.cat([data.train.images, data.validation.images, data.test.images])
        found = classifier(to_float(images))
    for answer in found:
        assert (expected - answer).abs().amax(dim=1).min() < 1e-4


def test_the_fit_follows_another_size_in_proportion() -> None:
    with torch.device("meta"):
        assert str(timm_classifier("resnet10t", size=160).fit) == "crop:182:bicubic"
        assert str(torchvision_classifier("shufflenet_v2_x0_5", size=112).fit) == "crop:128"


def test_a_fit_by_hand_is_taken(tmp_path: Path) -> None:
    with torch.device("meta"):
        for make in (timm_classifier, torchvision_classifier):
            assert make("resnet18", size=64, fit=Fit()).fit == Fit()
    assert transformers_classifier(vit_folder(tmp_path), fit=Fit(keeps_shape=True)).fit.keeps_shape


def test_a_border_around_photographs_is_refused_unless_a_fit_is_given() -> None:
    (name,) = [name for name in timm.list_models("deepseek_vit_412m") if timm.is_model(name)]
    with pytest.raises(SettingError, match=f"{name} wants images with a border around them.*give a fit"):
        timm_classifier(name)
