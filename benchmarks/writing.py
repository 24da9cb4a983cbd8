"""Publishes the result of a benchmark."""

import json
from collections.abc import Mapping
from pathlib import Path

from steadylens.files import replacing


def publish(result: Mapping[str, object], out: Path | None) -> None:
    """Prints a result as JSON, and writes it to a file if one is given."""
    text = json.dumps(result, indent=2)
    print(text)
    if out is not None:
        with replacing(out) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
