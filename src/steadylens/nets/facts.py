"""Facts about a net: its task, the size of its input images, its receptive field.

A net of this package, or one of your own, has these facts as attributes of the same names. Code that runs,
exports, saves or describes a net calls `facts_of` and never checks the net's class.
"""

from dataclasses import dataclass, fields
from typing import Final

from torch import nn

from steadylens.images.preprocessing import Preprocessing

RESTORING: Final = "image-to-image"
"""The task of a restorer, in the words of model hubs."""

CLASSIFYING: Final = "image-classification"
"""The task of a classifier, in the words of model hubs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NetFacts:
    """Facts about a net. They are read from a net that has the attribute `task`; the others are optional.

    Attributes:
        task: `RESTORING`, `CLASSIFYING`, or None if the net has no such attribute.
        kind: The name of its class in files, see `register_net`; None if it cannot be saved.
        purpose: What it does, in one sentence.
        channels: Number of channels of its input images.
        input_size: Height and width in pixels of its input images, or None if any size will do.
        minimum_size: The smallest height and width of its input images. With reflect padding that is one
            pixel more than the margin: 7 for L11.
        margin: Radius of a restorer's receptive field: an output pixel depends on the input up to this many
            pixels away, so tiles overlap by as much. None if it is not known.
        alignment: Tiles of an image must begin at multiples of this: 8 for a U-Net that works at 1/8 of the
            resolution.
        tile: Height and width in pixels of the largest tile that it should get, overlap included. None for
            one that follows from the margin.
        lost: Pixels by which the output is smaller than the input on each side; 0 for a net that pads.
        class_names: Names of a classifier's classes, in the order of its logits, if they are known.
        preprocessing: Size, mean, std and fit that a classifier needs, if they are known.
    """

    task: str | None = None
    kind: str | None = None
    purpose: str = ""
    channels: int = 3
    input_size: int | None = None
    minimum_size: int = 1
    margin: int | None = None
    alignment: int = 1
    tile: int | None = None
    lost: int = 0
    class_names: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None


_NAMES = tuple(field.name for field in fields(NetFacts))

_OF_PYTORCH: dict[type, NetFacts] = {
    nn.Identity: NetFacts(
        task=RESTORING, kind="Identity", purpose="A net that leaves images as they are.", margin=0
    )
}
"""Facts about modules of PyTorch itself, which cannot have the attributes."""


def facts_of(net: object) -> NetFacts:
    """Returns the facts about a net; all of them have their defaults if it has no attribute `task`.

    Example:
        >>> from steadylens import RestorationNet
        >>> facts_of(RestorationNet(depth=11)).margin
        6
    """
    if (known := _OF_PYTORCH.get(type(net))) is not None:
        return known
    if getattr(net, "task", None) not in (RESTORING, CLASSIFYING):
        return NetFacts()
    return NetFacts(**{name: getattr(net, name) for name in _NAMES if hasattr(net, name)})
