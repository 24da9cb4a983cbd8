"""A net for traffic signs is put before a classifier of photographs on request only, and with a note."""

import copy

import pytest
import torch
from torch import nn

from steadylens.checkpoints.checkpoint import PRETRAINED
from steadylens.checkpoints.choosing import default_restorer, mismatch
from steadylens.checkpoints.loading import load
from steadylens.checkpoints.packaged import RESTORERS
from steadylens.nets.facts import RESTORING, facts_of

SIGN_RESTORERS = [
    name for name in PRETRAINED if name.endswith("-gtsrb") and facts_of(load(name)).task == RESTORING
]


@pytest.mark.parametrize(
    ("source", "size"), [("gtsrb:DIR", 48), ("signs", 48), ("signs:20", 64), ("folder:mine", 48)]
)
def test_signs_get_the_net_that_learned_from_signs(source: str, size: int) -> None:
    assert default_restorer(source, size=size) == "unet-gtsrb"


@pytest.mark.parametrize(
    ("source", "size"), [("folder:gtsrb", 224), ("shards:signs-{00..09}.tar", 64), ("TensorDataset", 32)]
)
def test_other_images_get_the_net_that_learned_from_photographs(source: str, size: int) -> None:
    assert default_restorer(source, size=size) == "unet-photos"


def test_the_nets_of_both_kinds_are_packaged() -> None:
    assert {*RESTORERS.values()} <= {*PRETRAINED}


def test_there_are_restorers_of_signs() -> None:
    assert {"unet-gtsrb", "l11-gtsrb", "dong-gtsrb"} < {*SIGN_RESTORERS}


@pytest.mark.parametrize("name", SIGN_RESTORERS)
def test_a_net_for_signs_before_a_classifier_of_photographs_is_noted(name: str) -> None:
    net = load(name).to(memory_format=torch.channels_last)  # it is known by its weights, however they lie
    note = mismatch(net, "folder:mine", size=224)
    assert note.startswith(f"{name} learned from traffic signs of 48 pixels, and these images are of 224. ")
    assert note.endswith("unet-photos is for photographs")
    assert not mismatch(net, "gtsrb:DIR", size=224)
    assert not mismatch(net, "folder:mine", size=48)


def test_nothing_is_said_of_other_nets() -> None:
    tuned = copy.deepcopy(load("l3-gtsrb"))
    with torch.no_grad():
        next(tuned.parameters()).add_(0.01)
    for net in (
        tuned,
        nn.Identity(),
        load("sign-gtsrb"),
        *(load(name) for name in PRETRAINED if "photos" in name),
    ):
        assert not mismatch(net, "folder:mine", size=224)
