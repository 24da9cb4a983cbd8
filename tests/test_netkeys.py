"""Whatever changes what a net computes changes its key."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steadylens.classification import SignNet
from steadylens.netkeys import net_key
from steadylens.preparation import PreparedClassifier, exported_classifier
from steadylens.restoration import GaussianSmoothing, RestorationNet


def test_a_key_of_weights_tells_any_change() -> None:
    net = RestorationNet(depth=3)
    before = net_key(net)
    assert before == net_key(net.to(memory_format=torch.channels_last))
    with torch.no_grad():
        next(iter(net.parameters()))[0, 0, 0, 0] += 1e-3
    assert net_key(net) != before


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (nn.Identity(), GaussianSmoothing(sigma_pixels=0.7)),
        (GaussianSmoothing(sigma_pixels=0.7), GaussianSmoothing(sigma_pixels=0.8)),
    ],
)
def test_nets_without_weights_have_keys_of_their_own(one: nn.Module, other: nn.Module) -> None:
    assert net_key(one) != net_key(other)


def test_padding_is_part_of_the_key() -> None:
    zeros, reflected = RestorationNet(depth=3), RestorationNet(depth=3, padding="reflect")
    reflected.load_state_dict(zeros.state_dict())
    assert net_key(zeros) != net_key(reflected)


def test_the_sign_nets_normalisation_is_part_of_the_key() -> None:
    published, standardizing = SignNet(), SignNet(standardize=True)
    standardizing.load_state_dict(published.state_dict())
    assert net_key(published) != net_key(standardizing)


def scaling(factor: str, *, compiled_from: str | None = None) -> type[nn.Module]:
    """Returns a class of nets without weights, as somebody would write or rewrite it."""
    names: dict[str, Any] = {"nn": nn, "__name__": "somebody"}
    lines = ["class Net(nn.Module):", "    def forward(self, images):", f"        return images * {factor}"]
    exec(compile("\n".join(lines), compiled_from or "<typed>", "exec"), names)  # noqa: S102 - our own text
    made: type[nn.Module] = names["Net"]
    return made


def test_the_code_of_a_net_of_ones_own_is_part_of_the_key() -> None:
    assert net_key(scaling("2")()) == net_key(scaling("2")())
    assert net_key(scaling("2")()) != net_key(scaling("3")())


class Own(nn.Module):
    """A net with settings that no weight tells."""

    shift: Tensor

    def __init__(self, heads: int, shift: float) -> None:
        super().__init__()
        self.heads = heads
        self.register_buffer("shift", torch.tensor(shift), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images + self.shift) * self.heads


def test_the_settings_of_a_net_of_ones_own_are_part_of_the_key() -> None:
    assert net_key(Own(2, 0.5)) == net_key(Own(2, 0.5).train())
    keys = {
        net_key(net)
        for net in (Own(2, 0.5), Own(3, 0.5), Own(2, 0.25), PreparedClassifier(Own(2, 0.5), size=8))
    }
    assert len(keys) == 4


def test_settings_of_any_shape_and_classes_above_are_part_of_the_key() -> None:
    def kept(**settings: object) -> nn.Module:
        net = scaling("2")()
        net.config = settings  # type: ignore[assignment]
        return net

    def below(factor: str) -> nn.Module:
        made: type[nn.Module] = type("Below", (scaling(factor),), {"__module__": "somebody"})
        return made()

    def shifted(amount: int) -> nn.Module:
        net = scaling("2")()
        net.act = lambda images: images + amount  # type: ignore[assignment]
        return net

    for one, other in ((kept(a=1), kept(a=2)), (below("2"), below("3")), (shifted(1), shifted(2))):
        assert net_key(one) != net_key(other)
    assert net_key(kept(a=1, b=[2, {"c"}])) == net_key(kept(b=[2, {"c"}], a=1))


def test_a_key_is_the_same_in_every_process() -> None:
    code = (
        "import torch; from torch import nn; from steadylens.netkeys import net_key\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.acts = [torch.relu, lambda x: x + 1, object(), {'c', 'b', 'a'}]\n"
        "    def forward(self, images):\n"
        "        return images if self.mode in {'aa', 'bb', 'cc'} else [one for one in images]\n"
        "print(net_key(Net()))"
    )
    keys = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, check=True,
            capture_output=True, text=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(keys) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_net_of_any_precision_has_a_key(dtype: torch.dtype) -> None:
    assert net_key(nn.Linear(2, 2).to(dtype)) != net_key(nn.Linear(2, 2).to(dtype))


def test_the_architecture_of_a_classifier_of_a_library_is_part_of_the_key() -> None:
    layers = nn.Flatten()
    two, four = (
        PreparedClassifier(layers, size=8, architecture={"kind": "transformers", "config": {"heads": heads}})
        for heads in (2, 4)
    )
    assert net_key(two) != net_key(four)


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
        keys.append(net_key(exported_classifier(tmp_path / f"{number}.pt2")))
    assert keys[0] == keys[1] == net_key(exported_classifier(tmp_path / "0.pt2"))
    assert keys[2] != keys[0]
