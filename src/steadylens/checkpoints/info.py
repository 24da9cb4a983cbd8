"""What a file tells of how its net came about, typed: its training, its data, its figures."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from steadylens.errors import CheckpointError
from steadylens.images.preprocessing import Fit
from steadylens.records import Measurement, decode

Origins = Mapping[str, Mapping[str, str]]
"""What is known of the restorer and the classifier that a net was made from: name, data, licence."""

Making = Literal[
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
    """How a net came about; what is not known is empty or None.

    Attributes:
        stage: The stage of a run that made it.
        key: What its training depended on, as one key.
        recipe: Name of the recipe that it was trained with.
        seed: Seed that all randomness of the training was derived from.
        data: The source of the images that it was trained on.
        classes: Names of the classes of those images, by number.
        fit: How photographs became squares.
        commit: Version-control commit of the code that trained it.
        versions: Pairs of library and version.
        origins: What is known of the nets that it was made from.
        steps: Steps of its training, all parts together.
        samples: How many images its last stage of training saw, each time counted.
        seconds: Time that its last stage of training took.
        seconds_before: Time that training what it was made from took.
        curve: Step, mean loss since the point before, and learning rate.
        validation: What the trained net reached on validation images.
        licence: The licence of its weights.
        figures: What was measured with it.
        stored_as: The number format of the weights in the file.
        plain: All data that the file holds, as they are there.
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
        """Returns the info that the data about a net hold.

        Args:
            plain: The data, as `load_model` returns them; what is not known here stays in `plain` alone.
            name: What to call the net in the error.

        Raises:
            CheckpointError: If the data do not have the form in which this package writes them.
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
        """The sources of all images that the net learned from, in the end and before, as far as known."""
        known = [self.data, *(origin.get("data", "") for origin in self.origins.values())]
        return tuple(dict.fromkeys(source for text in known for source in text.split(", ") if source))

    @property
    def making(self) -> Making:
        """How the net was made, as far as its stage and its data tell."""
        if self.stage == "classifier":
            return "clean classifier"
        if self.stage.startswith("fine-tuning"):
            return "fine-tuned pair"
        if not self.data:  # a file names the data of whatever was trained
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
