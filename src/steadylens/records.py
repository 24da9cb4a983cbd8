"""Measurements as frozen rows, in files of one JSON object a line; tables and figures are made from these.

Units stand in the field names: `_db` decibels, `_grey` grey levels of 255, `_seconds`, `_milliseconds`.
Norms are Euclidean, over all the pixels and channels of one image in [0, 1].
"""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from steadylens.errors import RecordError
from steadylens.files import replacing


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where a row comes from.

    Attributes:
        recipe: Name of the recipe.
        seed: Seed that every generator of the run was derived from.
        data: The source of the images, as it was given, with its fingerprint.
        commit: Version-control commit of the code, or "unknown".
        versions: Pairs of library and version.
        device: What the numbers were computed on.
    """

    recipe: str
    seed: int
    data: str
    commit: str
    versions: tuple[tuple[str, str], ...]
    device: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """What every row has.

    Attributes:
        provenance: Where the row comes from.
        samples: Number of (noisy) images that the row counts over.
        seconds: What measuring took, shared by the rows that were measured together.
    """

    provenance: Provenance
    samples: int
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve(Measurement):
    """How one stage of training went: the mean loss since the point before, point by point."""

    stage: str
    steps: tuple[int, ...]
    losses: tuple[float, ...]
    learning_rates: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Density(Measurement):
    """Histogram of one family's noise (Fig. 1), at one strength, on mid-grey images.

    Attributes:
        family: Name of the noise family, with its settings where they matter.
        strength_grey: Standard deviation before sparsifying or the like, in grey levels.
        edges_grey: Edges of the bins, one more than `shares`.
        shares: Share of the noise values in each bin.
    """

    family: str
    strength_grey: float
    edges_grey: tuple[float, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Restoring(Measurement):
    """Mean PSNR of Gaussian noise of one strength before and after one net; 0 grey levels are clean images.

    Each mean is over the images whose PSNR is finite; it is infinite if all images equal the clean ones.

    Attributes:
        noise: How noisy images are stored: "clipped, 8-bit", "clipped", "unclipped, 8-bit"
            or "unclipped".
    """

    network: str
    sigma_grey: float
    noise: str
    noisy_db: float
    restored_db: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Hits(Measurement):
    """How often one net gave the best, or one of the two best, PSNRs (Table 2; Fig. 3, bottom right).

    Attributes:
        norm_edges: Edges of the bins of the noise's norm, one more than `top1_by_norm`.
        top1_by_norm: The net's top-1 hits in each bin.
    """

    network: str
    noise: str
    top1: int
    top2: int
    norm_edges: tuple[float, ...]
    top1_by_norm: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scatter(Measurement):
    """PSNR of the noisy against PSNR of the restored images (Fig. 3, top).

    Attributes:
        noisy_db: A sample of the points, for drawing.
        restored_db: The same points' restored side.
        mean_noisy_db: Mean over all samples.
        mean_restored_db: Mean over all samples.
        line: Least-squares line over all samples, highest power first.
        parabola: Least-squares second-order polynomial over all samples, highest power first.
    """

    network: str
    noise: str
    noisy_db: tuple[float, ...]
    restored_db: tuple[float, ...]
    mean_noisy_db: float
    mean_restored_db: float
    line: tuple[float, ...]
    parabola: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Contraction(Measurement):
    """Quotients ||F(x + nu) - F(x)|| / ||nu|| of one net (Fig. 3, bottom left).

    Attributes:
        noise_norms: A sample of ||nu||, for drawing.
        restored_norms: The same samples' ||F(x + nu) - F(x)||.
        quantiles: Pairs of probability and quotient, over all samples.
        largest: The largest quotient of all.
        norm_edges: Edges of bins of ||nu||, one more than `quantiles_by_norm`.
        quantiles_by_norm: Quotients in each bin at the probabilities of `quantiles`; none in an empty bin.
    """

    network: str
    noise: str
    noise_norms: tuple[float, ...]
    restored_norms: tuple[float, ...]
    quantiles: tuple[tuple[float, float], ...]
    largest: float
    norm_edges: tuple[float, ...]
    quantiles_by_norm: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy(Measurement):
    """Top-k accuracy of one network on clean test images, with its Wilson interval (Table 3)."""

    network: str
    k: int
    correct: int
    lower: float
    upper: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison(Measurement):
    """McNemar's exact test of two networks on the same clean test images.

    Attributes:
        only_first: Images that the first gets right and the second wrong.
        only_second: Images that the second gets right and the first wrong.
    """

    first: str
    second: str
    only_first: int
    only_second: int
    p_value: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Stability(Measurement):
    """Accuracy of one network under Gaussian noise of one strength, with its Wilson interval (Table 4).

    Attributes:
        population: "own" for noisy versions of the images that the network classifies correctly when they
            are clean, as in the paper; "all" for those of every image.
        images: Number of clean images behind the samples.
    """

    network: str
    sigma_grey: float
    noise: str
    population: Literal["own", "all"]
    images: int
    correct: int
    lower: float
    upper: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost(Measurement):
    """What one network costs, for images of `size` x `size` pixels.

    Attributes:
        multiplications: Multiply-adds of the convolutions and linear layers, for one image.
        milliseconds: Time for one image, within batches of `samples` images.
        training_seconds: Time that training it took, all its stages together.
    """

    network: str
    size: int
    parameters: int
    multiplications: int
    milliseconds: float
    training_seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture(Measurement):
    """One row of images in a figure that people look at (Fig. 2 and 4, and two that the paper lacks).

    Attributes:
        figure: The paper's number of the figure; or "saved" and "lost" for answers on noisy images that a
            restorer put right, or wrong.
        title: What the row shows, the class or the answers.
        panels: Pairs of caption and image, a PNG in base64.
    """

    figure: Literal[2, 4, "saved", "lost"]
    title: str
    panels: tuple[tuple[str, str], ...]


KINDS: dict[str, type[Measurement]] = {
    kind.__name__: kind
    for kind in (
        Curve, Density, Restoring, Hits, Scatter, Contraction, Accuracy, Comparison, Stability, Cost, Picture
    )
}  # fmt: skip
"""The kinds of row, by the name that stands in the file."""


def write_records(path: Path, records: Iterable[Measurement]) -> None:
    """Writes rows as JSON lines; the file appears whole or not at all.

    Raises:
        StorageError: If the file cannot be written.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(encode(record), allow_nan=False) + "\n")


def read_records(path: Path) -> list[Measurement]:
    """Reads the rows that `write_records` wrote.

    Raises:
        RecordError: If the file is missing, or a line of it is no row of a known kind.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}; name a file of records") from error
    except UnicodeDecodeError as error:
        raise RecordError(f"{path} is no file of records, which are lines of JSON; name another") from error
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(decode(json.loads(line)))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RecordError(
                f"{path}, line {number} is no record of this version: {error}; measure again"
            ) from error
    return records


def encode(record: Measurement) -> dict[str, Any]:
    """Returns a row as plain data, as it stands in a file."""
    return {"kind": type(record).__name__, **_plain(asdict(record))}


def decode(row: dict[str, Any]) -> Measurement:
    """Returns the row that `encode` gave.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: If it is no row of a known kind.
    """
    kind = KINDS[row["kind"]]
    values = {name: _frozen(value) for name, value in row.items() if name not in {"kind", "provenance"}}
    provenance = Provenance(**{name: _frozen(value) for name, value in row["provenance"].items()})
    missing = {field.name for field in fields(kind)} - values.keys() - {"provenance"}
    if missing:
        raise KeyError(f"missing {', '.join(sorted(missing))}")
    if not (isinstance(values["samples"], int) and values["samples"] > 0):
        raise ValueError(f"samples is {values['samples']!r}, it must be at least 1")
    return kind(provenance=provenance, **values)


def _plain(value: Any) -> Any:
    """Returns the value with floats that JSON lacks, infinite decibels say, as {"float": "inf"}."""
    match value:
        case dict():
            return {name: _plain(item) for name, item in value.items()}
        case tuple() | list():
            return [_plain(item) for item in value]
        case float() if not math.isfinite(value):
            return {"float": str(value)}
    return value


def _frozen(value: Any) -> Any:
    match value:
        case list():
            return tuple(_frozen(item) for item in value)
        case {"float": str(text)}:
            return float(text)
    return value
