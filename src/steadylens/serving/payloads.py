"""Untrusted uploads become images, and the results of a net become responses.

The format of an image is found from its content, not from its declared type. Only formats with a compiled
decoder are read, because one written in Python could block all other requests. Nothing is written to disk.
"""

import asyncio
import json
import math
import re
import zipfile
from collections.abc import AsyncIterable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from steadylens.devices import evaluating
from steadylens.errors import ImageError, ImageSizeError, SettingError
from steadylens.images.decoding import ImageBytes, opened_stream
from steadylens.images.pixels import blended
from steadylens.images.preprocessing import Fit
from steadylens.images.reading import ImageContent, Metadata, read_image_content
from steadylens.images.tensors import (
    SQUASHED,
    array_to_tensor,
    pil_to_tensor,
    tensor_to_array,
    to_float,
    to_rgb,
)
from steadylens.images.writing import encode_single
from steadylens.inference.signature import Signature

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP")
"""The image formats that are read, by their names in Pillow."""

MEDIA_TYPES = ("image/jpeg", "image/png", "image/tiff", "image/webp")
"""The content types of a body that is an image."""

OTHER_NAMES = ("image/jpg", "image/pjpeg", "image/tif", "image/x-png")
"""Names that clients give to these content types though they are not registered."""

FORM_TYPE = "multipart/form-data"
"""The content type of a body that is a form with images as its files."""

_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?")

MOST_TIMES_A_SQUARE = 16
"""An image may always be resized if its sides have at most this ratio, even to more pixels than the limit."""


class HttpError(Exception):
    """A request is refused with an HTTP status and a reason.

    Args:
        status: The HTTP status, 4xx or 503.
        reason: The value, the rule and the way out; it is sent to the client.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


async def read_body(
    parts: AsyncIterable[bytes], *, most_bytes: int, seconds: float, too_large: HttpError, late: HttpError
) -> bytes:
    """Returns the body of a request.

    Args:
        parts: The body as it arrives.
        most_bytes: The largest number of bytes.
        seconds: The longest time that it may take.
        too_large: Raised as soon as there are more bytes.
        late: Raised when the time is over.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for part in parts:
                body += part
                if len(body) > most_bytes:
                    raise too_large
    except TimeoutError:
        raise late from None
    return bytes(body)


@dataclass(frozen=True, kw_only=True, slots=True)
class UploadLimits:
    """The largest and the slowest upload that is accepted.

    Attributes:
        bytes: Size of a request's body.
        pixels: Width times height of an image that is decoded, which is checked before. A JPEG may have many
            times as many where it is decoded at reduced size for a classifier. The images of a request
            that are not resized have so many together.
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
    """Returns the content type of a request, that of an image or `FORM_TYPE`, with its parameters.

    Args:
        headers: The headers of the request. Names are in lower case, or the mapping ignores case.

    Raises:
        HttpError: 415 if the content type is another one, or the body has a content encoding such as gzip.
    """
    declared, _, parameters = headers.get("content-type", "").partition(";")
    kind = declared.strip().lower()
    if kind not in (*MEDIA_TYPES, *OTHER_NAMES, FORM_TYPE):
        raise HttpError(
            415,
            f"the content type is {kind[:80] or 'not given'}; send an image as "
            f"{', '.join(MEDIA_TYPES)}, or as a file of {FORM_TYPE}",
        )
    check_encoding(headers)
    return f"{kind};{parameters}"


def check_encoding(headers: Mapping[str, str]) -> None:
    """Refuses a body that is compressed.

    Raises:
        HttpError: 415 if the body has a content encoding such as gzip.
    """
    encoding = headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        raise HttpError(415, f"the content encoding is {encoding[:80]}; send the body as it is")


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """An image that a client sent, as the net reads it.

    Attributes:
        pixels: (C, H, W), uint8 or uint16.
        file: What else the reply keeps of the file, such as its colour profile; None if it keeps nothing.
    """

    pixels: Tensor
    file: ImageContent | None = None


@contextmanager
def _refusing(content: bytes) -> Iterator[None]:
    """Turns what is wrong with an image into the status and the reason that a client gets."""
    if not content:
        raise HttpError(400, "the image is empty; send the content of an image file")
    try:
        yield
    except ImageError as error:
        raise HttpError(413 if isinstance(error, ImageSizeError) else 422, str(error)) from error


_WAY_OUT = "send a smaller one"

ENOUGH_TIMES_THE_SIDE = 2
"""A large JPEG may be decoded at reduced size if it keeps this many times the side that it is resized to."""


def decode_image(content: bytes, *, most_pixels: int, size: int | None = None, fit: Fit = SQUASHED) -> Tensor:
    """Decodes an image just as `read_image` reads a file, to 8-bit RGB.

    Only a JPEG above the limit that is to be resized may come out slightly different, because it is decoded
    at reduced size.

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
    side = None if size is None else fit.side or size
    with _refusing(content):
        with opened_stream(
            BytesIO(content),
            name="the image",
            most_pixels=most_pixels,
            way_out=_WAY_OUT,
            formats=FORMATS,
            reducible_to=side and ENOUGH_TIMES_THE_SIDE * side,
        ) as opened:
            image = to_rgb(opened)
        if size is not None and side is not None:
            usual = MOST_TIMES_A_SQUARE * side**2
            image = fit.fitted(image, size, most_pixels=max(most_pixels, usual))
    return pil_to_tensor(image)


def decode_whole_image(content: bytes, *, most_pixels: int) -> Upload:
    """Decodes an image as `steadylens restore` reads a file, with all of its bits, alpha and metadata.

    Args:
        content: The content of an image file in one of `FORMATS`.
        most_pixels: The largest width times height; a larger image is refused before it is decoded.

    Raises:
        HttpError: 400 if the content is empty, 413 if the image is too large, 422 if it cannot be decoded or
            is a TIFF of several pages, of which the reply could hold only one.
    """
    with _refusing(content):
        read = read_image_content(
            ImageBytes(content=content), most_pixels=most_pixels, way_out=_WAY_OUT, formats=FORMATS
        )
    if (count := len(read.pages)) > 1:
        raise HttpError(
            422,
            f"the image is a TIFF of {count} pages, and one image is restored at a time; send each page as a "
            "file of its own, several of them in a form, or restore the whole file by steadylens restore",
        )
    return Upload(pixels=array_to_tensor(read.pixels), file=read)


NOTES = "steadylens-notes"
"""The header that tells what was converted or left out of an image that was sent."""

MOST_IN_HEADER = 4096
"""The most characters in that header; proxies refuse long ones."""


class Reply(NamedTuple):
    """A response without its status.

    Attributes:
        content: The body.
        media_type: Its content type.
        notes: What was converted or left out of the images that were sent, a phrase each.
    """

    content: bytes
    media_type: str
    notes: tuple[str, ...] = ()

    @property
    def headers(self) -> dict[str, str]:
        """The notes as a JSON list in ASCII, if there are any; the list ends with how many were left out."""
        for count in range(len(self.notes), -1, -1):
            left = len(self.notes) - count
            text = json.dumps([*self.notes[:count], *([f"{left} further notes"] if left else [])])
            if len(text) <= MOST_IN_HEADER:
                break
        return {NOTES: text} if self.notes else {}


def encode_png(image: Tensor, file: ImageContent | None = None) -> Reply:
    """Returns an image as a PNG file, with notes on what it does not keep of the file that was sent.

    Args:
        image: uint8 or uint16 (C, H, W), with one to four channels: grey or RGB, alpha last.
        file: The file that it was restored from, or None; the PNG keeps what `steadylens restore` would.
    """
    pixels, buffer = tensor_to_array(image), BytesIO()
    plain = ImageContent(pixels=pixels, format="PNG", lossless=True, metadata=Metadata())
    further = encode_single(buffer, plain if file is None else replace(file, pixels=pixels, format="PNG"))
    notes = () if file is None else tuple(dict.fromkeys((*file.notes, *further)))
    return Reply(buffer.getvalue(), "image/png", notes)


Encoder = Callable[[Sequence[Tensor], Sequence[ImageContent | None]], Reply]
"""Turns the results for the images of a request, and what `decode` keeps of their files, into the reply."""


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

    @property
    def signature(self) -> Signature:
        """What it reads and returns if clients send tensors instead of image files."""

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes of a classifier; there may be fewer than classes, or none."""

    def decode(self, content: bytes, *, most_pixels: int) -> Upload:
        """Decodes an image file to what the net reads.

        Raises:
            HttpError: 400, 413 or 422 if the file cannot be used.
        """

    def __call__(self, images: Tensor) -> Tensor:
        """Returns one result for each image of a batch, on the CPU: logits, or restored images.

        Args:
            images: (N, C, H, W), on the CPU: as `decode` returns them, or float32 in [0, 1] as the signature
                says.
        """

    def encoder(self, query: Mapping[str, str]) -> Encoder:
        """Returns a function that turns results into the reply that the query asks for.

        Raises:
            HttpError: 422 if the query has an unknown parameter or a wrong value.
        """


class Classifying:
    """Replies with the most probable classes, as JSON.

    Args:
        net: Maps images (N, 3, H, W) in [0, 1] to logits (N, classes).
        device: The device of the net.
        signature: What the net reads and returns.
        classes: Names of the classes; a class without a name is called by its index.
        fit: How images become squares of the size that the net reads.

    Raises:
        SettingError: If the signature has no size.
    """

    def __init__(
        self,
        net: Callable[[Tensor], Tensor],
        device: torch.device,
        *,
        signature: Signature,
        classes: Sequence[str],
        fit: Fit = SQUASHED,
    ) -> None:
        if signature.size is None:
            raise SettingError("the signature of the classifier has no size; give the size that it reads")
        self._net, self._device = net, device
        self.size, self.fit = signature.size[0], fit
        self.signature, self.classes = signature, tuple(classes)

    @property
    def output(self) -> str:
        """A description of the responses, for people."""
        return "application/json: the 5 most probable classes, or N of them with ?top=N"

    def decode(self, content: bytes, *, most_pixels: int) -> Upload:
        """Decodes an image file and resizes it to the size that the net reads."""
        return Upload(pixels=decode_image(content, most_pixels=most_pixels, size=self.size, fit=self.fit))

    def __call__(self, images: Tensor) -> Tensor:
        """Returns logits (N, classes)."""
        with torch.inference_mode(), evaluating(self._net):
            images = images.to(self._device)
            return self._net(images if images.is_floating_point() else to_float(images)).cpu()

    def encoder(self, query: Mapping[str, str]) -> Encoder:
        """Returns a function that lists the most probable classes, `top` of them, 5 by default."""
        _check_names(query, {"top"})
        asked = query.get("top", "5")
        if not (asked.isascii() and asked.isdecimal() and 1 <= len(asked) <= 6 and int(asked) >= 1):
            raise HttpError(422, f"top is {asked[:20]!r}, it must be a number of classes, at least 1")

        def encode(results: Sequence[Tensor], _: Sequence[ImageContent | None]) -> Reply:
            lists = [{"predictions": self._listed(logits, int(asked))} for logits in results]
            listed = lists[0] if len(lists) == 1 else {"images": lists}
            return Reply(json.dumps(listed).encode(), "application/json")

        return encode

    def _listed(self, logits: Tensor, top: int) -> list[dict[str, Any]]:
        values, classes = logits.softmax(dim=0).topk(min(top, len(logits)))
        return [
            {"class": number, "label": class_name(self.classes, number), "probability": probability}
            for number, probability in zip(classes.tolist(), values.tolist(), strict=True)
        ]


def class_name(classes: Sequence[str], number: int) -> str:
    """Returns the name of a class, or its number if it has no name."""
    return classes[number] if number < len(classes) else str(number)


class Restoring:
    """Replies with the restored image, as PNG, or with several in a ZIP archive.

    Args:
        restore: Restores images (N, C, H, W), uint8, uint16 or float, with one to four channels, on the CPU.
        signature: What it reads and returns if clients send tensors.
    """

    size, fit, classes = None, SQUASHED, ()

    def __init__(self, restore: Callable[[Tensor], Tensor], signature: Signature) -> None:
        self._restore, self.signature = restore, signature

    @property
    def output(self) -> str:
        """A description of the responses, for people."""
        return (
            "image/png: the restored image, of the same size, with its bits, alpha, colour profile and other "
            "metadata; for several images application/zip with 1.png, 2.png and so on; with ?strength=S, "
            "from 0 to 1, only so much of the change is made; what was converted or left out is said in the "
            "header Steadylens-Notes, as a JSON list"
        )

    def decode(self, content: bytes, *, most_pixels: int) -> Upload:
        """Decodes an image file with all of its bits and metadata."""
        return decode_whole_image(content, most_pixels=most_pixels)

    def __call__(self, images: Tensor) -> Tensor:
        """Returns restored images of the same type and shape."""
        with torch.inference_mode():
            return self._restore(images)

    def encoder(self, query: Mapping[str, str]) -> Encoder:
        """Returns a function that writes PNG, with `strength` times the change of the net, 1 by default."""
        _check_names(query, {"strength"})
        text = query.get("strength", "1")
        if not (_NUMBER.fullmatch(text) and 0 <= float(text) <= 1):
            raise HttpError(422, f"strength is {text[:20]!r}, it must be a number from 0 to 1")
        strength = float(text)

        def encode(results: Sequence[Tensor], files: Sequence[ImageContent | None]) -> Reply:
            encoded = [
                encode_png(_blended(image, file, strength), file)
                for image, file in zip(results, files, strict=True)
            ]
            if len(encoded) == 1:
                return encoded[0]
            notes = [
                f"image {number}: {note}" for number, each in enumerate(encoded, 1) for note in each.notes
            ]
            return Reply(_zipped([each.content for each in encoded]), "application/zip", tuple(notes))

        return encode


def _blended(image: Tensor, file: ImageContent | None, strength: float) -> Tensor:
    """Returns a restored image with less of the change, where the image that was sent is known."""
    if strength == 1 or file is None:
        return image
    return array_to_tensor(blended(file.pixels, tensor_to_array(image), strength))


def _zipped(files: Sequence[bytes]) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # PNG is compressed already
        for number, content in enumerate(files, start=1):
            archive.writestr(f"{number}.png", content)
    return buffer.getvalue()


def _check_names(query: Mapping[str, str], known: set[str]) -> None:
    if unknown := sorted(query.keys() - known):
        there_is = f"there is {', '.join(sorted(known))}" if known else "there is none"
        raise HttpError(422, f"the query parameter {unknown[0][:40]!r} is unknown; {there_is}")
