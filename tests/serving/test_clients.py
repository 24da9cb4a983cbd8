"""Refusals reach clients of every kind, even those that are still sending; every legal upload is read.

The clients are those that people use. They differ in whether they read while they write, and in what they
make of a connection that is reset.
"""

import asyncio
import http.client
import io
import json
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image, ImageCms

import steadylens
from tests.serving.servers import (
    MOST_BYTES,
    MOST_PIXELS,
    ORIGIN,
    PNG,
    SLOTS,
    Server,
    drawn,
    plain,
    png,
    written,
)

Client = Callable[[str, bytes, str], tuple[int, str]]
"""Posts a body of a content type to an address; returns the status and the body of the response."""


def with_httpx(url: str, body: bytes, kind: str) -> tuple[int, str]:
    reply = httpx.post(url, content=body, headers={"content-type": kind}, timeout=60)
    return reply.status_code, reply.text


def with_async_httpx(url: str, body: bytes, kind: str) -> tuple[int, str]:
    async def post() -> httpx.Response:
        async with httpx.AsyncClient(timeout=60) as client:
            return await client.post(url, content=body, headers={"content-type": kind})

    reply = asyncio.run(post())
    return reply.status_code, reply.text


def with_urllib(url: str, body: bytes, kind: str) -> tuple[int, str]:
    request = urllib.request.Request(url, data=body, headers={"content-type": kind})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def with_a_socket(url: str, body: bytes, kind: str) -> tuple[int, str]:
    """Sends everything before it reads anything."""
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port), timeout=60) as client:
        head = f"POST {address.raw_path.decode()} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n"
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        reply = http.client.HTTPResponse(client)
        reply.begin()
        return reply.status, reply.read().decode()


def with_curl(url: str, body: bytes, kind: str) -> tuple[int, str]:
    command = ["curl", "-sS", "-w", "%{http_code}", "-H", f"Content-Type: {kind}", "--data-binary", "@-", url]
    out = subprocess.run(command, input=body, capture_output=True, check=True, timeout=60).stdout.decode()
    return int(out[-3:]), out[:-3]


FETCH = """
const [url, kind] = process.argv.slice(1), body = require("fs").readFileSync(0);
fetch(url, {method: "POST", body, headers: {"content-type": kind}})
  .then(async reply => console.log(reply.status + await reply.text()));
"""


def with_fetch(url: str, body: bytes, kind: str) -> tuple[int, str]:
    command = ["node", "-e", FETCH, url, kind]
    out = subprocess.run(command, input=body, capture_output=True, check=True, timeout=60).stdout.decode()
    return int(out[:3]), out[3:]


def present(client: Client, program: str) -> object:
    absent = pytest.mark.skipif(shutil.which(program) is None, reason=f"there is no {program}")
    return pytest.param(client, marks=absent)


CLIENTS = [
    with_httpx,
    with_async_httpx,
    with_urllib,
    with_a_socket,
    present(with_curl, "curl"),
    present(with_fetch, "node"),
]

LARGE = bytes(9_000_000)
"""Larger than what the sockets of both sides hold, so that the client is still sending when it is refused."""


REFUSED = [
    ("/predict", "image/png", 413),
    ("/predict", "text/plain", 415),
    ("/predict?bottom=1", "image/png", 422),
    ("/nothing", "image/png", 404),
    ("/health", "image/png", 405),
    ("/v2/models/other/infer", "application/json", 404),
]


@pytest.mark.parametrize(("path", "kind", "status"), REFUSED)
def test_every_refusal_reaches_a_client_that_is_still_sending(
    classifier: Server, path: str, kind: str, status: int
) -> None:
    found, body = with_async_httpx(classifier.address + path, LARGE, kind)
    assert found == status
    assert list(json.loads(body)) == ["error"]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(("path", "kind", "status"), REFUSED[:2])
def test_a_refusal_reaches_every_client_that_is_still_sending(
    classifier: Server, client: Client, path: str, kind: str, status: int
) -> None:
    found, body = client(classifier.address + path, LARGE, kind)
    assert found == status
    assert list(json.loads(body)) == ["error"]


@pytest.mark.parametrize("client", CLIENTS)
def test_clients_that_find_no_slot_learn_it_while_they_send(restorer: Server, client: Client) -> None:
    turned_away = []

    def one_more() -> None:
        turned_away.append(client(f"{restorer.address}/predict", LARGE[:4_000_000], "image/png"))
        restorer.release.touch()

    restorer.together([plain(255)] * SLOTS, one_more)
    assert turned_away[0][0] == 503
    assert f"{SLOTS} requests" in turned_away[0][1]


def test_many_clients_that_find_no_slot_learn_it_while_they_send(restorer: Server) -> None:
    statuses: list[int] = []

    def many_more() -> None:
        async def post() -> list[httpx.Response]:
            limits = httpx.Limits(max_connections=32)
            async with httpx.AsyncClient(base_url=restorer.address, limits=limits, timeout=60) as client:
                posts = (client.post("/predict", content=LARGE[:1_000_000], headers=PNG) for _ in range(32))
                return await asyncio.gather(*posts)

        statuses.extend(reply.status_code for reply in asyncio.run(post()))
        restorer.release.touch()

    restorer.together([plain(255)] * SLOTS, many_more)
    assert statuses == [503] * 32


def test_a_client_that_never_ends_is_cut_off_in_the_end(restorer: Server) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: a/b\r\nContent-Length: 9\r\n\r\n"
    with socket.create_connection(("127.0.0.1", restorer.port), timeout=30) as client:
        client.sendall(head)
        answer = b"".join(iter(lambda: client.recv(4096), b""))  # until the server closes
    assert answer.startswith(b"HTTP/1.1 415 ")
    assert b"connection: close" in answer.lower()


def test_a_connection_is_kept_if_the_request_was_read_whole(classifier: Server) -> None:
    with httpx.Client(base_url=classifier.address) as client:
        for content, status in ((b"no image", 422), (plain(9), 200)):
            reply = client.post("/predict", content=content, headers=PNG)
            assert (reply.status_code, "connection" in reply.headers) == (status, False)


def test_a_photograph_many_times_above_the_limit_is_classified(classifier: Server, tmp_path: Path) -> None:
    photograph = Image.fromarray(drawn(3, 1200, 1600))
    assert 40 * MOST_PIXELS < 1200 * 1600
    path = tmp_path / "photograph.jpg"
    photograph.save(path, "JPEG", quality=20)
    reply = classifier.post(path.read_bytes(), {"content-type": "image/jpg"})
    assert reply.status_code == 200, reply.text
    images = steadylens.to_float(steadylens.read_image(path, size=48))[None]
    probabilities = steadylens.load("sign-gtsrb")(images).softmax(dim=1)[0]
    for entry in reply.json()["predictions"]:
        assert entry["probability"] == pytest.approx(probabilities[entry["class"]].item(), abs=0.02)


def test_several_images_are_classified_in_their_order(classifier: Server) -> None:
    contents = [png(drawn(number)) for number in range(5)]
    single = [classifier.post(content).json() for content in contents]
    files = [("images", (f"{number}.png", content)) for number, content in enumerate(contents)]
    reply = httpx.post(f"{classifier.address}/predict", files=files, timeout=60)
    assert reply.status_code == 200, reply.text
    for alone, together in zip(single, reply.json()["images"], strict=True):
        for one, other in zip(alone["predictions"], together["predictions"], strict=True):
            assert one["class"] == other["class"]
            assert one["probability"] == pytest.approx(other["probability"], abs=1e-5)


def test_of_several_images_the_wrong_one_is_named(classifier: Server) -> None:
    files = [("image", ("a", plain(9))), ("image", ("b", b"no image")), ("image", ("c", plain(9)))]
    reply = httpx.post(f"{classifier.address}/predict", files=files)
    assert reply.status_code == 422
    assert reply.json()["error"].startswith("image 2 of 3: the image is not an image of a known format")


def test_several_images_come_back_restored_in_an_archive(restorer: Server) -> None:
    images = [drawn(1, 20, 30), drawn(2, 31, 17)[..., :1]]
    contents = [png(images[0]), png(images[1][..., 0])]
    alone = [restorer.post(content).content for content in contents]
    files = [("image", (f"../{number}.png", content)) for number, content in enumerate(contents)]
    reply = httpx.post(f"{restorer.address}/predict", files=files, timeout=60)
    assert (reply.status_code, reply.headers["content-type"]) == (200, "application/zip")
    with zipfile.ZipFile(io.BytesIO(reply.content)) as archive:
        assert archive.namelist() == ["1.png", "2.png"]
        assert [archive.read(name) for name in archive.namelist()] == alone


def test_a_restored_image_keeps_its_alpha_and_its_colour_profile(restorer: Server) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = np.concatenate([drawn(1, 20, 30), drawn(2, 20, 30)[..., :1]], axis=-1)
    reply = restorer.post(written(Image.fromarray(pixels), "PNG", icc_profile=profile))
    assert reply.status_code == 200, reply.text
    with Image.open(io.BytesIO(reply.content)) as image:
        assert image.mode == "RGBA"
        assert image.info["icc_profile"] == profile
        expected = steadylens.restore(pixels, "l3-gtsrb").astype(int)
        assert np.abs(np.asarray(image) - expected).max() <= 1
        assert np.array_equal(np.asarray(image)[..., 3], pixels[..., 3])


def test_of_an_animation_the_first_image_comes_back_and_a_header_says_so(restorer: Server) -> None:
    first, second = Image.fromarray(drawn(1, 20, 30)), Image.fromarray(drawn(2, 20, 30))
    moving = written(first, "PNG", save_all=True, append_images=[second])
    still = written(first, "PNG")
    reply = restorer.post(moving)
    assert reply.status_code == 200, reply.text
    note = "of several images in the file, the first is restored"
    assert json.loads(reply.headers["steadylens-notes"]) == [note]
    plain_reply = restorer.post(still)
    assert "steadylens-notes" not in plain_reply.headers
    for each in (reply, plain_reply):
        with Image.open(io.BytesIO(each.content)) as image:
            expected = steadylens.restore(drawn(1, 20, 30), "l3-gtsrb").astype(int)
            assert np.abs(np.asarray(image.convert("RGB")) - expected).max() <= 1
    files = [
        ("image", ("a", still)),
        ("image", ("b", moving)),
        ("image", ("c", written(first.convert("1"), "PNG"))),
    ]
    both = httpx.post(f"{restorer.address}/predict", files=files, timeout=60)
    black_and_white = "image 3: black and white became "
    one, other = json.loads(both.headers["steadylens-notes"])
    assert one == f"image 2: {note}"
    assert other.startswith(black_and_white)


def test_a_tiff_of_several_pages_is_refused_and_the_way_out_is_named(restorer: Server) -> None:
    pages = [Image.fromarray(drawn(number, 20, 30)) for number in range(4)]
    content = written(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    reply = restorer.post(content, {"content-type": "image/tiff"})
    assert reply.status_code == 422
    assert "a TIFF of 4 pages" in reply.json()["error"]
    assert "send each page as a file of its own" in reply.json()["error"]


def test_a_path_of_another_model_names_the_model_there_is(classifier: Server) -> None:
    for path, told in (
        ("stats", "there is no model stats; "),
        ("sign-gtsrb/versions/2", "there is no version 2 of "),
    ):
        reply = httpx.get(f"{classifier.address}/v2/models/{path}")
        assert reply.status_code == 404
        assert reply.json()["error"].startswith(told)
        assert "this service has sign-gtsrb, version 1" in reply.json()["error"]


def test_a_restorer_lists_no_classes(restorer: Server) -> None:
    told = httpx.get(f"{restorer.address}/info").json()
    assert told["task"] == "image-to-image"
    assert "classes" not in told


@pytest.mark.parametrize(
    ("site", "allowed"), [(ORIGIN, ORIGIN), ("https://other.example", None)], ids=["own", "other"]
)
def test_scripts_of_the_named_site_alone_may_read_responses(
    classifier: Server, site: str, allowed: str | None
) -> None:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    before = httpx.options(f"{classifier.address}/predict", headers={"origin": site, **asked})
    assert before.headers.get("access-control-allow-origin") == allowed
    for reply in (
        classifier.post(plain(9), {**PNG, "origin": site}),
        classifier.post(bytes(MOST_BYTES + 1), {**PNG, "origin": site}),
        classifier.post(png(drawn(0, 2 * MOST_PIXELS // 100, 100)), {**PNG, "origin": site}),
        httpx.get(f"{classifier.address}/nothing", headers={"origin": site}),
    ):
        assert reply.headers.get("access-control-allow-origin") == allowed


def test_without_a_named_site_no_script_may_read_responses(restorer: Server) -> None:
    reply = httpx.get(f"{restorer.address}/health", headers={"origin": ORIGIN})
    assert not [name for name in reply.headers if name.startswith("access-control")]
