"""A small restoration ConvNet in front of any image classifier, trained so that noise changes fewer answers.

Images are float tensors (N, C, H, W), RGB, in [0, 1] everywhere; noise strength is in grey levels of 255.
"""

from typing import Any

import lazy_loader

# PyTorch takes seconds to import, so each name is loaded when it is first used.
_load, _names, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name != "__version__":
        return _load(name)
    from importlib.metadata import version  # noqa: PLC0415 - slow to import

    return version("steadylens")


def __dir__() -> list[str]:
    return [*_names(), "__version__"]
