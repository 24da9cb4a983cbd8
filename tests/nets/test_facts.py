"""Every net of ours tells its facts; of a module that tells nothing, nothing is known."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steadylens.images.preprocessing import Fit, Preprocessing
from steadylens.nets.classification import FusedClassifier, PreparedClassifier, SignNet
from steadylens.nets.facts import CLASSIFYING, RESTORING, NetFacts, facts_of
from steadylens.nets.restoration import DongNet, GaussianSmoothing, RestorationNet, UnpaddedNet

PREPROCESSING = Preprocessing(
    size=8, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0), fit=Fit(keeps_shape=True, side=10)
)
PREPARED = PreparedClassifier(
    nn.Flatten(), PREPROCESSING, class_names=("a", "b"), architecture={"kind": "timm"}
)
OTHER = "A classifier of another library, with its normalisation as the first layer."
PAIR = "A restorer in front of a classifier."


def facts(**told: Any) -> NetFacts:
    return NetFacts(**told)


@pytest.mark.parametrize(
    ("net", "wanted"),
    [
        (
            RestorationNet(depth=7, channels=1),
            facts(
                task=RESTORING,
                kind="RestorationNet",
                purpose="A residual net of 7 convolutions that takes noise out of images of any size.",
                channels=1,
                margin=4,
            ),
        ),
        (
            RestorationNet(depth=11, padding="reflect"),
            facts(
                task=RESTORING,
                kind="RestorationNet",
                purpose="A residual net of 11 convolutions that takes noise out of images of any size.",
                margin=6,
                minimum_size=7,
            ),
        ),
        (
            DongNet(padding="reflect"),
            facts(
                task=RESTORING,
                kind="DongNet",
                purpose="A net of 3 convolutions, without a shortcut, that takes noise out of images of "
                "any size.",
                margin=6,
                minimum_size=7,
            ),
        ),
        (
            GaussianSmoothing(sigma_pixels=0.8),
            facts(
                task=RESTORING,
                kind="GaussianSmoothing",
                purpose="A fixed Gaussian that smooths images, for comparison with a trained restoration "
                "net.",
                margin=3,
                minimum_size=4,
            ),
        ),
        (
            nn.Identity(),
            facts(task=RESTORING, kind="Identity", purpose="A net that leaves images as they are.", margin=0),
        ),
        (
            UnpaddedNet(RestorationNet(depth=3, channels=1)),
            facts(task=RESTORING, channels=1, minimum_size=5, margin=0, lost=2),
        ),
        (
            SignNet(classes=9),
            facts(
                task=CLASSIFYING,
                kind="SignNet",
                purpose="A classifier of 9 traffic signs on images of 48x48 pixels.",
                input_size=48,
            ),
        ),
        (
            PREPARED,
            facts(
                task=CLASSIFYING,
                kind="timm",
                purpose=OTHER,
                input_size=8,
                class_names=("a", "b"),
                preprocessing=PREPROCESSING,
            ),
        ),
        (
            FusedClassifier(RestorationNet(depth=11, padding="reflect"), PREPARED),
            facts(
                task=CLASSIFYING,
                kind="FusedClassifier",
                purpose=PAIR,
                minimum_size=7,
                input_size=8,
                class_names=("a", "b"),
                preprocessing=PREPROCESSING,
            ),
        ),
        (
            FusedClassifier(nn.Identity(), FusedClassifier(DongNet(), SignNet())),
            facts(task=CLASSIFYING, kind="FusedClassifier", purpose=PAIR, input_size=48),
        ),
        (
            FusedClassifier(nn.AvgPool2d(1), nn.Flatten()),
            facts(task=CLASSIFYING, kind="FusedClassifier", purpose=PAIR),
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_net_tells_its_facts(net: nn.Module, wanted: NetFacts) -> None:
    assert facts_of(net) == wanted


def test_of_what_tells_no_task_nothing_is_known() -> None:
    foreign = nn.Conv2d(3, 3, 3)
    foreign.kind, foreign.margin = "Conv2d", 1  # type: ignore[assignment]
    for net in (foreign, nn.Sequential(nn.Flatten()), lambda images: images, object()):
        assert facts_of(net) == NetFacts()
    assert NetFacts().task is None
    assert NetFacts().kind is None


def test_a_task_of_another_name_tells_nothing() -> None:
    assert facts_of(SimpleNamespace(task="depth-estimation", margin=3)) == NetFacts()


def test_a_function_may_tell_its_facts_too() -> None:
    def brighter(images: Tensor) -> Tensor:
        return images + 0.1

    brighter.task, brighter.margin = RESTORING, 0  # type: ignore[attr-defined]
    assert facts_of(brighter) == NetFacts(task=RESTORING, margin=0)


def test_a_net_within_its_class_of_ones_own_keeps_its_facts() -> None:
    class Mine(RestorationNet):
        purpose = "Mine."

    assert facts_of(Mine(depth=3)).margin == 2
    assert facts_of(Mine(depth=3)).purpose == "Mine."


@pytest.mark.parametrize(
    "net",
    [RestorationNet(depth=3), DongNet(), GaussianSmoothing(sigma_pixels=1.3), nn.Identity()],
    ids=lambda net: type(net).__name__,
)
def test_a_pixel_depends_on_no_more_than_the_margin(net: nn.Module) -> None:
    margin = facts_of(net).margin
    assert margin is not None
    images = torch.rand(1, 3, 41, 41, generator=torch.Generator().manual_seed(0), requires_grad=True)
    net(images)[0, :, 20, 20].sum().backward()
    assert images.grad is not None
    rows, columns = images.grad.abs().sum(dim=(0, 1)).nonzero().unbind(dim=1)
    reach = [int((places - 20).abs().max()) for places in (rows, columns)]
    assert reach == [margin, margin]


@pytest.mark.parametrize(
    "net",
    [RestorationNet(depth=3, padding="reflect"), DongNet(padding="reflect"), GaussianSmoothing()],
    ids=lambda net: type(net).__name__,
)
def test_the_smallest_size_is_read_and_no_smaller_one(net: nn.Module) -> None:
    size = facts_of(net).minimum_size
    assert net(torch.rand(1, 3, size, size)).shape == (1, 3, size, size)
    with pytest.raises(ValueError, match=f"at least {size}x{size}"):
        net(torch.rand(1, 3, size - 1, size))
