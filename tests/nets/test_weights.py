"""Weights that other libraries wrote are read whole, or refused in one sentence."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from steadylens.errors import CheckpointError
from steadylens.nets.weights import load_weights, read_weights


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[n], v) for n, v in expected.items())


@pytest.mark.parametrize("name", ["net.pth", "net.pt", "net.bin", "net.safetensors"])
def test_weights_are_read_from_either_kind_of_file(name: str, tmp_path: Path) -> None:
    weights = net().state_dict()
    write: Any = save_file if name.endswith("safetensors") else torch.save
    write(weights, tmp_path / name)
    assert same(read_weights(tmp_path / name), weights)


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_weights_are_found_within_the_state_of_a_training(key: str, tmp_path: Path) -> None:
    weights = net().state_dict()
    torch.save({key: weights, "epoch": 3, "loss": 0.5}, tmp_path / "net.pth")
    assert same(read_weights(tmp_path / "net.pth"), weights)


class Harmful:
    """Runs a command when it is unpickled as it likes."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('it ran')",)


TEXTS = (b"<html>an error</html>", b"", b"weights, as it were", b"some text", b"\x80\x02c", b"0", b"a")
CONTENTS = (*TEXTS, pickle.dumps(Harmful(), 2), pickle.dumps([], 2))


@pytest.mark.parametrize("content", CONTENTS)
def test_a_file_that_holds_no_weights_is_refused_and_does_not_run(content: bytes, tmp_path: Path) -> None:
    for name in ("net.pth", "net.safetensors"):
        (tmp_path / name).write_bytes(content)
        kind = "no safetensors file" if name.endswith("safetensors") else "was not written by torch.save"
        message = f"{name} is damaged or {kind}"
        with pytest.raises(CheckpointError, match=message) as caught:
            read_weights(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("held", [Harmful(), net()], ids=["harmful", "net"])
def test_a_whole_module_is_refused_and_does_not_run(held: object, tmp_path: Path) -> None:
    torch.save(held, tmp_path / "net.pth")
    with pytest.raises(CheckpointError) as caught:
        read_weights(tmp_path / "net.pth")
    assert str(caught.value) == (
        f"{tmp_path / 'net.pth'} holds more than weights, perhaps a pickled net, and reading it could "
        "run code; save only the net's state_dict()"
    )


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_a_file_that_is_cut_off_is_said_to_be_damaged(name: str, tmp_path: Path) -> None:
    write: Any = save_file if name.endswith("safetensors") else torch.save
    write(net().state_dict(), tmp_path / name)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-20])
    with pytest.raises(CheckpointError, match=rf"{name} is damaged or .*; copy or (write|save) it again"):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("held", [{}, {"epoch": 3}, [torch.ones(2)], {"model": {}}, torch.ones(3)], ids=repr)
def test_a_sound_file_without_weights_is_refused(held: object, tmp_path: Path) -> None:
    torch.save(held, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="holds no state dict; save the net's state_dict"):
        read_weights(tmp_path / "net.pth")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no file .*absent\.pth"):
        read_weights(tmp_path / "absent.pth")


def test_a_net_takes_the_weights_of_a_file() -> None:
    one, other = net(), net()
    load_weights(one, other.state_dict(), Path("net.pth"))
    assert same(one.state_dict(), other.state_dict())


def test_what_does_not_fit_is_named() -> None:
    weights = net().state_dict()
    weights["0.weight"] = torch.rand(3, 5)
    weights["2.bias"] = weights.pop("0.bias")
    expected = (
        r"net\.pth do not fit the net: it lacks 0\.bias; it has the unexpected 2\.bias; "
        r"it has another shape for 0\.w"
    )
    with pytest.raises(CheckpointError, match=expected):
        load_weights(net(), weights, Path("net.pth"))


def test_weights_that_are_not_finite_are_refused() -> None:
    weights = net().state_dict()
    weights["0.bias"] = torch.tensor([0.0, float("nan"), 0.0])
    with pytest.raises(CheckpointError, match=r"0\.bias holds values that are not finite"):
        load_weights(net(), weights, Path("net.pth"))
