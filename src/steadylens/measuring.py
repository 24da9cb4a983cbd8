"""An experiment from its settings to a file of records: read again if it was made before."""

from collections.abc import Callable, Iterable
from pathlib import Path

from steadylens.recordfiles import read_records, write_records
from steadylens.records import Measurement
from steadylens.run import Run, Update, device_name


def measure(
    run: Run, stage: str, path: Path, measuring: Callable[[], Iterable[Measurement]], *, key: str
) -> list[Measurement]:
    """Makes the records of one experiment, or reads them if they were made with the same `key` before.

    Args:
        run: Who is told.
        stage: The experiment's name.
        path: Where the records are kept; the key becomes part of the name.
        measuring: Makes the records.
        key: What they depend on.

    Raises:
        RecordError: If records that are there cannot be read.
        StorageError: If they cannot be written.
    """
    origin = run.key(key, run.recipe.name, run.data.source, device_name(run.device))
    keyed = path.with_name(f"{path.stem}-{origin}{path.suffix}")
    if keyed.exists():
        run.observe(Update(stage=stage, state="skipped", note="measured before"))
        return read_records(keyed)
    run.observe(Update(stage=stage, state="started"))
    records = list(measuring())
    write_records(keyed, records)
    run.observe(Update(stage=stage, state="finished"))
    return records
