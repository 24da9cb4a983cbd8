"""The error tree. Whatever goes wrong for a reason that a user can mend is one of these.

SteadylensError
├── SettingError (ValueError)       an argument or an option breaks a rule
├── InputError (ValueError)         something read from outside cannot be used
│   ├── ImageError                  an image, or a batch of them, breaks the image contract
│   │   └── ImageSizeError          an image file holds more pixels than are read
│   ├── DatasetError                a folder, an annotation file or a class list cannot be used
│   ├── CheckpointError             a file of weights or of training state cannot be used
│   └── RecordError                 a file of measurements cannot be used
├── DivergenceError (ValueError)    training left the finite numbers
├── ExportError (ValueError)        a net cannot be exported, or answers otherwise once it is
├── StorageError (OSError)          a file cannot be written
└── MissingExtraError (ImportError) an optional library is not installed

Every message holds the value, the rule and the way out.
"""


class SteadylensError(Exception):
    """Root of every error that the package raises on purpose."""


class SettingError(SteadylensError, ValueError):
    """An argument or an option breaks a rule."""


class InputError(SteadylensError, ValueError):
    """Something read from outside cannot be used."""


class ImageError(InputError):
    """An image, or a batch of them, breaks the image contract."""


class ImageSizeError(ImageError):
    """An image file holds more pixels than are read."""


class DatasetError(InputError):
    """A folder, an annotation file or a class list cannot be used."""


class CheckpointError(InputError):
    """A file of weights or of training state cannot be used."""


class RecordError(InputError):
    """A file of measurements cannot be used."""


class DivergenceError(SteadylensError, ValueError):
    """Training left the finite numbers."""


class ExportError(SteadylensError, ValueError):
    """A net cannot be exported, or answers otherwise once it is."""


class StorageError(SteadylensError, OSError):
    """A file cannot be written."""


class MissingExtraError(SteadylensError, ImportError):
    """An optional library is not installed.

    Args:
        library: The name of the missing library.
        extra: The extra of this package that brings it.
    """

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(f"{library} is not installed; install it with: pip install 'steadylens[{extra}]'")


def lacks_memory(error: BaseException) -> bool:
    """Says whether memory ran out: PyTorch has an error of its own, on a CPU there is only a text."""
    told = ("can't allocate memory", "Failed to allocate memory", "bad_alloc")
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return known or any(text in str(error) for text in told)


def reason_of(error: BaseException) -> str:
    """Returns why another library failed, in one line: the first that says more than where in its code."""
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if line and not line.startswith("Exception from ")]
    return next(iter([*telling, *filter(None, lines)]), type(error).__name__)
