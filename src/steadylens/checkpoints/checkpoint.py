"""Files of trained nets and unfinished trainings, how a net was trained, and fingerprints of nets.

A net's file has its architecture, its weights and information about its training. Nothing is pickled: a file
has only tensors and JSON, so that reading an untrusted one runs no code. A fingerprint is a short hash of a
net, by which its measured results are found again.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal, Self
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.fx import GraphModule

from steadylens.errors import CheckpointError, SettingError, reason_of
from steadylens.files import replacing
from steadylens.images.preprocessing import Fit
from steadylens.nets.architecture import build, describe
from steadylens.nets.weights import check_header, copy_weights, other_kind, raw_bytes, saved_by_torch
from steadylens.records import Measurement, decode

Origins = Mapping[str, Mapping[str, str]]
"""Name, data, licence and attribution of the nets that a net was made from, by role, such as "restorer"."""

TEACHER = "teacher"
"""How the role of a net begins whose answers were learned: "teacher 1"."""

TrainingKind = Literal[
    "unknown",
    "clean classifier",
    "fine-tuned pair",
    "pair tuned without labels",
    "restorer tuned without labels",
    "pair as it is",
    "other",
]
"""How a net was made."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingInfo:
    """How a net was trained; what is not known is empty or None.

    Attributes:
        stage: Name of the stage that made it.
        key: Hash of all that the result of that stage depends on.
        recipe: Name of the recipe.
        seed: Seed of the training.
        data: Source of the training images, for example "gtsrb".
        classes: Names of the classes of those images, in the order of their labels.
        fit: How photographs were made square.
        commit: Git commit of the code.
        versions: Pairs of library and version.
        origins: Name, data, licence and attribution of the nets that it was made from, or learned from.
        steps: Steps of the training, over all phases.
        samples: Noisy images that its last stage was trained on; an image counts each time.
        seconds: Time that its last stage took.
        seconds_before: Time that training the nets took that it was made from, or learned from.
        curve: Points of the loss curve: step, mean loss since the previous point, learning rate.
        validation: Results on validation images by name, for example "accuracy".
        licence: Licence of the weights, for example "MIT".
        attribution: Whose the training images are, and under which licences.
        figures: Results on test images.
        stored_as: Number format of the weights in the file.
        plain: All information in the file, unchanged.
    """

    stage: str = ""
    key: str = ""
    recipe: str = ""
    seed: int | None = None
    data: str = ""
    classes: tuple[str, ...] = ()
    fit: Fit = field(default_factory=Fit)
    commit: str = ""
    versions: tuple[tuple[str, str], ...] = ()
    origins: Origins = field(default_factory=dict)
    steps: int = 0
    samples: int | None = None
    seconds: float | None = None
    seconds_before: float = 0.0
    curve: tuple[tuple[int, float, float], ...] = field(default=(), repr=False)
    validation: Mapping[str, float] = field(default_factory=dict)
    licence: str = ""
    attribution: str = ""
    figures: tuple[Measurement, ...] = field(default=(), repr=False)
    stored_as: str = ""
    plain: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of_plain(cls, plain: Mapping[str, Any], *, name: str) -> Self:
        """Parses the information that a net's file contains.

        Args:
            plain: The information, as `load_model` returns it. Entries without an attribute are only kept in
                the attribute `plain`.
            name: Name of the net for the error message.

        Raises:
            CheckpointError: If an entry has another form than this package writes.
        """
        try:
            return cls(
                **{text: str(plain.get(text, "")) for text in _TEXTS},
                seed=plain.get("seed"),
                classes=tuple(map(str, plain.get("classes", ()))),
                fit=Fit.parse(str(plain.get("fit", Fit()))),
                versions=tuple(dict(plain.get("versions", {})).items()),
                origins={
                    str(part): {str(key): str(value) for key, value in origin.items()}
                    for part, origin in plain.get("origins", {}).items()
                },
                steps=int(_number(plain, "steps") or 0),
                samples=_number(plain, "samples"),
                seconds=_number(plain, "seconds"),
                seconds_before=_number(plain, "seconds_before") or 0.0,
                curve=tuple((int(step), loss, rate) for step, loss, rate in plain.get("curve", ())),
                validation=dict(plain.get("validation", {})),
                figures=tuple(decode(row) for row in plain.get("figures", ())),
                plain=plain,
            )
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the data about {name} are not those of this version: {error}") from error

    @property
    def sources(self) -> tuple[str, ...]:
        """Sources of all training images, also of the nets that it was made from, as far as known."""
        known = [self.data, *(origin.get("data", "") for origin in self.origins.values())]
        return tuple(dict.fromkeys(source for text in known for source in text.split(", ") if source))

    @property
    def learned_photographs(self) -> bool:
        """Whether it, or a net that it was made from, learned from photographs, as far as is known."""
        return any(source.startswith("photographs") for source in self.sources)

    @property
    def attributions(self) -> tuple[str, ...]:
        """Whose all training images are, also those of the nets that it was made from."""
        known = [self.attribution, *(origin.get("attribution", "") for origin in self.origins.values())]
        return tuple(dict.fromkeys(filter(None, known)))

    @property
    def training_kind(self) -> TrainingKind:
        """How the net was made, derived from its stage and its data."""
        if self.stage == "classifier":
            return "clean classifier"
        if self.stage.startswith("fine-tuning"):
            return "fine-tuned pair"
        if not self.data:  # every trained net's file names its training data
            return "pair as it is" if self.origins else "unknown"
        if self.stage.startswith("fusing"):
            return "pair tuned without labels"
        return "restorer tuned without labels" if self.stage.startswith("label-free") else "other"


_TEXTS = ("stage", "key", "recipe", "data", "commit", "licence", "attribution", "stored_as")


def _number(plain: Mapping[str, Any], name: str) -> Any:
    value = plain.get(name)
    if value is not None and not (isinstance(value, int | float) and math.isfinite(value)):
        raise ValueError(f"{name} is {value!r}, not a number")
    return value


def fingerprint(net: nn.Module) -> str:
    """Returns a short hash of a net's architecture, settings, weights and buffers, the same in every process.

    A net of a class that cannot be saved, from another library or your own code, gets a new random key each
    time: nothing describes what it computes, so earlier results cannot be reused. Register the class with
    `steadylens.nets.register_net` to change that.
    """
    if (text := _description(net)) is None:
        return uuid4().hex[:16]
    digest = hashlib.sha256(text.encode())
    for part in net.modules():
        if isinstance(part, GraphModule):  # an exported program: its generated code and its constants
            digest.update(part.code.encode())
            constants = {name: value for name, value in vars(part).items() if isinstance(value, Tensor)}
            _digest(digest, constants | dict(part.named_buffers(recurse=False)))
    _digest(digest, net.state_dict())
    return digest.hexdigest()[:16]


def has_fingerprint(net: nn.Module) -> bool:
    """Whether a net has the same fingerprint each time, so that what was measured of it is found again."""
    return _description(net) is not None


def _description(net: nn.Module) -> str | None:
    try:
        return json.dumps(describe(net), sort_keys=True, default=str)
    except SettingError:
        libraries = {type(part).__module__.partition(".")[0] for part in net.modules()}
        return repr(net) if libraries <= _DESCRIBED_BY_REPR else None


def fingerprints(nets: Mapping[str, nn.Module]) -> list[tuple[str, str]]:
    """Returns pairs of name and fingerprint."""
    return [(name, fingerprint(net)) for name, net in nets.items()]


LICENCE = "MIT"
"""Licence of the package and of its packaged weights."""

PRETRAINED = (
    "l11-gtsrb", "l9-gtsrb", "l7-gtsrb", "l5-gtsrb", "l3-gtsrb", "dong-gtsrb", "sign-gtsrb", "fused-gtsrb",
    "unet-gtsrb", "unet-photos", "unet-camera",
)  # fmt: skip
"""Names of the packaged nets: the restorers of Table 1, the sign net, a fused classifier, and U-Nets."""


def packaged_name(source: str | Path) -> str:
    """Returns the name of a packaged net, or an empty text for any other source of a net."""
    return str(source) if str(source) in PRETRAINED else ""


def packaged_file(name: str) -> AbstractContextManager[Path]:
    """Returns a context with the file of one of `PRETRAINED`."""
    return as_file(files("steadylens") / "weights" / f"{name}{SUFFIX}")


FORMAT = 1

SUFFIX = ".safetensors"
"""Suffix of weight files. It distinguishes them from the names of packaged nets and from exported files."""

MAX_NESTING = 16
"""How deep nets in a file may be nested: the time to build them grows with the square of the depth."""

MAX_PARTS = 64
"""How many nets a file may consist of: each takes time to build, before the weights are checked."""

_DESCRIBED_BY_REPR = frozenset({"steadylens", "torch"})
"""Libraries whose modules have all of their settings in their repr."""

_NO_ARCHITECTURE = (
    "does not say which architecture its weights belong to; name the library's model along with them, as in "
    "timm:NAME --weights {}"
)


def save_model(
    path: str | Path, module: nn.Module, *, about: dict[str, Any], dtype: torch.dtype = torch.float32
) -> None:
    """Saves a net with its architecture, so that `load_model` can build it again. The write is atomic.

    Args:
        path: The file, conventionally ending in .safetensors.
        module: A net of this package, a `PreparedClassifier` of one of the three libraries, a net of a class
            that was registered with `register_net`, or a `FusedClassifier` of such nets.
        about: Information about the training; anything that JSON can hold.
        dtype: Number format in the file; float16 halves its size and rounds the weights. Loaded weights are
            always float32.

    Raises:
        SettingError: If nets of this class cannot be saved, its `config()` does not make such a net, or
            `about` is no plain data.
        StorageError: If the file cannot be written.
    """
    architecture = describe(module)
    _check_rebuilding(module, architecture)
    plain = {"architecture": architecture, "about": about}
    tensors = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in module.state_dict().items()
    }
    _write(Path(path), tensors, kind="model", plain=plain)


def _check_rebuilding(module: nn.Module, architecture: dict[str, Any]) -> None:
    """Refuses a net that loading could not build again, before its file is written."""
    try:
        read = json.loads(json.dumps(architecture))
        _check_fit(module.state_dict(), read)
    except (AttributeError, KeyError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise SettingError(
            f"a {type(module).__name__} cannot be saved: what its config() gives does not make it again "
            f"({reason_of(error)}); give each of the constructor's arguments, as plain data or a net"
        ) from error


def load_model(path: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """Loads a net that `save_model` wrote.

    Args:
        path: The file, or one of `PRETRAINED`.

    Returns:
        The net on the CPU, in eval mode, and the `about` that it was saved with.

    Raises:
        CheckpointError: If the file is missing, damaged or no file of a net, if its weights do not match the
            architecture or the checksum, or if they are not finite.
        MissingExtraError: If the net needs a library that is not installed.
    """
    if name := packaged_name(path):
        with packaged_file(name) as file:
            net, known = load_model(file)
        return net, {"licence": LICENCE, **known}
    path = Path(path)
    tensors, plain = _read(path, kind="model")
    architecture, about = plain.get("architecture"), plain.get("about")
    if not isinstance(architecture, dict) or not isinstance(about, dict):
        raise CheckpointError(f"{path} lacks the architecture or the data about the net; save it again")
    try:
        _check_fit(tensors, architecture)
        module = build(architecture)
        copy_weights(module, tensors)
    except (AttributeError, KeyError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        reason = reason_of(error)  # the first line; in the next ones PyTorch lists calls
        raise CheckpointError(
            f"{path}: the weights do not fit the architecture: {reason}; save it again"
        ) from error
    for name, value in module.state_dict().items():
        if not torch.isfinite(value).all():
            raise CheckpointError(f"{path}: {name} holds values that are not finite; train the net again")
    return module.eval(), about


def save_state(path: Path, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    """Saves the state of an unfinished training. The write is atomic.

    Raises:
        StorageError: If the file cannot be written.
    """
    _write(path, tensors, kind="training", plain=plain)


def load_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Loads the tensors and the plain data that `save_state` wrote.

    Raises:
        CheckpointError: If the file is missing, damaged or no state of a training, or its checksum does not
            match.
    """
    return _read(path, kind="training")


def _write(path: Path, tensors: dict[str, Tensor], *, kind: str, plain: dict[str, Any]) -> None:
    found = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    # A module that occurs twice in a net has the same memory twice, which safetensors refuses.
    shared = Counter(value.untyped_storage().data_ptr() for value in found.values())
    apart = {
        name: value.clone() if shared[value.untyped_storage().data_ptr()] > 1 else value
        for name, value in found.items()
    }
    content = {"format": FORMAT, "kind": kind, "sha256": _checksum(apart), **plain}
    try:
        header = {"steadylens": json.dumps(content)}
    except (TypeError, ValueError) as error:
        raise SettingError(f"what is known about {path} cannot be written as JSON ({error})") from error
    with replacing(path) as temporary:
        temporary.write_bytes(save(apart, metadata=header))


def _read(path: Path, *, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    if kind_of_file := other_kind(path):
        way_out = "as a .pt2 file, give it where a classifier is asked for"
        if kind_of_file != "an exported program":
            way_out = "give the PyTorch net that it was made from, as a file of weights or a .pt2 program"
        raise CheckpointError(f"{path} is {kind_of_file}, no net that steadylens saved; {way_out}")
    if saved_by_torch(path):
        raise CheckpointError(f"{path} was written by torch.save and {_NO_ARCHITECTURE.format(path)}")
    check_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            plain = json.loads((file.metadata() or {})["steadylens"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except KeyError as error:
        raise CheckpointError(
            f"{path} was not written by steadylens and {_NO_ARCHITECTURE.format(path)}"
        ) from error
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file: {error}; write it again") from error
    if not isinstance(plain, dict) or (plain.get("format"), plain.get("kind")) != (FORMAT, kind):
        raise CheckpointError(
            f"{path} is no {kind} file of format {FORMAT}; it holds another kind or version"
        )
    # The first files had no checksum.
    if plain.get("sha256") not in (None, _checksum(tensors)):
        raise CheckpointError(f"{path} is damaged: its weights do not fit their checksum; write it again")
    return tensors, plain


def _check_nesting(architecture: dict[str, Any]) -> None:
    parts, count = [architecture], 1
    for _ in range(MAX_NESTING):
        parts = [value for part in parts for value in part.values() if isinstance(value, dict)]
        if not parts:
            return
        count += len(parts)
        if count > MAX_PARTS:
            raise ValueError(f"nets are made of more than {MAX_PARTS} parts")
    raise ValueError(f"nets stand within nets more than {MAX_NESTING} deep")


def _check_fit(tensors: dict[str, Tensor], architecture: dict[str, Any]) -> None:
    """Refuses tensors whose names, shapes or number types differ from those of the architecture.

    The net is built on the meta device first, so that an absurdly large architecture takes no memory.
    """
    try:
        _check_nesting(architecture)
        with torch.device("meta"):
            needed = build(architecture).state_dict()
    except (RuntimeError, SettingError) as error:
        if "meta tensor" in str(error):  # some models compute with their weights in the constructor
            return
        raise
    if odd := tensors.keys() ^ needed.keys():
        raise ValueError(f"{min(odd)} is {'missing' if min(odd) in needed else 'too much'}")
    for name, value in tensors.items():
        found, wanted = ((part.is_floating_point(), tuple(part.shape)) for part in (value, needed[name]))
        if found != wanted:
            raise ValueError(
                f"{name} is {value.dtype} {found[1]} where {needed[name].dtype} {wanted[1]} is needed"
            )


def _checksum(tensors: dict[str, Tensor]) -> str:
    """Returns the SHA-256 of names, dtypes, shapes and values, sorted by name."""
    digest = hashlib.sha256()
    _digest(digest, tensors)
    return digest.hexdigest()


def _digest(digest: "hashlib._Hash", values: Mapping[str, Any]) -> None:
    for name in sorted(values):
        value = values[name]
        if not isinstance(value, Tensor):  # what a module's `get_extra_state` returned
            digest.update(f"{name} {value!r}\n".encode())
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(raw_bytes(value))
