"""Draws Fig. 3 of docs/results.md: what each packaged restorer of signs makes of each noisy image.

Usage: python docs/restorers_picture.py results/gtsrb-restorers.jsonl docs/images/restorers.png
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from steadylens.files import replacing
from steadylens.records import Contraction, Hits, Measurement, Scatter, read_records
from steadylens.report.figures import exploration
from steadylens.report.tables import select


def drawn(records: Sequence[Measurement]) -> Figure:
    """Returns the picture of the nets that were compared in Table 2."""
    hits = select(records, Hits)
    compared = {record.network for record in hits}
    scatters = [record for record in select(records, Scatter) if record.network in compared]
    contractions = [record for record in select(records, Contraction) if record.network in compared]
    return exploration(scatters, contractions, hits)


def main(kept: Path, out: Path) -> None:
    """Writes the picture."""
    figure = drawn(read_records(kept))
    with replacing(out) as temporary:
        figure.savefig(temporary, format="png", dpi=120, facecolor="white")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
