"""Which packaged net restores images if nobody names one, and what the packaged restorers are for.

This module imports nothing of the package, so that commands can print their help at once.
"""

from typing import Final, Literal

ImageKind = Literal["traffic signs", "photographs"]
"""The kinds of images that packaged restorers learned from."""

RESTORERS: Final[dict[ImageKind, str]] = {"traffic signs": "unet-gtsrb", "photographs": "unet-photos"}
"""The packaged restorer that goes in front of a classifier of images of each kind."""

DEFAULT_RESTORER: Final = "unet-photos"
"""The packaged net of `steadylens.restore`, of `steadylens restore` and of `steadylens app`."""

CAMERA_RESTORER: Final = "unet-camera"
"""The packaged net for noise that neighbouring pixels share, as in files of cameras."""

RESTORERS_HELP: Final = (
    "a packaged net (unet-photos: photographs; unet-camera: the noise of cameras; unet-gtsrb, l11-gtsrb, "
    "l3-gtsrb: traffic signs of 48 pixels) or a .safetensors file"
)
"""What the help of a command says about the nets that it accepts."""
