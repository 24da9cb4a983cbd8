"""Keeps libtiff, and what Pillow logs of TIFFs, from writing to the standard error beside our errors.

The library has one pair of handlers for the whole process and no other way to silence it. While anybody
reads, they are taken out, and put back by the last one to finish: no thread sees a handler that is half set.
What Pillow logs still goes wherever the program has logs go, but not to the standard error unasked.
"""

import ctypes
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import _imaging

_HANDLERS = ("TIFFSetErrorHandler", "TIFFSetWarningHandler")
_LOGGER, _NOWHERE = logging.getLogger("PIL.TiffImagePlugin"), logging.NullHandler()
_turn = threading.Lock()
_readers = 0
_before: dict[str, int | None] = {}


@contextmanager
def without_messages() -> Iterator[None]:
    """Silences libtiff within the block, save where Pillow holds it out of reach (Windows)."""
    global _readers  # noqa: PLW0603 - what libtiff keeps is one for the process, too
    with _turn:
        if _readers == 0:
            _before.update({name: _set(name, None) for name in _HANDLERS})
            _LOGGER.addHandler(_NOWHERE)
        _readers += 1
    try:
        yield
    finally:
        with _turn:
            _readers -= 1
            if _readers == 0:
                _LOGGER.removeHandler(_NOWHERE)
                for name in _HANDLERS:
                    _set(name, _before.pop(name))


def _set(name: str, handler: int | None) -> int | None:
    """Sets a handler of the libtiff that Pillow uses, and returns the one before."""
    library = ctypes.CDLL(_imaging.__file__)
    function: Any = getattr(library, name, None)
    if function is None:
        return None
    function.restype, function.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    return function(handler)  # type: ignore[no-any-return]
