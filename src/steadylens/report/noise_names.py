"""What tables and figures call the noise of a record: its kind in words, and how noisy images are stored."""

from collections.abc import Sequence
from dataclasses import dataclass

from steadylens.records import Stability

KINDS = {
    "gaussian": ("Gaussian", ""),
    "uniform": ("uniform", ""),
    "laplacian": ("Laplacian", "It has heavier tails than Gaussian noise."),
    "sparse": ("sparse Gaussian", "Only a fifth of the values have noise, which is stronger there."),
    "attenuated": ("attenuated Gaussian", "A fifth of the values have noise four times that of the others."),
    "salt-and-pepper": (
        "salt-and-pepper",
        "Values become black or white: 0.6 % of them at 10 grey levels, 2.5 % at 20 and 9.8 % at 40.",
    ),
    "poisson": ("Poisson-Gaussian", "As of photons: bright pixels are noisier than dark ones."),
    "demosaiced": ("demosaiced", "Blurred as by a camera that interpolates its colours from a Bayer mosaic."),
    "resized": ("resized", "Its grains are two pixels large, as after enlarging a noisy image."),
    "correlated": ("correlated", "Blurred by one pixel, and partly shared by the colours."),
    "banded": ("banded", "It is constant along whole rows, or along whole columns."),
    "jpeg": (
        "JPEG after Gaussian",
        "Gaussian noise of this strength, then the image is stored as JPEG with a quality from 50 to 95.",
    ),
}
"""Each kind of noise in words, and what a reader should know of it, if it is not the paper's."""


@dataclass(frozen=True, slots=True)
class NoiseWords:
    """What a record says of its noise.

    Attributes:
        name: The kind of noise in words, such as "Poisson-Gaussian".
        storage: How noisy images are stored, such as "clipped, 8-bit".
        hint: What a reader should know of the kind, one sentence or none.
        gaussian: Whether it is Gaussian noise, the paper's.
    """

    name: str
    storage: str
    hint: str
    gaussian: bool

    @property
    def strength(self) -> str:
        """What the strength of the noise means, after its symbol."""
        where = "" if self.gaussian else " on mid-grey images"
        return f"of the noise in grey levels of 255{where}"


def noise_words(noise: str) -> NoiseWords:
    """Returns in words what a record says of its noise.

    Args:
        noise: A record's `noise`; without a kind it is Gaussian.
    """
    kind, _, storage = noise.partition(", ")
    if kind in ("clipped", "unclipped"):
        kind, storage = "gaussian", noise
    name, hint = KINDS.get(kind, (kind, ""))
    return NoiseWords(name=name, storage=storage, hint=hint, gaussian=kind == "gaussian")


def only_gaussian(records: Sequence[Stability]) -> bool:
    """Whether all records are of Gaussian noise."""
    return all(noise_words(record.noise).gaussian for record in records)
