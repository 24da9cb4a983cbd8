"""What became of restored files: a log of results, and a history of what was restored in place."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import platformdirs

from steadylens.errors import SettingError, StorageError
from steadylens.files import check_place
from steadylens.inference.image_files import content_hash
from steadylens.inference.jobs import RestoreJob


@dataclass(frozen=True, kw_only=True, slots=True)
class FileResult:
    """What became of a file.

    Attributes:
        file: The file that was to be restored.
        target: The file to write.
        state: Whether it was restored, failed, or was skipped since its result was there.
        reason: Why it failed or was skipped; empty if it was restored.
        notes: What was converted, a phrase each.
        seconds: How long it took.
        noise_grey: The estimated noise of the source in grey levels of 255, or None if it is not known.
        sha256: SHA-256 of the result, in hexadecimal; empty if there is none.
    """

    file: str
    target: str
    state: Literal["restored", "failed", "skipped"]
    reason: str = ""
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    noise_grey: float | None = None
    sha256: str = ""

    @classmethod
    def skipped(cls, job: RestoreJob, reason: str) -> Self:
        """Returns the result of a file that is left as it is."""
        return cls(file=str(job.source), target=str(job.target), state="skipped", reason=reason)


class ResultLog:
    """A file of JSON lines that gets a line for each file as soon as it is done; a context manager.

    Lines of an earlier run are kept. If there are several for one file, the last counts.

    Args:
        path: The log, which is made if it is missing.

    Raises:
        SettingError: If it exists and is no such log.
        StorageError: If it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        read_results(path)  # refuses any other file
        check_place(path)
        self.path = path

    def __enter__(self) -> Self:
        """Opens the log."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b")
            # The line at the end may be cut off, if the machine went down.
            if self._file.seek(0, os.SEEK_END) and not _ends_a_line(self.path):
                self._file.write(b"\n")
        except OSError as error:
            raise StorageError(f"cannot write {self.path}: {error.strerror}; choose another place") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the log."""
        self._file.close()

    def write(self, result: FileResult) -> None:
        """Adds a line.

        Raises:
            StorageError: If it cannot be written.
        """
        try:
            self._file.write(json.dumps(asdict(result), allow_nan=False).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise StorageError(f"cannot write {self.path}: {error.strerror}; free some space") from error


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def read_results(path: Path) -> list[FileResult]:
    """Reads a log of results; a last line that was cut off is left out.

    Returns:
        Its results in order; none if there is no file.

    Raises:
        SettingError: If it is no such log.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    except OSError as error:
        raise SettingError(f"{path} cannot be read: {error.strerror}; choose another log") from error
    results = []
    for number, line in enumerate(lines, start=1):
        try:
            results.append(FileResult(**json.loads(line)))
        except (ValueError, TypeError) as error:
            was_cut_off = results and not (number == len(lines) and line.endswith(b"\n"))
            if not was_cut_off:
                raise SettingError(
                    f"{path}, line {number} is no result of a restored file; choose another log"
                ) from error
    return results


_WAY_OUT = "let the environment variable XDG_STATE_HOME name a folder with space that may be written to"


@dataclass(frozen=True, slots=True)
class InPlaceHistory:
    """Which files were restored in place, by their content, whatever they are called and wherever they lie.

    Attributes:
        path: The file that holds their hashes, a line each, and gets those that are added.
        hashes: The hashes that count as restored.
    """

    path: Path
    hashes: frozenset[str] = field(repr=False)

    @classmethod
    def opened(cls, path: Path | None = None, *, log: Path | None = None, forget: bool = False) -> Self:
        """Returns the history of this user.

        Args:
            path: The file, or None for the usual one in the user's folder of states.
            log: A log of results, whose files count as well.
            forget: Whether to count no file as restored; what is restored from now on is noted.

        Raises:
            StorageError: If the file cannot be read or written.
        """
        path = path or platformdirs.user_state_path("steadylens") / "restored-in-place.txt"
        try:
            check_place(path)
        except StorageError as error:
            reason = str(error).removesuffix("; choose another place")
            raise StorageError(f"what is restored in place is noted, but {reason}; {_WAY_OUT}") from error
        try:
            known = path.read_text(encoding="ascii", errors="replace").split() if path.exists() else []
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror}; remove it") from error
        logged = [each.sha256 for each in read_results(log)] if log is not None else []
        return cls(path, frozenset() if forget else frozenset(filter(None, (*known, *logged))))

    def add(self, sha256: str) -> None:
        """Notes a result that is about to replace its source; several processes may do so at a time.

        Raises:
            StorageError: If the file cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            place = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(place, f"\n{sha256}".encode())  # one call: what several processes write stays apart
                os.fsync(place)
            finally:
                os.close(place)
        except OSError as error:
            raise StorageError(f"cannot write {self.path}: {error.strerror}; {_WAY_OUT}") from error

    def holds(self, job: RestoreJob) -> bool:
        """Returns whether the file that a job would replace is itself a result."""
        try:
            return bool(self.hashes) and job.in_place and content_hash(job.source) in self.hashes
        except OSError:  # whoever restores it says why
            return False
