"""Writes files whole or not at all, and describes folders of files."""

import errno
import os
import secrets
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from steadylens.errors import StorageError

MOST_SUFFIXES = 8
"""How many suffixes a description of files names."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Provides a temporary path next to `path` and renames it to `path` when the block ends without an error.

    If the block raises (a full disk, an interrupt), the temporary file is removed and an older file at `path`
    stays as it was. A file that replaces another keeps its permissions and, as far as the system allows,
    its owner.

    Args:
        path: The file to write. Its folder is made if it is missing.

    Yields:
        The temporary path to write to; it has the suffix of `path`, which some writers look at.

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
            mode = _take_owner(temporary, before, mode)
        temporary.chmod(mode)  # some writers replace the file by one with other permissions
        temporary.replace(path)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise _refused(path, error, "free some space or choose another place") from error
    finally:
        temporary.unlink(missing_ok=True)


def check_place(path: Path) -> None:
    """Checks that a file can be written at `path`, before long work is done for it.

    Raises:
        StorageError: If `path` is a folder, or its folder cannot be made or written to.
    """
    if path.is_dir():
        raise StorageError(f"cannot write {path}: it is a folder; choose another place")
    check_folder(path.parent)


def check_folder(folder: Path) -> None:
    """Checks that files can be written in a folder, which may not exist yet.

    Raises:
        StorageError: If the folder, or the one to make it in, is a file or may not be written to.
    """
    try:
        existing = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    except OSError as error:
        raise _refused(folder, error, "choose another place") from error
    if existing.is_dir() and os.access(existing, os.W_OK):
        return
    reason = "may not be written to" if existing.is_dir() else "is no folder"
    raise StorageError(f"cannot write into {folder}: {existing} {reason}; choose another place")


def describe_suffixes(counts: Counter[str]) -> str:
    """Returns in words how many files there are of each suffix, such as "2 .heic, 1 without an ending"."""
    named = counts.most_common(MOST_SUFFIXES)
    words = [f"{count} {suffix or 'without an ending'}" for suffix, count in named]
    return ", ".join([*words, *(["others"] if len(counts) > len(named) else [])])


def _take_owner(path: Path, before: os.stat_result, mode: int) -> int:
    """Gives a file the group and owner of the file it replaces, if allowed; returns the safe permissions."""
    if hasattr(os, "chown"):
        for owner, group in ((-1, before.st_gid), (before.st_uid, -1)):
            with suppress(OSError):
                os.chown(path, owner, group)
    return mode if path.stat().st_gid == before.st_gid else mode & ~stat.S_IRWXG


def _refused(path: Path, error: OSError, way_out: str) -> StorageError:
    way_out = "choose a shorter name" if error.errno == errno.ENAMETOOLONG else way_out
    return StorageError(f"cannot write {path}: {error.strerror or error}; {way_out}")
