"""The Dockerfile's steps work, as far as they run without a daemon, and its commands run as they stand.

The steps run in folders of their own. pip finds that all it is asked for can be had in the pinned versions,
but installs nothing.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from docker.utils.build import exclude_paths
from dockerfile_parse import DockerfileParser

import steadylens

ROOT = Path(__file__).parents[2]
FOLDERS = ("/source", "/wheels")
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def steps() -> list[tuple[str, str]]:
    """Returns the instructions with their values, in order."""
    with (ROOT / "Dockerfile").open("rb") as file:
        found: list[dict[str, Any]] = DockerfileParser(fileobj=file).structure
    return [(step["instruction"], step["value"]) for step in found if step["instruction"] != "COMMENT"]


def value(instruction: str) -> str:
    """Returns the value of an instruction that occurs once."""
    (found,) = (each for name, each in steps() if name == instruction)
    return found


def command(text: str) -> list[str]:
    """Reads a command in exec form, which needs no shell and passes signals on."""
    found = json.loads(text)
    assert isinstance(found, list)
    return found


def context() -> set[Path]:
    """Returns the files that the client of Docker sends to the daemon."""
    patterns = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in patterns if line and not line.startswith("#")]
    return {Path(name) for name in exclude_paths(ROOT, patterns) if (ROOT / name).is_file()}


def mapped(text: str, folder: Path) -> str:
    """Puts the image's folders into a folder of this machine."""
    return re.sub(rf"(?<![\w/.])({'|'.join(FOLDERS)})\b", rf"{folder}\1", text)


def copy(sources: list[str], target: Path, sent: set[Path]) -> None:
    """Copies files and folders of the context, as COPY does."""
    for source in sources:
        held = {path for path in sent if path == Path(source) or Path(source) in path.parents}
        assert held, f"{source} is not there, or .dockerignore leaves it out"
        for path in held:
            inside = Path(path.name) if path == Path(source) else Path(target.name, path.relative_to(source))
            place = (target if path == Path(source) else target.parent) / inside
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / path, place)


def test_each_step_finds_what_it_needs_and_the_wheel_is_whole(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "useradd").symlink_to(shutil.which("true") or "/bin/true")
    environment = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{PATH}",
        "PIP_DRY_RUN": "1",
        "PIP_NO_INDEX": "1",
    }
    sent, place, said = context(), tmp_path, ""
    for instruction, text in steps():
        if instruction == "WORKDIR":
            place = Path(mapped(text, tmp_path))
            place.mkdir()
        elif instruction == "COPY" and text.startswith("--from=build "):
            *sources, target = mapped(text, tmp_path).split()[1:]
            (wheel,) = (tmp_path / "wheels").glob("*.whl")
            assert sources == [f"{tmp_path}/source/constraints.txt", f"{tmp_path}/wheels/*.whl"]
            shutil.copy(sources[0], target)
            with zipfile.ZipFile(wheel) as archive:
                packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        elif instruction == "COPY":
            *sources, target = text.split()
            copy(sources, place / target, sent)
        elif instruction == "RUN":
            line = mapped(text, tmp_path)
            done = subprocess.run(
                ["sh", "-c", line], cwd=place, env=environment, check=False, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            said += done.stdout
    assert packed == {path.relative_to("src").as_posix() for path in sent if path.parts[0] == "src"}
    assert "steadylens/weights/fused-gtsrb.safetensors" in packed
    assert f"Would install steadylens-{steadylens.__version__}" in said
    assert not (tmp_path / "wheels").exists()


def test_nothing_is_sent_that_no_step_copies() -> None:
    copied = [text.split()[:-1] for name, text in steps() if name == "COPY" and "--from" not in text]
    wanted = {source.removeprefix("./") for sources in copied for source in sources}
    assert {path.parts[0] for path in context()} == wanted | {"Dockerfile", ".dockerignore"}
    assert not [path for path in context() if "__pycache__" in path.parts]


def test_the_image_runs_as_the_user_whom_the_deployment_names() -> None:
    names = [name for name, _ in steps()]
    assert names.index("USER") > max(number for number, name in enumerate(names) if name in {"RUN", "COPY"})
    manifest = (ROOT / "deploy" / "kubernetes" / "deployment.yaml").read_text(encoding="utf-8")
    rights = yaml.safe_load(manifest)["spec"]["template"]["spec"]["securityContext"]
    assert value("USER") == f"{rights['runAsUser']}:{rights['runAsGroup']}"
    (created,) = re.findall(r"--uid (\d+)", " ".join(text for name, text in steps() if name == "RUN"))
    assert int(created) == rights["runAsUser"] > 0


@contextmanager
def running(line: list[str]) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PATH": PATH, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="an image of Linux")
def test_the_health_of_the_command_is_seen_and_it_stops_when_it_is_told() -> None:
    start = command(value("ENTRYPOINT")) + command(value("CMD"))
    check = command(value("HEALTHCHECK").partition("CMD")[2])
    port = value("EXPOSE")
    assert start[-2:] == ["--port", port]
    assert any(f":{port}/" in word for word in check)
    free = port if is_free(int(port)) else str(a_free_port())  # somebody on this machine may have that port
    start, check = ([word.replace(port, free) for word in line] for line in (start, check))

    def healthy() -> bool:
        environment = {**os.environ, "PATH": PATH}
        return subprocess.run(check, env=environment, check=False, capture_output=True).returncode == 0

    with running(start) as process:
        deadline = time.monotonic() + 120
        while not healthy():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline, "the service does not become healthy"
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "every accepted request was answered" in out
    assert not healthy()


def is_free(port: int) -> bool:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("", port))
        except OSError:
            return False
    return True


def a_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])
