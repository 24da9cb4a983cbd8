"""Records in files, one JSON object a line."""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from steadylens.errors import RecordError
from steadylens.files import replacing
from steadylens.records import KINDS, Measurement, Provenance


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
