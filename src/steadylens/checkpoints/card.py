"""What is known of a trained net, as data and as a model card in Markdown: intended use and limitations."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from steadylens.checkpoints.checkpoint import SUFFIX, sources_of
from steadylens.checkpoints.loading import LICENCE, read_net
from steadylens.errors import CheckpointError
from steadylens.images.preprocessing import Fit
from steadylens.images.tensors import SQUASHED
from steadylens.nets.classification import (
    SIGN_SIZE,
    FusedClassifier,
    PreparedClassifier,
    SignNet,
    classifier_of,
    names_of,
)
from steadylens.nets.restoration import DongNet, GaussianSmoothing, RestorationNet
from steadylens.records import Cost, Hits, Measurement, Restoring, Stability, decode
from steadylens.report.paper import CITATION
from steadylens.report.paper_tables import accuracy_tables, cost_tables, restoration_tables, stability_tables
from steadylens.report.tables import SIGMA, Table, TableRow, decibels, duration, select

TERMS = (
    "The German Traffic Sign Recognition Benchmark: J. Stallkamp, M. Schlipsing, J. Salmen, C. Igel, *Man "
    "vs. computer: Benchmarking machine learning algorithms for traffic sign recognition*, Neural Networks "
    "32, 2012. Its authors ask to be cited; a repackaging of its images is published under GPL-3.0. The "
    "weights contain no image, except that a classifier subtracts the mean of all its training images."
)
"""What the data are, and their terms."""

RESTORING, CLASSIFYING = "image-to-image", "image-classification"
"""The tasks, as model hubs call them."""


def intended_use(module: nn.Module, about: dict[str, Any]) -> tuple[str, str]:
    """Returns what a net does, and the name of that task on model hubs."""
    match module:
        case RestorationNet():
            text = f"A residual net of {module.depth} convolutions that takes noise out of images of any size"
        case DongNet():
            text = "A net of 3 convolutions, without a shortcut, that takes noise out of images of any size"
        case GaussianSmoothing():
            text = "A fixed Gaussian that smooths images, for comparison with a trained restoration net"
        case SignNet():
            return f"A classifier of {module.classes} traffic signs on images of 48x48 pixels.", CLASSIFYING
        case PreparedClassifier():
            return "A classifier of another library behind its own normalisation.", CLASSIFYING
        case FusedClassifier():
            stage = str(about.get("stage", ""))
            # A pair that nothing was trained for names no data.
            if stage.startswith("fusing") and about.get("data"):
                text = "A restorer in front of a frozen classifier, for which it was tuned without labels."
                return text, CLASSIFYING
            how = " that was fine-tuned behind it on noisy images" if stage.startswith("fine-tuning") else ""
            return f"A frozen restorer in front of a classifier{how}.", CLASSIFYING
        case _:
            text = f"A net of type {type(module).__name__} that restores images"
    return f"{text}.", RESTORING


def limitations(about: dict[str, Any], task: str, figures: Sequence[Measurement]) -> Iterator[str]:
    """Yields what a net is not good for, as far as data and figures tell, a sentence each."""
    learned = [source for source in sources_of(about) if source.startswith("gtsrb")]
    if learned:
        who = "It was" if about.get("data") in learned else "What it began with was"
        yield (
            f"{who} trained on German traffic signs, cut out and resized to 48x48 pixels. Other motifs, "
            "cameras and resolutions were not measured."
        )
    if about.get("stage") == "classifier":
        yield "It was trained on clean images alone: noise changes its answers, as the figures say."
    elif about.get("data"):
        yield (
            "It was trained with synthetic additive noise. Blur, compression, weather and "
            "noise that depends on the brightness were not measured."
        )
    yield "It is no defence against an adversary: perturbations made to mislead were not measured."
    yield from _harms(select(figures, Restoring))
    if task == CLASSIFYING:
        yield (
            "Every image gets one of its classes, even if it shows none of them. No safety function should "
            "rest on it alone."
        )


def _harms(rows: Sequence[Restoring]) -> Iterator[str]:
    """Says at which strengths the measured images became worse by being restored."""
    falls = [
        f"from {decibels(row.noisy_db)} to {decibels(row.restored_db)} dB at {SIGMA} = {row.sigma_grey:g}"
        for row in sorted(rows, key=lambda row: row.sigma_grey)
        if row.restored_db < row.noisy_db < math.inf
    ]
    if falls:
        yield f"Slight noise becomes worse: the mean PSNR falls {', '.join(falls)}."
    for row in rows:
        if row.noisy_db == math.inf > row.restored_db:
            yield f"It changes clean images, too: their PSNR is {decibels(row.restored_db)} dB afterwards."


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """What is known of a trained net; what its file does not tell is empty or None.

    Attributes:
        name: The net's name.
        purpose: What it does, in one sentence.
        task: `RESTORING` or `CLASSIFYING`.
        size: Height and width in pixels of the images that it reads, or None if any will do.
        fit: How photographs become squares of that size.
        parameters: Number of its parameters.
        classes: Names of the classes that it tells apart, or of those that it was trained on, by number.
        data: The source of the images that it was trained on.
        recipe: Name of the recipe that it was trained with.
        seed: Seed that all randomness of the training was derived from.
        commit: Version-control commit of the code that trained it.
        versions: Pairs of library and version.
        samples: How many images its last stage of training saw, each time counted.
        seconds: Time that its last stage of training took.
        figures: What was measured with it, as rows of a file of records.
        limits: What it is not good for, a sentence each.
        licence: The licence of its weights, as the data about the net state it; empty if they do not.
        origins: What is known of the restorer and the classifier that it was made from: name, data, licence.
        about: The data about the net as its file holds them, to be saved with it again.
    """

    name: str
    purpose: str
    task: str
    size: int | None
    fit: Fit
    parameters: int
    classes: tuple[str, ...]
    data: str
    recipe: str
    seed: int | None
    commit: str
    versions: tuple[tuple[str, str], ...]
    samples: int | None
    seconds: float | None
    figures: tuple[Measurement, ...] = field(repr=False)
    limits: tuple[str, ...]
    licence: str
    origins: dict[str, dict[str, str]]
    about: dict[str, Any] = field(repr=False)

    @property
    def shows_signs(self) -> bool:
        """Whether images that it learned from, in the end or before, show traffic signs."""
        return any(source.startswith(("gtsrb", "signs")) for source in sources_of(self.about))

    def markdown(self, *, loader: str = "load") -> str:
        """Returns the model card as Markdown; `save_pretrained` adds the header that the hub reads.

        Args:
            loader: The function of the package that loads the net by its name.
        """
        sections = (
            f"# {self.name}\n\n{self.purpose}\n",
            f"## Use\n\n{_example(self, loader)}",
            f"## Data\n\n{_data(self)}\n",
            f"## Training\n\n{_training(self)}\n",
            *_figures(self.figures),
            "## Limits\n\n" + "".join(f"- {limit}\n" for limit in self.limits),
            f"## Method and licence\n\nThe method is that of {CITATION}. {_licence(self)}\n",
        )
        return "\n".join(sections)


def card_of(module: nn.Module, about: dict[str, Any], *, name: str) -> Card:
    """Returns the card of a net, from the data about it that its file holds.

    Args:
        module: The net.
        about: The data, as `load_model` returns them; empty if nothing is known.
        name: The net's name.

    Raises:
        CheckpointError: If the data do not have the form in which this package writes them.
    """
    try:
        purpose, task = intended_use(module, about)
        size, fit, classes = _reading(module, about)
        figures = tuple(decode(row) for row in about.get("figures", ()))
        return Card(
            name=name,
            purpose=purpose,
            task=task,
            size=size,
            fit=fit,
            parameters=sum(parameter.numel() for parameter in module.parameters()),
            classes=classes,
            data=str(about.get("data", "")),
            recipe=str(about.get("recipe", "")),
            seed=about.get("seed"),
            commit=str(about.get("commit", "")),
            versions=tuple(dict(about.get("versions", {})).items()),
            samples=_number(about, "samples"),
            seconds=_number(about, "seconds"),
            figures=figures,
            limits=tuple(limitations(about, task, figures)),
            licence=str(about.get("licence", "")),
            origins={
                str(part): {str(key): str(value) for key, value in origin.items()}
                for part, origin in about.get("origins", {}).items()
            },
            about=about,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the data about {name} are not those of this version: {error}") from error


def _number(about: dict[str, Any], name: str) -> Any:
    value = about.get(name)
    if value is not None and not (isinstance(value, int | float) and math.isfinite(value)):
        raise ValueError(f"{name} is {value!r}, not a number")
    return value


def _reading(module: nn.Module, about: dict[str, Any]) -> tuple[int | None, Fit, tuple[str, ...]]:
    """Returns the size, the fit and the class names of a net, each as far as it has one."""
    names = tuple(map(str, about.get("classes", ())))
    behind = classifier_of(module)
    if isinstance(behind, PreparedClassifier):
        return behind.size, behind.fit, names or behind.class_names
    size = SIGN_SIZE if isinstance(behind, SignNet) else None
    return size, Fit.parse(str(about.get("fit", SQUASHED))), names or names_of(behind)


def _licence(card: Card) -> str:
    weights = f"under the {card.licence} licence" if card.licence else "not stated"
    return f"Licence of the weights: {weights}. The code of steadylens is under the {LICENCE} licence."


def _example(card: Card, loader: str) -> str:
    size = f", size={card.size}" if card.size else ""
    picture = "sign.png" if card.shows_signs else "photo.jpg"
    fits = card.size and card.fit != SQUASHED
    fit = f", fit=steadylens.Fit.parse({json.dumps(str(card.fit))})" if fits else ""
    last = (
        "label = net(images).argmax(dim=1)"
        if card.task == CLASSIFYING
        else "restored = net(images).clamp(0, 1)"
    )
    return (
        "```python\n"
        "import steadylens\n\n"
        f"net = steadylens.{loader}({json.dumps(card.name)})\n"
        f'images = steadylens.to_float(steadylens.read_image("{picture}"{size}{fit}))[None]\n'
        f"{last}\n"
        "```\n"
    )


def _data(card: Card) -> str:
    stage, data = str(card.about.get("stage", "")), f"`{card.data}`"
    if not card.data:
        how = "Nothing was trained for this pair." if card.origins else "The training data are not known."
    elif stage.startswith("fusing"):
        how = f"The restorer was tuned on {data} for its classifier, without labels."
    elif stage.startswith("label-free"):
        how = f"It was tuned on {data} for a classifier, without labels."
    elif stage.startswith("fine-tuning") and card.origins:
        how = f"The classifier was fine-tuned on {data} behind the restorer."
    else:
        how = f"Trained on {data}."
    began = [
        f"{f'Its {part}' if card.task == CLASSIFYING else 'It'} began as {_origin(known)}."
        for part, known in card.origins.items()
    ]
    terms = [TERMS] if any(source.startswith("gtsrb") for source in sources_of(card.about)) else []
    return " ".join([how, *began, *terms])


def _origin(known: Mapping[str, str]) -> str:
    data = f"trained on `{known['data']}`" if known.get("data") else "of whose data nothing is known"
    licence = f", under the {known['licence']} licence" if known.get("licence") else ""
    return f"{known.get('name', 'a net')}, {data}{licence}"


def _training(card: Card) -> str:
    versions = ", ".join(f"{library} {version}" for library, version in card.versions)
    facts = {
        "parameters": f"{card.parameters:,}",
        "recipe": card.recipe,
        "seed": "" if card.seed is None else str(card.seed),
        "commit": card.commit,
        "versions": versions,
        "last stage": ""
        if card.samples is None or card.seconds is None
        else f"{card.samples:,} images in {duration(card.seconds)}",
        "stored as": str(card.about.get("stored_as", "")),
    }
    return "\n".join(f"- {name}: {value}" for name, value in facts.items() if value)


def _figures(figures: Sequence[Measurement]) -> Iterator[str]:
    """Yields the measured figures as sections, with intervals, beside the paper's."""
    tables = [
        *accuracy_tables(figures),
        *stability_tables(select(figures, Stability)),
        *restoration_tables([*select(figures, Restoring), *select(figures, Hits)]),
        *cost_tables(select(figures, Cost)),
    ]
    if tables:
        yield "## Figures\n\nMeasured with the weights as they were trained, in float32.\n"
    for table in tables:
        yield _unranked(table).markdown()


def _unranked(table: Table) -> Table:
    """Returns the table without marks of the best cell: a card has one net, which is always the best."""
    rows = [
        TableRow(cells=tuple(replace(cell, best=False) for cell in row.cells), printed=row.printed)
        for row in table.rows
    ]
    return replace(table, rows=tuple(rows))


def card(name: str | Path) -> Card:
    """Returns what is known of a trained net: its data, recipe, measured figures, limits and licence.

    Args:
        name: One of `PRETRAINED`, or the path of a .safetensors file that `save_model` wrote.

    Raises:
        SettingError: If there is no net of that name.
        CheckpointError: If the file is missing or damaged, or its weights do not fit their checksum.
    """
    return load_with_card(name)[1]


def load_with_card(name: str | Path) -> tuple[nn.Module, Card]:
    """Returns what `load` and `card` return, from one reading of the file; their errors are its errors."""
    module, about = read_net(name)
    return module, card_of(module, about, name=Path(name).name.removesuffix(SUFFIX))
