"""What is known of a trained net, as data and as a model card in Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from steadylens.errors import CheckpointError
from steadylens.records import Measurement, decode

LICENCE = "MIT"
"""The licence of the weights, as of the package."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """What is known of a trained net; what its file does not tell is empty or None.

    Attributes:
        name: The net's name.
        parameters: Number of its parameters.
        classes: Names of the classes that a classifier tells apart, by number.
        data: The source of the images that it was trained on.
        recipe: Name of the recipe that it was trained with.
        seed: Seed that all randomness of the training was derived from.
        commit: Version-control commit of the code that trained it.
        versions: Pairs of library and version.
        samples: How many images it saw in training, each time counted.
        seconds: Time that its last stage of training took.
        figures: What was measured with it, as rows of a file of records.
        limits: What it is not good for, a sentence each.
        licence: The licence of its weights.
    """

    name: str
    parameters: int
    classes: tuple[str, ...]
    data: str
    recipe: str
    seed: int | None
    commit: str
    versions: tuple[tuple[str, str], ...]
    samples: int | None
    seconds: float | None
    figures: tuple[Measurement, ...]
    limits: tuple[str, ...]
    licence: str = LICENCE


def card_of(module: nn.Module, about: dict[str, Any], *, name: str) -> Card:
    """Returns the card of a net, from the data about it that its file holds.

    Raises:
        CheckpointError: If the data do not have the form in which this package writes them.
    """
    try:
        return Card(
            name=name,
            parameters=sum(parameter.numel() for parameter in module.parameters()),
            classes=tuple(about.get("classes", ())),
            data=about.get("data", ""),
            recipe=about.get("recipe", ""),
            seed=about.get("seed"),
            commit=about.get("commit", ""),
            versions=tuple(about.get("versions", {}).items()),
            samples=about.get("samples"),
            seconds=about.get("seconds"),
            figures=(figures := tuple(decode(row) for row in about.get("figures", ()))),
            limits=_limits(module, figures),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the data about {name} are not those of this version: {error}") from error


def _limits(module: nn.Module, figures: Sequence[Measurement]) -> tuple[str, ...]:
    return ("Trained on 48x48 images of traffic signs with additive noise.",)
