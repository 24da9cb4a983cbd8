"""A web page to try the nets: choose an image and noise, see what is restored and what is answered.

It works offline: all that the page needs comes from its own server, and browsers are told to ask nobody
else.
"""

import math
import socket
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple, Self

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image
from torch import Tensor

from steadylens.checkpoints.loading import PRETRAINED
from steadylens.data.sources import CLASS_NAMES
from steadylens.errors import MissingExtraError, SettingError, SteadylensError
from steadylens.serving.demo import (
    HIGHEST_SEED,
    KINDS,
    MOST_SIDE,
    Nets,
    Noise,
    Trial,
    draw_sign,
    fitted,
    read_upload,
    resized,
    try_out,
)
from steadylens.serving.payloads import encode_png
from steadylens.serving.server import run_until_stopped

try:
    import gradio as gr
    import uvicorn
    from fastapi import FastAPI
    from starlette.datastructures import MutableHeaders
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
except ImportError as error:
    raise MissingExtraError("gradio", "app") from error


SEEN_PIXELS = 128
"""Height and width up to which a picture is enlarged without smoothing."""

_DRAWN = (
    "Drawn signs are no photographs, from which these nets learned: about one drawn sign in four is misread "
    "even without noise."
)

_CHOSEN = "This example was chosen for its change: the noise changes no answer for most drawn signs."

_READ_SMALL = (
    "The classifiers read every picture resized to {0}x{0} pixels, which averages much of the noise away."
)

_SHRUNK = "The image has {0:,}x{1:,} pixels; to be quick, the page works on at most {2} a side."

_SUMMARIES = {
    (False, False): "The noise changed neither answer.",
    (True, False): "The noise changed the answer of the classifier alone, not of the fused one.",
    (False, True): "The noise changed the answer of the fused classifier, not of the one alone.",
    (True, True): "The noise changed both answers.",
}


class Choice(NamedTuple):
    """What somebody has chosen, in the order of the page's inputs.

    Attributes:
        file: Path of an uploaded image, or None for a drawn sign.
        sign: Class of the drawn sign.
        drawing: Seed of the drawing.
        kind: Name of the kind of noise, one of `KINDS`.
        strength_grey: Strength of the noise in grey levels.
        percent: Share of the values that are noisy, in percent.
        shared: Whether the channels share the noise.
        seed: Seed of the noise.
        own_size: Whether an uploaded image keeps its size.
    """

    file: str | None = None
    sign: int = 18
    drawing: int = 0
    kind: str = "Gaussian"
    strength_grey: float = 30
    percent: float = 20
    shared: bool = False
    seed: int = 0
    own_size: bool = False

    def image(self) -> Image.Image:
        """Returns the chosen image, at its own size."""
        return draw_sign(self.sign, self.drawing) if self.file is None else read_upload(Path(self.file))

    def noise(self) -> Noise:
        """Returns the chosen noise."""
        return Noise(
            kind=KINDS[self.kind],
            strength_grey=_number("strength", self.strength_grey),
            share=_number("share", self.percent) / 100,
            shared=self.shared,
            seed=self.seed,
        )


def answer(choice: Choice, nets: Nets) -> str:
    """Returns what the page shows, as HTML; a problem that can be mended becomes its message."""
    try:
        image = choice.image()
        small = resized(image, nets.classifier.size, fit=nets.classifier.fit)
        trial = try_out(fitted(image) if choice.own_size else small, choice.noise(), nets)
    except SteadylensError as problem:
        return _render(problem=str(problem))
    return _render(
        problem="",
        summary=_SUMMARIES[trial.classifier.changed, trial.fused.changed],
        trial=trial,
        views={name: _View.of(getattr(trial, name)) for name in ("clean", "noisy", "pattern", "restored")},
        origin="drawn sign" if choice.file is None else Path(choice.file).name,
        drawn=choice.sign if choice.file is None else None,
        restorer=nets.restorer.name,
        notes=list(_notes(choice, image, trial, nets)),
    )


class _View(NamedTuple):
    """A picture as an HTML page holds it."""

    source: str
    width: int
    height: int

    @property
    def small(self) -> bool:
        """Whether its pixels shall be seen."""
        return max(self.width, self.height) <= SEEN_PIXELS

    @classmethod
    def of(cls, picture: Tensor) -> Self:
        source = f"data:image/png;base64,{b64encode(encode_png(picture)).decode()}"
        return cls(source=source, width=picture.shape[2], height=picture.shape[1])


def _notes(choice: Choice, image: Image.Image, trial: Trial, nets: Nets) -> Iterator[str]:
    if choice.file is None and {nets.classifier.name, nets.fused.name} <= {*PRETRAINED}:
        yield _DRAWN
        if choice == Choice() and trial.classifier.changed:
            yield _CHOSEN
    if choice.own_size and max(image.size) > MOST_SIDE:
        yield _SHRUNK.format(*image.size, MOST_SIDE)
    if max(trial.clean.shape) > nets.classifier.size:
        yield _READ_SMALL.format(nets.classifier.size)


def _number(name: str, value: float | None) -> float:
    if value is None:
        raise SettingError(f"the {name} is empty; enter a number")
    return value


def _decibels(value: float) -> str:
    return f"PSNR {value:.1f} dB" if math.isfinite(value) else "identical to the clean image"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _render(**content: Any) -> str:
    loader = PackageLoader("steadylens.serving")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(decibels=_decibels, percent=_percent)
    return environment.get_template("trial.html").render(content)


MOST_BYTES = 2**25
"""Size of an image file that the page takes."""

STRONGEST_GREY = 80
"""The strongest noise that the page offers, in grey levels."""

POLICY = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'"
"""What browsers may load: only what comes from this server."""

_INTRO = """
<h1>Steadylens</h1>
<p>Slight noise can change what an image classifier answers. Put noise on a traffic sign, see what a
restoration net makes of it, and compare a classifier alone with one behind such a net.</p>
"""

_FIRST = Choice()

_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")


def application(nets: Nets) -> FastAPI:
    """Returns the page as an application for a server.

    Args:
        nets: What restores and classifies.
    """
    application = FastAPI(openapi_url=None)
    application.add_middleware(_Confined)
    mounted: FastAPI = gr.mount_gradio_app(
        application,
        page(nets),
        path="",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        max_file_size=MOST_BYTES,
        theme=gr.themes.Base(font=_FONTS, font_mono=("ui-monospace", "monospace"), radius_size="lg"),
        css=(files("steadylens.serving") / "templates" / "app.css").read_text(),
    )
    return mounted


def serve(application: FastAPI, listeners: Sequence[socket.socket], *, ready: Callable[[], None]) -> None:
    """Answers until SIGINT or SIGTERM.

    Args:
        application: What `application` returned.
        listeners: The sockets that `listening` lent.
        ready: Called as soon as browsers can connect.
    """
    config = uvicorn.Config(application, log_config=None, log_level="critical", timeout_graceful_shutdown=1)
    run_until_stopped(uvicorn.Server(config), listeners, ready=ready)


def page(nets: Nets) -> gr.Blocks:
    """Returns the page: its inputs, its result, and what follows from what."""
    blocks: gr.Blocks = gr.Blocks(title="Steadylens", analytics_enabled=False, delete_cache=(3600, 86400))
    with blocks:
        gr.HTML(_INTRO, elem_id="intro")
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                parts = _image_parts() | _noise_parts() | _further_parts(nets.classifier.size)
            with gr.Column(scale=5, min_width=320):
                shown = gr.HTML(elem_id="trial")
        _connect(parts)
        inputs = [parts[name] for name in Choice._fields]
        gr.on(
            [blocks.load, *(each.change for each in inputs)],
            lambda *chosen: answer(Choice(*chosen), nets),
            inputs=inputs,
            outputs=shown,
            trigger_mode="always_last",
            show_progress="minimal",
            api_visibility="private",
        )
    return blocks


def _image_parts() -> dict[str, Any]:
    with gr.Group():
        sign = gr.Dropdown(
            [(name, number) for number, name in enumerate(CLASS_NAMES)],
            value=_FIRST.sign,
            label="Drawn sign",
            elem_id="sign",
        )
        redraw = gr.Button("Draw another", size="sm", elem_id="redraw")
    file = gr.File(label="Or an image of yours", file_types=["image"], height=140, elem_id="file")
    return {"sign": sign, "redraw": redraw, "file": file}


def _noise_parts() -> dict[str, Any]:
    with gr.Group():
        kind = gr.Dropdown(list(KINDS), value=_FIRST.kind, label="Noise", filterable=False, elem_id="kind")
        strength = gr.Slider(
            0,
            STRONGEST_GREY,
            value=_FIRST.strength_grey,
            step=1,
            label="Strength in grey levels",
            elem_id="strength",
        )
        percent = gr.Slider(
            0,
            100,
            value=_FIRST.percent,
            step=1,
            label="Noisy values in percent",
            visible=KINDS[_FIRST.kind].has_share,
            elem_id="percent",
        )
        again = gr.Button("Draw the noise again", size="sm", elem_id="again")
    return {"kind": kind, "strength_grey": strength, "percent": percent, "again": again}


def _further_parts(size: int) -> dict[str, Any]:
    with gr.Accordion("More settings", open=False, elem_id="more"):
        shared = gr.Checkbox(_FIRST.shared, label="Grey noise: the same in red, green and blue")
        own_size = gr.Radio(
            [
                (f"{size}x{size} pixels, as the classifier reads", False),
                (f"its own, at most {MOST_SIDE} pixels a side", True),
            ],
            value=_FIRST.own_size,
            label="Size of your image",
            elem_id="size",
        )
        with gr.Row():
            drawing = _seed("Drawing seed", _FIRST.drawing, "drawing")
            seed = _seed("Noise seed", _FIRST.seed, "seed")
    return {"shared": shared, "own_size": own_size, "drawing": drawing, "seed": seed}


def _seed(label: str, value: int, name: str) -> gr.Number:
    return gr.Number(
        value, label=label, precision=0, minimum=0, maximum=HIGHEST_SEED, min_width=120, elem_id=name
    )


def _connect(parts: dict[str, Any]) -> None:
    """Lets buttons draw anew, a chosen sign replace the file, and a kind of noise show what it has."""
    on = {"show_progress": "hidden", "api_visibility": "private"}
    file, drawing, seed = parts["file"], parts["drawing"], parts["seed"]
    parts["redraw"].click(_next, drawing, drawing, **on).then(_nothing, None, file, **on)
    parts["sign"].input(_nothing, None, file, **on)
    parts["again"].click(_next, seed, seed, **on)
    parts["kind"].input(_visible, parts["kind"], [parts["strength_grey"], parts["percent"]], **on)


def _next(seed: int | None) -> int:
    return 0 if seed is None else min(seed + 1, HIGHEST_SEED)


def _nothing() -> None:
    return None


def _visible(kind: str) -> list[dict[str, Any]]:
    return [gr.update(visible=KINDS[kind].has_strength), gr.update(visible=KINDS[kind].has_share)]


class _Confined:
    """Sends the policy of what browsers may load with every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""

        async def send_confined(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["content-security-policy"] = POLICY
            await send(message)

        await self._app(scope, receive, send_confined)
