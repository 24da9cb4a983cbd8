"""Services of workers that die while they load. Each worker imports this module, so it imports little."""

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from steadylens.serving.service import Service


def killed() -> "Service":
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def loaded_unless_there_is(file: Path) -> "Service":
    if file.exists():
        killed()
    import torch  # noqa: PLC0415

    from steadylens.cli.deploy import _loaded  # noqa: PLC0415
    from steadylens.serving.batching import Batching  # noqa: PLC0415
    from steadylens.serving.payloads import UploadLimits  # noqa: PLC0415
    from steadylens.serving.service import Service  # noqa: PLC0415

    predictor, card = _loaded("l3-gtsrb", torch.device("cpu"))
    return Service(predictor, card, limits=UploadLimits(), batching=Batching())
