"""Measures how exact the estimate of noise is on photographs, and which are called clean and which coarse.

The photographs are those of docs/training_photographs.py that the nets did not learn from, stored without
loss. Each is judged as it is and with noise of every kind and strength, clipped and rounded to 8 bits; of
large ones, the middle counts. Pairs of NAME_real.png and NAME_mean.png, as in CC15, are judged as they are:
"real" has a camera's noise, "mean" hardly any. In brackets: what 5 % of the photographs stay below and above.

    python benchmarks/noise_level.py --photographs photographs --cc15 cc15
        --out results/benchmarks/noise_level.json
"""

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor
from writing import publish

from steadylens.data.photographs import LOSSY_SUFFIXES, TILE_SIZE, list_tiles
from steadylens.data.sources import Selection
from steadylens.data.splitting import hold_out
from steadylens.images.tensors import read_image, to_float
from steadylens.inference.inspecting import NoiseLevel, noise_level_of
from steadylens.inference.restorer import restorer_of
from steadylens.noise.camera import Demosaiced
from steadylens.noise.degradation import Degradation
from steadylens.noise.families import Family, Gaussian, Strength
from steadylens.noise.jpeg import Jpeg
from steadylens.noise.named import family_named
from steadylens.randomness import derived_generator


def stored(noise: Callable[..., Family], quality: int, grey: float) -> Family:
    """Returns noise of one strength in a JPEG of one quality."""
    return Jpeg(noise=noise(strength=Strength.fixed(grey)), quality=(quality, quality))


QUALITIES = (50, 75, 85, 95)
"""At which qualities a JPEG is stored."""

STORED: dict[str, Callable[..., Family]] = {"Gaussian": partial(Gaussian, shared=0), "demosaiced": Demosaiced}
"""The kinds of noise that are stored as JPEG."""

KINDS: dict[str, tuple[Callable[[float], Family], Sequence[int]]] = {
    "Gaussian": (partial(family_named, "gaussian"), (1, 2, 5, 10, 25, 50)),
    "of photons": (partial(family_named, "poisson"), (2, 5, 10)),
    "demosaiced": (partial(family_named, "demosaiced"), (2, 3, 5, 10)),
    "enlarged": (partial(family_named, "resized"), (2, 3, 5, 10)),
    **{
        f"none, JPEG of quality {quality}": (partial(stored, Gaussian, quality), (0,))
        for quality in QUALITIES
    },
    **{
        f"{name}, JPEG of quality {quality}": (partial(stored, noise, quality), (5, 10))
        for name, noise in STORED.items()
        for quality in QUALITIES[1:]
    },
}
"""Kinds of noise, each from its strength in grey levels to its family, and its strengths."""

SIDE = 768
"""Height and width in pixels of the part of a photograph that is judged, at most."""


def unseen(folder: Path) -> list[Path]:
    """Returns the photographs without loss that a training on the folder with seed 0 does not learn from."""
    tiles = list_tiles(folder, TILE_SIZE).photographs
    names = list({tile.track: tile.path for tile in tiles}.values())  # numbered as in the training
    held = hold_out(
        torch.zeros(len(names), dtype=torch.int64),
        torch.arange(len(names)),
        share=Selection().validation_share,
        seed=0,
        purpose="validation",
    )
    paths = sorted(folder / name for name, out in zip(names, held.tolist(), strict=True) if out)
    return [path for path in paths if path.suffix.lower() not in LOSSY_SUFFIXES]


def middle(image: Tensor) -> Tensor:
    """Returns the middle of an image (C, H, W)."""
    top, left = (max(0, (side - SIDE) // 2) for side in image.shape[-2:])
    return image[:, top : top + SIDE, left : left + SIDE]


def judged(net: str, photographs: list[Path], cc15: list[Path]) -> Iterator[tuple[str, float, NoiseLevel]]:
    """Yields the kind and the strength of the noise of each image, and how it is judged."""
    restorer = restorer_of(net)
    for path in photographs:
        image = to_float(middle(read_image(path)))
        yield "none", 0, noise_level_of(image, restorer)
        for kind, (family, strengths) in KINDS.items():
            for grey in strengths:
                generator = derived_generator(0, path.name, kind, grey)
                degradation = Degradation(families=(family(grey),), clip=True, quantize=True)
                noisy = degradation(image[None], generator=generator)[0]
                yield kind, grey, noise_level_of(noisy, restorer)
    for path in cc15:
        yield f"CC15, {path.stem.rpartition('_')[2]}", 0, noise_level_of(read_image(path), restorer)


def row(kind: str, grey: float, levels: Sequence[NoiseLevel]) -> dict[str, object]:
    """Returns what was found of images with one kind and strength of noise."""
    return {
        "noise, 8-bit": f"{kind}, {grey:g}" if grey else kind,
        "photographs": len(levels),
        "by the net": spread([level.grey for level in levels]),
        "by the flattest blocks": spread([level.coarse_grey for level in levels]),
        "judged clean": share([level.clean for level in levels]),
        "flattest blocks show much more": share([level.may_be_coarse for level in levels]),
        "called coarse": share([level.coarse for level in levels]),
    }


def spread(found: Sequence[float | None]) -> str:
    """Returns the median of the numbers that are known, and what 5 % of them stay below and above."""
    values = sorted(value for value in found if value is not None)
    tail = len(values) // 20
    return f"{statistics.median(values):.2g} ({values[tail]:.2g} to {values[-1 - tail]:.2g})"


def share(found: Sequence[bool]) -> str:
    """Returns how many are true, in per cent."""
    return f"{100 * sum(found) / len(found):.0f} %"


def main() -> None:
    """Judges photographs, and publishes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--net", default="unet-photos", help="a packaged net or a file")
    parser.add_argument("--photographs", type=Path, required=True, help="the folder of all photographs")
    parser.add_argument("--cc15", type=Path, help="a folder of pairs")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pairs = sorted(options.cc15.glob("*_*.png")) if options.cc15 else []
    levels: dict[tuple[str, float], list[NoiseLevel]] = {}
    for kind, grey, level in judged(options.net, unseen(options.photographs), pairs):
        levels.setdefault((kind, grey), []).append(level)
    publish(
        {
            **{name: version(name) for name in ("steadylens", "torch")},
            "net": options.net,
            "how noise is judged": [row(kind, grey, found) for (kind, grey), found in levels.items()],
        },
        options.out,
    )


if __name__ == "__main__":
    main()
