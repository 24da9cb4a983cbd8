"""Measures how long `steadylens --help` takes in a new process; the fastest run counts."""

import argparse
import platform
import subprocess
import sys
import time
from pathlib import Path

from writing import publish

COMMAND = (sys.executable, "-c", "from steadylens.cli.main import main; main()", "--help")


def seconds() -> float:
    """Returns the seconds of one run."""
    begin = time.perf_counter()
    subprocess.run(COMMAND, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
    return time.perf_counter() - begin


def main() -> None:
    """Prints the measurement, and writes it to a file on request."""
    parser = argparse.ArgumentParser(description="Measure how long steadylens --help takes.")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--runs", type=int, default=20, help="how often to run it")
    arguments = parser.parse_args()
    taken = [seconds() for _ in range(arguments.runs)]
    result = {"python": platform.python_version(), "runs": arguments.runs, "best_seconds": min(taken)}
    publish(result, arguments.out)


if __name__ == "__main__":
    main()
