"""Files appear whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from steadylens.errors import StorageError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Lends a temporary path beside `path` and renames it to `path` once the block has ended well.

    If the block raises (a full disk, an interrupt), the temporary file is removed and whatever stood at
    `path` before stays as it was.

    Args:
        path: Where the file shall appear. Its folder is made when it is missing.

    Yields:
        The temporary path to write to; it has the suffix of `path`, for writers that look at it.

    Raises:
        StorageError: If the operating system refuses to make, write or rename the file.
    """
    temporary = path.with_name(f".{path.stem[:40]}-{secrets.token_hex(8)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.open("xb").close()
        mode = temporary.stat().st_mode
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}; choose another place") from error
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.chmod(mode)  # some writers replace the file by a private one of their own
        temporary.replace(path)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another place"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
