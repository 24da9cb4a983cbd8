"""Publishes the result of a benchmark, and tells of its stages."""

import json
from collections.abc import Mapping
from pathlib import Path

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
