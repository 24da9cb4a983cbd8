"""Photographs that people give to the page: restored, blended, and held in memory for a while, never on disk.

The net runs once for a photograph. Any strength between the photograph and the restored one is a blend of the
two, so another strength costs nothing.
"""

import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import PurePosixPath, PureWindowsPath
from threading import Lock
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from steadylens.errors import SettingError, SteadylensError
from steadylens.images.decoding import ImageBytes
from steadylens.images.pixels import Pixels, blended, flattened, in_8_bits
from steadylens.images.reading import ImageContent, read_image_content
from steadylens.images.tensors import array_to_tensor
from steadylens.images.writing import WRITABLE_FORMATS, encode_single
from steadylens.inference.inspecting.noise_level import NoiseLevel, noise_level_of
from steadylens.inference.jobs import FORMATS_BY_SUFFIX
from steadylens.inference.restorer import restore_array
from steadylens.progress import ProgressCallback
from steadylens.serving.payloads import FORMATS, MEDIA_TYPES

_TYPE_OF = dict(zip(FORMATS, MEDIA_TYPES, strict=True))

ENDING = "-restored"
"""Appended to the name of a photograph, it names the restored one."""

MOST_IN_NAME = 120
"""The most characters of a name that are kept."""

EXACT_PIXELS = 2**20
"""Up to so many pixels, a view has every pixel value; a larger one is a JPEG, which is quicker to send."""

VIEW_QUALITY = 95
"""The quality of a view that is a JPEG. Its colours have full resolution."""

_UNNAMED = "photograph"


class GoneError(SteadylensError):
    """A photograph is not held any more, or never was."""


class StoppedError(SteadylensError):
    """Nobody waits for a result any more."""


class Encoded(NamedTuple):
    """An image as the content of a file.

    Attributes:
        content: The content.
        media_type: Its type, such as image/png.
        name: The name that the file should have.
    """

    content: bytes
    media_type: str
    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Photograph:
    """A photograph and its restoration.

    Attributes:
        name: The name of its file, without folders.
        source: What the file holds.
        restored: The pixels that the net made of it, (H, W, C), of the same type.
        noise: Its estimated noise, and whether it is clean.
    """

    name: str
    source: ImageContent
    restored: Pixels
    noise: NoiseLevel

    @property
    def bytes(self) -> int:
        """How much memory its pixels take."""
        return self.source.pixels.nbytes + self.restored.nbytes

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats in which it can be had: its own first, and none that cannot hold it."""
        height, width, channels = self.source.pixels.shape
        possible = [
            name
            for name in dict.fromkeys((self.source.format, *FORMATS))
            if max(height, width) <= WRITABLE_FORMATS[name].largest_side
            and (channels in (1, 3) or WRITABLE_FORMATS[name].alpha)
        ]
        return tuple(possible)

    def file_name(self, format_name: str) -> str:
        """Returns the name for the restored file: that of the photograph, with `ENDING`.

        The suffix is that of the photograph if it fits the format, such as .JPG.
        """
        path = PurePosixPath(self.name)
        fits = FORMATS_BY_SUFFIX.get(path.suffix.lower()) == format_name
        suffix = path.suffix if fits else WRITABLE_FORMATS[format_name].suffix
        stem = path.stem if path.suffix.lower() in FORMATS_BY_SUFFIX else path.name
        return f"{stem}{ENDING}{suffix}"

    def view(self, *, restored: bool) -> Encoded:
        """Returns the photograph, or the restored one, as browsers show it: full size, 8 bits, on white."""
        pixels = self.restored if restored else self.source.pixels
        pixels = in_8_bits(pixels) if pixels.itemsize == 2 else pixels
        if pixels.shape[-1] in (2, 4):
            pixels = flattened(pixels, (255, 255, 255))
        height, width, channels = pixels.shape
        image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
        profile = self.source.metadata.icc_profile
        if profile[16:20] != (b"GRAY" if channels == 1 else b"RGB "):
            profile = b""
        exact = height * width <= EXACT_PIXELS or max(height, width) > WRITABLE_FORMATS["JPEG"].largest_side
        name, buffer = "PNG" if exact else "JPEG", BytesIO()
        if exact:
            image.save(buffer, name, compress_level=1, icc_profile=profile or None)
        else:
            image.save(buffer, name, quality=VIEW_QUALITY, subsampling=0, icc_profile=profile)
        return Encoded(buffer.getvalue(), _TYPE_OF[name], self.name)

    def encoded(self, *, strength: float, format_name: str) -> Encoded:
        """Returns the restored photograph as a file, with the metadata of the photograph.

        Args:
            strength: How much of the net's change is made, from 0 to 1.
            format_name: One of `formats`.

        Raises:
            SettingError: If the strength or the format is another one.
            ImageError: If the format cannot store it.
        """
        if not 0 <= strength <= 1:
            raise SettingError(f"the strength is {strength}; choose from 0 to 1")
        if format_name not in self.formats:
            raise SettingError(f"the format is {format_name[:20]!r}; choose one of {', '.join(self.formats)}")
        pixels = blended(self.source.pixels, self.restored, strength)
        buffer = BytesIO()
        encode_single(buffer, replace(self.source, pixels=pixels, format=format_name))
        return Encoded(buffer.getvalue(), _TYPE_OF[format_name], self.file_name(format_name))


def restored_photograph(
    content: bytes,
    name: str,
    restorer: Callable[[Tensor, ProgressCallback], Tensor],
    *,
    most_pixels: int,
    progress: ProgressCallback = lambda done, total: None,
    admit: Callable[[int], None] = lambda count: None,
) -> Photograph:
    """Reads and restores a photograph. Of a file that holds several images, the first is restored.

    Args:
        content: The content of its file, which nobody has checked.
        name: The name of the file, which nobody has checked either.
        restorer: A `Restorer`.
        most_pixels: The largest width times height.
        progress: Called after each tile with the number of tiles done and their total.
        admit: Called with the bytes that its pixels will take, before the net runs.

    Raises:
        ImageError: If it is no image of the formats that are read, is damaged or is too large.
    """
    name = plain_name(name)
    source = read_image_content(
        ImageBytes(content=content, name=name),
        most_pixels=most_pixels,
        way_out="choose a smaller one",
        formats=FORMATS,
    )
    # One page alone is written, so a description of all pages would not be true.
    source = replace(source, relaid=source.relaid or len(source.pages) > 1, pages=source.pages[:1])
    admit(2 * source.pixels.nbytes)
    progress(0, 1)
    noise = noise_level_of(array_to_tensor(source.pixels), restorer)
    restored = restore_array(source.pixels, restorer, progress)
    return Photograph(name=name, source=source, restored=np.asarray(restored), noise=noise)


def plain_name(name: str) -> str:
    """Returns the name of a file without folders and without characters that no name should have."""
    last = PureWindowsPath(PurePosixPath(name).name).name
    last = re.sub(r'[\x00-\x1f\x7f<>:"/\\|?*\u202a-\u202e\u2066-\u2069]', "", last).strip(". ") or _UNNAMED
    if len(last) <= MOST_IN_NAME:
        return last
    path = PurePosixPath(last)
    suffix = path.suffix[:10]
    return path.stem[: MOST_IN_NAME - len(suffix)] + suffix


class PhotographStore:
    """Holds photographs in memory, by keys that nobody can guess.

    One is dropped if nobody asks for it for a while, or to make room for another. Threads may share a store.

    Args:
        most_bytes: The most bytes of pixels that are held.
        idle_seconds: How long one is held after it was last asked for.
        clock: Returns the time in seconds.
    """

    def __init__(
        self, *, most_bytes: int, idle_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most_bytes, self._idle_seconds, self._clock = most_bytes, idle_seconds, clock
        self._held: OrderedDict[str, tuple[Photograph, float]] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._held)

    def add(self, photograph: Photograph) -> str:
        """Holds a photograph, and returns its key."""
        self.make_room(photograph.bytes)
        key = secrets.token_urlsafe(18)
        with self._lock:
            self._held[key] = photograph, self._clock()
        return key

    def get(self, key: str) -> Photograph:
        """Returns a photograph, which is then held anew.

        Raises:
            GoneError: If there is none of that key.
        """
        self.expire()
        with self._lock:
            if key not in self._held:
                raise GoneError("the photograph is not held any more; choose it again")
            photograph, _ = self._held.pop(key)
            self._held[key] = photograph, self._clock()
        return photograph

    def forget(self, key: str) -> None:
        """Drops a photograph, if it is held."""
        with self._lock:
            self._held.pop(key, None)

    def expire(self) -> None:
        """Drops what nobody has asked for in the time allowed."""
        oldest = self._clock() - self._idle_seconds
        with self._lock:
            for key in [key for key, (_, used) in self._held.items() if used < oldest]:
                del self._held[key]

    def make_room(self, count: int) -> None:
        """Drops those that were asked for longest ago until `count` further bytes may be held."""
        with self._lock:
            held = sum(photograph.bytes for photograph, _ in self._held.values())
            while self._held and held + count > self._most_bytes:
                _, (dropped, _) = self._held.popitem(last=False)
                held -= dropped.bytes
