"""Model cards, as data or Markdown: what is known about a trained net, its intended use and limitations."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from steadylens.checkpoints.checkpoint import LICENCE, SUFFIX, TEACHER, TrainingInfo
from steadylens.checkpoints.loading import LoadedNet, load_net
from steadylens.images.preprocessing import Fit
from steadylens.images.tensors import SQUASHED
from steadylens.nets.facts import CLASSIFYING, RESTORING, facts_of
from steadylens.records import Cost, Hits, Measurement, Restoring, Stability
from steadylens.report.paper import CITATION
from steadylens.report.paper_tables import accuracy_tables, cost_tables, restoration_tables, stability_tables
from steadylens.report.tables import SIGMA, Table, TableRow, decibels, duration, select

TERMS = (
    "The German Traffic Sign Recognition Benchmark: J. Stallkamp, M. Schlipsing, J. Salmen, C. Igel, *Man "
    "vs. computer: Benchmarking machine learning algorithms for traffic sign recognition*, Neural Networks "
    "32, 2012. Its authors ask to be cited; a repackaging of its images is published under GPL-3.0. The "
    "weights contain no image, except that a classifier subtracts the mean of all its training images."
)
"""Name and terms of use of the training data GTSRB, for the cards of nets that were trained on it."""


def intended_use(net: LoadedNet) -> str:
    """Returns one sentence on what the net does."""
    match net.info.training_kind:
        case "pair tuned without labels":
            return "A restorer in front of a frozen classifier, for which it was tuned without labels."
        case "fine-tuned pair" if isinstance(getattr(net.module, "restorer", None), nn.Identity):
            return "A classifier that was fine-tuned on noisy images, without a restorer."
        case "fine-tuned pair":
            return "A frozen restorer in front of a classifier that was fine-tuned behind it on noisy images."
    usual = f"A net of type {type(net.module).__name__} that restores images."
    return facts_of(net.module).purpose or usual


def limitations(net: LoadedNet) -> Iterator[str]:
    """Yields what the net is not good for, a sentence each, from its training data and measured figures."""
    info = net.info
    learned = [source for source in info.sources if source.startswith("gtsrb")]
    if learned:
        subject = "It was" if info.data in learned else "The nets that it was made from were"
        yield (
            f"{subject} trained on German traffic signs, cut out and resized to 48x48 pixels. Other motifs, "
            "cameras and resolutions were not measured."
        )
    if info.learned_photographs:
        yield (
            "It was trained on photographs. Drawings, text, screenshots and scientific pictures were not "
            "measured. Where noise is strong, it removes fine texture with it."
        )
    if info.training_kind == "clean classifier":
        yield "It was not trained for noise, which changes its answers, as the figures show."
    elif info.recipe == "camera":
        yield (
            "It was trained with simulated noise of cameras, also stored as JPEG. Its figures say nothing of "
            "blur and weather."
        )
    elif info.data:
        yield (
            "It was trained with synthetic additive noise. Its figures say nothing of blur, compression, "
            "weather and noise that depends on the brightness; `steadylens compare --corruptions` measures "
            "what they do to a classifier's answers."
        )
    yield "It is no defence against attacks; `steadylens compare --attacks` measures what they do."
    yield from _harms(select(info.figures, Restoring))
    if net.task == CLASSIFYING:
        yield (
            "It assigns one of its classes to every image, even to one that shows none of them. No safety "
            "function should rely on it alone."
        )


def _harms(rows: Sequence[Restoring]) -> Iterator[str]:
    """Yields a sentence on the noise strengths at which restoring lowered the measured PSNR."""
    falls = [
        f"from {decibels(row.noisy_db)} to {decibels(row.restored_db)} dB at {SIGMA} = {row.sigma_grey:g}"
        for row in sorted(rows, key=lambda row: row.sigma_grey)
        if row.restored_db < row.noisy_db < math.inf
    ]
    if falls:
        yield f"It harms images with slight noise: the mean PSNR falls {', '.join(falls)}."
    for row in rows:
        if row.noisy_db == math.inf > row.restored_db:
            yield f"It changes clean images, too: their restored PSNR is {decibels(row.restored_db)} dB."


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """What is known about a trained net; what its file does not contain is empty or None.

    Attributes:
        name: Name of the net.
        given: What its loader is given: the name of a packaged net, a file, or a name on the hub.
        purpose: What it does, in one sentence.
        task: `RESTORING` or `CLASSIFYING`.
        size: Height and width in pixels of its input images, or None if any size will do.
        fit: How photographs become squares of that size.
        parameters: Number of its parameters.
        classes: Names of a classifier's classes in the order of its logits; for a restorer, the classes in
            its training data.
        limits: What it is not good for, a sentence each.
        info: How it was trained: data, recipe, seed, measured figures, licence.
    """

    name: str
    given: str
    purpose: str
    task: str
    size: int | None
    fit: Fit
    parameters: int
    classes: tuple[str, ...]
    limits: tuple[str, ...]
    info: TrainingInfo

    @property
    def shows_signs(self) -> bool:
        """Whether the net, or one that it was made from, was trained on traffic signs."""
        return any(source.startswith(("gtsrb", "signs")) for source in self.info.sources)

    def markdown(self, *, loader: str = "load") -> str:
        """Returns the model card as Markdown; `save_pretrained` adds the header that the hub reads.

        Args:
            loader: Name of the package's function that loads the net.
        """
        sections = (
            f"# {self.name}\n\n{self.purpose}\n",
            f"## Use\n\n{_example(self, loader)}",
            f"## Data\n\n{_data(self)}\n",
            f"## Training\n\n{_training(self)}\n",
            *_figures(self.info.figures),
            "## Limits\n\n" + "".join(f"- {limit}\n" for limit in self.limits),
            f"## Method and licence\n\nThe method is that of {CITATION}. {_licence(self)}\n",
        )
        return "\n".join(sections)


def card_of(net: LoadedNet, *, given: str = "") -> Card:
    """Returns the card of a net; what its loader is given is by default its packaged name, or its file."""
    return Card(
        name=net.name,
        given=given or net.packaged or f"{net.name}{SUFFIX}",
        purpose=intended_use(net),
        task=net.task or RESTORING,
        size=facts_of(net.module).input_size,
        fit=net.fit,
        parameters=sum(parameter.numel() for parameter in net.module.parameters()),
        classes=net.class_names,
        limits=tuple(limitations(net)),
        info=net.info,
    )


def _licence(card: Card) -> str:
    weights = f"under the {card.info.licence} licence" if card.info.licence else "not stated"
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
        f"net = steadylens.{loader}({json.dumps(card.given)})\n"
        f'images = steadylens.to_float(steadylens.read_image("{picture}"{size}{fit}))[None]\n'
        f"{last}\n"
        "```\n"
    )


def _data(card: Card) -> str:
    data, kind = f"`{card.info.data}`", card.info.training_kind
    if not card.info.data:
        how = "The training data are not known."
        if kind == "pair as it is":
            how = "Nothing was trained for this pair."
    elif kind == "pair tuned without labels":
        how = f"The restorer was tuned on {data} for its classifier, without labels."
    elif kind == "restorer tuned without labels":
        how = f"It was tuned on {data} for a classifier, without labels."
    elif kind == "fine-tuned pair" and card.info.origins:
        how = f"The classifier was fine-tuned on {data}."
    else:
        how = f"Trained on {data}."
    began = [_beginning(card, part, known) for part, known in card.info.origins.items()]
    terms = [TERMS] if any(source.startswith("gtsrb") for source in card.info.sources) else []
    return " ".join([how, *began, *terms, *card.info.attributions])


def _beginning(card: Card, part: str, known: Mapping[str, str]) -> str:
    if part.startswith(TEACHER):
        return f"It learned the answers of {_origin(known)}."
    return f"{f'Its {part}' if card.task == CLASSIFYING else 'It'} began as {_origin(known)}."


def _origin(known: Mapping[str, str]) -> str:
    data = f"trained on `{known['data']}`" if known.get("data") else "with unknown training data"
    licence = f", under the {known['licence']} licence" if known.get("licence") else ""
    return f"{known.get('name', 'a net')}, {data}{licence}"


def _training(card: Card) -> str:
    versions = ", ".join(f"{library} {version}" for library, version in card.info.versions)
    facts = {
        "parameters": f"{card.parameters:,}",
        "recipe": card.info.recipe,
        "seed": "" if card.info.seed is None else str(card.info.seed),
        "commit": card.info.commit,
        "versions": versions,
        "last stage": ""
        if card.info.samples is None or card.info.seconds is None
        else f"{card.info.samples:,} images in {duration(card.info.seconds)}",
        "stored as": card.info.stored_as,
    }
    return "\n".join(f"- {name}: {value}" for name, value in facts.items() if value)


def _figures(figures: Sequence[Measurement]) -> Iterator[str]:
    """Yields the sections with measured figures, with confidence intervals, next to those of the paper."""
    tables = [
        *accuracy_tables(figures),
        *stability_tables(select(figures, Stability)),
        *restoration_tables([*select(figures, Restoring), *select(figures, Hits)]),
        *cost_tables(select(figures, Cost)),
    ]
    if tables:
        yield "## Figures\n\nMeasured in float32.\n"
    for table in tables:
        yield _unranked(table).markdown()


def _unranked(table: Table) -> Table:
    """Returns the table without marks of the best value, which mean nothing on a card of one net."""
    rows = [
        TableRow(cells=tuple(replace(cell, best=False) for cell in row.cells), printed=row.printed)
        for row in table.rows
    ]
    return replace(table, rows=tuple(rows))


def card(net: str | Path | nn.Module | LoadedNet) -> Card:
    """Returns what is known about a trained net: its data, recipe, measured figures, limits and licence.

    Args:
        net: One of `PRETRAINED`, or the path of a .safetensors file that `save_model` wrote; or a net, of
            which a module alone says nothing about its training.

    Raises:
        SettingError: If there is no net of that name.
        CheckpointError: If the file is missing or damaged, or its checksum does not match.
    """
    if isinstance(net, nn.Module):
        net = LoadedNet(name=type(net).__name__, module=net)
    return card_of(net if isinstance(net, LoadedNet) else load_net(net))
