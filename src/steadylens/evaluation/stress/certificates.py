"""Certifies networks on many test images, in pieces: an interrupted run goes on where it stopped."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import ceil
from pathlib import Path
from statistics import fmean

from torch import nn

from steadylens import workers
from steadylens.checkpoints.checkpoint import fingerprint, has_fingerprint
from steadylens.errors import RecordError
from steadylens.evaluation.experiments import keyed_path, measure, random_test_indices
from steadylens.evaluation.stress.certification import Certifying, answers_to_versions, certify_image
from steadylens.evaluation.stress.integer_noise import integer_noise
from steadylens.files import replacing
from steadylens.progress import Update
from steadylens.randomness import derived_generator
from steadylens.records import Certificate, Measurement
from steadylens.report.tables import duration
from steadylens.training.run import Run, device_name

Row = tuple[int, int, int, int, float]
"""Index, label, answer, count and radius of one image; see `records.Certificate`."""

_IMAGES_AT_ONCE = 4
"""Images that a worker certifies before the workers exchange what they found, and it may be saved."""

_TIMED_SECONDS, _MOST_TIMED = 0.5, 20
"""Batches are timed for so long, or so many, to tell how long all will take."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """What is certified of one network with one strength of noise, as far as it is done.

    Attributes:
        network: Its name.
        sigma: Standard deviation of the noise.
        key: Hash of all that the rows depend on.
        unfinished: File of the rows while the part is not done.
        rows: The rows that an interrupted run has left.
        seconds: The time that they took.
        measured: Whether all is done, and its record is written.
        resumable: Whether the network is known again by another run, so that unfinished rows are of use.
    """

    network: str
    sigma: float
    key: str
    unfinished: Path
    rows: tuple[Row, ...]
    seconds: float
    measured: bool
    resumable: bool

    @property
    def stage(self) -> str:
        """Its name in progress messages."""
        return f"certificates at sigma {self.sigma:g} of: {self.network}"


def measure_certificates(
    run: Run, networks: Mapping[str, nn.Module], folder: Path, settings: Certifying
) -> list[Measurement]:
    """Certifies networks on a random sample of the test images; says first how long it will take.

    All networks get the same noisy images. The rows of the images that are done are saved every
    `run.checkpoint_seconds`, and an interrupted run goes on with them. Several workers share the images. Of a
    network that has no fingerprint, nothing is found again; the observer is told so.

    Args:
        run: Data, recipe and seed.
        networks: The classifiers by name on the run's device.
        folder: Folder for the records.
        settings: Strengths of noise, numbers of images and noisy versions, and alpha.

    Raises:
        RecordError: If records, or rows of an interrupted run, cannot be read.
        StorageError: If they cannot be written.
    """
    path = folder / "certificates.jsonl"
    indices = random_test_indices(run, settings.images).tolist()
    parts = [
        _part(run, name, networks[name], path, sigma=sigma, settings=settings)
        for sigma, name in product(settings.sigmas, networks)
    ]
    for name, network in networks.items():
        if not has_fingerprint(network):
            note = (
                f"{name} has a class that no other run knows again: it is certified anew each time, also "
                "after an interruption. Register the class with steadylens.nets.register_net to change that"
            )
            run.observe(Update(stage="certificates", state="noted", note=note))
    if not all(part.measured for part in parts):
        _tell_time(run, networks, parts, len(indices), settings)
    records: list[Measurement] = []
    for part in parts:
        resumed = Update(
            stage=part.stage, state="resumed", done=len(part.rows), total=len(indices), note="image"
        )
        records += measure(
            run,
            part.stage,
            path,
            partial(_certified, run, part, networks[part.network], indices, settings),
            key=part.key,
            resumed=resumed if part.rows else None,
        )
        workers.by_first(partial(part.unfinished.unlink, missing_ok=True))
    return records


def _part(
    run: Run, name: str, network: nn.Module, path: Path, *, sigma: float, settings: Certifying
) -> _Part:
    batch = settings.batch_for(run.data.test.images[:1][0])
    counts = settings.first_versions, settings.versions, settings.alpha, settings.images, batch
    key = run.key("certificates", name, sigma, counts, settings.precision, fingerprint(network))
    # Rows of other versions of the libraries may be those of another function, and have another origin.
    origin = run.key(key, device_name(run.device), run.provenance.versions)
    unfinished = path.with_name(f"certificates-{origin}.unfinished.json")
    rows, seconds = workers.by_first(lambda: _read(unfinished))
    measured = workers.by_first(lambda: keyed_path(run, path, key).exists())
    return _Part(
        network=name, sigma=sigma, key=key, unfinished=unfinished, rows=rows, seconds=seconds,
        measured=measured, resumable=has_fingerprint(network),
    )  # fmt: skip


def _certified(
    run: Run, part: _Part, network: nn.Module, indices: list[int], settings: Certifying
) -> Iterator[Certificate]:
    """Certifies the images that are left of a part, and saves rows from time to time."""
    test = run.data.test

    def row_of(index: int) -> Row:
        image = test.images[index : index + 1][0]
        path = "certificates", repr(float(part.sigma)), index
        found = certify_image(
            network, image, sigma=part.sigma, settings=settings,
            generator=derived_generator(run.seed, *path, device=image.device),
        )  # fmt: skip
        return index, int(test.labels[index]), found.answer, found.count, found.radius

    rows = [*part.rows]
    started = saved = time.perf_counter()
    left = indices[len(rows) :]
    at_once = _IMAGES_AT_ONCE * workers.count()
    for first in range(0, len(left), at_once):
        for row in workers.divided(left[first : first + at_once], row_of, at_once=_IMAGES_AT_ONCE):
            rows.append(row)
            run.observe(Update(stage=part.stage, state="advanced", done=len(rows), total=len(indices)))
        if part.resumable and len(rows) < len(indices):
            seconds = part.seconds + time.perf_counter() - started
            saved = workers.by_first(
                partial(_saved, part.unfinished, rows, seconds, saved, run.checkpoint_seconds)
            )
    seconds = part.seconds + time.perf_counter() - started
    yield Certificate(
        provenance=run.provenance, samples=len(rows), seconds=seconds, network=part.network,
        sigma=part.sigma, first_versions=settings.first_versions, versions=settings.versions,
        alpha=settings.alpha, images=tuple(rows), precision=settings.precision,
    )  # fmt: skip


def _saved(path: Path, rows: list[Row], seconds: float, before: float, between: float) -> float:
    """Saves rows if the last time is long ago; returns when that was, by the clock of worker 0."""
    now = time.perf_counter()
    if now - before < between:
        return before
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({"seconds": seconds, "rows": rows}), encoding="utf-8")
    return now


def _read(path: Path) -> tuple[tuple[Row, ...], float]:
    """Returns the rows that an interrupted run has saved, and the time that they took."""
    if not path.exists():
        return (), 0.0
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        rows = tuple(
            (int(index), int(label), int(answer), int(count), float(radius))
            for index, label, answer, count, radius in saved["rows"]
        )
        return rows, float(saved["seconds"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RecordError(
            f"{path} cannot be read as unfinished certificates ({error}); remove it to begin again"
        ) from error


def _tell_time(
    run: Run, networks: Mapping[str, nn.Module], parts: list[_Part], images: int, settings: Certifying
) -> None:
    """Tells the observer how long all that is left will take, from the time of one batch of each network."""
    left = dict.fromkeys(networks, 0)
    for part in parts:
        left[part.network] += 0 if part.measured else images - len(part.rows)
    waiting = {name: count for name, count in left.items() if count}

    def expected() -> float:
        each = {name: _seconds_of_image(run, networks[name], settings) for name in waiting}
        return sum(each[name] * count for name, count in waiting.items()) / workers.count()

    seconds = workers.by_first(expected)
    versions = settings.first_versions + settings.versions
    counted = f"{sum(waiting.values()):,} times an image of a network, with {versions:,} noisy versions each"
    run.observe(
        Update(stage="certificates", state="noted", note=f"about {duration(seconds)} in all: {counted}")
    )


def _seconds_of_image(run: Run, network: nn.Module, settings: Certifying) -> float:
    """Returns the time that one image takes, from that of some batches after a first one, which is slower."""
    image = run.data.test.images[:1][0]
    batch, noise = settings.batch_for(image), integer_noise(settings.sigmas[0]).to(image.device)
    generator = derived_generator(run.seed, "time of certificates", device=image.device)
    spent: list[float] = []
    while len(spent) < 2 or (len(spent) < _MOST_TIMED and sum(spent[1:]) < _TIMED_SECONDS):
        started = time.perf_counter()
        answers_to_versions(network, image, noise, settings, total=batch, generator=generator)
        spent.append(time.perf_counter() - started)
    batches = ceil((settings.first_versions + settings.versions) / batch)
    return fmean(spent[1:]) * batches
