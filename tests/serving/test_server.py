"""A service listens where it is told to or says why it cannot, and stops in an orderly way."""

import asyncio
import inspect
import re
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from steadylens.cli.deploy import serve
from steadylens.cli.main import app
from steadylens.errors import SettingError
from steadylens.serving.server import address_of, listening
from tests.serving.servers import HEAD, NAME, SLOTS, Server, plain, serving


def test_a_service_stops_when_interrupted(tmp_path: Path) -> None:
    gone = threading.Event()

    def trickle(refused: socket.socket) -> None:
        with suppress(OSError):
            while not gone.wait(0.1):
                refused.sendall(b".")

    with (
        serving(tmp_path, "l3-gtsrb", "--stop-seconds", "1") as server,
        httpx.Client(base_url=server.address) as idle,
        socket.create_connection(("127.0.0.1", server.port), timeout=30) as refused,
    ):
        assert idle.get("/health").status_code == 200  # a connection that stays open
        refused.sendall(HEAD.replace(b"image/png", b"text/plain") % 99_999)
        assert refused.recv(12) == b"HTTP/1.1 415"
        sending = threading.Thread(target=trickle, args=(refused,))
        sending.start()
        server.process.send_signal(signal.SIGINT)
        code, out, err = server.ended()
        gone.set()
        sending.join()
    assert code == 0
    assert "every accepted request was answered" in out
    assert "Traceback" not in err


def test_a_service_that_is_told_to_stop_answers_what_it_has_accepted_and_no_more(tmp_path: Path) -> None:
    with serving(tmp_path, "l3-gtsrb") as server:

        def stop() -> None:
            server.process.send_signal(signal.SIGTERM)
            while server.accepts():
                time.sleep(0.02)
            server.release.touch()

        replies = server.together([plain(255)] * SLOTS, stop)
        code, out, err = server.ended()
    assert [reply.status_code for reply in replies] == [200] * SLOTS
    assert {reply.headers["connection"] for reply in replies} == {"close"}, "or clients would send one more"
    assert code == 0
    assert "every accepted request was answered" in out
    assert "Traceback" not in err


def test_a_service_that_cannot_stop_in_time_says_so_and_ends(tmp_path: Path) -> None:
    with serving(tmp_path, "l3-gtsrb", "--stop-seconds", "1", "--max-batch", "2") as server:
        replies = server.together([plain(255)] * 3, lambda: server.process.send_signal(signal.SIGTERM))
        code, out, err = server.ended()
    assert [reply.status_code for reply in replies] == [503] * 3
    assert all("stopping" in reply.json()["error"] for reply in replies)
    assert code == 1
    assert "3 requests were not answered within 1 s" in out
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["sign-gtsrb"], "Address already in use"),
        (["sign-gtsrb", "--host", "no.such.host.invalid"], "cannot listen"),
        (["no-such-net"], "give a .safetensors file or one of"),
        (["sign-gtsrb", "--max-queue", "0"], "slots is 0"),
        (["sign-gtsrb", "--max-pixels", "0"], "pixels is 0"),
    ],
)
def test_a_service_that_cannot_start_says_why_in_one_line(arguments: list[str], reason: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1] if "Address" in reason else 0
        result = CliRunner().invoke(app, ["serve", *arguments, "--port", str(port)])
    assert result.exit_code == 2
    assert reason in result.stderr
    assert result.stderr.count("\n") == 1


def named(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Makes any name resolve to the given addresses."""

    def found(_: str, port: int, **__: object) -> list[tuple[Any, ...]]:
        families = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in addresses]
        return [
            (family, socket.SOCK_STREAM, 0, "", (address, port, 0, 0)[: 4 if ":" in address else 2])
            for family, address in zip(families, addresses, strict=True)
        ]

    monkeypatch.setattr(socket, "getaddrinfo", found)


@pytest.mark.skipif(sys.platform == "darwin", reason="127.0.0.2 is no address of it")
def test_a_name_that_stands_for_several_addresses_is_served_at_all_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    named(monkeypatch, "127.0.0.1", "127.0.0.2", "127.0.0.1")
    with listening("name", 0) as listeners:
        places = [listener.getsockname() for listener in listeners]
        assert [host for host, _ in places] == ["127.0.0.1", "127.0.0.2"]
        assert len({port for _, port in places}) == 1
        for listener, place in zip(listeners, places, strict=True):
            listener.listen()
            with socket.socket() as client:
                client.settimeout(10)
                client.connect(place)
    assert all(listener.fileno() < 0 for listener in listeners)


def test_a_reply_does_not_wait_for_more_to_send() -> None:
    async def at_once() -> int:
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted = writer.get_extra_info("socket")
            found.set_result(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with listening("127.0.0.1", 0) as (listener,):
            async with await asyncio.start_server(answer, sock=listener):
                _, writer = await asyncio.open_connection(*listener.getsockname())
                told = await found
                writer.close()
                await writer.wait_closed()
        return told

    assert asyncio.run(at_once())


def test_an_address_that_this_machine_does_not_have_is_left_out_unless_it_is_the_only_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    absent = "203.0.113.1"
    named(monkeypatch, absent, "127.0.0.1")
    with listening("name", 0) as listeners:
        assert [listener.getsockname()[0] for listener in listeners] == ["127.0.0.1"]
    named(monkeypatch, absent)
    with pytest.raises(SettingError, match="cannot listen on name:0"), listening("name", 0):
        pass


@pytest.mark.skipif(not socket.has_ipv6, reason="there is no IPv6")
def test_both_families_can_have_all_addresses_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    named(monkeypatch, "0.0.0.0", "::")  # noqa: S104 - it never listens
    with listening("name", 0) as listeners:
        assert [address_of(listener).rpartition(":")[0] for listener in listeners] == [
            "http://0.0.0.0",
            "http://[::]",
        ]


@pytest.mark.skipif(sys.platform == "darwin", reason="127.0.0.2 is no address of it")
def test_a_port_that_one_of_the_addresses_does_not_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.2", 0)) as taken:
        named(monkeypatch, "127.0.0.1", "127.0.0.2")
        port = taken.getsockname()[1]
        with pytest.raises(SettingError, match="Address already in use"), listening("name", port):
            pass


def test_the_service_answers_at_every_address_of_its_name(restorer: Server) -> None:
    hosts = {entry[4][0] for entry in socket.getaddrinfo(NAME, None, type=socket.SOCK_STREAM)}
    assert hosts
    for host in hosts:
        address = f"http://[{host}]:{restorer.port}" if ":" in str(host) else f"http://{host}:{restorer.port}"
        assert httpx.get(f"{address}/health").status_code == 200


@pytest.mark.parametrize(
    ("module", "library", "workers"),
    [
        ("starlette.applications", "starlette", "1"),
        ("prometheus_client", "prometheus_client", "1"),
        ("prometheus_client", "prometheus_client", "2"),
        ("python_multipart", "python-multipart", "1"),
        ("uvicorn", "uvicorn", "1"),
        ("uvicorn", "uvicorn", "2"),
    ],
)
def test_without_the_extra_the_command_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, module: str, library: str, workers: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    for name in ("forms", "service", "workers"):
        monkeypatch.delitem(sys.modules, f"steadylens.serving.{name}", raising=False)
    result = CliRunner().invoke(app, ["serve", "sign-gtsrb", "--port", "0", "--workers", workers])
    assert result.exit_code == 2
    told = f"{library} is not installed; install it with: pip install 'steadylens[serve]'"
    assert told in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_options_in_the_page_exist() -> None:
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(--[a-z-]+)", page))
    known = {f"--{name.replace('_', '-')}" for name in inspect.signature(serve).parameters}
    assert len(named) > 5
    assert named <= known
