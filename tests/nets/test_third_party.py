"""An image processor of transformers is imitated, or refused.

A classifier of another library answers as it does there, and comes back from a file.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from torch import Tensor, nn
from torchvision import models  # type: ignore[import-untyped]
from torchvision.transforms.functional import (  # type: ignore[import-untyped]
    pil_to_tensor,
    to_pil_image,
)

from steadylens.checkpoints.checkpoint import load_model, save_model
from steadylens.data.datasets import load_dataset
from steadylens.errors import CheckpointError, MissingExtraError, SettingError
from steadylens.images.preprocessing import Fit, Preprocessing
from steadylens.images.tensors import to_float
from steadylens.nets.architecture import build, describe
from steadylens.nets.classification import FusedClassifier, PreparedClassifier
from steadylens.nets.restoration import RestorationNet
from steadylens.nets.third_party import (
    image_processing,
    timm_classifier,
    torchvision_classifier,
    transformers_classifier,
)

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


NAMES = {0: "stop", 1: "yield", 2: "no entry"}


def seeded(make: Callable[[], Any]) -> Any:
    """Makes a net whose random weights are the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return make().eval()


def pixels(size: int, *, count: int = 2, seed: int = 1) -> Tensor:
    """Returns images as they are stored, uint8 (N, 3, S, S)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def timm_net() -> Any:
    """Returns a small timm model whose mean and deviation are not the usual ones of ImageNet."""
    return seeded(lambda: timm.create_model("test_resnet", num_classes=5))


def torchvision_net() -> Any:
    return seeded(lambda: models.get_model("shufflenet_v2_x0_5", num_classes=4))


def vit() -> Any:
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        image_size=32, patch_size=8, id2label=NAMES, label2id={v: k for k, v in NAMES.items()},
    )  # fmt: skip
    return seeded(lambda: transformers.ViTForImageClassification(config))


def resnet() -> Any:
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    return seeded(lambda: transformers.ResNetForImageClassification(config))


def write_folder(folder: Path, net: Any, processor: Any) -> Path:
    """Writes a net and its image processor as users of transformers have them."""
    net.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def vit_folder(folder: Path) -> Path:
    processor = transformers.ViTImageProcessor(
        size={"height": 32, "width": 32}, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.25, 0.3]
    )
    return write_folder(folder, vit(), processor)


def resnet_folder(folder: Path) -> Path:
    processor = transformers.ConvNextImageProcessor(size={"shortest_edge": 40}, crop_pct=0.875)
    return write_folder(folder, resnet(), processor)


@pytest.fixture(autouse=True)
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes sure that nothing is fetched, and that saving for a test draws no bars."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize("name", ["test_resnet", "test_vit.r160_in1k", "resnet10t.c3_in1k"])
def test_a_timm_model_answers_as_behind_its_own_transform(name: str, tmp_path: Path) -> None:
    net = seeded(lambda: timm.create_model(name, num_classes=5))
    torch.save(net.state_dict(), tmp_path / "net.pth")
    classifier = timm_classifier(name, weights=tmp_path / "net.pth")
    config = resolve_model_data_config(net)  # type: ignore[no-untyped-call]
    assert (3, classifier.input_size, classifier.input_size) == config["input_size"]
    transform = create_transform(**(config | {"crop_pct": 1.0}))
    stored = pixels(classifier.input_size)
    with torch.inference_mode():
        expected = net(torch.stack([transform(to_pil_image(image)) for image in stored]))
        torch.testing.assert_close(classifier(to_float(stored)), expected, rtol=1e-4, atol=1e-5)


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


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "squeezenet1_1", "mobilenet_v3_small"])
def test_a_torchvision_model_answers_as_behind_the_transform_of_its_weights(
    name: str, tmp_path: Path
) -> None:
    net = seeded(lambda: models.get_model(name, num_classes=4))
    torch.save({"state_dict": net.state_dict(), "epoch": 3}, tmp_path / "net.pth")
    classifier = torchvision_classifier(name, weights=tmp_path / "net.pth")
    transform = models.get_model_weights(name).DEFAULT.transforms(resize_size=224)
    stored = pixels(224)
    assert classifier.input_size == 224
    with torch.inference_mode():
        torch.testing.assert_close(classifier(to_float(stored)), net(transform(stored)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("write", "size"), [(vit_folder, 32), (resnet_folder, 40)])
def test_a_transformers_classifier_answers_as_behind_its_image_processor(
    write: Callable[[Path], Path], size: int, tmp_path: Path
) -> None:
    folder = write(tmp_path / "net")
    classifier = transformers_classifier(folder)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)  # type: ignore[no-untyped-call]
    net = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    stored = pixels(size)
    inputs = processor(list(stored.permute(0, 2, 3, 1).numpy()), do_resize=False, return_tensors="pt")
    assert classifier.input_size == size
    with torch.inference_mode():
        expected = net(**inputs).logits
        torch.testing.assert_close(classifier(to_float(stored)), expected, rtol=1e-4, atol=1e-5)


def test_a_transformers_classifier_brings_the_names_of_its_classes(tmp_path: Path) -> None:
    assert transformers_classifier(vit_folder(tmp_path / "vit")).class_names == ("stop", "yield", "no entry")
    assert PreparedClassifier(vit(), Preprocessing(size=32)).class_names == ("stop", "yield", "no entry")
    assert PreparedClassifier(vit(), Preprocessing(size=32), class_names=("a", "b", "c")).class_names == (
        "a",
        "b",
        "c",
    )
    assert transformers_classifier(resnet_folder(tmp_path / "resnet")).class_names == ()


def test_the_number_of_classes_is_that_of_the_weights(tmp_path: Path) -> None:
    save_file(timm_net().state_dict(), tmp_path / "timm.safetensors")
    torch.save(torchvision_net().state_dict(), tmp_path / "torchvision.pth")
    small = timm_classifier("test_resnet", weights=tmp_path / "timm.safetensors", size=32)
    other = torchvision_classifier("shufflenet_v2_x0_5", weights=tmp_path / "torchvision.pth", size=32)
    image = torch.rand(1, 3, 32, 32)
    assert (small(image).shape, other(image).shape) == ((1, 5), (1, 4))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_weights_of_a_wrapped_training_fit(prefix: str, tmp_path: Path) -> None:
    net = timm_net()
    torch.save({prefix + name: value for name, value in net.state_dict().items()}, tmp_path / "net.pth")
    classifier = timm_classifier("test_resnet", weights=tmp_path / "net.pth")
    assert all(
        torch.equal(value, net.state_dict()[name]) for name, value in classifier.body.state_dict().items()
    )


@pytest.mark.parametrize("make", [timm_classifier, torchvision_classifier], ids=["timm", "torchvision"])
def test_a_net_of_fixed_size_is_built_for_another(make: Callable[..., PreparedClassifier]) -> None:
    name = "test_vit" if make is timm_classifier else "vit_b_32"
    with torch.device("meta"):  # the shape is all that is looked at
        assert make(name, classes=3, size=64)(torch.rand(1, 3, 64, 64)).shape == (1, 3)


def made_by_timm(folder: Path) -> PreparedClassifier:
    return timm_classifier("test_resnet", classes=5, size=48)


def made_by_torchvision(folder: Path) -> PreparedClassifier:
    return torchvision_classifier("shufflenet_v2_x0_5", classes=4, size=48)


def made_by_torchvision_in_need_of_weights(folder: Path) -> PreparedClassifier:
    return torchvision_classifier("regnet_x_400mf", classes=4, size=32)


def made_by_torchvision_in_need_of_a_version(folder: Path) -> PreparedClassifier:
    weights = models.get_model("mnasnet0_5", num_classes=4).state_dict()
    torch.save(weights, folder / "mnasnet.pth")
    return torchvision_classifier("mnasnet0_5", weights=folder / "mnasnet.pth", size=32)


def made_by_transformers(folder: Path) -> PreparedClassifier:
    return transformers_classifier(vit_folder(folder / "vit"))


EACH = pytest.mark.parametrize(
    "make",
    [
        made_by_timm,
        made_by_torchvision,
        made_by_torchvision_in_need_of_weights,
        made_by_torchvision_in_need_of_a_version,
        made_by_transformers,
    ],
)


@EACH
def test_a_fused_pair_comes_back_bit_for_bit(
    make: Callable[[Path], PreparedClassifier], tmp_path: Path
) -> None:
    classifier = make(tmp_path)
    fused = FusedClassifier(RestorationNet(depth=3), classifier).eval()
    path = tmp_path / "pair.safetensors"
    save_model(path, fused, about={"stage": "a test"})
    loaded, about = load_model(path)
    assert isinstance(loaded, FusedClassifier)
    assert isinstance(loaded.classifier, PreparedClassifier)
    assert about == {"stage": "a test"}
    assert loaded.classifier.input_size == classifier.input_size
    assert loaded.classifier.fit == classifier.fit
    assert loaded.classifier.class_names == classifier.class_names
    images = torch.rand(2, 3, classifier.input_size, classifier.input_size)
    with torch.inference_mode():
        assert torch.equal(loaded(images), fused(images))


@EACH
def test_a_description_is_plain_and_builds_the_same_net(
    make: Callable[[Path], PreparedClassifier], tmp_path: Path
) -> None:
    classifier = make(tmp_path)
    description = json.loads(json.dumps(describe(classifier)))
    again = build(description)
    assert isinstance(again, PreparedClassifier)
    assert str(again) == str(classifier)
    assert again.fit == classifier.fit
    assert again.config() == classifier.config()
    assert describe(again) == describe(classifier)


@pytest.mark.parametrize(
    "architecture",
    [
        {"kind": "timm"},
        {"kind": "timm", "name": "hf-hub:someone/something", "classes": 5, "size": 48},
        {"kind": "timm", "name": "local-dir:/", "classes": 5, "size": 48},
        {"kind": "timm", "name": "test_resnet", "classes": -1, "size": 48},
        {"kind": "timm", "name": "test_resnet", "classes": 5, "size": 0},
        {"kind": "timm", "name": "test_resnet", "classes": 5, "size": 48, "fit": "crop:40"},
        {"kind": "timm", "name": "test_resnet", "classes": 5, "size": 48, "fit": 50},
        {"kind": "torchvision", "name": "fcn_resnet50", "classes": 5, "size": 48},
        {"kind": "torchvision", "name": "test_resnet", "classes": "many", "size": 48},
        {"kind": "transformers", "config": {"model_type": "none"}, "size": 48},
        {"kind": "transformers", "config": {}, "size": 48},
        {"kind": "transformers", "config": {"model_type": "t5"}, "size": 48},
        {"kind": "transformers", "config": {"model_type": "vit", "hidden_size": "wide"}, "size": 48},
    ],
    ids=repr,
)
def test_a_file_with_another_architecture_is_refused_in_one_sentence(
    architecture: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "net.safetensors"
    save_model(path, timm_classifier("test_resnet", classes=5, size=48, fit=Fit()), about={})
    content = path.read_bytes()
    before = json.dumps(json.dumps({"kind": "timm", "name": "test_resnet", "classes": 5, "size": 48}))[
        1:-1
    ].encode()
    after = json.dumps(json.dumps(architecture))[1:-1].encode()
    assert content.count(before) == 1
    header = content[8 : 8 + int.from_bytes(content[:8], "little")].rstrip().replace(before, after)
    path.write_bytes(
        len(header).to_bytes(8, "little") + header + content[8 + int.from_bytes(content[:8], "little") :]
    )
    with pytest.raises(CheckpointError, match="the weights do not fit the architecture") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: timm_classifier("resnet1"), r"timm has no model 'resnet1'; timm\.list_models\(\) lists"),
        (lambda: timm_classifier("hf-hub:a/b"), r"timm has no model 'hf-hub:a/b'"),
        (
            lambda: timm_classifier("resnet18.none"),
            r"timm knows no weights 'resnet18.none' .*leave the tag out",
        ),
        (lambda: timm_classifier("qwen3_vit_88m_enc"), "qwen3_vit_88m_enc of timm has no classes; choose"),
        (
            lambda: torchvision_classifier("vit_b_32", size=33),
            r"there is no classifier of kind torchvision, name vit_b_32, classes 1000, size 33: ",
        ),
        (
            lambda: torchvision_classifier("resnet1"),
            r"torchvision has no classifier 'resnet1'; torchvision\.models",
        ),
        (lambda: torchvision_classifier("fcn_resnet50"), r"torchvision has no classifier 'fcn_resnet50'"),
        (lambda: torchvision_classifier("inception_v3"), r"wrap it in a PreparedClassifier"),
    ],
)
def test_an_unknown_model_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(SettingError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_weights_of_another_net_are_refused(tmp_path: Path) -> None:
    torch.save(torchvision_net().state_dict(), tmp_path / "net.pth")
    expected = (
        r"net\.pth do not fit the net: it lacks .* more; it has the unexpected .* more; .*"
        r"name the net that they were saved from"
    )
    with pytest.raises(CheckpointError, match=expected):
        timm_classifier("resnet10t", weights=tmp_path / "net.pth")


def test_more_or_fewer_classes_than_asked_for_are_refused(tmp_path: Path) -> None:
    torch.save(timm_net().state_dict(), tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=r"it has another shape for fc\.bias and 1 more"):
        timm_classifier("test_resnet", weights=tmp_path / "net.pth", classes=7)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent holds no config\.json; give the folder"):
        transformers_classifier(tmp_path / "absent")


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def damaged_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:300])


def no_head(folder: Path) -> None:
    transformers.ViTModel(vit().config, add_pooling_layer=False).save_pretrained(folder)


def no_processor(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()


def no_classifier(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "t5"}')


def no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_weights, "cannot be read as an image classifier"),
        (damaged_weights, "cannot be read as an image classifier"),
        (no_head, r"lacks weights of the classifier, for example classifier\.\w+;"),
        (no_processor, "holds no image processor"),
        (no_classifier, "cannot be read as an image classifier"),
        (no_json, "cannot be read as an image classifier"),
    ],
)
def test_an_incomplete_folder_is_refused(spoil: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    folder = vit_folder(tmp_path / "vit")
    spoil(folder)
    with pytest.raises(CheckpointError, match=f"{re.escape(str(folder))} {message}") as caught:
        transformers_classifier(folder)
    assert "\n" not in str(caught.value)


def test_an_image_processor_that_swaps_the_channels_is_refused(tmp_path: Path) -> None:
    swapping = transformers.MobileViTImageProcessor(
        size={"shortest_edge": 32}, do_center_crop=False, do_flip_channel_order=True
    )
    folder = write_folder(tmp_path / "vit", vit(), swapping)
    with pytest.raises(SettingError, match="does more than make images square, scale and normalise them"):
        transformers_classifier(folder)


@pytest.mark.parametrize("library", ["timm", "torchvision", "transformers"])
def test_a_missing_library_is_named_with_its_extra(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    makes: dict[str, Callable[[], object]] = {
        "timm": lambda: timm_classifier("test_resnet"),
        "torchvision": lambda: torchvision_classifier("resnet18"),
        "transformers": lambda: transformers_classifier(tmp_path),
    }
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=rf"{library} is not installed; .*'steadylens\[{library}\]'"):
        makes[library]()


def test_a_pair_whose_library_is_missing_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path / "pair", FusedClassifier(nn.Identity(), made_by_timm(tmp_path)), about={})
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match="timm is not installed"):
        load_model(tmp_path / "pair")


def test_a_file_that_would_let_timm_ask_a_hub_is_refused() -> None:
    config = {"model_type": "timm_wrapper", "architecture": "hf-hub:nobody/nothing"}
    with pytest.raises(SettingError, match="prepare it as timm:NAME"):
        build({"kind": "transformers", "config": config, "size": 32})
