"""What a command line calls a net is opened, or refused in one sentence."""

from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torchvision import models  # type: ignore[import-untyped]

from steadylens.checkpoint import save_model
from steadylens.classification import SignNet
from steadylens.errors import CheckpointError, SettingError
from steadylens.fitting import Fit
from steadylens.fusion import FusedClassifier
from steadylens.opening import Opened, check_classes, check_order, open_classifier, open_restorer
from steadylens.preparation import PreparedClassifier
from steadylens.restoration import GaussianSmoothing, RestorationNet


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Returns the weights of a small timm model for three classes."""
    torch.save(timm.create_model("test_resnet", num_classes=3).state_dict(), tmp_path / "net.pth")
    return tmp_path / "net.pth"


def body() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


# Restorers.


def test_a_restorer_is_opened_by_its_packaged_name() -> None:
    opened = open_restorer("l3-gtsrb")
    assert isinstance(opened.module, RestorationNet)
    assert (opened.name, opened.module.depth) == ("l3-gtsrb", 3)
    assert opened.seconds > 0


@pytest.mark.parametrize("name", ["net.safetensors", "net.weights", "net"])
def test_a_restorer_is_opened_from_a_file_of_any_name(name: str, tmp_path: Path) -> None:
    save_model(tmp_path / name, GaussianSmoothing(), about={"seconds": 3.5})
    opened = open_restorer(tmp_path / name)
    assert isinstance(opened.module, GaussianSmoothing)
    assert (opened.name, opened.seconds) == ("net", 3.5)


@pytest.mark.parametrize("source", ["l12-gtsrb", "absent", "timm", "imagenet:resnet18", ""])
def test_an_unknown_name_is_refused_with_what_there_is(source: str) -> None:
    with pytest.raises(
        SettingError, match=r"there is no net '.*'; give a file or one of l11-gtsrb, .*fused-gtsrb$"
    ):
        open_restorer(source)
    for weights in (None, Path("net.pth")):
        with pytest.raises(SettingError, match=r"there is no net '.*'; .*, or timm:NAME"):
            open_classifier(source, weights=weights)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no file .*absent\.safetensors"):
        open_restorer(tmp_path / "absent.safetensors")


def test_a_classifier_is_no_restorer_and_a_restorer_no_classifier() -> None:
    with pytest.raises(
        SettingError, match="sign-gtsrb holds a SignNet, where a restorer is needed; name one as l11"
    ):
        open_restorer("sign-gtsrb")
    with pytest.raises(SettingError, match="l3-gtsrb holds a RestorationNet, where a classifier is needed"):
        open_classifier("l3-gtsrb")


# Classifiers.


def test_a_packaged_classifier_brings_its_size_and_its_classes() -> None:
    opened = open_classifier("sign-gtsrb")
    assert isinstance(opened.module, SignNet)
    assert (opened.size, len(opened.class_names)) == (48, 43)


def test_a_classifier_of_a_library_is_opened_with_weights_and_size(weights: Path) -> None:
    opened = open_classifier("timm:test_resnet", weights=weights, size=40)
    assert isinstance(opened.module, PreparedClassifier)
    assert (opened.name, opened.size, opened.class_names) == ("timm:test_resnet", 40, ())
    assert opened.module(torch.rand(1, 3, 40, 40)).shape == (1, 3)


def test_a_pair_of_a_library_comes_with_its_size(weights: Path, tmp_path: Path) -> None:
    alone = open_classifier("timm:test_resnet", weights=weights, size=40)
    save_model(
        tmp_path / "pair", FusedClassifier(nn.Identity(), alone.module), about={"classes": ["a", "b", "c"]}
    )
    opened = open_classifier(tmp_path / "pair")
    assert (opened.size, opened.class_names) == (40, ("a", "b", "c"))
    assert opened.fused() is opened.module


def test_a_mean_and_a_deviation_of_ones_own_replace_those_of_the_library(weights: Path) -> None:
    usual = open_classifier("timm:test_resnet", weights=weights, size=32).module
    changed = open_classifier(
        "timm:test_resnet", weights=weights, size=32, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0)
    ).module
    assert isinstance(usual, PreparedClassifier)
    images = torch.rand(2, 3, 32, 32)
    numbers = torch.tensor([[0.1, 0.2, 0.3], [1.0, 2.0, 4.0]]).view(2, 1, 3, 1, 1)
    torch.testing.assert_close(changed(images), usual.body((images - numbers[0]) / numbers[1]))


def test_a_classifier_tells_how_photographs_are_fitted_and_may_be_told(weights: Path) -> None:
    usual = open_classifier("timm:test_resnet", weights=weights, size=40)
    assert str(usual.fit) == "crop:42"
    for source, file in (("timm:test_resnet", weights), ("sign-gtsrb", None)):
        assert open_classifier(source, weights=file, fit=Fit(keeps_shape=True)).fit == Fit(keeps_shape=True)
    assert open_classifier("sign-gtsrb").fit == Fit()


def test_the_fit_stands_in_the_file_of_a_pair(weights: Path, tmp_path: Path) -> None:
    alone = open_classifier("timm:test_resnet", weights=weights, size=40, fit=Fit(keeps_shape=True))
    save_model(tmp_path / "pair", FusedClassifier(nn.Identity(), alone.module), about={})
    assert open_classifier(tmp_path / "pair").fit == Fit(keeps_shape=True)
    told = open_classifier(tmp_path / "pair", fit=Fit())
    save_model(tmp_path / "again", told.module, about={})
    assert open_classifier(tmp_path / "again").fit == told.fit == Fit()


def test_the_fit_of_a_net_of_this_package_stands_in_the_data_about_it(tmp_path: Path) -> None:
    save_model(tmp_path / "net", SignNet(classes=3), about={"fit": "crop:52"})
    assert open_classifier(tmp_path / "net").fit == Fit(keeps_shape=True, side=52)
    with pytest.raises(SettingError, match="of which no 48 can be cut out"):
        open_classifier(tmp_path / "net", fit=Fit(side=40))


def test_weights_are_wanted_where_there_are_none_and_only_there(weights: Path) -> None:
    for source in ("timm:test_resnet", "torchvision:resnet18"):
        with pytest.raises(
            SettingError, match=f"{source} has random weights; give its own by --weights FILE"
        ):
            open_classifier(source)
    for source in ("sign-gtsrb", "net.pt2", "transformers:somewhere"):
        with pytest.raises(SettingError, match=rf"{source} brings its own weights; leave out .*net\.pth"):
            open_classifier(source, weights=weights)


def test_one_of_mean_and_deviation_is_not_enough(weights: Path) -> None:
    with pytest.raises(SettingError, match="give both a mean and a deviation, or neither"):
        open_classifier("timm:test_resnet", weights=weights, mean=(0.5, 0.5, 0.5))


def test_a_net_of_this_package_takes_no_other_size_or_normalisation() -> None:
    with pytest.raises(
        SettingError, match="sign-gtsrb brings its own size, mean and deviation; leave them out"
    ):
        open_classifier("sign-gtsrb", size=64)


def test_a_size_that_a_classifier_cannot_read_is_refused_at_once(weights: Path) -> None:
    torch.save(models.get_model("squeezenet1_1", num_classes=3).state_dict(), weights)
    with pytest.raises(
        SettingError,
        match=r"torchvision:squeezenet1_1 does not classify images of 8x8 pixels: .*; give another",
    ):
        open_classifier("torchvision:squeezenet1_1", weights=weights, size=8)


# Pairs and data.


def opened(classes: int, *names: str) -> Opened:
    layers = nn.Sequential(body(), nn.Linear(3, classes))
    return Opened(name="mine", module=PreparedClassifier(layers, size=8), size=8, class_names=names)


def test_a_restorer_before_a_classifier_is_a_pair() -> None:
    pair = Opened(name="L3", module=RestorationNet(depth=3), seconds=2).before(opened(2, "a", "b"))
    assert (pair.name, pair.size, pair.class_names, pair.seconds) == ("behind L3", 8, ("a", "b"), 2)
    assert pair.fused()(torch.rand(1, 3, 8, 8)).shape == (1, 2)
    with pytest.raises(SettingError, match="mine holds a PreparedClassifier, no fused classifier"):
        opened(2).fused()


def test_another_number_of_classes_is_refused() -> None:
    check_classes(opened(2), ("a", "b"), "folder:x")
    with pytest.raises(
        SettingError, match="mine tells 2 classes apart, folder:x has 3; use it with the data that"
    ):
        check_classes(opened(2), ("a", "b", "c"), "folder:x")


def test_the_same_classes_in_another_order_are_refused() -> None:
    check_order(opened(2, "a", "b"), ("a", "b"), "folder:x")
    check_order(opened(2), ("b", "a"), "folder:x")
    check_order(opened(2, "stop", "yield"), ("b", "a"), "folder:x")
    with pytest.raises(
        SettingError, match="class 0 is 'a' for mine and 'b' in folder:x, which sorts folders by name"
    ):
        check_order(opened(2, "a", "b"), ("b", "a"), "folder:x")


def test_one_class_that_both_know_by_different_numbers_is_refused() -> None:
    check_order(opened(3, "circle", "square", "stop"), ("circle", "square", "halt"), "folder:x")
    with pytest.raises(SettingError, match="class 1 is 'square' for mine and 'triangle' in folder:x"):
        check_order(opened(3, "circle", "square", "triangle"), ("square", "triangle", "zcircle"), "folder:x")
