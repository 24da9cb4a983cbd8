"""What a net tells of itself: its task, the images that it reads, how far it looks.

A net of this package, or of yours, tells these facts by attributes of the same names. Whoever runs, exports,
saves or describes a net asks here, and not which class it is.
"""

from dataclasses import dataclass, fields
from typing import Final

from torch import nn

from steadylens.images.preprocessing import Preprocessing

RESTORING: Final = "image-to-image"
"""The task of a restorer, as model hubs call it."""

CLASSIFYING: Final = "image-classification"
"""The task of a classifier, as model hubs call it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NetFacts:
    """What a net tells of itself. A net that tells its task is asked for the rest; what it lacks is as here.

    Attributes:
        task: `RESTORING`, `CLASSIFYING`, or None for a net that tells nothing.
        kind: The name of its kind in files, see `architecture`; None if it cannot be saved.
        purpose: What it does, in one sentence.
        channels: Channels of the images that it reads.
        input_size: Height and width in pixels of the images that it reads, or None for any.
        minimum_size: The smallest height and width that it reads. A net that reflects its border needs one
            pixel more than its margin: 7 for L11.
        margin: How many pixels around it a pixel of a restorer's result depends on; tiles overlap by as much.
            None if that is not known.
        lost: Pixels that its result lacks on each side.
        class_names: Names of a classifier's classes by number, if it knows them.
        preprocessing: What a classifier makes of images before it reads them, if it tells.
    """

    task: str | None = None
    kind: str | None = None
    purpose: str = ""
    channels: int = 3
    input_size: int | None = None
    minimum_size: int = 1
    margin: int | None = None
    lost: int = 0
    class_names: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None


_NAMES = tuple(field.name for field in fields(NetFacts))

_OF_PYTORCH: dict[type, NetFacts] = {
    nn.Identity: NetFacts(
        task=RESTORING, kind="Identity", purpose="A net that leaves images as they are.", margin=0
    )
}
"""Modules of PyTorch that are nets by themselves."""


def facts_of(net: object) -> NetFacts:
    """Returns what a net tells of itself; of a module that tells no task, nothing is known.

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
