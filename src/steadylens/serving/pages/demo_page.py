"""The page for classifiers: choose an image and noise, see it restored and the answers of the classifiers.

The page works offline. All that it needs comes from its own server, and it tells browsers to load nothing
from elsewhere.
"""

import math
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image
from torch import Tensor

from steadylens.data.sources import CLASS_NAMES
from steadylens.errors import MissingExtraError, SettingError, SteadylensError
from steadylens.serving.pages.demo import (
    HIGHEST_SEED,
    MOST_SIDE,
    NOISE_TYPES,
    DemoNets,
    DemoResult,
    NoiseSettings,
    draw_sign,
    fitted,
    read_upload,
    resized,
    run_demo,
)
from steadylens.serving.payloads import encode_png

try:
    import gradio as gr
except ImportError as error:
    raise MissingExtraError((error.name or "gradio").partition(".")[0], "app") from error


PIXELATED_SIDE = 128
"""Images up to this height and width are enlarged without smoothing, so that their pixels can be seen."""

_SYNTHETIC = (
    "Synthetic signs are drawn by a program, but these nets were trained on photographs: the classifier "
    "misreads about one synthetic sign in four even without noise."
)

_CHOSEN = (
    "This example was selected because the noise changes an answer. For most synthetic signs it changes none."
)

_READ_SMALL = (
    "The classifiers read each image resized to {0}x{0} pixels, which averages much of the noise away."
)

_SHRUNK = "The image has {0:,}x{1:,} pixels. To stay fast, the page shrinks it to at most {2} pixels a side."

_SUMMARIES = {
    (False, False): "The noise changed neither answer.",
    (True, False): "The noise changed the answer of the classifier alone, but not of the fused classifier.",
    (False, True): "The noise changed the answer of the fused classifier, but not of the classifier alone.",
    (True, True): "The noise changed both answers.",
}


class Choice(NamedTuple):
    """The user's choices, in the order of the page's inputs.

    Attributes:
        file: Path of an uploaded image, or None for a synthetic sign.
        sign: Class of the synthetic sign.
        drawing: Seed of the synthetic sign.
        noise_type: Name of the noise type, one of `NOISE_TYPES`.
        strength_grey: Strength of the noise in grey levels.
        percent: Share of the values that are noisy, in percent.
        shared: Whether the channels share the noise.
        seed: Seed of the noise.
        own_size: Whether an uploaded image keeps its size.
    """

    file: str | None = None
    sign: int = 36
    drawing: int = 0
    noise_type: str = "Gaussian"
    strength_grey: float = 30
    percent: float = 20
    shared: bool = False
    seed: int = 0
    own_size: bool = False

    def image(self) -> Image.Image:
        """Returns the chosen image, not resized."""
        return draw_sign(self.sign, self.drawing) if self.file is None else read_upload(Path(self.file))

    def noise(self) -> NoiseSettings:
        """Returns the chosen noise."""
        return NoiseSettings(
            noise_type=NOISE_TYPES[self.noise_type],
            strength_grey=_number("strength", self.strength_grey),
            share=_number("share", self.percent) / 100,
            shared=self.shared,
            seed=self.seed,
        )


def answer(choice: Choice, nets: DemoNets) -> str:
    """Returns the result for a choice as HTML. An error that the user can correct is shown as its message."""
    try:
        image = choice.image()
        small = resized(image, nets.classifier.size, fit=nets.classifier.fit)
        result = run_demo(fitted(image) if choice.own_size else small, choice.noise(), nets)
    except SteadylensError as problem:
        return _render(problem=str(problem))
    return _render(
        problem="",
        summary=_SUMMARIES[result.classifier.changed, result.fused.changed],
        result=result,
        views={name: _View.of(getattr(result, name)) for name in ("clean", "noisy", "pattern", "restored")},
        origin="synthetic sign" if choice.file is None else Path(choice.file).name,
        true_class=choice.sign if choice.file is None else None,
        restorer=nets.restorer.name,
        notes=list(_notes(choice, image, result, nets)),
    )


class _View(NamedTuple):
    """An image embedded in an HTML page."""

    source: str
    width: int
    height: int

    @property
    def small(self) -> bool:
        """Whether it is enlarged without smoothing."""
        return max(self.width, self.height) <= PIXELATED_SIDE

    @classmethod
    def of(cls, image: Tensor) -> Self:
        source = f"data:image/png;base64,{b64encode(encode_png(image).content).decode()}"
        return cls(source=source, width=image.shape[2], height=image.shape[1])


def _notes(choice: Choice, image: Image.Image, result: DemoResult, nets: DemoNets) -> Iterator[str]:
    if choice.file is None and nets.classifier.packaged and nets.fused.packaged:
        yield _SYNTHETIC
        if choice == Choice() and result.classifier.changed:
            yield _CHOSEN
    if choice.own_size and max(image.size) > MOST_SIDE:
        yield _SHRUNK.format(*image.size, MOST_SIDE)
    if max(result.clean.shape) > nets.classifier.size:
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
    return environment.get_template("demo.html").render(content)


STRONGEST_GREY = 80
"""The end of the slider for the strength, in grey levels."""

_INTRO = """
<h1>Steadylens</h1>
<nav><a href="../photographs">Photographs</a> <a href="" aria-current="page">Classifiers</a></nav>
<p>Noise in an image can change the answer of a classifier. Add noise to a traffic sign, see how a small
network restores it, and compare a classifier alone with a fused one, which has such a network in front.</p>
"""

_FIRST = Choice()

_KEPT_SECONDS = (300, 3600)
"""How often gradio looks for uploaded files, which it keeps on disk, and the age at which it removes them."""


def page(nets: DemoNets) -> gr.Blocks:
    """Returns the page: its inputs, its result, and how they are connected."""
    blocks: gr.Blocks = gr.Blocks(title="Steadylens", analytics_enabled=False, delete_cache=_KEPT_SECONDS)
    with blocks:
        gr.HTML(_INTRO, elem_id="intro")
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                parts = _image_parts() | _noise_parts() | _further_parts(nets.classifier.size)
            with gr.Column(scale=5, min_width=320):
                shown = gr.HTML(elem_id="result")
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
            label="Synthetic sign",
            elem_id="sign",
        )
        redraw = gr.Button("Draw another", size="sm", elem_id="redraw")
    file = gr.File(label="Or your own image", file_types=["image"], height=140, elem_id="file")
    return {"sign": sign, "redraw": redraw, "file": file}


def _noise_parts() -> dict[str, Any]:
    with gr.Group():
        noise_type = gr.Dropdown(
            list(NOISE_TYPES),
            value=_FIRST.noise_type,
            label="Noise type",
            filterable=False,
            elem_id="noise-type",
        )
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
            visible=NOISE_TYPES[_FIRST.noise_type].has_share,
            elem_id="percent",
        )
        again = gr.Button("New noise", size="sm", elem_id="again")
    return {"noise_type": noise_type, "strength_grey": strength, "percent": percent, "again": again}


def _further_parts(size: int) -> dict[str, Any]:
    with gr.Accordion("More settings", open=False, elem_id="more"):
        shared = gr.Checkbox(_FIRST.shared, label="Grey noise (the same in red, green and blue)")
        own_size = gr.Radio(
            [
                (f"{size}x{size} pixels, as the classifier reads it", False),
                (f"unchanged, up to {MOST_SIDE} pixels a side", True),
            ],
            value=_FIRST.own_size,
            label="Size of your own image",
            elem_id="size",
        )
        with gr.Row():
            drawing = _seed("Sign seed", _FIRST.drawing, "drawing")
            seed = _seed("Noise seed", _FIRST.seed, "seed")
    return {"shared": shared, "own_size": own_size, "drawing": drawing, "seed": seed}


def _seed(label: str, value: int, name: str) -> gr.Number:
    return gr.Number(
        value, label=label, precision=0, minimum=0, maximum=HIGHEST_SEED, min_width=120, elem_id=name
    )


def _connect(parts: dict[str, Any]) -> None:
    """Connects the buttons with the seeds, the sign with the file, and the noise type with its sliders."""
    on = {"show_progress": "hidden", "api_visibility": "private"}
    file, drawing, seed = parts["file"], parts["drawing"], parts["seed"]
    parts["redraw"].click(_next, drawing, drawing, **on).then(_nothing, None, file, **on)
    parts["sign"].input(_nothing, None, file, **on)
    parts["again"].click(_next, seed, seed, **on)
    parts["noise_type"].input(_visible, parts["noise_type"], [parts["strength_grey"], parts["percent"]], **on)


def _next(seed: int | None) -> int:
    return 0 if seed is None else min(seed + 1, HIGHEST_SEED)


def _nothing() -> None:
    return None


def _visible(name: str) -> list[dict[str, Any]]:
    chosen = NOISE_TYPES[name]
    return [gr.update(visible=chosen.has_strength), gr.update(visible=chosen.has_share)]
