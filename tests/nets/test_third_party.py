"""A classifier of another library answers as it does there, and comes back from a file."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from safetensors.torch import save_file
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from torch import nn
from torchvision import models  # type: ignore[import-untyped]
from torchvision.transforms.functional import to_pil_image  # type: ignore[import-untyped]

from steadylens.checkpoints.checkpoint import load_model, save_model
from steadylens.errors import CheckpointError, MissingExtraError, SettingError
from steadylens.images.preprocessing import Fit, Preprocessing
from steadylens.images.tensors import to_float
from steadylens.nets.architecture import build, describe
from steadylens.nets.classification import FusedClassifier, PreparedClassifier
from steadylens.nets.restoration import RestorationNet
from steadylens.nets.third_party import timm_classifier, torchvision_classifier, transformers_classifier
from tests.nets.library_nets import pixels, seeded, timm_net, vit, vit_folder, write_folder

pytestmark = pytest.mark.usefixtures("silent")


def torchvision_net() -> Any:
    return seeded(lambda: models.get_model("shufflenet_v2_x0_5", num_classes=4))


def resnet() -> Any:
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    return seeded(lambda: transformers.ResNetForImageClassification(config))


def resnet_folder(folder: Path) -> Path:
    processor = transformers.ConvNextImageProcessor(size={"shortest_edge": 40}, crop_pct=0.875)
    return write_folder(folder, resnet(), processor)


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
