"""Which packaged net restores images if nobody names one, and what the packaged restorers are for.

This module imports nothing, so that commands can print their help at once.
"""

from typing import Final

DEFAULT_RESTORER: Final = "unet-gtsrb"
"""The packaged net of `steadylens.restore`, of `steadylens restore` and of the demo page."""

RESTORERS_HELP: Final = (
    "a packaged net (unet-photos: photographs; unet-gtsrb, l11-gtsrb, l3-gtsrb: traffic signs of 48 pixels) "
    "or a .safetensors file"
)
"""What the help of a command says about the nets that it accepts."""
