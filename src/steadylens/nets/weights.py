"""Weights that other libraries saved: read without running their code, loaded only if all of them match."""

import argparse
import logging
import math
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from steadylens.errors import CheckpointError

LOG = logging.getLogger(__name__)
"""Says what was chosen where a file holds several things; by default Python prints that to stderr."""

MAX_HEADER_BYTES = 2**22
"""Longest header of a .safetensors file that is read, because its JSON is parsed at once. A net with 10,000
tensors needs about a million bytes; the format itself allows a hundred million."""

TRAINED = ("state_dict", "model_state_dict", "model", "net", "network", "module", "params", "weights")
"""The names under which training scripts save the weights of the last step."""

AVERAGED = ("state_dict_ema", "model_ema", "model_ema_state_dict", "ema_state_dict", "ema", "params_ema")
"""The names under which they save weights that were averaged over the last steps, usually the better ones."""

_WRAPPED = re.compile(r"^(?:module\.)+")
"""Prefixes that `DataParallel` and `AveragedModel` put before every name."""

_HELD = ("model.", "net.", "network.", "backbone.")
"""What stands before the names if the net is a part of another module, for example of a LightningModule."""

_DEEPEST = 4
"""In how many dicts, one within the other, a state dict is sought."""

_LIGHTNING = "pytorch-lightning_version"

_ABOUT_POSITIONS = re.compile(r"(^|\.)(pos_embed|pos_embedding|position_embeddings)$")


def read_weights(path: str | Path, *, ema: bool | None = None) -> dict[str, Tensor]:
    """Reads a state dict from a .safetensors file or a file that `torch.save` wrote.

    A file of `torch.save` is read with `weights_only=True`, so that an untrusted one can run no code; the
    only further class that is allowed is `argparse.Namespace`, the settings that many scripts save. The file
    may hold the state dict itself or, as training scripts write it, a dict with it under one of the names in
    `TRAINED` and `AVERAGED`. What wrappers put before every name is removed. Choices are logged.

    Args:
        path: The file.
        ema: Whether to take averaged weights; None for those if there are any.

    Raises:
        CheckpointError: If the file is missing, damaged or of another kind, has an absurdly large header,
            holds no state dict or several, or no weights of the kind that is asked for.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    if kind := other_kind(path):
        raise CheckpointError(f"{path} is {kind}, no file of weights; save the net's state_dict()")
    held = _read_safetensors(path) if path.suffix == ".safetensors" else _read_saved(path)
    found = _chosen(held, path, ema)
    if any(value.is_quantized for value in found.values()):
        raise CheckpointError(_quantized(path))
    return _unwrapped(found, path, parts=isinstance(held, dict) and _LIGHTNING in held)


def other_kind(path: Path) -> str | None:
    """Returns what a file is that holds a whole net, or the arrays of another program; None for any other."""
    try:
        with path.open("rb") as file:
            head = file.read(8)
        names = []
        if head.startswith(b"PK\3\4"):
            with zipfile.ZipFile(path) as archive:
                names = [name.partition("/")[2] for name in archive.namelist()]
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return None  # damaged: whoever reads it says how
    if names:
        if "constants.pkl" in names and any(name.startswith("code/") for name in names):
            return "a TorchScript program"
        if any("exported_program" in name or name == "models/model.json" for name in names):
            return "an exported program"
        return "an archive of NumPy arrays" if path.suffix == ".npz" else None
    if path.suffix == ".onnx" or re.match(rb"\x08[\x01-\x20][\x12\x1a\x22\x3a\x42]", head):
        return "an ONNX model"
    kinds = {b"GGUF": "a GGUF file", b"\x89HDF": "an HDF5 file, of Keras perhaps", b"TFL3": "a TFLite model"}
    return kinds.get(head[:4]) or kinds.get(head[4:])


def _chosen(held: object, path: Path, ema: bool | None) -> dict[str, Tensor]:
    """Returns the state dict that is in what a file holds."""
    if _is_state_dict(held):
        if ema:
            raise CheckpointError(
                f"{path} holds one state dict, not an averaged one beside it; leave out ema"
            )
        return held  # type: ignore[return-value]
    if not isinstance(held, dict):
        held = {}
    trained, averaged = ([key for key in keys if _has_weights(held.get(key))] for keys in (TRAINED, AVERAGED))
    keys = averaged if ema or (ema is None and averaged) else trained
    if not keys and (trained or averaged):
        raise CheckpointError(
            f"{path} holds {' and '.join(trained or averaged)} alone; leave the choice of "
            "averaged weights out"
        )
    if len(keys) > 1:
        raise CheckpointError(
            f"{path} holds weights as {' and as '.join(keys)}; save a file with those that you want"
        )
    if any(str(name).endswith("_packed_params") for name in held):
        raise CheckpointError(_quantized(path))
    if not keys:
        raise CheckpointError(f"{path} holds no state dict; save the net's state_dict()")
    if trained and averaged and ema is None:
        LOG.warning(
            "%s holds trained and averaged weights: %s, the averaged ones, is taken; for %s, give ema=False "
            "or --no-ema", path, averaged[0], " or ".join(trained),
        )  # fmt: skip
    return _chosen(held[keys[0]], path, None)


def _is_state_dict(held: object) -> bool:
    return isinstance(held, dict) and bool(held) and all(isinstance(each, Tensor) for each in held.values())


def _has_weights(held: object, *, deep: int = _DEEPEST) -> bool:
    """Whether a value is a state dict, one of a quantised net, or a dict in which there is one."""
    if not isinstance(held, dict) or deep == 0:  # a dict may contain itself
        return False
    inside = any(_has_weights(held.get(key), deep=deep - 1) for key in (*TRAINED, *AVERAGED))
    return _is_state_dict(held) or inside or any(str(name).endswith("_packed_params") for name in held)


def _quantized(path: Path) -> str:
    return f"{path} holds quantised weights; give the float weights that they were made from"


def _unwrapped(weights: Mapping[str, Tensor], path: Path, *, parts: bool) -> dict[str, Tensor]:
    """Returns weights without what wrappers put before their names, and without counters of averages.

    Args:
        weights: The weights.
        path: Their file.
        parts: Whether there may be weights of other modules beside those of the net; they are left out.
    """
    found = {
        _WRAPPED.sub("", str(name).replace("_orig_mod.", "")): value
        for name, value in weights.items()
        if name != "n_averaged"
    }
    for prefix in _HELD:
        held = {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}
        if held and (len(held) == len(found) or parts):
            if left_out := [name for name in found if not name.startswith(prefix)]:
                LOG.warning("%s: the weights of %s* are taken, %s left out", path, prefix, _some(left_out))
            return _unwrapped(held, path, parts=False)
    return found


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
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch's reader raises nearly any error on a damaged file
        if isinstance(error, pickle.UnpicklingError) and saved_by_torch(path):
            named = re.search(r"GLOBAL (\S+) was not", str(error))
            what = named[1] if named else "perhaps a pickled net"
            raise CheckpointError(
                f"{path} holds more than weights ({what}), and reading it could run code; save only the "
                "net's state_dict()"
            ) from error
        reason = str(error).partition(". ")[0].partition("\n")[0]
        raise CheckpointError(
            f"{path} is damaged or was not written by torch.save ({reason}); copy or save it again"
        ) from error


def check_header(path: Path) -> None:
    """Refuses a .safetensors file whose header is longer than `MAX_HEADER_BYTES`, before the header is read.

    Raises:
        CheckpointError: If it is longer, or the file cannot be opened.
    """
    try:
        with path.open("rb") as file:
            claimed = int.from_bytes(file.read(8), "little")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    if claimed > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{path} is damaged or no safetensors file: it claims a header of {claimed:,} bytes, and at most "
            f"{MAX_HEADER_BYTES:,} are read; give another file, or write this one again"
        )


def saved_by_torch(path: Path) -> bool:
    """Whether a file starts with the magic bytes of `torch.save`, of its present or its old format."""
    with path.open("rb") as file:
        return file.read(4) in (b"PK\3\4", b"\x80\2\x8a\n")


def load_weights(
    module: nn.Module, weights: dict[str, Tensor], path: str | Path, *, size: int | None = None
) -> None:
    """Loads weights into a net, after checking that their names and shapes match and all values are finite.

    Args:
        module: The net, changed in place.
        weights: The state dict that `read_weights` returned.
        path: The file that it was read from, for the error message.
        size: Height and width in pixels of the images that the net was made for, for the error message.

    Raises:
        CheckpointError: If a weight is missing, unexpected, of another shape, quantised or not finite.
    """
    expected = module.state_dict()
    reshaped = [n for n in expected if n in weights and weights[n].shape != expected[n].shape]
    problems = (
        ("lacks", expected.keys() - weights.keys()),
        ("has the unexpected", weights.keys() - expected.keys()),
        ("has another shape for", reshaped),
    )
    if wrong := "; ".join(f"it {verb} {_some(names)}" for verb, names in problems if names):
        way_out = "name the net that they were saved from"
        for name in filter(_ABOUT_POSITIONS.search, reshaped):
            if size and (other := _size_of(weights[name].shape, expected[name].shape, size)):
                way_out = f"they belong to images of {other} pixels: give size={other} or --size {other}"
        raise CheckpointError(f"the weights of {path} do not fit the net: {wrong}; {way_out}")
    if any(expected[n].is_floating_point() and not each.is_floating_point() for n, each in weights.items()):
        raise CheckpointError(_quantized(Path(path)))
    if broken := [name for name, value in weights.items() if not torch.isfinite(value).all()]:
        raise CheckpointError(
            f"{path}: {_some(broken)} holds values that are not finite; train the net again"
        )
    copy_weights(module, weights)


def _size_of(found: tuple[int, ...], expected: tuple[int, ...], size: int) -> int | None:
    """Returns the size of the images that a net with other position embeddings reads; None if none fits.

    Args:
        found: The shape of the embeddings, (1, positions, features), in a file.
        expected: Their shape in a net for images of `size` pixels. Besides a square of patches there are up
            to five positions for classes and registers.
        size: Height and width in pixels.
    """
    if len(found) != 3 or found[2] != expected[2]:
        return None
    for others in range(6):
        sides = [math.isqrt(max(0, shape[1] - others)) for shape in (found, expected)]
        squares = all(
            side and side**2 + others == shape[1]
            for side, shape in zip(sides, (found, expected), strict=True)
        )
        if squares and size * sides[0] % sides[1] == 0:
            return size * sides[0] // sides[1]
    return None


def copy_weights(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Loads a state dict that was read from a file, as `load_state_dict` does.

    Modules such as BatchNorm store a version number in the metadata of their state dict, which files do not
    hold. So the weights are put into the net's own state dict, which has it.

    Raises:
        RuntimeError: If names or shapes do not match.
    """
    state = module.state_dict()
    state.update(weights)
    if missing := state.keys() - weights.keys():
        raise RuntimeError(f"the weights lack {_some(missing)}")
    module.load_state_dict(state)


def raw_bytes(tensor: Tensor) -> bytes:
    """Returns the values of a tensor of any dtype as bytes, in row-major order."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _some(names: Iterable[str]) -> str:
    first, *others = sorted(names)
    return f"{first} and {len(others)} more" if others else first
