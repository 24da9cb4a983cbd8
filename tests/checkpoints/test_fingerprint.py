"""Whatever changes what a net computes changes its key."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steadylens.checkpoints.checkpoint import fingerprint
from steadylens.images.preprocessing import Preprocessing
from steadylens.nets.architecture import KINDS
from steadylens.nets.classification import FusedClassifier, PreparedClassifier, SignNet
from steadylens.nets.exported import exported_classifier
from steadylens.nets.facts import RESTORING
from steadylens.nets.restoration import GaussianSmoothing, RestorationNet


def test_a_key_of_weights_tells_any_change() -> None:
    net = RestorationNet(depth=3)
    before = fingerprint(net)
    assert before == fingerprint(net.to(memory_format=torch.channels_last))
    with torch.no_grad():
        next(iter(net.parameters()))[0, 0, 0, 0] += 1e-3
    assert fingerprint(net) != before


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (nn.Identity(), GaussianSmoothing(sigma_pixels=0.7)),
        (GaussianSmoothing(sigma_pixels=0.7), GaussianSmoothing(sigma_pixels=0.8)),
    ],
)
def test_nets_without_weights_have_keys_of_their_own(one: nn.Module, other: nn.Module) -> None:
    assert fingerprint(one) != fingerprint(other)


def test_padding_is_part_of_the_key() -> None:
    zeros, reflected = RestorationNet(depth=3), RestorationNet(depth=3, padding="reflect")
    reflected.load_state_dict(zeros.state_dict())
    assert fingerprint(zeros) != fingerprint(reflected)


def test_the_sign_nets_normalisation_is_part_of_the_key() -> None:
    published, standardizing = SignNet(), SignNet(standardize=True)
    standardizing.load_state_dict(published.state_dict())
    assert fingerprint(published) != fingerprint(standardizing)


class Own(nn.Module):
    """A net with settings that no weight tells."""

    shift: Tensor

    def __init__(self, heads: int, shift: float) -> None:
        super().__init__()
        self.heads = heads
        self.register_buffer("shift", torch.tensor(shift), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images + self.shift) * self.heads


class Described(Own):
    """The same, described."""

    kind = "tests.Described"
    task = RESTORING
    margin = 0

    def config(self) -> dict[str, Any]:
        return {"heads": self.heads, "shift": float(self.shift)}


def own_in_front() -> nn.Module:
    return FusedClassifier(Own(2, 0.5), SignNet())


def own_prepared() -> nn.Module:
    return PreparedClassifier(Own(2, 0.5), Preprocessing(size=8))


def own_among_layers() -> nn.Module:
    return nn.Sequential(nn.Flatten(), Own(2, 0.5))


@pytest.mark.parametrize("make", [partial(Own, 2, 0.5), own_in_front, own_prepared, own_among_layers])
def test_a_net_with_parts_that_have_no_description_is_never_known_again(
    make: Callable[[], nn.Module],
) -> None:
    net = make()
    assert len({fingerprint(net), fingerprint(net), fingerprint(make())}) == 3


def test_a_net_of_ones_own_that_is_registered_is_known_again_by_its_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(KINDS, Described.kind, Described)
    assert fingerprint(Described(2, 0.5)) == fingerprint(Described(2, 0.5).train())
    behind = FusedClassifier(Described(2, 0.5), SignNet())
    assert fingerprint(behind) == fingerprint(behind)
    nets = (Described(2, 0.5), Described(3, 0.5), Described(2, 0.25), GaussianSmoothing(), behind)
    assert len(set(map(fingerprint, nets))) == 5


def test_layers_of_pytorch_are_told_by_their_printed_form_and_their_weights() -> None:
    def layers(**settings: Any) -> nn.Module:
        return nn.Sequential(nn.MaxPool2d(2, **settings), nn.Flatten())

    assert fingerprint(layers()) == fingerprint(layers())
    assert fingerprint(layers()) != fingerprint(layers(stride=1))
    prepared = (PreparedClassifier(layers(), Preprocessing(size=size)) for size in (8, 8, 9))
    one, same, other = map(fingerprint, prepared)
    assert one == same != other


def test_a_key_is_the_same_in_every_process() -> None:
    code = (
        "import torch; from torch import nn; import steadylens\n"
        "from steadylens.checkpoints.checkpoint import fingerprint\n"
        "pair = steadylens.FusedClassifier(steadylens.load('l3-gtsrb'), steadylens.load('sign-gtsrb'))\n"
        "layers = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))\n"
        "layers[1].weight.data.fill_(1); layers[1].bias.data.fill_(0)\n"
        "keys = fingerprint(pair), fingerprint(layers)\n"
    )
    here: dict[str, Any] = {}
    exec(code, here)  # noqa: S102
    elsewhere = subprocess.run(
        [sys.executable, "-c", f"{code}print(*keys)"], env={**os.environ, "PYTHONHASHSEED": "1"}, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    assert elsewhere.stdout.split() == [*here["keys"]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_net_of_any_precision_has_a_key(dtype: torch.dtype) -> None:
    assert fingerprint(nn.Linear(2, 2).to(dtype)) != fingerprint(nn.Linear(2, 2).to(dtype))


def test_the_architecture_of_a_classifier_of_a_library_is_part_of_the_key() -> None:
    layers = nn.Flatten()
    two, four = (
        PreparedClassifier(
            layers, Preprocessing(size=8), architecture={"kind": "transformers", "config": {"heads": heads}}
        )
        for heads in (2, 4)
    )
    assert fingerprint(two) != fingerprint(four)


class Program(nn.Module):
    """A classifier whose normalisation is in its code."""

    def __init__(self, mean: float) -> None:
        super().__init__()
        self.mean, self.layer = mean, nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.layer((images - torch.tensor([self.mean])).mean((2, 3)))
        return result


def test_what_an_exported_program_does_is_part_of_the_key(tmp_path: Path) -> None:
    first, same, other = Program(0.5), Program(0.5), Program(0.25)
    keys = []
    for number, net in enumerate((first, same, other)):
        net.load_state_dict(first.state_dict())
        batch = {0: torch.export.Dim("batch", min=1)}
        program = torch.export.export(net.eval(), (torch.rand(2, 3, 8, 8),), dynamic_shapes=(batch,))
        torch.export.save(program, tmp_path / f"{number}.pt2")
        keys.append(fingerprint(exported_classifier(tmp_path / f"{number}.pt2")))
    assert keys[0] == keys[1] == fingerprint(exported_classifier(tmp_path / "0.pt2"))
    assert keys[2] != keys[0]
