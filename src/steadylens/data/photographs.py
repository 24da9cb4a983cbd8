"""Lists the photographs of a folder as square tiles, on which restorers learn; they need no classes.

A photograph that was stored with loss, as JPEG or WebP, has errors that a restorer would learn to keep. It is
used at a half and at a third of its size, which averages them away. Others are used as they are.
"""

from collections import Counter
from functools import lru_cache
from pathlib import Path

from PIL import Image
from torch import Tensor

from steadylens.data.class_folders import shown
from steadylens.data.image_cache import all_named
from steadylens.data.sources import Listing, Photograph, Stamp, other_files_note, scan_images
from steadylens.data.splitting import Part
from steadylens.errors import DatasetError, ImageError
from steadylens.images.decoding import opened
from steadylens.images.reading import SIDEWAYS, orientation_of
from steadylens.images.tensors import pil_to_tensor, to_rgb

TILE_SIZE = 256
"""Height and width of a tile in pixels, unless another size is asked for."""

LOSSY_SUFFIXES = frozenset({".jpg", ".jpeg", ".webp"})
"""Endings of files that are taken to be stored with loss."""

SHRINKS = (2, 3)
"""How many times smaller photographs that were stored with loss are used."""


def list_tiles(folder: Path, size: int, *, skip_damaged: bool = False) -> Listing:
    """Lists the tiles of all photographs in a folder, at any depth.

    Tiles lie side by side around the centre of their photograph, whose border is left out where it fills no
    tile. All tiles of a photograph are one track.

    Args:
        folder: Contains the photographs.
        size: Height and width of a tile in pixels.
        skip_damaged: Whether files whose size cannot be read are left out, with a note that names them.

    Returns:
        One entry for each tile; its box is the part of the photograph that it shows, in pixels of the file.

    Raises:
        DatasetError: If the folder is missing, a file is damaged, or fewer than two photographs are large
            enough for a tile.
    """
    others: Counter[str] = Counter()
    tiles: list[Photograph] = []
    small, damaged = [], []
    for path, stamp in sorted(scan_images(folder, others=others).items()):
        try:
            found = _tiles(folder, path, stamp, size)
        except ImageError as error:
            damaged.append(str(error))
        else:
            tiles += found
            small += [] if found else [path]
    if damaged and not skip_damaged:
        raise DatasetError(all_named(damaged))
    if (count := len({tile.track for tile in tiles})) < 2:
        raise DatasetError(
            f"{folder} has {count} photographs of at least {size} pixels in "
            f"height and width (JPEG and WebP, which are shrunk: {size * min(SHRINKS)}); give a folder with "
            "at least two, one to learn from and one for validation"
        )
    return Listing(
        root=folder, photographs=tuple(tiles), class_names=(), notes=_notes(folder, small, damaged, others)
    )


def decode_tile(root: Path, tile: Photograph, size: int) -> Tensor:
    """Returns a tile, uint8 (1, 3, size, size).

    Raises:
        DatasetError: If the photograph cannot be decoded.
    """
    try:
        photograph = _decoded(root / tile.path, tile.stamp)
    except ImageError as error:
        raise DatasetError(str(error)) from error
    part = photograph.crop(tile.box)
    return pil_to_tensor(part.reduce(part.width // size))[None]


def _tiles(folder: Path, path: str, stamp: Stamp, size: int) -> list[Photograph]:
    with opened(folder / path) as image:
        width, height = image.size
        if orientation_of(image) in SIDEWAYS:
            width, height = height, width
    lossy = Path(path).suffix.lower() in LOSSY_SUFFIXES
    tiles = []
    for side in [shrink * size for shrink in SHRINKS] if lossy else [size]:
        left, top = width % side // 2, height % side // 2
        tiles += [
            Photograph(Part.TRAIN, path, path, 0, stamp, (x, y, x + side, y + side))
            for y in range(top, height - side + 1, side)
            for x in range(left, width - side + 1, side)
        ]
    return tiles


# The tiles of a photograph are asked for one after the other; the stamp lets a changed file be decoded again.
@lru_cache(maxsize=4)
def _decoded(path: Path, stamp: Stamp) -> Image.Image:
    with opened(path) as image:
        return to_rgb(image)


def _notes(folder: Path, small: list[str], damaged: list[str], others: Counter[str]) -> tuple[str, ...]:
    notes = []
    if small:
        named = shown(small, most=5)
        notes.append(f"photographs left out because they are too small for a tile: {len(small):,}, {named}")
    if damaged:
        notes.append(f"photographs left out because they cannot be read: {'; '.join(damaged)}")
    return (*notes, *other_files_note(folder, others))
