"""Publishes the result of a benchmark, tells of its stages, and writes means."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from steadylens.files import replacing
from steadylens.progress import Update


def publish(result: Mapping[str, object], out: Path | None) -> None:
    """Prints a result as JSON, and writes it to a file if one is given."""
    text = json.dumps(result, indent=2)
    print(text)
    if out is not None:
        with replacing(out) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


def tell(update: Update) -> None:
    """Prints what became of a stage, but not how far it is."""
    if update.state != "advanced":
        print(update.stage, update.state, update.note, flush=True)


def mean_and_deviation(values: Sequence[float], sign: str = "") -> str:
    """Returns the mean of values and, of two or more, their standard deviation, to two digits.

    Args:
        values: At least one.
        sign: "+" to write a plus before a positive mean.
    """
    deviation = f" \N{PLUS-MINUS SIGN} {stdev(values):.2f}" if len(values) > 1 else ""
    return f"{fmean(values):{sign}.2f}{deviation}"
