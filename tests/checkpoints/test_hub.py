"""A net is saved to a folder or a hub and loaded again bit for bit; errors are one line and help the user."""

import base64
import hashlib
import json
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin
from torch import nn

import steadylens
from steadylens.checkpoints.card import card_of
from steadylens.checkpoints.checkpoint import load_model, save_model
from steadylens.checkpoints.hub import from_pretrained, push_to_hub, readme_of, save_pretrained
from steadylens.checkpoints.loading import LoadedNet
from steadylens.errors import CheckpointError, MissingExtraError, SettingError, SteadylensError, StorageError
from steadylens.nets.architecture import build, describe
from steadylens.nets.classification import FusedClassifier, SignNet
from steadylens.nets.restoration import DongNet, GaussianSmoothing, RestorationNet

NETS: dict[str, Callable[[], nn.Module]] = {
    "restorer": partial(RestorationNet, depth=3, padding="reflect"),
    "Dong": DongNet,
    "smoothing": partial(GaussianSmoothing, sigma_pixels=1.1),
    "sign net": partial(SignNet, classes=4),
    "standardizing sign net": partial(SignNet, classes=4, standardize=True),
    "fused": lambda: FusedClassifier(RestorationNet(depth=3), SignNet(classes=5)),
}
ABOUT: dict[str, Any] = {"stage": "a stage", "seed": 3, "data": "signs", "recipe": "smoke"}


def same(first: nn.Module, second: nn.Module) -> bool:
    """Returns whether two nets have the same class, settings, weights and outputs."""
    images = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    weights, others = first.state_dict(), second.state_dict()
    with torch.inference_mode():
        return (
            describe(first) == describe(second)
            and weights.keys() == others.keys()
            and all(torch.equal(weights[name], others[name]) for name in weights)
            and torch.equal(first.eval()(images), second.eval()(images))
        )


# Folders.


@pytest.mark.parametrize("make", NETS.values(), ids=NETS)
def test_a_net_is_loaded_from_a_folder_bit_for_bit(tmp_path: Path, make: Callable[[], nn.Module]) -> None:
    net = make()
    assert save_pretrained(net, tmp_path / "net", about=ABOUT) == tmp_path / "net"
    for source in (tmp_path / "net", str(tmp_path / "net")):
        found = from_pretrained(source)
        assert type(found) is type(net)
        assert not found.training
        assert same(found, net)
    assert load_model(tmp_path / "net" / "model.safetensors")[1] == ABOUT


def test_a_folder_holds_weights_settings_and_card_and_nothing_else(tmp_path: Path) -> None:
    save_pretrained(NETS["fused"](), tmp_path, about=ABOUT, name="someone/fused", licence="MIT")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    assert json.loads((tmp_path / "config.json").read_text()) == describe(NETS["fused"]())
    card = ModelCard.load(tmp_path / "README.md")
    assert (card.data.license, card.data.library_name) == ("mit", "steadylens")
    assert 'steadylens.from_pretrained("someone/fused")' in card.text


def test_the_licence_is_the_given_one_and_is_kept(tmp_path: Path) -> None:
    save_pretrained(DongNet(), tmp_path / "silent", about=ABOUT)
    save_pretrained(DongNet(), tmp_path / "stated", about=ABOUT, licence="Apache-2.0")
    silent, stated = (ModelCard.load(tmp_path / name / "README.md") for name in ("silent", "stated"))
    assert (silent.data.license, stated.data.license) == (None, "apache-2.0")
    about = load_model(tmp_path / "stated" / "model.safetensors")[1]
    assert about == {**ABOUT, "licence": "Apache-2.0"}
    save_pretrained(DongNet(), tmp_path / "again", about=about)
    assert ModelCard.load(tmp_path / "again" / "README.md").data.license == "apache-2.0"


def test_the_card_has_the_name_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_pretrained(DongNet(), "mine")
    save_pretrained(DongNet(), ".")
    assert "# mine\n" in (tmp_path / "mine" / "README.md").read_text()
    assert f"# {tmp_path.name}\n" in (tmp_path / "README.md").read_text()


def test_saving_again_replaces_the_net(tmp_path: Path) -> None:
    save_pretrained(NETS["restorer"](), tmp_path)
    net = NETS["fused"]()
    save_pretrained(net, tmp_path)
    assert same(from_pretrained(tmp_path), net)
    assert json.loads((tmp_path / "config.json").read_text())["kind"] == "FusedClassifier"


def test_a_packaged_net_keeps_its_card_in_a_folder(tmp_path: Path) -> None:
    net, card = steadylens.load("l3-gtsrb"), steadylens.card("l3-gtsrb")
    save_pretrained("l3-gtsrb", tmp_path, name=card.name)
    assert same(from_pretrained(tmp_path), net)
    text = (tmp_path / "README.md").read_text()
    assert text == readme_of(card)
    assert text.endswith("\n---\n\n" + card.markdown(loader="from_pretrained"))
    assert steadylens.card(tmp_path / "model.safetensors").info == card.info


def test_a_net_given_by_its_file_keeps_the_data_about_its_training(tmp_path: Path) -> None:
    net, file = NETS["fused"](), tmp_path / "net.safetensors"
    save_model(file, net, about=ABOUT)
    for source in (file, str(file)):
        save_pretrained(source, tmp_path / "net", licence="MIT")
        assert same(from_pretrained(tmp_path / "net"), net)
        assert load_model(tmp_path / "net" / "model.safetensors")[1] == {**ABOUT, "licence": "MIT"}
    save_pretrained(file, tmp_path / "net", about={"seed": 4})
    assert load_model(tmp_path / "net" / "model.safetensors")[1] == {"seed": 4}


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"no net 'l12-gtsrb'; give a \.safetensors file or one of l11"):
        save_pretrained("l12-gtsrb", tmp_path / "net")
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize("make", NETS.values(), ids=NETS)
def test_the_mixin_of_huggingface_hub_reads_a_folder(
    tmp_path: Path, make: Callable[[], nn.Module], capsys: pytest.CaptureFixture[str]
) -> None:
    net = make()
    save_pretrained(net, tmp_path)
    kind = type(net)

    # What a user with a class of the mixin writes; the coders turn a net inside a net into JSON and back.
    class Mixed(kind, PyTorchModelHubMixin, coders={nn.Module: (describe, build)}):  # type: ignore[misc, valid-type]
        pass

    found = Mixed.from_pretrained(tmp_path)
    assert capsys.readouterr().out.startswith("Loading weights")  # the mixin prints
    assert isinstance(found, kind)
    assert same(found, net)


def test_the_package_exports_the_functions() -> None:
    assert steadylens.from_pretrained is from_pretrained
    assert steadylens.push_to_hub is push_to_hub
    assert steadylens.save_pretrained is save_pretrained


@pytest.mark.parametrize("module", [nn.Linear(2, 2), FusedClassifier(nn.Identity(), nn.Linear(2, 2))])
def test_a_net_of_another_library_is_not_saved(tmp_path: Path, module: nn.Module) -> None:
    with pytest.raises(SettingError, match="a Linear cannot be saved"):
        save_pretrained(module, tmp_path / "net")
    assert not (tmp_path / "net").exists()


def test_malformed_data_about_the_training_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the data about net are not those of this version"):
        save_pretrained(DongNet(), tmp_path / "net", about={"figures": [{"kind": "Accuracy"}]})
    assert not (tmp_path / "net").exists()


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="choose another place"):
        save_pretrained(DongNet(), tmp_path / "file")


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    for source in (tmp_path, str(tmp_path), tmp_path / "none"):
        with pytest.raises(CheckpointError, match=r"there is no file .*model\.safetensors"):
            from_pretrained(source)


def test_a_folder_with_damaged_weights_is_refused(tmp_path: Path) -> None:
    save_pretrained(DongNet(), tmp_path)
    content = bytearray((tmp_path / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="do not fit their checksum"):
        from_pretrained(tmp_path)


# A hub: the real client talks to a local server that implements the requests it sends.


class Hub(ThreadingHTTPServer):
    """Keeps the files of repositories in memory."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.requests: list[str] = []
        self.headers: list[str] = []
        self.status = 200

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class HubHandler(BaseHTTPRequestHandler):
    """Handles creating a repository, one commit and one download."""

    server: Hub
    commit = "c0ffee" * 6 + "c0ff"

    def log_message(self, *_: object) -> None:
        """Logs nothing."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append(f"POST {self.path}")
        path = self.path.removeprefix("/api/")
        if self.server.status != 200:
            self.answer(json.dumps({"error": "no"}).encode(), status=self.server.status)
        elif path == "repos/create":
            wanted = json.loads(body)
            name = f"{wanted.get('organization') or 'someone'}/{wanted['name']}"
            self.server.repositories.setdefault(name, {})
            self.answer(json.dumps({"url": f"{self.server.address}/{name}"}).encode())
        elif path == "validate-yaml":
            content = json.loads(body)["content"]
            self.server.headers.append(content)
            wrong = re.search("^license: (?!mit$).*$", content, re.MULTILINE)
            told = {"errors": [{"message": '"license" must be one of [mit]'}]} if wrong else {}
            self.answer(json.dumps(told).encode(), status=400 if wrong else 200)
        elif "/preupload/" in path:
            asked = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in asked]
            self.answer(json.dumps({"files": modes}).encode())
        else:
            name = path.removeprefix("models/").partition("/commit/")[0]
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.repositories[name][line["value"]["path"]] = content
            url = f"{self.server.address}/{name}/commit/{self.commit}"
            self.answer(json.dumps({"commitUrl": url, "commitOid": self.commit}).encode())

    def do_GET(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        name, _, place = self.path.lstrip("/").partition("/resolve/")
        revision, _, file = place.partition("/")
        files = self.server.repositories.get(name)
        if self.server.status != 200:
            self.answer(b"", status=self.server.status)
        elif files is None:
            self.answer(b"", {"X-Error-Code": "RepoNotFound"}, status=404)
        elif revision not in {"main", self.commit}:
            self.answer(b"", {"X-Error-Code": "RevisionNotFound"}, status=404)
        elif file not in files:
            self.answer(b"", {"X-Error-Code": "EntryNotFound"}, status=404)
        else:
            etag = f'"{hashlib.sha256(files[file]).hexdigest()}"'
            self.answer(files[file], {"ETag": etag, "X-Repo-Commit": self.commit})

    def do_HEAD(self) -> None:
        self.do_GET()

    def answer(self, content: bytes, headers: Mapping[str, str] = {}, *, status: int = 200) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def use(monkeypatch: pytest.MonkeyPatch, address: str, cache: Path) -> None:
    """Makes the client use an address. It reads its environment variables only once, when it is imported."""
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("time.sleep", lambda _seconds: None)  # the client waits before it tries again
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(cache / "no token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """Starts a hub and makes the client use it."""
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        use(monkeypatch, server.address, tmp_path / "cache")
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Makes the client use an address where no server listens, and returns it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    use(monkeypatch, address, tmp_path / "cache")
    return address


def one_line(kind: type[SteadylensError], call: Callable[[], object]) -> str:
    """Returns the message of the error that a call raises."""
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("make", [NETS["restorer"], NETS["fused"]], ids=["restorer", "fused"])
def test_a_net_is_uploaded_and_downloaded(hub: Hub, tmp_path: Path, make: Callable[[], nn.Module]) -> None:
    net = make()
    url = push_to_hub(net, "someone/net", about=ABOUT, token="hf_x")  # noqa: S106 - no secret
    assert url == f"{hub.address}/someone/net/commit/{HubHandler.commit}"
    save_pretrained(net, tmp_path / "net", about=ABOUT, name="someone/net")
    local = {path.name: path.read_bytes() for path in (tmp_path / "net").iterdir()}
    assert hub.repositories == {"someone/net": local}
    assert hub.headers == [local["README.md"].decode()]  # the client has the card's header checked
    assert same(from_pretrained("someone/net"), net)
    assert same(from_pretrained("someone/net", revision=HubHandler.commit), net)


def test_a_downloaded_net_can_be_loaded_offline(hub: Hub, tmp_path: Path) -> None:
    net = NETS["restorer"]()
    push_to_hub(net, "someone/net")
    assert same(from_pretrained("someone/net", cache=tmp_path / "own"), net)
    asked = len(hub.requests)
    assert same(from_pretrained("someone/net", cache=tmp_path / "own", offline=True), net)
    assert len(hub.requests) == asked
    with pytest.raises(CheckpointError, match="no local folder or earlier download"):
        from_pretrained("someone/net", offline=True)


def test_only_the_safetensors_file_is_requested(hub: Hub) -> None:
    push_to_hub(NETS["restorer"](), "someone/net")
    hub.requests.clear()
    from_pretrained("someone/net")
    assert hub.requests
    assert all(request.endswith("/model.safetensors") for request in hub.requests)


def test_a_missing_repository_is_reported_in_one_line(hub: Hub) -> None:
    said = one_line(CheckpointError, lambda: from_pretrained("someone/none"))
    assert said.startswith(
        "cannot download the net from the repository 'someone/none': it does not exist or is private"
    )
    assert hub.requests


def test_a_missing_revision_or_file_is_reported_in_one_line(hub: Hub) -> None:
    push_to_hub(NETS["restorer"](), "someone/net")
    said = one_line(CheckpointError, lambda: from_pretrained("someone/net", revision="v7"))
    assert "it has no such revision; check the revision or leave it out" in said
    del hub.repositories["someone/net"]["model.safetensors"]
    said = one_line(CheckpointError, lambda: from_pretrained("someone/net"))
    assert "it holds no model.safetensors; choose one that push_to_hub wrote" in said


@pytest.mark.parametrize(
    ("status", "way_out"),
    [(403, "pass a token that may do this, or run: hf auth login"), (503, "try again later")],
)
def test_a_refused_download_is_reported_with_the_hubs_answer(hub: Hub, status: int, way_out: str) -> None:
    hub.status = status
    said = one_line(CheckpointError, lambda: from_pretrained("someone/net"))
    assert said.endswith(f"'someone/net': the hub answered {status}; {way_out}")


def test_an_unusable_cache_folder_is_reported_in_one_line(hub: Hub, tmp_path: Path) -> None:
    push_to_hub(DongNet(), "someone/net")
    (tmp_path / "file").touch()
    said = one_line(
        CheckpointError, lambda: from_pretrained("someone/net", cache=tmp_path / "file" / "cache")
    )
    assert "Not a directory: " in said
    assert said.endswith("; choose another cache folder")


def test_a_downloaded_file_of_another_format_is_refused(hub: Hub) -> None:
    hub.repositories["someone/else"] = {"model.safetensors": b"\x80\x04 like a pickle"}
    assert "damaged or no safetensors file" in one_line(
        CheckpointError, lambda: from_pretrained("someone/else")
    )


@pytest.mark.parametrize(
    ("status", "way_out"),
    [
        (403, "pass a token that may do this, or run: hf auth login"),
        (401, "pass a token that may do this, or run: hf auth login"),
        (413, "the hub answered 413; try again later"),
    ],
)
def test_a_refused_upload_is_reported_in_one_line(hub: Hub, status: int, way_out: str) -> None:
    hub.status = status
    said = one_line(StorageError, lambda: push_to_hub(DongNet(), "someone/net"))
    assert said.startswith("cannot upload the net to the repository 'someone/net': ")
    assert way_out in said


def test_an_upload_with_a_licence_that_the_hub_does_not_know_is_reported_in_one_line(hub: Hub) -> None:
    said = one_line(StorageError, lambda: push_to_hub(DongNet(), "someone/net", licence="none"))
    assert '"license" must be one of [mit]; choose a licence that the hub knows' in said
    assert hub.repositories == {"someone/net": {}}


def test_an_unreachable_hub_is_reported_in_one_line(closed: str) -> None:
    said = one_line(CheckpointError, lambda: from_pretrained("someone/net"))
    assert said.startswith("cannot download the net from the repository 'someone/net': ")
    assert "earlier download of it; check the connection to the hub" in said
    said = one_line(StorageError, lambda: push_to_hub(DongNet(), "someone/net"))
    assert said.startswith("cannot upload the net to the repository 'someone/net': ")
    assert said.endswith("check the connection")
    assert closed


@pytest.mark.parametrize("name", ["a/b/c", "runs/none/net", "someone/..net", "../net"])
def test_a_source_that_is_neither_folder_nor_repository_name_is_refused(closed: str, name: str) -> None:
    assert closed
    wanted = f"{name!r} is neither a folder nor a repository name, OWNER/NAME"
    assert one_line(SettingError, lambda: from_pretrained(name)) == wanted
    assert one_line(SettingError, lambda: push_to_hub(DongNet(), name)) == wanted


def test_without_the_extra_folders_work_and_hub_calls_name_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    net = NETS["fused"]()
    save_pretrained(net, tmp_path, name="net")
    assert same(from_pretrained(tmp_path), net)
    card = (tmp_path / "README.md").read_text()
    assert card == card_of(LoadedNet(name="net", module=net), given="net").markdown(loader="from_pretrained")
    assert card.startswith("# net\n")  # huggingface_hub writes the header: without it there is none
    for call in (lambda: from_pretrained("someone/net"), lambda: push_to_hub(net, "someone/net")):
        with pytest.raises(MissingExtraError, match=r"pip install 'steadylens\[hub\]'"):
            call()


@pytest.mark.parametrize(
    "name", ["./net", "~/net", "/none/net", "none/net/", "a\\b", "net.safetensors", "runs/x"]
)
def test_a_mistyped_folder_is_refused_at_once_without_asking_the_hub(
    hub: Hub, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    said = one_line(SettingError, lambda: from_pretrained(name))
    unknown = f"{name!r} is neither a folder nor a repository name, OWNER/NAME"
    missing = f"there is no folder {name!r}; correct the path, or give a revision such as main for the "
    assert said == (f"{missing}repository of that name" if name == "runs/x" else unknown)
    assert not hub.requests


def test_a_repository_is_found_beside_a_folder_with_the_name_of_its_owner(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_to_hub(DongNet(), "someone/net")
    (tmp_path / "someone").mkdir()
    monkeypatch.chdir(tmp_path)
    assert isinstance(from_pretrained("someone/net", revision="main"), DongNet)


def test_an_unreachable_hub_is_asked_once(closed: str, capfd: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    one_line(CheckpointError, lambda: from_pretrained("someone/net"))
    assert time.monotonic() - began < 5
    assert "Retry" not in capfd.readouterr().err
    assert closed


def test_the_name_of_a_repository_is_checked_before_the_net_is_written(
    closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steadylens.checkpoints.hub.save_pretrained", None)
    with pytest.raises(SettingError, match="neither a folder nor a repository name"):
        push_to_hub(DongNet(), "a/b/c")
    assert closed
