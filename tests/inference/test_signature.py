"""The signature of a net is found by trying it, survives JSON, and is enforced."""

import json

import pytest
import torch
from torch import Tensor, nn

from steadylens.errors import CheckpointError, ImageError, SettingError
from steadylens.images.preprocessing import Preprocessing
from steadylens.inference.signature import Signature, example_images, signature_of
from steadylens.nets.classification import FusedClassifier, PreparedClassifier, SignNet
from steadylens.nets.restoration import DongNet, GaussianSmoothing, RestorationNet, UnpaddedNet

ANY = Signature(minimum_size=3)
FIXED = Signature(batch=2, size=(8, 9))


def classifier(size: int = 8) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, 5)).eval()


@pytest.mark.parametrize(
    ("net", "minimum"),
    [
        (RestorationNet(3), 1),
        (RestorationNet(11, padding="reflect"), 7),
        (DongNet(padding="reflect"), 7),
        (GaussianSmoothing(sigma_pixels=0.8), 4),
    ],
    ids=["zeros", "reflected", "Dong", "Gaussian"],
)
def test_a_restorer_reads_every_size_from_its_minimum_on(net: nn.Module, minimum: int) -> None:
    signature = signature_of(net.eval())
    assert (signature.input_shape, signature.output_shape) == (("batch", 3, "height", "width"),) * 2
    assert (signature.output, signature.minimum_size) == ("restored", minimum)
    assert net(torch.rand(1, 3, minimum, minimum)).shape == (1, 3, minimum, minimum)


@pytest.mark.parametrize(
    ("net", "margin"), [(RestorationNet(11, padding="reflect"), 6), (DongNet(), 6), (RestorationNet(3), 2)]
)
def test_a_valid_form_loses_its_margin(net: RestorationNet | DongNet, margin: int) -> None:
    signature = signature_of(UnpaddedNet(net).eval())
    assert (signature.minimum_size, signature.lost, signature.classes) == (2 * margin + 1, margin, None)
    assert signature.output_shape == ("batch", 3, "centre_height", "centre_width")
    fixed = signature_of(UnpaddedNet(net).eval(), size=(20, 30), batch=2)
    assert fixed.output_shape == (2, 3, 20 - 2 * margin, 30 - 2 * margin)
    assert Signature.from_dict(json.loads(json.dumps(fixed.to_dict()))) == fixed


def test_a_restorer_of_grey_images_reads_one_channel() -> None:
    assert signature_of(RestorationNet(3, channels=1).eval()).input_shape == ("batch", 1, "height", "width")


@pytest.mark.parametrize(
    "net",
    [
        SignNet(),
        FusedClassifier(RestorationNet(3, padding="reflect"), SignNet()),
        PreparedClassifier(classifier(), Preprocessing(size=8)),
    ],
    ids=["sign net", "fused", "prepared"],
)
def test_a_classifier_reads_its_own_size_and_no_other(net: nn.Module) -> None:
    signature = signature_of(net.eval())
    assert signature.size is not None
    assert (signature.output, signature.output_shape) == ("logits", ("batch", signature.classes))
    assert signature_of(net, size=signature.size) == signature
    with pytest.raises(SettingError, match="leave the size out"):
        signature_of(net, size=(signature.size[0] + 1, signature.size[1]))


def test_a_foreign_classifier_is_told_its_size() -> None:
    assert signature_of(classifier(), size=(8, 8)).output_shape == ("batch", 5)
    with pytest.raises(SettingError, match="give the size"):
        signature_of(classifier())


def test_a_foreign_classifier_of_any_size_needs_one_all_the_same() -> None:
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    with pytest.raises(SettingError, match="give the size"):
        signature_of(net)


def test_what_is_neither_restorer_nor_classifier_is_refused() -> None:
    with pytest.raises(SettingError, match="images to logits"):
        signature_of(nn.AvgPool2d(2).eval())


def test_a_net_in_train_mode_has_the_signature_that_it_has_in_eval_mode() -> None:
    net = nn.Sequential(
        nn.AvgPool2d(4), nn.Flatten(), nn.BatchNorm1d(12)
    )  # in train mode it needs two images
    assert signature_of(net, size=(8, 8), batch=1).classes == 12
    assert all(part.training for part in net.modules())


def test_a_size_below_the_margin_is_refused() -> None:
    with pytest.raises(SettingError, match="at least 7x7"):
        signature_of(RestorationNet(11, padding="reflect").eval(), size=(6, 80))


def test_a_batch_of_none_is_refused() -> None:
    with pytest.raises(SettingError, match="at least 1"):
        signature_of(RestorationNet(3).eval(), batch=0)


@pytest.mark.parametrize(
    ("signature", "images"),
    [
        (ANY, torch.rand(1, 3, 3, 90)),
        (FIXED, torch.rand(2, 3, 8, 9)),
        (Signature(size=(8, 9)), torch.rand(7, 3, 8, 9)),
    ],
)
def test_images_that_fit_are_taken(signature: Signature, images: Tensor) -> None:
    signature.check(images)


@pytest.mark.parametrize(
    ("signature", "images", "words"),
    [
        (ANY, torch.rand(1, 3, 2, 90), "at least 3x3"),
        (ANY, torch.rand(1, 4, 8, 9), "4 channels"),
        (ANY, torch.zeros(1, 3, 8, 9, dtype=torch.uint8), "float"),
        (FIXED, torch.rand(1, 3, 8, 9), "2 at a time"),
        (FIXED, torch.rand(2, 3, 9, 8), "reads 8x9"),
    ],
)
def test_images_that_do_not_fit_are_refused(signature: Signature, images: Tensor, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        signature.check(images)


@pytest.mark.parametrize("signature", [ANY, FIXED, Signature(size=(48, 48), classes=43)])
def test_a_signature_survives_json(signature: Signature) -> None:
    assert Signature.from_dict(json.loads(json.dumps(signature.to_dict()))) == signature


@pytest.mark.parametrize("plain", [{}, {"size": [1]}, {"size": None, "depth": 11}, {"size": "ab"}])
def test_a_damaged_description_is_refused(plain: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="damaged"):
        Signature.from_dict(plain)


@pytest.mark.parametrize("signature", [ANY, FIXED, Signature(batch=1), Signature(size=(5, 5))])
def test_an_example_fits_and_is_never_a_single_image_of_a_free_batch(signature: Signature) -> None:
    images = example_images(signature)
    signature.check(images)
    assert len(images) == (signature.batch or 2)
    assert signature.size is not None or images.shape[2] != images.shape[3]
