"""The page takes a photograph, tells how far the net is, and gives it back; what is refused gets a reason.

In a real browser, the boundary, the strength and the sizes work, and the file that is downloaded is the one
that was promised.
"""

import asyncio
import io
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import Base
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from starlette.applications import Starlette
from torch import Tensor

from steadylens.images.reading import read_image_file
from steadylens.images.tensors import array_to_tensor
from steadylens.inference.inspecting.noise_level import noise_level_of
from steadylens.inference.restorer import restorer_of
from steadylens.progress import ProgressCallback
from steadylens.serving.pages.photograph_page import BODY_TYPE, POLICY, HoldingLimits, PhotographPage
from steadylens.serving.payloads import UploadLimits
from tests.inference.inspecting.scenes import enlarged_noise, levels, scene
from tests.serving.pages.sites import Site

Restore = Callable[[Tensor, ProgressCallback], Tensor]


def inverted(images: Tensor, progress: ProgressCallback) -> Tensor:
    for done in (1, 2):
        progress(done, 2)
    return 255 - images


def page_of(restore: Restore = inverted, **settings: Any) -> PhotographPage:
    return PhotographPage(restore, net="the net", learned_photographs=False, **settings)


def png(height: int = 20, width: int = 30) -> bytes:
    buffer = io.BytesIO()
    levels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(levels).save(buffer, "PNG")
    return buffer.getvalue()


@contextmanager
def clients(page: PhotographPage) -> Iterator[Callable[..., httpx.Response]]:
    """Yields a function that sends a request to the page and returns the response."""
    with asyncio.Runner() as runner:
        application = Starlette(routes=page.routes())

        async def send(method: str, path: str, **options: Any) -> httpx.Response:
            transport = httpx.ASGITransport(application)
            async with httpx.AsyncClient(transport=transport, base_url="http://page") as client:
                return await client.request(method, f"/photographs{path}", **options)

        yield lambda method, path, **options: runner.run(send(method, path, **options))


def upload(send: Callable[..., httpx.Response], content: bytes, name: str = "a.png") -> httpx.Response:
    headers = {"content-type": BODY_TYPE}
    return send("POST", "/restored", params={"name": name}, content=content, headers=headers)


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line) for line in response.text.splitlines()]


def test_an_upload_gives_lines_and_then_views_and_a_file() -> None:
    with clients(page_of()) as send:
        response = upload(send, png(), "holiday/säge.png")
        first, *middle, last = lines(response)
        assert first == {"state": "waiting", "ahead": 0}
        assert [(each["done"], each["total"]) for each in middle] == [(0, 1), (1, 2), (2, 2)]
        assert {each["state"] for each in middle} == {"restoring"}
        key = last.pop("key")
        assert last.pop("noise") > 20
        assert last.pop("estimate").startswith("noise about ")
        assert last == {
            "state": "restored",
            "name": "säge.png",
            "width": 30,
            "height": 20,
            "bits": 8,
            "grey": False,
            "clean": False,
            "coarse": False,
            "notes": [],
            "formats": [
                {"format": "PNG", "name": "säge-restored.png"},
                {"format": "JPEG", "name": "säge-restored.jpg"},
                {"format": "TIFF", "name": "säge-restored.tiff"},
                {"format": "WEBP", "name": "säge-restored.webp"},
            ],
        }
        before, after = (
            np.asarray(Image.open(io.BytesIO(send("GET", f"/{key}/{view}").content))).astype(int)
            for view in ("before", "after")
        )
        assert (before + after == 255).all()
        file = send("GET", f"/{key}/file", params={"strength": "0.25", "format": "TIFF"})
        found = np.asarray(Image.open(io.BytesIO(file.content)))
        assert np.abs(found - (0.75 * before + 0.25 * after)).max() <= 0.5
        assert file.headers["content-type"] == "image/tiff"
        assert file.headers["content-disposition"] == "attachment; filename*=UTF-8''s%C3%A4ge-restored.tiff"
        assert file.headers["cache-control"] == "no-store"
        assert send("POST", f"/{key}/forget").status_code == 204
        gone = send("GET", f"/{key}/file")
        assert (gone.status_code, gone.json()["error"]) == (
            404,
            "the photograph is not held any more; choose it again",
        )


def test_a_bad_file_is_told_by_its_name_and_nothing_is_held() -> None:
    page = page_of()
    with clients(page) as send:
        for content, told in ((b"", "a.png is empty"), (png()[:200], "a.png cannot be read: it is cut off")):
            last = lines(upload(send, content))[-1]
            assert last["state"] == "failed"
            assert last["error"].startswith(told)
    assert len(page.held) == 0


def test_an_error_of_the_page_is_told_without_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    def broken(images: Tensor, progress: ProgressCallback) -> Tensor:
        raise RuntimeError("the secret reason")

    with clients(page_of(broken)) as send:
        last = lines(upload(send, png()))[-1]
    assert last == {
        "state": "failed",
        "error": "the page failed, through no fault of yours; see its log",
    }
    assert "the secret reason" in caplog.text


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ({"strength": "much"}, "the strength is no number"),
        ({"strength": "1.5"}, "the strength is 1.5; choose from 0 to 1"),
        ({"format": "GIF"}, "the format is 'GIF'; choose one of PNG, JPEG, TIFF, WEBP"),
    ],
)
def test_a_wrong_query_is_refused(query: dict[str, str], told: str) -> None:
    with clients(page_of()) as send:
        key = lines(upload(send, png()))[-1]["key"]
        response = send("GET", f"/{key}/file", params=query)
    assert response.status_code == 422
    assert response.json()["error"].startswith(told)


def test_an_upload_that_is_too_large_or_of_another_type_is_refused() -> None:
    async def in_parts() -> Any:
        for _ in range(4):
            yield bytes(50)

    with clients(page_of(limits=UploadLimits(bytes=100, pixels=100, seconds=5))) as send:
        for content in (bytes(101), in_parts()):
            response = upload(send, content)
            assert response.status_code == 413
            assert "choose a smaller one" in response.json()["error"]
        # What a form of another site could send without asking.
        response = send("POST", "/restored", content=png(), headers={"content-type": "text/plain"})
        assert response.status_code == 415
    with clients(page_of(limits=UploadLimits(bytes=10_000, pixels=599, seconds=5))) as send:
        assert "has 30x20 pixels" in lines(upload(send, png()))[-1]["error"]


def test_a_slow_upload_ends() -> None:
    async def slowly() -> Any:
        yield bytes(50)
        await asyncio.sleep(60)

    with clients(page_of(limits=UploadLimits(bytes=100, pixels=100, seconds=0.05))) as send:
        assert upload(send, slowly()).status_code == 408


def scope() -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"spec_version": "2.3"},
        "method": "POST",
        "path": "/photographs/restored",
        "query_string": b"name=a.png",
        "headers": [(b"content-type", BODY_TYPE.encode())],
    }


def test_a_photograph_too_many_is_refused_and_one_that_nobody_waits_for_is_stopped() -> None:
    entered, stopped = Event(), Event()

    def endless(images: Tensor, progress: ProgressCallback) -> Tensor:
        entered.set()
        try:
            while True:
                progress(0, 1)
                time.sleep(0.01)
        finally:
            stopped.set()

    page = page_of(endless, holding=HoldingLimits(slots=1))
    application = Starlette(routes=page.routes())

    async def visit() -> None:
        leave, sent = asyncio.Event(), False

        async def receive() -> dict[str, Any]:
            nonlocal sent
            if not sent:
                sent = True
                return {"type": "http.request", "body": png(), "more_body": False}
            await leave.wait()
            return {"type": "http.disconnect"}

        async def drop(message: dict[str, Any]) -> None:
            pass

        visiting = asyncio.create_task(application(scope(), receive, drop))  # type: ignore[arg-type]
        assert await asyncio.to_thread(entered.wait, 30)
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://page") as client:
            headers = {"content-type": BODY_TYPE}
            refused = await client.post("/photographs/restored", content=png(), headers=headers)
            assert refused.status_code == 503
            assert "try again" in refused.json()["error"]
            leave.set()
            await visiting
            assert await asyncio.to_thread(stopped.wait, 30)
        with page.slot():  # it is free again
            assert len(page.held) == 0

    asyncio.run(visit())


def test_the_page_says_what_it_holds_and_confines_browsers() -> None:
    with clients(page_of(holding=HoldingLimits(idle_seconds=300))) as send:
        response = send("GET", "")
        assert response.headers["content-security-policy"] == POLICY
        assert "after 5 minutes" in response.text
        assert "the net. As far as its file says, it did not learn from photographs" in response.text
        for name, kind in (("page.js", "text/javascript"), ("page.css", "text/css")):
            assert send("GET", f"/{name}").headers["content-type"].startswith(kind)
    learned = PhotographPage(inverted, net="another", learned_photographs=True)
    with clients(learned) as send:
        assert "did not learn" not in send("GET", "").text


@pytest.mark.parametrize(("net", "coarse"), [("unet-photos", True), ("unet-camera", False)])
def test_coarse_noise_is_told_with_the_net_for_it(net: str, coarse: bool) -> None:
    content = io.BytesIO()
    Image.fromarray(levels(scene(150, 150) + enlarged_noise((150, 150, 3), 8))).save(content, "PNG")
    page = PhotographPage(restorer_of(net, device="cpu"), net=net, learned_photographs=True)
    with clients(page) as send:
        assert f"{net} hardly touches it" in send("GET", "").text
        assert "steadylens app --net unet-camera" in send("GET", "").text
        assert lines(upload(send, content.getvalue()))[-1]["coarse"] == coarse


def phone_photograph(path: Path, width: int = 300, height: int = 200) -> Path:
    """Writes a noisy JPEG as a telephone held upright does: turned, with EXIF."""
    rng = np.random.default_rng(2)
    coarse = rng.integers(40, 216, (4, 6, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    levels = np.clip(smooth + rng.normal(0, 15, smooth.shape), 0, 255).astype(np.uint8)
    exif = Image.Exif()
    exif[Base.Orientation], exif[Base.Model] = 6, "Pocket 7"
    Image.fromarray(levels).save(path, quality=95, subsampling=0, exif=exif)
    return path


def visit(site: Site, width: int = 1280, height: int = 900, *, mobile: bool = False) -> None:
    site.visit("/photographs", width, height, mobile=mobile)
    site.wait_for(lambda: site.shown("#drop"))


def give(site: Site, path: Path) -> None:
    site.find("#file").send_keys(str(path))
    site.wait_for(lambda: site.shown("#result"))


def requests(site: Site) -> int:
    count: int = site.browser.execute_script("return performance.getEntriesByType('resource').length")
    return count


def test_a_photograph_goes_in_and_comes_out(site: Site, tmp_path: Path) -> None:
    visit(site)
    path = phone_photograph(tmp_path / "IMG_7.JPG")
    give(site, path)
    assert site.text("#name") == "IMG_7.JPG"
    assert site.text("#size") == "200 x 300 pixels, JPEG, 8 bits"
    pixels = array_to_tensor(read_image_file(path).pixels)
    level = noise_level_of(pixels, restorer_of("l3-gtsrb", device="cpu"))
    noise, unit = site.text("#noise").split(" ", 1)
    assert unit == "of 255"
    assert float(noise) == pytest.approx(level.grey, rel=0.05)  # the page may compute in bfloat16
    assert not site.shown("#clean, #coarse")
    sizes = site.browser.execute_script(
        "return [...document.querySelectorAll('#picture img')].map(i => [i.naturalWidth, i.naturalHeight])"
    )
    assert sizes == [[200, 300], [200, 300]]
    before = requests(site)
    site.find("#strength").send_keys(Keys.ARROW_LEFT * 8)
    assert site.text("#strength-value") == "0.60"
    assert site.browser.execute_script("return document.getElementById('after').style.opacity") == "0.6"
    assert requests(site) == before, "the browser blends by itself"
    site.find("#download").click()
    target = site.folder / "downloads" / "IMG_7-restored.JPG"
    site.wait_for(target.exists)
    with Image.open(target) as file:
        assert (file.format, file.size, file.getexif()[Base.Model]) == ("JPEG", (200, 300), "Pocket 7")
    site.browser.execute_script(
        "const f = document.getElementById('format'); f.value = 'PNG'; f.dispatchEvent(new Event('change'))"
    )
    assert site.text("#file-name") == "IMG_7-restored.png"


def test_a_clean_photograph_had_better_stay_as_it_is(site: Site, tmp_path: Path) -> None:
    visit(site)
    Image.new("RGB", (200, 160), (120, 130, 140)).save(tmp_path / "clean.png")
    give(site, tmp_path / "clean.png")
    assert site.text("#strength-value") == "0.00"
    assert "better stay as it is" in site.text("#clean")


def test_a_photograph_of_coarse_noise_gets_a_sentence(site: Site, tmp_path: Path) -> None:
    visit(site)
    give(site, phone_photograph(tmp_path / "a.jpg"))
    site.browser.execute_script("estimate({ ...state.done, coarse: true })")
    assert "steadylens app --net unet-camera" in site.text("#coarse")


def test_the_boundary_follows_keys_and_pointer_and_each_size_is_exact(site: Site, tmp_path: Path) -> None:
    visit(site)
    give(site, phone_photograph(tmp_path / "wide.jpg", 300, 1200))
    divider, stage = site.find("#divider"), site.find("#stage")
    divider.send_keys(Keys.HOME)
    assert divider.get_attribute("aria-valuenow") == "0"
    assert not site.shown("#label-before:not(.covered)")
    divider.send_keys(Keys.ARROW_RIGHT * 5)
    assert divider.get_attribute("aria-valuenow") == "10"
    width = stage.size["width"]
    ActionChains(site.browser).drag_and_drop_by_offset(divider, round(0.5 * width), 0).perform()
    assert float(divider.get_attribute("aria-valuenow") or 0) == pytest.approx(60, abs=2)
    ActionChains(site.browser).move_to_element(stage).click_and_hold().release().perform()
    assert float(divider.get_attribute("aria-valuenow") or 0) == pytest.approx(60, abs=2), (
        "moves only if dragged"
    )
    assert "which hides noise" in site.text("#hint")
    for zoom, factor in (("1", 1), ("2", 2), ("fit", None)):
        site.find(f"[data-zoom='{zoom}']").click()
        assert site.find(f"[data-zoom='{zoom}']").get_attribute("aria-pressed") == "true"
        if factor is not None:
            assert site.find("#picture").size == {"width": 1200 * factor, "height": 300 * factor}
    assert site.find("#picture").size == stage.size


def test_a_bad_file_is_explained_and_the_next_one_taken(site: Site, tmp_path: Path) -> None:
    visit(site)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    site.find("#file").send_keys(str(tmp_path / "broken.png"))
    site.wait_for(lambda: "broken.png cannot be read" in site.text("#problem"))
    assert site.shown("#drop")
    give(site, phone_photograph(tmp_path / "whole.jpg"))
    assert not site.shown("#problem")
    site.find("#another").click()
    site.wait_for(lambda: site.shown("#drop"))
    assert not site.shown("#viewer")


def test_a_photograph_that_the_server_has_forgotten_is_restored_once_more(site: Site, tmp_path: Path) -> None:
    visit(site)
    give(site, phone_photograph(tmp_path / "again.jpg"))
    site.browser.execute_script("forget(state.done.key)")
    time.sleep(0.3)
    site.find("#download").click()
    site.wait_for((site.folder / "downloads" / "again-restored.jpg").exists)


def test_a_photograph_is_forgotten_with_the_page_and_never_written(site: Site, tmp_path: Path) -> None:
    visit(site)
    give(site, phone_photograph(tmp_path / "secret.jpg"))
    key = site.browser.execute_script("return state.done.key")
    assert httpx.get(f"{site.address}/photographs/{key}/before").status_code == 200
    site.browser.get("about:blank")
    site.wait_for(lambda: httpx.get(f"{site.address}/photographs/{key}/before").status_code == 404, 20)
    written = [path for path in (site.folder / "server").rglob("*") if path.is_file()]
    assert [path for path in written if path.suffix in {".jpg", ".jpeg", ".JPG"}] == []


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_overflows(width: int, site: Site, tmp_path: Path) -> None:
    visit(site, width, mobile=width < 800)
    assert site.overflow() <= 0
    name = "a_very_long_name_of_a_file_that_somebody_has_dropped_on_the_page_to_see_what_it_does.jpg"
    give(site, phone_photograph(tmp_path / name, 640, 480))
    assert site.overflow() <= 0
    site.find("[data-zoom='2']").click()
    assert site.overflow() <= 0
    below = site.browser.execute_script(
        "const [a, b] = ['viewer', 'panel'].map(id => document.getElementById(id).getBoundingClientRect());"
        "return b.top >= a.bottom"
    )
    assert below == (width < 800)
