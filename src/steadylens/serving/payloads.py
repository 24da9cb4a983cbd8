"""Untrusted uploads become images, and the results of a net become responses.

The format of an image is found from its content, not from its declared type. Only formats with a compiled
decoder are read, because one written in Python could block all other requests. Nothing is written to disk.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Protocol

import torch
from torch import Tensor

from steadylens.devices import evaluating
from steadylens.errors import ImageError, ImageSizeError, SettingError
from steadylens.images.decoding import opened_stream
from steadylens.images.preprocessing import Fit
from steadylens.images.tensors import SQUASHED, pil_to_tensor, tensor_to_pil, to_float, to_rgb

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP")
"""The image formats that are read, by their names in Pillow."""

MEDIA_TYPES = ("image/jpeg", "image/png", "image/tiff", "image/webp")
"""The content types of a body that is an image."""

FORM_TYPE = "multipart/form-data"
"""The content type of a body that is a form with an image as its only file."""

MOST_TIMES_A_SQUARE = 16
"""An image may always be resized if its sides have at most this ratio, even to more pixels than the limit."""


class HttpError(Exception):
    """A request is refused with an HTTP status and a reason.

    Args:
        status: The HTTP status, 4xx or 503.
        reason: The value, the rule and the way out; it is sent to the client.
        closing: Whether the connection must be closed, because the rest of the body is not read.
    """

    def __init__(self, status: int, reason: str, *, closing: bool = False) -> None:
        super().__init__(reason)
        self.status, self.reason, self.closing = status, reason, closing


@dataclass(frozen=True, kw_only=True, slots=True)
class UploadLimits:
    """The largest and the slowest upload that is accepted.

    Attributes:
        bytes: Size of a request's body.
        pixels: Width times height of an image, which is checked before the image is decoded.
        seconds: Time from a request's headers to the end of its body.

    Raises:
        SettingError: If a limit is not positive or not finite.
    """

    bytes: int = 2**23
    pixels: int = 2**21
    seconds: float = 10.0

    def __post_init__(self) -> None:
        for name in ("bytes", "pixels", "seconds"):
            if not 0 < getattr(self, name) < math.inf:
                raise SettingError(f"{name} is {getattr(self, name)}, a limit must be positive and finite")


def checked_type(headers: Mapping[str, str]) -> str:
    """Returns the content type of a request, one of `MEDIA_TYPES` or `FORM_TYPE`, with its parameters.

    Args:
        headers: The headers of the request. Names are in lower case, or the mapping ignores case.

    Raises:
        HttpError: 415 if the content type is another one, or the body has a content encoding such as gzip.
    """
    declared, _, parameters = headers.get("content-type", "").partition(";")
    kind = declared.strip().lower()
    if kind not in (*MEDIA_TYPES, FORM_TYPE):
        raise HttpError(
            415,
            f"the content type is {kind[:80] or 'not given'}; send an image as "
            f"{', '.join(MEDIA_TYPES)}, or as the only file of {FORM_TYPE}",
            closing=True,
        )
    encoding = headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        raise HttpError(415, f"the content encoding is {encoding}; send the image as it is", closing=True)
    return f"{kind};{parameters}"


def decode_image(content: bytes, *, most_pixels: int, size: int | None = None, fit: Fit = SQUASHED) -> Tensor:
    """Decodes an image just as `read_image` reads a file, to 8-bit RGB.

    Args:
        content: The content of an image file in one of `FORMATS`.
        most_pixels: The largest width times height; a larger image is refused before it is decoded.
        size: The height and width in pixels to resize it to, or None to keep its size.
        fit: How it becomes a square of that size.

    Returns:
        The image, uint8 (3, H, W).

    Raises:
        HttpError: 400 if the content is empty, 413 if the image is too large, 422 if it cannot be decoded.
    """
    if not content:
        raise HttpError(400, "the image is empty; send the content of an image file")
    try:
        with opened_stream(
            BytesIO(content),
            name="the image",
            most_pixels=most_pixels,
            way_out="send a smaller one",
            formats=FORMATS,
        ) as opened:
            image = to_rgb(opened)
    except ImageError as error:
        raise HttpError(413 if isinstance(error, ImageSizeError) else 422, str(error)) from error
    if size is not None:
        try:
            usual = MOST_TIMES_A_SQUARE * (fit.side or size) ** 2
            image = fit.fitted(image, size, most_pixels=max(most_pixels, usual))
        except ImageError as error:
            raise HttpError(422, str(error)) from error
    return pil_to_tensor(image)


def encode_png(image: Tensor) -> bytes:
    """Returns an image, uint8 (3, H, W), as a PNG file, compressed fast rather than well."""
    buffer = BytesIO()
    tensor_to_pil(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


Reply = tuple[bytes, str]
"""The content of a response and its content type."""


class Predictor(Protocol):
    """A net together with how a service prepares its images and writes its results."""

    @property
    def size(self) -> int | None:
        """Height and width that images are resized to, or None to keep their size."""

    @property
    def fit(self) -> Fit:
        """How images become squares of that size."""

    @property
    def output(self) -> str:
        """A description of the responses, for people."""

    def __call__(self, images: Tensor) -> Tensor:
        """Returns one result for each image of a batch, uint8 (N, 3, H, W), on the CPU."""

    def encoder(self, query: Mapping[str, str]) -> Callable[[Tensor], Reply]:
        """Returns a function that turns one result into the reply that the query asks for.

        Raises:
            HttpError: 422 if the query has an unknown parameter or a wrong value. It closes the connection,
                because the body is not read yet.
        """


class Classifying:
    """Replies with the most probable classes, as JSON.

    Args:
        net: Maps images (N, 3, H, W) in [0, 1] to logits (N, classes).
        device: The device of the net.
        size: Height and width of the images that the net reads.
        classes: Names of the classes; a class without a name is called by its index.
        fit: How images become squares of that size.
    """

    def __init__(
        self,
        net: Callable[[Tensor], Tensor],
        device: torch.device,
        *,
        size: int,
        classes: Sequence[str],
        fit: Fit = SQUASHED,
    ) -> None:
        self._net, self._device, self._classes = net, device, tuple(classes)
        self.size, self.fit = size, fit

    @property
    def output(self) -> str:
        """A description of the responses, for people."""
        return "application/json: the 5 most probable classes, or N of them with ?top=N"

    def __call__(self, images: Tensor) -> Tensor:
        """Returns probabilities (N, classes)."""
        with torch.inference_mode(), evaluating(self._net):
            return self._net(to_float(images.to(self._device))).softmax(dim=1).cpu()

    def encoder(self, query: Mapping[str, str]) -> Callable[[Tensor], Reply]:
        """Returns a function that lists the most probable classes, `top` of them, 5 by default."""
        _check_names(query, {"top"})
        asked = query.get("top", "5")
        if not (asked.isascii() and asked.isdecimal() and 1 <= len(asked) <= 6 and int(asked) >= 1):
            reason = f"top is {asked[:20]!r}, it must be a number of classes, at least 1"
            raise HttpError(422, reason, closing=True)
        return lambda probabilities: self._listed(probabilities, int(asked))

    def _listed(self, probabilities: Tensor, top: int) -> Reply:
        values, classes = probabilities.topk(min(top, len(probabilities)))
        predictions = [
            {"class": number, "label": self._name(number), "probability": probability}
            for number, probability in zip(classes.tolist(), values.tolist(), strict=True)
        ]
        return json.dumps({"predictions": predictions}).encode(), "application/json"

    def _name(self, number: int) -> str:
        return self._classes[number] if number < len(self._classes) else str(number)


class Restoring:
    """Replies with the restored image, as PNG.

    Args:
        restore: Restores images, uint8 (N, 3, H, W), on the CPU.
    """

    size, fit = None, SQUASHED

    def __init__(self, restore: Callable[[Tensor], Tensor]) -> None:
        self._restore = restore

    @property
    def output(self) -> str:
        """A description of the responses, for people."""
        return "image/png: the restored image, 8-bit RGB, of the same size"

    def __call__(self, images: Tensor) -> Tensor:
        """Returns restored images, uint8 (N, 3, H, W)."""
        with torch.inference_mode():
            return self._restore(images)

    def encoder(self, query: Mapping[str, str]) -> Callable[[Tensor], Reply]:
        """Returns a function that writes PNG; the query must be empty."""
        _check_names(query, set())
        return lambda image: (encode_png(image), "image/png")


def _check_names(query: Mapping[str, str], known: set[str]) -> None:
    if unknown := sorted(query.keys() - known):
        there_is = f"there is {', '.join(sorted(known))}" if known else "there is none"
        reason = f"the query parameter {unknown[0][:40]!r} is unknown; {there_is}"
        raise HttpError(422, reason, closing=True)
