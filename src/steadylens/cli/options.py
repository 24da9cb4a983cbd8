"""The options that several commands share."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from steadylens.images.preprocessing import PreprocessingOptions


class RecipeName(StrEnum):
    """The recipes, by name."""

    paper = "paper"
    paper_quarter = "paper-quarter"
    long = "long"
    thorough = "thorough"
    fast = "fast"
    quick = "quick"
    smoke = "smoke"


Debug = Annotated[bool, typer.Option("--debug", help="Show the full traceback of an error.")]

Device = Annotated[
    str,
    typer.Option(help="Device to compute on: cpu, cuda, cuda:1 and so on; auto uses a GPU if there is one."),
]

Out = Annotated[
    Path, typer.Option(help="Output folder. Results that it already holds are kept and not computed again.")
]

File = Annotated[
    Path, typer.Option("--out", help="File to write, .safetensors. If it already exists, nothing is trained.")
]

ClassifierName = Annotated[
    str,
    typer.Argument(
        help="The classifier: timm:NAME or torchvision:NAME (both with --weights), transformers:DIR, an "
        "exported program (.pt2), a .safetensors file, or the name of a packaged net, such as sign-gtsrb."
    ),
]

Weights = Annotated[
    Path | None,
    typer.Option(
        help="Local file with the weights of a timm or torchvision classifier. Nothing is downloaded."
    ),
]

FIT_HELP = (
    "How images are made square: squash (stretch them), crop (take the centre) or crop:SIDE (resize the "
    "shorter side to SIDE pixels, then take the centre)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """The options of every command that trains or measures nets.

    Attributes:
        data: The source of the images.
        recipe: The recipe's name.
        seed: The seed of all random numbers.
        device: The device's name, or auto.
        cache: Folder for decoded images, or None for the user's cache folder.
    """

    data: Annotated[
        str,
        typer.Option(
            help="Images to use: signs (synthetic traffic signs, 43 classes), gtsrb:DIR (the GTSRB data "
            "set: its official archives, or the layout with CSV files) or folder:DIR (one subfolder per "
            "class)."
        ),
    ] = "signs"
    recipe: Annotated[
        RecipeName,
        typer.Option(
            help="How much to train. smoke: seconds. quick: minutes. fast: half an hour. thorough: hours on "
            "2 CPU cores. paper-quarter, paper and long: on a GPU."
        ),
    ] = RecipeName.quick
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0
    device: Device = "auto"
    cache: Annotated[
        Path | None, typer.Option(help="Folder for decoded images; by default, the user's cache folder.")
    ] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingOptions:
    """The options of how much noise is sampled for Table 4.

    Attributes:
        versions: Noisy versions of each image, or None for the recipe's number.
        half_width: Half width of the confidence interval to reach, as a share, or None for no such aim.
    """

    versions: Annotated[
        int | None, typer.Option(help="Number of noisy versions of each test image in Table 4.")
    ] = None
    half_width: Annotated[
        float | None,
        typer.Option(
            help="Sample noise for each value in Table 4 until its confidence interval is within plus or "
            "minus this share, such as 0.001."
        ),
    ] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifierOptions:
    """The options that say what a classifier itself does not state; None leaves it to the classifier.

    Attributes:
        weights: File of the weights.
        size: Height and width of the input in pixels.
        mean: Mean of R, G and B in [0, 1].
        std: Standard deviation of R, G and B in [0, 1].
        fit: How images are made square.
    """

    weights: Weights = None
    size: Annotated[
        int | None,
        typer.Option(
            help="Height and width in pixels of the classifier's input; by default, what the classifier "
            "states."
        ),
    ] = None
    mean: Annotated[
        tuple[float, float, float] | None,
        typer.Option(
            help="Mean of R, G and B in [0, 1] for the classifier's normalization; by default, what it "
            "states."
        ),
    ] = None
    std: Annotated[
        tuple[float, float, float] | None,
        typer.Option(
            help="Standard deviation of R, G and B for the classifier's normalization; by default, what it "
            "states."
        ),
    ] = None
    fit: Annotated[str | None, typer.Option(help=f"{FIT_HELP}; by default, what the classifier states.")] = (
        None
    )

    def preprocessing(self) -> "PreprocessingOptions":
        """Returns what the options say about the classifier's preprocessing."""
        from steadylens.images.preprocessing import Fit, PreprocessingOptions

        fit = None if self.fit is None else Fit.parse(self.fit)
        return PreprocessingOptions(size=self.size, mean=self.mean, std=self.std, fit=fit)


def with_option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Makes one option out of each field, where a parameter of a command is a dataclass of options.

    The command line then shows the fields in the place of the parameter, and the command gets the dataclass.
    """
    parameters = inspect.signature(command).parameters.values()
    groups: dict[str, Any] = {
        each.name: each.annotation for each in parameters if is_dataclass(each.annotation)
    }

    @functools.wraps(command)
    def call(**values: Any) -> None:
        made = {
            name: group(**{field.name: values.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**values, **made)

    shown: list[inspect.Parameter] = []
    for each in parameters:
        options = fields(groups[each.name]) if each.name in groups else ()
        shown += [
            each.replace(name=field.name, annotation=field.type, default=field.default) for field in options
        ] or [each]
    call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in shown]
    )
    return call
