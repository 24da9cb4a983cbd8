"""Writes what was measured of a net on photographs as records, which its card tells and tables are made of.

Usage: python docs/photograph_records.py NAME NET IMAGES RECORDS
NAME is the packaged name of the net, NET its file, IMAGES what benchmarks/photographs.py keeps of each image,
RECORDS the file of records to write; those of other nets stay in it, and so does the order of the nets.
"""

import hashlib
import json
import math
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from steadylens.checkpoints.loading import load_net
from steadylens.nets.facts import RESTORING
from steadylens.records import Provenance, Restoring, read_records, write_records
from steadylens.training.run import versions

NOISES = {"float noise": "unclipped", "stored noise": "clipped, 8-bit"}
"""The noise modes by the benchmark's names; real noise is of no single strength."""

UNCHANGED = "noisy"
"""What the benchmark calls images that nothing restores."""


def main(name: str, net: str, images: Path, records: Path) -> None:
    """Writes the records of one net."""
    rows = [json.loads(line) for line in images.read_text(encoding="utf-8").splitlines()]
    known = read_records(records) if records.exists() else []
    own = [isinstance(row, Restoring) and row.network == name for row in known]
    place = own.index(True) if any(own) else len(known)
    others = [row for row, its in zip(known, own, strict=True) if not its]
    write_records(records, [*others[:place], *records_of(name, net, rows), *others[place:]])


def records_of(name: str, net: str, rows: list[dict[str, Any]]) -> Iterator[Restoring]:
    """Yields a record for each kind and strength of noise that was measured of a net."""
    info = load_net(net, task=RESTORING).info
    noisy = {(row["noise"], row["sigma_grey"]): row for row in rows if row["method"] == UNCHANGED}
    for row in rows:
        case = row["noise"], row["sigma_grey"]
        # Clean images that are not rounded differ from rounded ones by nothing that a card need tell.
        if (
            row["method"] not in (name, Path(net).stem)
            or row["noise"] not in NOISES
            or case == ("float noise", 0)
        ):
            continue
        content = hashlib.sha256("\n".join(row["images"]).encode()).hexdigest()[:12]
        yield Restoring(
            provenance=Provenance(
                recipe=info.recipe,
                seed=info.seed or 0,
                data=f"CBSD68 ({content})",
                commit=info.commit,
                versions=versions(),
                device="CPU",
            ),
            samples=len(row["images"]),
            seconds=row["seconds"],
            network=name,
            sigma_grey=float(row["sigma_grey"]),
            noise=NOISES[row["noise"]],
            noisy_db=mean_db(noisy[case]) if row["sigma_grey"] else math.inf,
            restored_db=mean_db(row),
        )


def mean_db(row: dict[str, Any]) -> float:
    """Returns the mean PSNR of the images that differ; infinite if none does."""
    finite = [value for value in row["psnr_db"] if value is not None]
    return statistics.fmean(finite) if finite else math.inf


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(Path, sys.argv[3:]))
