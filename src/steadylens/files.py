"""Files appear whole or not at all."""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from steadylens.errors import StorageError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Lends a temporary path beside `path` and renames it to `path` once the block has ended well.

    If the block raises (a full disk, an interrupt), the temporary file is removed and whatever stood at
    `path` before stays as it was. A file that takes the place of another has its permissions and, as far as
    the system allows it, its owner.

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
        before = path.stat() if path.exists() else None
        temporary.open("xb").close()
    except OSError as error:
        raise _refused(path, error, "choose another place") from error
    try:
        mode = stat.S_IMODE((before or temporary.stat()).st_mode)
        temporary.chmod(mode | stat.S_IRUSR | stat.S_IWUSR)
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        if before is not None:
            mode = _given(temporary, before, mode)
        temporary.chmod(mode)  # some writers replace the file by a private one of their own
        temporary.replace(path)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise _refused(path, error, "free some space or choose another place") from error
    finally:
        temporary.unlink(missing_ok=True)


def check_place(path: Path) -> None:
    """Refuses a place where no file can appear, before long work is done for it.

    Raises:
        StorageError: If a folder is there, or its own folder can be none or may not be written to.
    """
    if path.is_dir():
        raise StorageError(f"cannot write {path}: it is a folder; choose another place")
    check_folder(path.parent)


def check_folder(folder: Path) -> None:
    """Refuses a folder, there or not, in which no file can appear.

    Raises:
        StorageError: If it, or what it should be made in, is a file or may not be written to.
    """
    try:
        there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    except OSError as error:
        raise _refused(folder, error, "choose another place") from error
    if there.is_dir() and os.access(there, os.W_OK):
        return
    reason = "may not be written to" if there.is_dir() else "is no folder"
    raise StorageError(f"cannot write into {folder}: {there} {reason}; choose another place")


def _given(path: Path, before: os.stat_result, mode: int) -> int:
    """Gives a file the group and owner of another, as far as may be; returns the mode that it may have."""
    if hasattr(os, "chown"):
        for owner, group in ((-1, before.st_gid), (before.st_uid, -1)):
            with suppress(OSError):
                os.chown(path, owner, group)
    return mode if path.stat().st_gid == before.st_gid else mode & ~stat.S_IRWXG


def _refused(path: Path, error: OSError, way_out: str) -> StorageError:
    way_out = "choose a shorter name" if error.errno == errno.ENAMETOOLONG else way_out
    return StorageError(f"cannot write {path}: {error.strerror or error}; {way_out}")
