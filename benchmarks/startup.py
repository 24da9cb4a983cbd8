"""How long `steadylens --help` takes, from a fresh process: the fastest of some runs."""

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

from steadylens.files import replacing

COMMAND = (sys.executable, "-c", "from steadylens.cli import main; main()", "--help")


def seconds() -> float:
    """Returns how long one run takes."""
    begin = time.perf_counter()
    subprocess.run(COMMAND, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
    return time.perf_counter() - begin


def main() -> None:
    """Measures and prints; writes too where it is told."""
    parser = argparse.ArgumentParser(description="Measure how long steadylens --help takes.")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--runs", type=int, default=20, help="how often to run it")
    arguments = parser.parse_args()
    taken = [seconds() for _ in range(arguments.runs)]
    result = {"python": platform.python_version(), "runs": arguments.runs, "best_seconds": min(taken)}
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out is not None:
        with replacing(arguments.out) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
