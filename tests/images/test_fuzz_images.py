"""A damaged image file is an `ImageError` or an image: no traceback, no hang, no memory taken without need.

The files are seeded, so that a failure can be seen again. They are read in a process of their own whose
memory is limited, because a crash or a blow-up of compiled code would take the tests with it.
"""

import io
import json
import os
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from steadylens.images.encoding import write_png
from steadylens.images.reading import Metadata

FILES = 2_400
SECONDS_A_FILE = 5
"""Of the processor, so that a busy machine does not matter."""

MOST_RESIDENT = 150 * 2**20
"""What reading may take beyond what the process takes with its libraries loaded, in bytes."""

MOST_RESERVED = 4 * 2**30
"""What it may ask for: an image of 200 megapixels is accepted, and Pillow holds four bytes for each."""

READER = """
import json, resource, signal, sys, warnings
from pathlib import Path
from steadylens.errors import ImageError
{read}

folder, seconds, most = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
def most_resident():
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
resident = most_resident()
resource.setrlimit(resource.RLIMIT_AS, (own + most, own + most))
warnings.simplefilter("ignore")
resource.setrlimit(resource.RLIMIT_CPU, (200, 200))  # for code that does not listen to signals
def late(*_):
    raise SystemExit(f"{{path}} took more than {{seconds}} s")
signal.signal(signal.SIGPROF, late)
read_well = 0
for path in sorted(folder.iterdir()):
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        read(path)
        read_well += 1
    except ImageError as error:
        assert len(str(error)) < 2000 and "\\n" not in str(error), error
        assert not isinstance(error.__cause__, MemoryError), path
    except BaseException:
        print(path, file=sys.stderr)
        raise
signal.setitimer(signal.ITIMER_PROF, 0)
print(json.dumps([read_well, most_resident() - resident]))
"""


WAYS = {
    "file": "from steadylens.images.reading import read_image_file as read",
    "image": "from steadylens.images.tensors import read_image as read",
    "upload": """
from steadylens.serving.payloads import HttpError, decode_image
def read(path):
    try:
        return decode_image(path.read_bytes(), most_pixels=200_000_000)
    except HttpError as refusal:
        raise ImageError(refusal.reason) from refusal.__cause__
""",
}


def sources() -> list[bytes]:
    """Returns small files of all formats and of many kinds."""
    pixels = np.random.default_rng(0).integers(0, 256, (13, 17, 4), dtype=np.uint8)
    colour, deep = Image.fromarray(pixels[..., :3]), pixels.view(np.uint16)[..., 0].copy()
    tags = Image.Exif()
    tags[0x0112], tags[0x010F] = 6, "maker"
    tags[0x8769] = {0x9003: "2024:01:02 03:04:05", 0x829A: 0.5}
    exif = tags.tobytes()
    known: dict[str, Any] = {"exif": exif, "icc_profile": b"profile" * 9, "xmp": b'<x tiff:Orientation="6"/>'}
    images: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (colour, "PNG", known),
        (Image.fromarray(pixels), "PNG", {}),
        (Image.fromarray(deep), "PNG", {"transparency": 7}),
        (colour.quantize(8), "PNG", {"transparency": bytes([0, 9])}),
        (colour, "PNG", {"save_all": True, "append_images": [colour.rotate(90)]}),
        (colour, "JPEG", known),
        (colour, "JPEG", {"progressive": True}),
        (colour.convert("CMYK"), "JPEG", {}),
        (colour, "WEBP", known),
        (Image.fromarray(pixels), "WEBP", {"lossless": True}),
        (colour, "WEBP", {"save_all": True, "append_images": [colour.rotate(90)]}),
        (colour, "TIFF", {"exif": exif}),
        (Image.fromarray(pixels), "TIFF", {"compression": "tiff_lzw"}),
        (colour, "TIFF", {"compression": "jpeg"}),
        (Image.fromarray(deep), "TIFF", {"compression": "tiff_adobe_deflate"}),
        (colour.convert("1"), "TIFF", {"compression": "group4"}),
        (colour, "BMP", {}),
        (colour.quantize(8), "BMP", {}),
        (colour, "PPM", {}),
    ]
    return [packed(image, name, options) for image, name, options in images] + [
        b"P6 3 2 999\n" + bytes(36),
        b"P3 2 2 255 1 2 3 4 5 6 7 8 9 10 11 12",
        b"P4 9 2\n" + bytes(4),
        deep_tiff(),
        deep_png(),
    ]


def packed(image: Image.Image, name: str, options: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def deep_png() -> bytes:
    buffer = io.BytesIO()
    write_png(buffer, np.random.default_rng(1).integers(0, 65536, (5, 6, 3), dtype=np.uint16), Metadata())
    return buffer.getvalue()


def deep_tiff() -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 65536, (5, 6, 3), dtype=np.uint16)
    tifffile.imwrite(buffer, pixels, photometric="rgb")
    return buffer.getvalue()


# Damage.


def flip_bits(content: bytearray, dice: random.Random) -> None:
    for _ in range(dice.choice((1, 2, 5, 20))):
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)


def flip_bits_in_the_head(content: bytearray, dice: random.Random) -> None:
    for _ in range(dice.choice((1, 2, 5))):
        content[dice.randrange(min(64, len(content)))] ^= 1 << dice.randrange(8)


def cut(content: bytearray, dice: random.Random) -> None:
    del content[dice.randrange(len(content)) :]


def drop_a_piece(content: bytearray, dice: random.Random) -> None:
    start = dice.randrange(len(content))
    del content[start : start + dice.randrange(1, 40)]


def repeat_a_piece(content: bytearray, dice: random.Random) -> None:
    start = dice.randrange(len(content))
    content[start:start] = content[start : start + dice.randrange(1, 40)] * dice.choice((1, 3, 200))


def put_an_absurd_number(content: bytearray, dice: random.Random) -> None:
    number = dice.choice((0, 1, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF))
    place = dice.randrange(len(content)) if dice.random() < 0.5 else dice.randrange(min(80, len(content)))
    kind = dice.choice(("<H", ">H", "<I", ">I"))
    piece = struct.pack(kind, number & (0xFFFF if kind[1] == "H" else 0xFFFFFFFF))
    content[place : place + len(piece)] = piece


def declare_an_absurd_size(content: bytearray, dice: random.Random) -> None:
    """Sets the size in the header, where its place is known; a PNG file gets a fitting checksum."""
    size = dice.choice((0, 1, 14_000, 60_000, 2**31 - 1))
    if content.startswith(b"\x89PNG"):
        content[16:24] = struct.pack(">2I", size, dice.choice((1, 14_000, size)))
        content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    elif content.startswith(b"BM"):
        content[18:26] = struct.pack("<2i", size, dice.choice((1, size)))
    elif content.startswith(b"P6"):
        content[:] = b"P6 %d %d 255\n" % (size, size) + content[9:]
    elif content.startswith(b"II"):
        for tag in (256, 257):
            place = content.find(struct.pack("<2H", tag, 4))
            if place >= 0:
                content[place + 8 : place + 12] = struct.pack("<I", size)
    else:
        put_an_absurd_number(content, dice)


DAMAGES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip_bits, flip_bits_in_the_head, cut, drop_a_piece, repeat_a_piece, put_an_absurd_number,
    declare_an_absurd_size,
)  # fmt: skip


def damaged(seed: int) -> Iterator[bytes]:
    dice, whole = random.Random(seed), sources()  # noqa: S311 - no secret
    for number in range(FILES):
        content = bytearray(whole[number % len(whole)])
        dice.choice(DAMAGES)(content, dice)
        yield bytes(content)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damaged")
    for number, content in enumerate(damaged(seed=0)):
        (folder / f"{number:05}").write_bytes(content)
    return folder


def read_all(folder: Path, way: str) -> tuple[int, int]:
    """Returns how many files were read well, and the most memory that was resident for it in bytes."""
    code = READER.format(read=WAYS[way])
    arguments = [sys.executable, "-c", code, str(folder), str(SECONDS_A_FILE), str(MOST_RESERVED)]
    # glibc else keeps what an image took, and must then clear it for the next: that touches it.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**17)}
    done = subprocess.run(
        arguments, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == ""  # libtiff would say a line of what it finds
    read_well, most = json.loads(done.stdout)
    return read_well, most


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does")
@pytest.mark.parametrize("way", WAYS)
def test_damaged_files_give_an_image_or_an_image_error(files: Path, way: str) -> None:
    read_well, resident = read_all(files, way)
    assert resident < MOST_RESIDENT
    assert 0.1 * FILES < read_well < 0.9 * FILES  # damage is neither always fatal nor always harmless


def test_files_without_damage_are_read(tmp_path: Path) -> None:
    whole = sources()
    for number, content in enumerate(whole):
        (tmp_path / f"{number:05}").write_bytes(content)
    of_upload = [content for content in whole if not content.startswith((b"BM", b"P"))]
    for way in WAYS:
        assert read_all(tmp_path, way)[0] == len(of_upload if way == "upload" else whole)
