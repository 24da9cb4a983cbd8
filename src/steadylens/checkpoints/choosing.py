"""Which packaged restorer goes in front of a classifier: one that learned from images of the same kind.

A restorer takes what it has never seen for noise. One that learned from traffic signs of 48 pixels smooths
the textures of photographs, and an ImageNet classifier then keeps fewer of its answers than without it.
"""

from functools import cache

from torch import nn

from steadylens.checkpoints.checkpoint import PRETRAINED, fingerprint
from steadylens.checkpoints.loading import load_net
from steadylens.checkpoints.packaged import RESTORERS, ImageKind
from steadylens.nets.classification import SIGN_SIZE
from steadylens.nets.facts import RESTORING

_SIGN_SOURCES = ("gtsrb", "signs")
"""How the sources of images of traffic signs begin."""

MEASURED = (
    "unet-gtsrb lowered the share of answers that an ImageNet classifier keeps under noise of 5 grey levels "
    "from 93.8 to 89.1 %, of 10 from 88.4 to 83.6 %"
)
"""What a packaged restorer of signs did to a classifier of photographs; docs/classifiers.md has the rest."""


def kind_of_images(source: str, *, size: int) -> ImageKind:
    """Returns what images show, as far as their source and size tell.

    They are traffic signs if they are GTSRB or synthetic signs, or have the size of these; else photographs.

    Args:
        source: Where the images come from, as given to `load_dataset`, for example "gtsrb:DIR".
        size: Height and width of the images in pixels.
    """
    is_of_signs = source.partition(":")[0] in _SIGN_SOURCES or size == SIGN_SIZE
    return "traffic signs" if is_of_signs else "photographs"


def default_restorer(source: str, *, size: int) -> str:
    """Returns the name of the packaged restorer that learned from images of the same kind.

    Args:
        source: Where the images come from, as given to `load_dataset`: "gtsrb:DIR" and "signs" are traffic
            signs.
        size: Height and width in pixels of the classifier's images. Those of 48 pixels are taken for signs.

    Example:
        >>> default_restorer("gtsrb:GTSRB", size=48)
        'unet-gtsrb'
    """
    return RESTORERS[kind_of_images(source, size=size)]


def mismatch(restorer: nn.Module, source: str, *, size: int) -> str:
    """Returns a sentence if a packaged restorer learned from other images than a classifier is to read.

    A restorer is recognised by its weights, so nothing is said of one that has been tuned since.

    Args:
        restorer: What is put in front of the classifier.
        source: Where the classifier's images come from, as given to `load_dataset`.
        size: Height and width of these images in pixels.

    Returns:
        The sentence, or an empty text.
    """
    if kind_of_images(source, size=size) != "photographs":
        return ""
    name = _restorers_of_signs().get(fingerprint(restorer))
    if name is None:
        return ""
    return (
        f"{name} learned from traffic signs of {SIGN_SIZE} pixels, and these images are of {size}. "
        f"{MEASURED}; {RESTORERS['photographs']} is for photographs"
    )


@cache
def _restorers_of_signs() -> dict[str, str]:
    """Returns the names of the packaged restorers that learned from traffic signs, by fingerprint."""
    nets = (load_net(name) for name in PRETRAINED)
    return {
        fingerprint(net.module): net.name
        for net in nets
        if net.task == RESTORING
        and all(source.partition(":")[0] in _SIGN_SOURCES for source in net.info.sources)
    }
