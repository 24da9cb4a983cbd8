"""Writes the files of a report, beside what another command has measured of the same nets.

`compare` and `certify` may share a folder. A report then has the records of both, as far as they are of the
same nets; a file `networks.json` tells which those are.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from steadylens import workers
from steadylens.errors import RecordError, SettingError
from steadylens.files import replacing
from steadylens.records import (
    Attacked,
    Certificate,
    Corrupted,
    CorruptedComparison,
    Measurement,
    Picture,
    read_records,
    write_records,
)
from steadylens.report.page import write_report, write_tables
from steadylens.training.run import Run

EXTRAS: tuple[type[Measurement], ...] = (Certificate, Corrupted, CorruptedComparison, Attacked)
"""What is measured only if it is asked for."""

NETWORKS = "networks.json"
"""The file in a report's folder that tells the fingerprints of its networks."""

Fingerprints = Mapping[str, str]
"""The fingerprints of the networks that a report is about, by name."""


def check_out(
    run: Run,
    out: Path,
    *,
    networks: Fingerprints | None = None,
    measured: Sequence[type[Measurement]] | None = None,
) -> None:
    """Refuses a folder with another report that would be replaced; worker 0 looks.

    Args:
        run: Data, recipe and seed.
        out: Folder for the report.
        networks: What is measured, if the records of the same networks that are there are kept.
        measured: The types of records that are measured; None for all but `EXTRAS`.

    Raises:
        SettingError: If the records there have another recipe, seed or data; or they are of other networks,
            and some of them are of a type that is not measured now.
        RecordError: If the records cannot be read.
    """
    path = out / "records.jsonl"
    records, known = workers.by_first(lambda: (_read(path), _networks_in(out)))
    if not records:
        return
    before, now = records[0].provenance, run.provenance
    if (before.recipe, before.seed) != (now.recipe, now.seed) or not before.data.endswith(
        f"({run.data.fingerprint})"
    ):
        raise SettingError(
            f"{path} was made with other data, settings or seed (recipe {before.recipe}, seed {before.seed}, "
            f"data {before.data}; now recipe {now.recipe}, seed {now.seed}, data {now.data}); choose another "
            "place, or remove it. To join reports of several seeds, give their records to: steadylens report"
        )
    if networks is not None and are_the_same(networks, known):
        return
    found = {type(record) for record in records}
    if lost := found & {*EXTRAS} if measured is None else found - {*measured}:
        kinds = ", ".join(sorted(each.__name__ for each in lost))
        raise SettingError(
            f"{path} has records of what is not measured now ({kinds}), and nothing shows that they are of "
            "the same nets, so they would be lost; choose another place (--out), or remove it"
        )


def are_the_same(networks: Fingerprints, known: Fingerprints) -> bool:
    """Whether networks share a name with those of a report, and are the same under each such name."""
    common = networks.keys() & known.keys()
    return bool(common) and all(networks[name] == known[name] for name in common)


def publish(records: Sequence[Measurement], out: Path, *, networks: Fingerprints | None = None) -> Path:
    """Writes records.jsonl, pictures.jsonl, tables.md and report.html into `out`; returns the report's path.

    The sample images are in a file of their own, because the licence of the data may forbid sharing them.
    Of several workers, only worker 0 writes.

    Args:
        records: What was measured.
        out: Folder for the report.
        networks: What was measured, if the records of the same networks that are there are kept. Those of a
            type and networks that were measured now are replaced.
    """

    def written() -> Path:
        kept: list[Measurement] = []
        known: Fingerprints = _networks_in(out)
        if networks is not None and are_the_same(networks, known):
            kept = _not_measured_again(
                [*_read(out / "records.jsonl"), *_read(out / "pictures.jsonl")], records
            )
            known = {**known, **networks}
        else:
            known = networks or {}
        both = [*kept, *records]
        write_records(out / "records.jsonl", [each for each in both if not isinstance(each, Picture)])
        write_records(out / "pictures.jsonl", [each for each in both if isinstance(each, Picture)])
        if known:
            with replacing(out / NETWORKS) as temporary:
                temporary.write_text(json.dumps(dict(known), indent=1), encoding="utf-8")
        else:
            (out / NETWORKS).unlink(missing_ok=True)
        write_tables(both, out / "tables.md")
        write_report(both, out / "report.html")
        return out / "report.html"

    return workers.by_first(written)


def _read(path: Path) -> list[Measurement]:
    return read_records(path) if path.exists() else []


def _networks_in(out: Path) -> dict[str, str]:
    """Returns the networks of the report in a folder; none where it does not tell."""
    path = out / NETWORKS
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): str(value) for name, value in found.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise RecordError(f"{path} cannot be read ({error}); remove the report, or choose another") from error


def _not_measured_again(before: Iterable[Measurement], now: Iterable[Measurement]) -> list[Measurement]:
    measured = {_subject(record) for record in now}
    return [record for record in before if _subject(record) not in measured]


def _subject(record: Measurement) -> tuple[object, ...]:
    """Returns a record's type and the networks that it is about, whichever of two comes first."""
    names = (getattr(record, field, None) for field in ("network", "first", "second"))
    return type(record), frozenset(name for name in names if name is not None)
