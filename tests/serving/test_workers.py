"""Several workers behind one port are one service: they count together, and none that dies is missed.

The workers are processes, and the clients are real. Pausing a worker shows that the other one answers.
"""

import http.client
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from steadylens.errors import MissingExtraError, SettingError
from steadylens.serving.server import METRICS_FOLDER
from steadylens.serving.workers import HUNG_SECONDS, serve_by_workers
from tests.serving.dying import killed
from tests.serving.servers import HEAD, QUEUE, Server, plain, serving

ANSWERED = 'steadylens_requests_total{status="200"}'


def wait(until: Callable[[], bool], what: str, *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def workers(server: Server) -> set[int]:
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return {int(child) for child in children if b"spawn_main" in command_line(int(child))}


def command_line(pid: int) -> bytes:
    """Returns the command of a process, or nothing if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def metrics_folder(worker: int) -> Path:
    variables = Path(f"/proc/{worker}/environ").read_bytes().split(b"\0")
    (found,) = (each for each in variables if each.startswith(METRICS_FOLDER.encode()))
    return Path(found.partition(b"=")[2].decode())


@contextmanager
def paused(worker: int) -> Iterator[None]:
    os.kill(worker, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(worker, signal.SIGCONT)


@contextmanager
def half_sent(server: Server) -> Iterator[socket.socket]:
    """Sends an image but for its last byte."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
        client.sendall(HEAD % len(plain(9)) + plain(9)[:-1])
        yield client


def reply(client: socket.socket) -> tuple[int, str | None]:
    """Returns the status, and whether the connection is closed."""
    with http.client.HTTPResponse(client) as answer:
        answer.begin()
        answer.read()
        return answer.status, answer.headers["connection"]


def test_workers_count_together_and_one_that_is_killed_is_replaced(tmp_path: Path) -> None:
    with serving(tmp_path, "sign-gtsrb", "--workers", "2") as server:
        first, second = workers(server)
        folder = metrics_folder(first)
        try:
            for other, count in ((first, 3), (second, 4)):
                with paused(other):
                    assert {server.post(plain(9)).status_code for _ in range(count)} == {200}
            for other in (first, second):
                with paused(other):
                    assert server.figure(ANSWERED) == 7
                    assert server.figure("steadylens_request_seconds_count") == 7
                    assert server.figure("steadylens_batch_images_sum") == 7
            with paused(second), half_sent(server):
                server.wait_for(QUEUE, 1)
                os.kill(first, signal.SIGKILL)
            assert server.post(plain(9)).status_code == 200, "the service goes on"
            wait(lambda: len(workers(server) - {first}) == 2, "no worker replaces the one that was killed")
            (new,) = workers(server) - {first, second}
            wait((folder / f"gauge_livesum_{new}.db").exists, "the new worker does not load its net")
            with paused(second):
                assert server.post(plain(9)).status_code == 200, "the new worker answers"
            assert server.figure(ANSWERED) == 9
            assert server.figure(QUEUE) == 0, "the request of the worker that was killed still counts"
            left = workers(server)
            server.process.kill()
            wait(lambda: not server.accepts(), "the workers outlive the process that started them")
            wait(lambda: not any(map(command_line, left)), "a worker does not end")
        finally:
            shutil.rmtree(folder)


def test_workers_that_are_told_to_stop_answer_what_they_can_and_tell_what_they_cannot(tmp_path: Path) -> None:
    arguments = ("l3-gtsrb", "--workers", "2", "--stop-seconds", "4", "--upload-seconds", "60")
    with serving(tmp_path, *arguments) as server:
        first, _ = workers(server)
        folder = metrics_folder(first)
        with half_sent(server) as idle, ExitStack() as stack:
            server.wait_for(QUEUE, 1)
            with paused(first):
                client = stack.enter_context(half_sent(server))
                server.wait_for(QUEUE, 2)
            server.process.terminate()
            wait(lambda: not server.accepts(), "the port stays open")
            client.sendall(plain(9)[-1:])
            assert reply(client) == (200, "close")
            assert reply(idle) == (503, "close")
        code, out, err = server.ended()
    assert code == 1
    assert out == "stopped; 1 requests were not answered within 4 s\n"
    assert "Traceback" not in err
    assert not folder.exists()


def test_neither_a_death_nor_a_signal_waits_for_a_worker_that_does_not_react(tmp_path: Path) -> None:
    soon = HUNG_SECONDS / 2
    with serving(tmp_path, "l3-gtsrb", "--workers", "2") as server:
        hung, dying = workers(server)
        with paused(hung):
            for _ in range(2):  # the second one dies while it loads
                before = workers(server)
                os.kill(dying, signal.SIGKILL)
                wait(lambda: bool(workers(server) - before), "no worker replaces a dead one", seconds=soon)  # noqa: B023
                (dying,) = workers(server) - before
            assert server.post(plain(9)).status_code == 200, "the new worker answers"
            assert server.figure("steadylens_workers") == 2
            server.process.send_signal(signal.SIGHUP)
            wait(lambda: len(workers(server)) == 3, "SIGHUP starts no new worker", seconds=soon)
            server.process.terminate()
            wait(lambda: workers(server) == {hung}, "the others do not stop", seconds=soon)
        code, out, _ = server.ended()
    assert (code, out) == (0, "stopped; every accepted request was answered\n")


def test_all_workers_are_replaced_at_sighup(tmp_path: Path) -> None:
    with serving(tmp_path, "l3-gtsrb", "--workers", "2") as server:
        before = workers(server)
        server.process.send_signal(signal.SIGHUP)
        wait(lambda: len(workers(server) - before) == len(workers(server)) == 2, "an old worker stays")
        assert server.post(plain(9)).status_code == 200


def test_a_net_that_cannot_be_loaded_ends_all_workers_with_one_message(tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"no net")
    command = (sys.executable, "-m", "steadylens", "serve", str(tmp_path / "bad.safetensors"))
    done = subprocess.run(
        [*command, "--workers", "2", "--port", "0"], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "is damaged" in done.stderr
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)


def test_a_worker_that_is_killed_while_it_loads_is_not_started_again() -> None:
    code = (
        "from steadylens.serving.server import listening\n"
        "from steadylens.serving.workers import serve_by_workers\n"
        "from tests.serving.dying import killed\n"
        "with listening('127.0.0.1', 0) as listeners:\n"
        "    serve_by_workers(killed, listeners, workers=2, stop_seconds=1, ready=print)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60
    )
    assert "a worker ended with code -9 before it could answer; memory may be short" in done.stderr


def test_a_service_whose_new_workers_all_die_ends(tmp_path: Path) -> None:
    code = (
        "import multiprocessing, pathlib, sys\n"
        "from functools import partial\n"
        "from steadylens.serving import workers\n"
        "from steadylens.serving.server import listening\n"
        "from tests.serving.dying import loaded_unless_there_is\n"
        "workers.MOST_DEATHS = 2\n"
        "file = pathlib.Path(sys.argv[1])\n"
        "def ready(started):\n"
        "    file.touch()\n"
        "    multiprocessing.active_children()[0].kill()\n"
        "with listening('127.0.0.1', 0) as listeners:\n"
        "    make = partial(loaded_unless_there_is, file)\n"
        "    workers.serve_by_workers(make, listeners, workers=2, stop_seconds=1, ready=ready)\n"
    )
    command = (sys.executable, "-c", code, str(tmp_path / "file"))
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert "2 workers in a row, the last one ended with code -9 before it could answer" in done.stderr


def test_a_single_worker_keeps_its_metrics_to_itself(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from steadylens.cli.deploy import _served_alone\n"
        "def make():\n"
        "    from prometheus_client import values\n"
        "    sys.exit(values.ValueClass is not values.MutexValue)\n"
        "_served_alone(make, [], 1)\n"
    )
    environment = {**os.environ, METRICS_FOLDER: str(tmp_path / "absent")}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=60)


def test_no_worker_is_refused() -> None:
    with pytest.raises(SettingError, match="workers is 0"):
        serve_by_workers(killed, [], workers=0, stop_seconds=1, ready=print)


def test_a_worker_can_tell_which_library_is_missing() -> None:
    error = MissingExtraError("starlette", "serve")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301 - our own
