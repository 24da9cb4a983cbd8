"""The errors that the package raises when a user can correct the cause.

SteadylensError
├── SettingError (ValueError)       an argument or an option breaks a rule
├── InputError (ValueError)         something read from outside cannot be used
│   ├── ImageError                  an image, or a batch of them, breaks the image contract
│   │   └── ImageSizeError          an image file has more pixels than the limit
│   ├── DatasetError                a folder, an annotation file or a class list cannot be used
│   ├── CheckpointError             a file of weights or of training state cannot be used
│   └── RecordError                 a file of measurements cannot be used
├── DivergenceError (ValueError)    the training loss became infinite or NaN
├── ExportError (ValueError)        a net cannot be exported, or its export gives other results
├── StorageError (OSError)          a file cannot be written
├── WorkerLostError (RuntimeError)  another worker of the same job has failed or was ended
└── MissingExtraError (ImportError) an optional library is not installed

Every message contains the value, the rule and the way out.
"""


class SteadylensError(Exception):
    """Base class of every error that the package raises on purpose."""


class SettingError(SteadylensError, ValueError):
    """An argument or an option breaks a rule."""


class InputError(SteadylensError, ValueError):
    """Something read from outside cannot be used."""


class ImageError(InputError):
    """An image, or a batch of them, breaks the image contract."""


class ImageSizeError(ImageError):
    """An image file has more pixels than the limit."""


class DatasetError(InputError):
    """A folder, an annotation file or a class list cannot be used."""


class CheckpointError(InputError):
    """A file of weights or of training state cannot be used."""


class RecordError(InputError):
    """A file of measurements cannot be used."""


class DivergenceError(SteadylensError, ValueError):
    """The training loss became infinite or NaN."""


class ExportError(SteadylensError, ValueError):
    """A net cannot be exported, or its export gives other results."""


class StorageError(SteadylensError, OSError):
    """A file cannot be written."""


class WorkerLostError(SteadylensError, RuntimeError):
    """Another worker of the same job has failed or was ended."""


class MissingExtraError(SteadylensError, ImportError):
    """An optional library is not installed.

    Args:
        library: The name of the missing library.
        extra: The extra of this package that installs it.
    """

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(f"{library} is not installed; install it with: pip install 'steadylens[{extra}]'")
        self._arguments = library, extra

    def __reduce__(self) -> tuple[type["MissingExtraError"], tuple[str, str]]:
        """Lets it go from one process to another."""
        return type(self), self._arguments


def lacks_memory(error: BaseException) -> bool:
    """Returns whether memory ran out; on a CPU, PyTorch says so only in the message."""
    messages = ("can't allocate memory", "Failed to allocate memory", "bad_alloc")
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return known or any(text in str(error) for text in messages)


def reason_of(error: BaseException) -> str:
    """Returns why another library failed: the first line of its message that is more than a place in code."""
    lines = [line.strip() for line in str(error).splitlines()]
    useful = [line for line in lines if line and not line.startswith("Exception from ")]
    return next(iter([*useful, *filter(None, lines)]), type(error).__name__)
