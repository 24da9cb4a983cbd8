"""Measures how exact the estimate of noise is on photographs, and which are called clean and which coarse.

Each photograph is judged as it is and with noise of every kind and strength, clipped and rounded to 8 bits;
of large ones, the middle counts. Pairs of NAME_real.png and NAME_mean.png, as in CC15, are judged as they
are: "real" has a camera's noise, "mean" hardly any.

    python benchmarks/noise_level.py --net unet-photos --photographs cid22 --cc15 cc15
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


STORED: dict[str, Callable[..., Family]] = {"gaussian": partial(Gaussian, shared=0), "demosaiced": Demosaiced}
"""The kinds of noise that are stored as JPEG."""

KINDS: dict[str, tuple[Callable[[float], Family], Sequence[int]]] = {
    "gaussian": (partial(family_named, "gaussian"), (1, 2, 3, 5, 10, 25, 50)),
    "poisson": (partial(family_named, "poisson"), (2, 3, 5, 10)),
    "demosaiced": (partial(family_named, "demosaiced"), (2, 3, 5, 10, 25)),
    "resized": (partial(family_named, "resized"), (2, 3, 5, 10, 25)),
    **{f"jpeg {quality}": (partial(stored, Gaussian, quality), (0,)) for quality in (50, 75, 85, 95)},
    **{
        f"{name}, jpeg {quality}": (partial(stored, noise, quality), (2, 5, 10))
        for name, noise in STORED.items()
        for quality in (75, 85, 95)
    },
}
"""Kinds of noise, each from its strength in grey levels to its family, and its strengths."""

SIDE = 768
"""Height and width in pixels of the part of a photograph that is judged, at most."""


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
        yield f"camera, {path.stem.rpartition('_')[2]}", 0, noise_level_of(read_image(path), restorer)


def row(kind: str, grey: float, levels: list[NoiseLevel]) -> dict[str, object]:
    """Returns what was found of images with one kind and strength of noise."""
    found: dict[str, object] = {"noise": kind, "grey": grey, "images": len(levels)}
    for name in ("grey", "coarse_grey", "change_grey"):
        values = sorted(value for level in levels if (value := getattr(level, name)) is not None)
        ends = (values[len(values) // 20], statistics.median(values), values[-1 - len(values) // 20])
        found[f"estimated_{name}" if name == "grey" else name] = [round(value, 2) for value in ends]
    for name in ("clean", "may_be_coarse", "coarse"):
        found[name] = round(sum(getattr(level, name) for level in levels) / len(levels), 3)
    return found


def main() -> None:
    """Judges photographs, and publishes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--net", default="unet-photos", help="a packaged net or a file")
    parser.add_argument("--photographs", type=Path, required=True, help="a folder of clean photographs")
    parser.add_argument("--cc15", type=Path, help="a folder of pairs")
    parser.add_argument("--every", type=int, default=1, help="judge only every so many photographs")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    photographs = sorted(options.photographs.iterdir())[:: options.every]
    pairs = sorted(options.cc15.glob("*_*.png")) if options.cc15 else []
    levels: dict[tuple[str, float], list[NoiseLevel]] = {}
    for kind, grey, level in judged(options.net, photographs, pairs):
        levels.setdefault((kind, grey), []).append(level)
    rows = [row(kind, grey, found) for (kind, grey), found in levels.items()]
    versions = {name: version(name) for name in ("steadylens", "torch")}
    publish(
        {"net": options.net, "versions": versions, "threads": torch.get_num_threads(), "rows": rows},
        options.out,
    )


if __name__ == "__main__":
    main()
