"""Starts real worker processes that find one another as under `torchrun`, on this machine."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def environment(rank: int, count: int, port: int) -> dict[str, str]:
    """Returns the environment that torchrun gives a worker, on one machine."""
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
    return {
        **os.environ,
        **{name: str(value) for name, value in own.items()},
        "MASTER_ADDR": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
    }


def start_workers(count: int, command: Sequence[str | Path]) -> list[subprocess.Popen[str]]:
    """Starts `python COMMAND` in as many processes; each one's output and errors are piped together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        subprocess.Popen(
            [sys.executable, *command],
            env=environment(rank, count, port),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(count)
    ]


def ended(workers: Sequence[subprocess.Popen[str]], *, seconds: float = 300) -> list[tuple[int, str]]:
    """Waits for all workers to end; returns exit code and output of each. Kills them if it takes too long."""
    try:
        outputs = [worker.communicate(timeout=seconds)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    return [(worker.returncode, output) for worker, output in zip(workers, outputs, strict=True)]


def run_workers(count: int, command: Sequence[str | Path]) -> list[str]:
    """Runs `python COMMAND` in as many processes, which must end well; returns what each one printed."""
    results = ended(start_workers(count, command))
    for code, output in results:
        assert code == 0, output
    return [output for _, output in results]
