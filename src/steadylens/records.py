"""Records of measurements, in files with one JSON object per line; tables and figures are made from them.

Field names end in their units: `_db` decibels, `_grey` grey levels of 255, `_seconds`, `_milliseconds`.
Norms are Euclidean, over all the pixels and channels of one image in [0, 1].
"""

import json
import math
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from steadylens.errors import RecordError
from steadylens.files import replacing


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where a record comes from.

    Attributes:
        recipe: Name of the recipe.
        seed: The seed of the run, from which every generator is derived.
        data: The source of the images, as given by the user, with its fingerprint.
        commit: Version-control commit of the code, or "unknown".
        versions: Pairs of library and version.
        device: The device that computed the numbers.
    """

    recipe: str
    seed: int
    data: str
    commit: str
    versions: tuple[tuple[str, str], ...]
    device: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """The fields of every record.

    Attributes:
        provenance: Where the record comes from.
        samples: Number of (noisy) images that the record counts over.
        seconds: Time of measuring, the same in all records that were measured together.
    """

    provenance: Provenance
    samples: int
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve(Measurement):
    """The training curve of one stage; a loss is the mean since the point before."""

    stage: str
    steps: tuple[int, ...]
    losses: tuple[float, ...]
    learning_rates: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Density(Measurement):
    """Histogram of one family's noise (Fig. 1), at one strength, on mid-grey images.

    Attributes:
        family: Name of the noise family, with its settings where they matter.
        strength_grey: Standard deviation before masking, in grey levels.
        edges_grey: Edges of the bins, one more than `shares`.
        shares: Share of the noise values in each bin.
    """

    family: str
    strength_grey: float
    edges_grey: tuple[float, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Restoring(Measurement):
    """Mean PSNR under Gaussian noise of one strength, before and after one net; 0 means clean images.

    The means are over images with finite PSNR; they are infinite if all images equal the clean ones.

    Attributes:
        noise: The noise mode: "clipped, 8-bit", "clipped", "unclipped, 8-bit" or "unclipped".
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
    """PSNR of the restored images against PSNR of the noisy images (Fig. 3, top).

    Attributes:
        noisy_db: PSNR of a sample of the noisy images, for drawing.
        restored_db: PSNR of the same images after restoration.
        mean_noisy_db: Mean over all samples.
        mean_restored_db: Mean over all samples.
        line: Coefficients of the least-squares line over all samples, highest power first.
        parabola: Coefficients of the least-squares parabola over all samples, highest power first.
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
        noise_norms: ||nu|| of a sample of the images, for drawing.
        restored_norms: ||F(x + nu) - F(x)|| of the same images.
        quantiles: Pairs of probability and quotient, over all samples.
        largest: The largest quotient of all.
        norm_edges: Edges of bins of ||nu||, one more than `quantiles_by_norm`.
        quantiles_by_norm: For each bin, quotients at the probabilities of `quantiles`; none in an empty bin.
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
class Confusion(Measurement):
    """Which answers one network gives to the clean test images of each class.

    Attributes:
        class_names: Names of the classes; labels and answers are indices into them.
        cells: Triples of label, answer and number of images, none of which is 0. The answer is -1 where no
            logit is the largest: several are equal, or one is NaN.
    """

    network: str
    class_names: tuple[str, ...]
    cells: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison(Measurement):
    """McNemar's exact test of two networks on the same clean test images.

    Attributes:
        only_first: Number of images that the first gets right and the second wrong.
        only_second: Number of images that the second gets right and the first wrong.
    """

    first: str
    second: str
    only_first: int
    only_second: int
    p_value: float


@dataclass(frozen=True, kw_only=True, slots=True)
class NoisyComparison(Measurement):
    """The difference of the accuracies of two networks on the same noisy images, with its 95 % interval.

    Attributes:
        noise: As in `Stability`.
        sigma_grey: Strength of the noise in grey levels, or None for the mean over all strengths.
        images: Number of clean images behind the samples; the interval is over them.
        difference: Accuracy of the first less accuracy of the second, as a share.
    """

    first: str
    second: str
    sigma_grey: float | None
    noise: str
    images: int
    difference: float
    lower: float
    upper: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Stability(Measurement):
    """Accuracy of one network under noise of one strength, with its Wilson interval (Table 4).

    Attributes:
        sigma_grey: Standard deviation of the noise on mid-grey images.
        noise: The noise mode, such as "clipped, 8-bit", for Gaussian noise; for other noise its name before,
            such as "poisson, clipped, 8-bit".
        population: "own" for noisy versions of the images that the network classifies correctly when
            clean, as in the paper; "all" for noisy versions of all images.
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
class Certificate(Measurement):
    """Within which distance one smoothed network provably keeps its answers (randomized smoothing).

    `samples` counts the images.

    Attributes:
        sigma: Standard deviation of the smoothing noise, for images in [0, 1].
        first_versions: Noisy versions of each image that choose the answer, n0.
        versions: Noisy versions of each image that bound its probability, n.
        alpha: Probability, for each image, that its certificate is wrong.
        images: Rows of (index, label, answer, count, radius), one for each image: its place in the test set;
            its class; the answer of the smoothed network, or -1 where it abstains; how many versions of the
            second sample got this answer; and the Euclidean radius, for images in [0, 1], within which the
            answer provably stays, 0 where it abstains.
        precision: The number format of the network's products: in another one, it is another network.
    """

    network: str
    sigma: float
    first_versions: int
    versions: int
    alpha: float
    images: tuple[tuple[int, int, int, int, float], ...]
    precision: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True, kw_only=True, slots=True)
class Corrupted(Measurement):
    """Accuracy of one network on images with one kind of damage, with its Wilson interval.

    `samples` counts the images.

    Attributes:
        corruption: Name of the damage, such as "motion_blur"; "none" for clean images.
        severity: From 1 to 5; 0 for clean images.
        kept: Number of images whose answer is the same as the network's answer to the clean image.
    """

    network: str
    corruption: str
    severity: int
    correct: int
    lower: float
    upper: float
    kept: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CorruptedComparison(Measurement):
    """How two networks differ on the same images with one kind of damage.

    `samples` counts the images.

    Attributes:
        corruption: Name of the damage, such as "motion_blur".
        severities: Number of severities that each image was damaged with.
        differences: For each image, at how many severities the first is right, less that of the second.
    """

    first: str
    second: str
    corruption: str
    severities: int
    differences: tuple[int, ...]


Norm = Literal["l2", "linf"]
"""The norms that bound what an adversary may change: the Euclidean norm, or the largest change of a value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attacked(Measurement):
    """Accuracy of one network on images that an adversary changed, with its Wilson interval.

    `samples` counts the images.

    Attributes:
        attack: Name of the attack, such as "PGD".
        norm: The norm that bounds the change of an image.
        epsilon: The bound, for images in [0, 1]; 0 for clean images.
        steps: Steps of the attack.
        restarts: Random starts, of which the best counts, as the start at the image does; 0 if it starts at
            the image alone.
        knows_restorer: Whether the attack goes end to end through the restorer. Then images made against the
            classifier alone count, too. If not, it has only these.
        only_transferred: How many answers of an attack end to end are wrong only on images made against the
            classifier alone; None where that was not counted.
    """

    network: str
    attack: str
    norm: Norm
    epsilon: float
    steps: int
    restarts: int
    knows_restorer: bool
    correct: int
    lower: float
    upper: float
    only_transferred: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost(Measurement):
    """The cost of one network, for images of `size` x `size` pixels.

    Attributes:
        multiplications: Multiply-adds of the convolutions and linear layers, for one image.
        milliseconds: Time per image in batches of `samples` images.
        training_seconds: Time of all its training stages.
    """

    network: str
    size: int
    parameters: int
    multiplications: int
    milliseconds: float
    training_seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture(Measurement):
    """One row of sample images (Fig. 2 and 4, and two figures that the paper lacks).

    Attributes:
        figure: The paper's number of the figure; "saved" for noisy images that a classifier gets right only
            behind the restorer, "lost" for those that it gets right only without the restorer.
        title: What the row shows, for example the class.
        panels: Pairs of caption and image, a PNG in base64.
    """

    figure: Literal[2, 4, "saved", "lost"]
    title: str
    panels: tuple[tuple[str, str], ...]


RECORD_TYPES: dict[str, type[Measurement]] = {
    record_type.__name__: record_type
    for record_type in (
        Curve, Density, Restoring, Hits, Scatter, Contraction, Accuracy, Confusion, Comparison,
        NoisyComparison, Stability, Certificate, Corrupted, CorruptedComparison, Attacked, Cost, Picture,
    )
}  # fmt: skip
"""The types of records, by their name in files."""


def write_records(path: Path, records: Iterable[Measurement]) -> None:
    """Writes records as JSON lines; the file appears whole or not at all.

    Raises:
        StorageError: If the file cannot be written.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(encode(record), allow_nan=False) + "\n")


def read_records(path: Path) -> list[Measurement]:
    """Reads the records that `write_records` wrote.

    Raises:
        RecordError: If the file is missing, or a line of it is no record of a known type.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}; give a file of records") from error
    except UnicodeDecodeError as error:
        raise RecordError(f"{path} is no file of records, which are lines of JSON; give another") from error
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
    """Returns a record as plain data, as files contain it."""
    return {"kind": type(record).__name__, **_plain(asdict(record))}


def decode(data: dict[str, Any]) -> Measurement:
    """Returns the record that `encode` turned into plain data.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: If it is no record of a known type.
    """
    record_type = RECORD_TYPES[data["kind"]]
    values = {name: _frozen(value) for name, value in data.items() if name not in {"kind", "provenance"}}
    provenance = Provenance(**{name: _frozen(value) for name, value in data["provenance"].items()})
    needed = {field.name for field in fields(record_type) if field.default is MISSING}
    missing = needed - values.keys() - {"provenance"}  # what came later has a default
    if missing:
        raise KeyError(f"missing {', '.join(sorted(missing))}")
    if not (isinstance(values["samples"], int) and values["samples"] > 0):
        raise ValueError(f"samples is {values['samples']!r}, it must be at least 1")
    return record_type(provenance=provenance, **values)


def _plain(value: Any) -> Any:
    """Returns plain data; floats that JSON lacks, for example infinity, become {"float": "inf"}."""
    match value:
        case dict():
            return {name: _plain(item) for name, item in value.items()}
        case tuple() | list():
            return [_plain(item) for item in value]
        case float() if not math.isfinite(value):
            return {"float": str(value)}
    return value


def _frozen(value: Any) -> Any:
    """Returns the value that `_plain` turned into plain data, with tuples instead of lists."""
    match value:
        case list():
            return tuple(_frozen(item) for item in value)
        case {"float": str(text)}:
            return float(text)
    return value
