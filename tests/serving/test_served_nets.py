"""A served net answers as the net itself, each client gets its own answers, and the rest is refused."""

import asyncio
import http.client
import io
import re
import signal
import socket
import struct
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import steadylens
from steadylens.checkpoints import loading
from steadylens.checkpoints.checkpoint import save_model
from steadylens.cli.deploy import _loaded
from steadylens.nets.third_party import timm_classifier
from tests.serving.servers import (
    HEAD,
    MOST_BYTES,
    MOST_PIXELS,
    PNG,
    QUEUE,
    SLOTS,
    Server,
    drawn,
    plain,
    png,
    serving,
    written,
)


@pytest.fixture(scope="module")
def sign_net() -> torch.nn.Module:
    return steadylens.load("sign-gtsrb")


def as_batch(levels: np.ndarray[Any, Any]) -> Tensor:
    return steadylens.to_float(torch.from_numpy(levels.copy()).permute(2, 0, 1))[None]


def probabilities(reply: httpx.Response) -> Tensor:
    """Returns the probabilities of a reply that lists all classes, by class."""
    assert reply.status_code == 200, reply.text
    found = {entry["class"]: entry["probability"] for entry in reply.json()["predictions"]}
    return torch.tensor([found[number] for number in range(43)])


def bomb(side: int) -> bytes:
    """Returns a PNG of one bit a pixel, complete and all black."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))]
    packer = zlib.compressobj()
    rows = b"".join(packer.compress(bytes(1 + side // 8)) for _ in range(side)) + packer.flush()
    parts += [(b"IDAT", rows), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in parts
    )


def peak_memory_kb(process: subprocess.Popen[str]) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0])


def test_a_classifier_answers_as_the_net_itself(
    classifier: Server, sign_net: torch.nn.Module, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = Image.fromarray(drawn(1, 60, 90))
    files = {
        "rgb.png": (written(photo, "PNG"), "image/png"),
        "turned.jpg": (written(photo, "JPEG", exif=exif), "image/jpeg"),
        "rgb.webp": (written(photo, "WEBP"), "image/webp"),
        "palette.png": (written(photo.quantize(9), "PNG"), "image/png"),
        "one.png": (written(photo.crop((0, 0, 1, 1)), "PNG"), "image/png"),
    }
    names = steadylens.card("sign-gtsrb").classes
    for name, (content, kind) in files.items():
        path = tmp_path / name
        path.write_bytes(content)
        images = steadylens.to_float(steadylens.read_image(path, size=48))[None]
        expected = sign_net(images).softmax(dim=1)[0]
        for reply in (
            classifier.post(content, {"content-type": kind}),
            httpx.post(f"{classifier.address}/predict", files={"image": (name, content, kind)}),
        ):
            assert reply.status_code == 200, reply.text
            entries = reply.json()["predictions"]
            assert len(entries) == 5
            for entry in entries:
                assert entry["label"] == names[entry["class"]]
                assert entry["probability"] == pytest.approx(expected[entry["class"]].item(), abs=1e-5)
            given = [entry["probability"] for entry in entries]
            assert given == sorted(given, reverse=True)
            assert given[0] == pytest.approx(expected.max().item(), abs=1e-5)


@pytest.mark.parametrize(("top", "count"), [(1, 1), (43, 43), (1000, 43)])
def test_a_client_chooses_how_many_classes_it_gets(classifier: Server, top: int, count: int) -> None:
    reply = classifier.post(plain(9), query=f"?top={top}")
    assert len(reply.json()["predictions"]) == count


FLOATS = written(Image.fromarray(np.full((9, 9), np.nan, np.float32)), "TIFF")
REFUSED = [
    (b"", PNG, "", 400),
    (b"no image", PNG, "", 422),
    (plain(9)[:60], PNG, "", 422),
    (FLOATS, {"content-type": "image/tiff"}, "", 422),
    (plain(9), {}, "", 415),
    (plain(9), {"content-type": "text/plain"}, "", 415),
    (plain(9), {**PNG, "content-encoding": "gzip"}, "", 415),
    (plain(9), PNG, "?top=0", 422),
    (plain(9), PNG, "?top=many", 422),
    (plain(9), PNG, "?bottom=1", 422),
    (b"--x\r\n", {"content-type": "multipart/form-data; boundary=x"}, "", 400),
    (b"--x\r\n", {"content-type": "multipart/form-data; boundary*=x; boundary*0=y"}, "", 400),
    (png(drawn(0, 200, 201)), PNG, "", 413),
    (bytes(MOST_BYTES + 1), PNG, "", 413),
]


@pytest.mark.parametrize(("content", "headers", "query", "status"), REFUSED)
def test_what_cannot_be_answered_is_refused_in_json(
    classifier: Server, content: bytes, headers: dict[str, str], query: str, status: int
) -> None:
    reply = classifier.post(content, headers, query)
    assert reply.status_code == status
    assert list(reply.json()) == ["error"]
    assert "Traceback" not in reply.text
    assert ".py" not in reply.text


def test_a_body_of_unknown_length_is_cut_off_at_the_limit(classifier: Server) -> None:
    sent = []

    def endless() -> Iterator[bytes]:
        for part in range(100_000):
            sent.append(part)
            yield bytes(10_000)

    reply = httpx.post(f"{classifier.address}/predict", content=endless(), headers=PNG)
    assert reply.status_code == 413
    assert len(sent) < 10_000


def test_a_bomb_is_refused_and_costs_no_memory(classifier: Server) -> None:
    content = bomb(26_000)
    assert len(content) < MOST_BYTES
    before = peak_memory_kb(classifier.process)
    assert classifier.post(content).status_code == 413
    assert peak_memory_kb(classifier.process) - before < 20_000


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/predict", 405),
        ("POST", "/health", 405),
        ("GET", "/nothing", 404),
        ("GET", "/%2e%2e/etc", 404),
    ],
)
def test_another_path_or_method_is_refused_with_a_list_of_those_that_exist(
    classifier: Server, method: str, path: str, status: int
) -> None:
    reply = httpx.request(method, classifier.address + path)
    assert reply.status_code == status
    assert "POST /predict" in reply.json()["error"]


def test_bytes_that_are_no_http_do_no_harm(classifier: Server) -> None:
    for noise in (b"\0\xff" * 500, b"POST /predict HTTP/1.1\r\nContent-Length: -5\r\n\r\n", b"GET"):
        with socket.create_connection(("127.0.0.1", classifier.port), timeout=10) as client:
            client.sendall(noise)
    assert httpx.get(f"{classifier.address}/health").json() == {"status": "ok"}


def test_the_service_tells_what_it_serves(classifier: Server) -> None:
    reply = httpx.get(f"{classifier.address}/info")
    assert "connection" not in reply.headers
    told = reply.json()
    assert told["model"] == "sign-gtsrb"
    assert told["task"] == "image-classification"
    assert len(told["classes"]) == 43
    assert told["input"]["resized_to"] == [48, 48]
    assert told["input"]["fit"] == "squash"
    assert (told["input"]["bytes"], told["input"]["pixels"]) == (MOST_BYTES, MOST_PIXELS)
    assert told["limits"]


def distinct_images(net: torch.nn.Module, count: int) -> tuple[list[np.ndarray[Any, Any]], Tensor]:
    """Returns images that the net answers differently, and its answers."""
    images = [drawn(number) for number in range(800)]
    with torch.inference_mode():
        batches = torch.cat([as_batch(levels) for levels in images]).split(50)  # type: ignore[no-untyped-call]
        expected = torch.cat([net(batch).softmax(dim=1) for batch in batches])
    apart = (expected[:, None] - expected[None]).abs().amax(dim=2).fill_diagonal_(1)
    chosen = (apart > 4e-4).all(dim=1).nonzero()[:count, 0]
    assert len(chosen) == count
    return [images[number] for number in chosen.tolist()], expected[chosen]


def test_64_clients_at_once_get_each_their_own_answers(classifier: Server, sign_net: torch.nn.Module) -> None:
    count, clients = 256, 64
    images, expected = distinct_images(sign_net, count)
    batches = classifier.figure("steadylens_batch_images_count")
    served = classifier.figure('steadylens_requests_total{status="200"}')

    async def ask(client: httpx.AsyncClient, numbers: range) -> list[httpx.Response]:
        return [
            await client.post("/predict?top=43", content=png(images[number]), headers=PNG)
            for number in numbers
        ]

    async def ask_all() -> list[list[httpx.Response]]:
        limits = httpx.Limits(max_connections=clients)
        async with httpx.AsyncClient(base_url=classifier.address, limits=limits, timeout=60) as client:
            return await asyncio.gather(*(ask(client, range(i, count, clients)) for i in range(clients)))

    replies = asyncio.run(ask_all())
    for first, of_client in enumerate(replies):
        for number, reply in zip(range(first, count, clients), of_client, strict=True):
            torch.testing.assert_close(probabilities(reply), expected[number], atol=1e-4, rtol=0)
    assert classifier.figure('steadylens_requests_total{status="200"}') == served + count
    assert classifier.figure("steadylens_batch_images_count") - batches < count  # some went together
    assert classifier.figure("steadylens_queue_requests") == 0


def test_a_restorer_answers_as_the_net_itself_whatever_the_sizes(restorer: Server) -> None:
    net = steadylens.load("l3-gtsrb")
    images = [drawn(number, 20 + number % 3, 30 + number % 2) for number in range(24)]

    async def ask(client: httpx.AsyncClient, numbers: range) -> list[httpx.Response]:
        return [await client.post("/predict", content=png(images[i]), headers=PNG) for i in numbers]

    async def ask_all() -> list[list[httpx.Response]]:
        async with httpx.AsyncClient(base_url=restorer.address, timeout=60) as client:
            return await asyncio.gather(*(ask(client, range(i, 24, SLOTS)) for i in range(SLOTS)))

    for first, replies in enumerate(asyncio.run(ask_all())):
        for levels, reply in zip(images[first::SLOTS], replies, strict=True):
            assert reply.status_code == 200, reply.text
            assert reply.headers["content-type"] == "image/png"
            got = np.asarray(Image.open(io.BytesIO(reply.content)))
            expected = steadylens.to_uint8(net(as_batch(levels)))[0].permute(1, 2, 0).numpy()
            assert got.shape == expected.shape
            assert np.abs(got.astype(int) - expected).max() <= 1


def test_an_image_that_the_net_refuses_is_refused_with_its_reason(restorer: Server) -> None:
    reply = restorer.post(png(drawn(0, 20, 7)))
    assert (reply.status_code, reply.json()) == (422, {"error": "too narrow"})


def test_a_tiny_image_and_one_of_many_tiles_are_restored(restorer: Server) -> None:
    net = steadylens.load("l3-gtsrb")
    for height, width in ((2, 1), (30, 700)):
        levels = drawn(5, height, width)
        reply = restorer.post(png(levels))
        assert reply.status_code == 200, reply.text
        got = np.asarray(Image.open(io.BytesIO(reply.content))).astype(int)
        assert got.shape == (height, width, 3)
        if min(height, width) > 2:
            expected = steadylens.to_uint8(net(as_batch(levels)))[0].permute(1, 2, 0).numpy()
            assert np.abs(got - expected).max() <= 1


def test_an_error_of_the_net_is_told_without_its_traceback_which_goes_to_the_log(tmp_path: Path) -> None:
    with serving(tmp_path, "l3-gtsrb") as server:
        reply = server.post(plain(13))
        assert reply.status_code == 500
        assert list(reply.json()) == ["error"]
        assert "SECRET" not in reply.text
        assert server.post(plain(9)).status_code == 200
        server.process.send_signal(signal.SIGTERM)
        code, _, err = server.ended()
    assert code == 0
    assert err.count("SECRET") == 1


def test_a_slow_client_is_refused_and_delays_no_other(restorer: Server) -> None:
    with socket.create_connection(("127.0.0.1", restorer.port), timeout=30) as slow:
        slow.sendall(HEAD % 9 + b"ab")
        assert restorer.post(plain(9)).status_code == 200
        answer = http.client.HTTPResponse(slow)
        answer.begin()
        assert answer.status == 408
        assert b"within 4 s" in answer.read()


def test_the_image_of_a_client_that_left_is_not_given_to_the_net(restorer: Server) -> None:
    left, batches = 'steadylens_requests_total{status="499"}', "steadylens_batch_images_count"
    before, left_before = restorer.figure(batches), restorer.figure(left)
    request = HEAD % len(plain(255)) + plain(255)
    for number, busy in (
        (1, batches),
        (2, QUEUE),
    ):  # the first disconnects while in the net, the second before
        with socket.create_connection(("127.0.0.1", restorer.port), timeout=30) as client:
            client.sendall(request)
            restorer.wait_for(busy, before + 1 if busy == batches else 1)
        restorer.wait_for(left, left_before + number)
    restorer.release.touch()
    assert restorer.post(plain(9)).status_code == 200
    assert restorer.figure(batches) == before + 2


def test_a_request_without_a_slot_is_told_to_come_back_and_the_others_are_answered(restorer: Server) -> None:
    turned_away = []

    def one_more() -> None:
        turned_away.append(restorer.post(plain(9)))
        restorer.release.touch()

    replies = restorer.together([plain(255)] * SLOTS, one_more)
    assert [reply.status_code for reply in replies] == [200] * SLOTS
    assert (turned_away[0].status_code, turned_away[0].headers["retry-after"]) == (503, "1")
    assert f"{SLOTS} requests" in turned_away[0].json()["error"]


@pytest.mark.parametrize("name", ["l3-gtsrb", "fused-gtsrb"])
def test_a_served_restorer_lies_in_memory_as_convolutions_run_fastest(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    loaded = loading.load_net(name)
    monkeypatch.setattr(loading, "load_net", {name: loaded}.__getitem__)
    _loaded(name, torch.device("cpu"))
    restorer = getattr(loaded.module, "restorer", loaded.module)
    large = [weight for weight in restorer.parameters() if weight.ndim == 4 and weight.shape[-1] > 1]
    assert large
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in large)
    assert not any(weight.is_contiguous() for weight in large)


def test_a_classifier_of_another_library_gets_images_of_its_own_size(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    classifier = timm_classifier("test_byobnet", classes=3, size=96)
    save_model(path, steadylens.FusedClassifier(torch.nn.Identity(), classifier).eval(), about={})
    predictor, _ = _loaded(str(path), torch.device("cpu"))
    assert predictor.size == 96
    assert predictor.signature.output_shape == ("batch", 3)
    images = torch.randint(256, (2, 3, 96, 96), dtype=torch.uint8)
    with torch.inference_mode():
        expected = classifier.eval()(steadylens.to_float(images))
    torch.testing.assert_close(predictor(images), expected)
