"""The information about a net's training that its file contains, as typed attributes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from steadylens.errors import CheckpointError
from steadylens.images.preprocessing import Fit
from steadylens.records import Measurement, decode

Origins = Mapping[str, Mapping[str, str]]
"""Name, data and licence of the nets that a net was made from, by their role: "restorer", "classifier"."""

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
        origins: Name, data and licence of the nets that it was made from.
        steps: Steps of the training, over all phases.
        samples: Noisy images that its last stage was trained on; an image counts each time.
        seconds: Time that its last stage took.
        seconds_before: Time that training the nets took that it was made from.
        curve: Points of the loss curve: step, mean loss since the previous point, learning rate.
        validation: Results on validation images by name, for example "accuracy".
        licence: Licence of the weights, for example "MIT".
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
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the data about {name} are not those of this version: {error}") from error

    @property
    def sources(self) -> tuple[str, ...]:
        """Sources of all training images, also of the nets that it was made from, as far as known."""
        known = [self.data, *(origin.get("data", "") for origin in self.origins.values())]
        return tuple(dict.fromkeys(source for text in known for source in text.split(", ") if source))

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


_TEXTS = ("stage", "key", "recipe", "data", "commit", "licence", "stored_as")


def _number(plain: Mapping[str, Any], name: str) -> Any:
    value = plain.get(name)
    if value is not None and not (isinstance(value, int | float) and math.isfinite(value)):
        raise ValueError(f"{name} is {value!r}, not a number")
    return value
