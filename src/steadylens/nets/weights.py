"""Files of weights that other libraries wrote: read without running what they hold, and fitted or refused."""

import pickle
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from steadylens.errors import CheckpointError

MOST_HEADER_BYTES = 2**22
"""What the header of a .safetensors file may take, for its JSON is parsed whole. That of a net with 10,000
tensors takes about a million; the format itself allows a hundred million."""

_WRAPPED = re.compile(r"^(?:module\.|_orig_mod\.)+")
"""What data-parallel and compiled modules put before every name."""


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Reads the weights of a net by name, from a .safetensors file or from what `torch.save` wrote.

    A file of `torch.save` is read with weights alone allowed, so that a foreign one can do no harm. It may
    hold the weights themselves or, as training scripts write it, hold them under `state_dict` or `model`.

    Raises:
        CheckpointError: If the file is missing, damaged, has a header of absurd size, or holds no weights by
            name.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    held = _read_safetensors(path) if path.suffix == ".safetensors" else _read_saved(path)
    for key in ("state_dict", "model"):
        if isinstance(held, dict) and isinstance(held.get(key), dict):
            held = held[key]
    if not (isinstance(held, dict) and held and all(isinstance(value, Tensor) for value in held.values())):
        raise CheckpointError(f"{path} holds no weights by name; save the net's state_dict")
    return {_WRAPPED.sub("", str(name)): value for name, value in held.items()}


def _read_safetensors(path: Path) -> Any:
    check_header(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged or no safetensors file: {error}; copy or write it again"
        ) from error


def _read_saved(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch's reader raises nearly anything at what is no file of its own
        if isinstance(error, pickle.UnpicklingError) and saved_by_torch(path):
            raise CheckpointError(
                f"{path} holds more than weights, perhaps a whole net, which could run code when it is read; "
                "save the net's state_dict alone"
            ) from error
        reason = str(error).partition(". ")[0].partition("\n")[0]
        raise CheckpointError(
            f"{path} is damaged or was not written by torch.save ({reason}); copy or save it again"
        ) from error


def check_header(path: Path) -> None:
    """Refuses a .safetensors file whose header claims more than `MOST_HEADER_BYTES`, before it is read.

    Raises:
        CheckpointError: If it does, or the file cannot be opened.
    """
    try:
        with path.open("rb") as file:
            claimed = int.from_bytes(file.read(8), "little")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    if claimed > MOST_HEADER_BYTES:
        raise CheckpointError(
            f"{path} is damaged or no safetensors file: it claims a header of {claimed:,} bytes, and at most "
            f"{MOST_HEADER_BYTES:,} are read; write it again"
        )


def saved_by_torch(path: Path) -> bool:
    """Says whether a file begins as those do that `torch.save` writes, or wrote of old."""
    with path.open("rb") as file:
        return file.read(4) in (b"PK\3\4", b"\x80\2\x8a\n")


def fit_weights(module: nn.Module, weights: dict[str, Tensor], path: str | Path) -> None:
    """Gives a net the weights of a file, all of them and no others.

    Args:
        module: The net, changed in place.
        weights: What `read_weights` returned.
        path: The file they come from, for the message.

    Raises:
        CheckpointError: If a weight is missing, of another shape, unknown to the net, or not finite.
    """
    expected = module.state_dict()
    problems = (
        ("lacks", expected.keys() - weights.keys()),
        ("has besides", weights.keys() - expected.keys()),
        (
            "has in another shape",
            [n for n in expected if n in weights and weights[n].shape != expected[n].shape],
        ),
    )
    if wrong := "; ".join(f"it {verb} {_some(names)}" for verb, names in problems if names):
        raise CheckpointError(
            f"the weights of {path} do not fit the net: {wrong}; name the net that they are of"
        )
    if broken := [name for name, value in weights.items() if not torch.isfinite(value).all()]:
        raise CheckpointError(
            f"{path}: {_some(broken)} holds values that are not finite; train the net again"
        )
    give_weights(module, weights)


def give_weights(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Gives a net the weights of another one of its kind, as `load_state_dict` does it.

    Some nets look at the version that their kind has in a state of their own, which files do not hold.

    Raises:
        RuntimeError: If names or shapes are not those of the net.
    """
    state = module.state_dict()
    state.update(weights)
    if odd := state.keys() - weights.keys():
        raise RuntimeError(f"the weights lack {_some(odd)}")
    module.load_state_dict(state)


def raw_bytes(tensor: Tensor) -> bytes:
    """Returns the values of a tensor of any type, in their order, as bytes."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _some(names: Iterable[str]) -> str:
    first, *others = sorted(names)
    return f"{first} and {len(others)} more" if others else first
