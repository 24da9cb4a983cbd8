"""Imports a benchmark, which is a script and no part of the package."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from steadylens.nets.architecture import KINDS

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@contextmanager
def benchmark(name: str) -> Iterator[ModuleType]:
    """Imports the benchmark of this name; it, what it imports and their nets are forgotten at the end."""
    before, kinds = {*sys.modules}, {*KINDS}
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module(name)
    finally:
        sys.path.remove(str(FOLDER))
        for imported in {path.stem for path in FOLDER.glob("*.py")} & ({*sys.modules} - before):
            del sys.modules[imported]
        for kind in {*KINDS} - kinds:
            del KINDS[kind]
