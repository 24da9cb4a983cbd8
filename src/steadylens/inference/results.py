"""What became of restored files: a log of results, and a history of what was restored in place.

Processes that share the files each write a log and a history of their own, since several machines cannot
safely add to one file of a network disk.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import platformdirs

from steadylens.errors import SettingError, StorageError
from steadylens.files import check_place, replacing
from steadylens.inference.image_files import content_hash
from steadylens.inference.jobs import ALL_FILES, RestoreJob, Shard


@dataclass(frozen=True, kw_only=True, slots=True)
class FileResult:
    """What became of a file.

    Attributes:
        file: The file that was to be restored.
        target: The file to write.
        state: Whether it was restored, was left as it is since it is clean, failed, or was skipped since its
            result was there.
        reason: Why it was left, failed or was skipped; empty if it was restored.
        notes: What was converted, a phrase each.
        seconds: How long it took.
        noise_grey: The estimated noise of the source in grey levels of 255, or None if it is not known.
        coarse_noise_grey: The same by the flattest parts, where noise that neighbours share shows as well.
        coarse_noise: Whether neighbouring pixels share it, so that `unet-camera` would restore the image
            better; only told of files that `unet-photos` restores.
        sha256: SHA-256 of the result, in hexadecimal; empty if there is none.
    """

    file: str
    target: str
    state: Literal["restored", "clean", "failed", "skipped"]
    reason: str = ""
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    noise_grey: float | None = None
    coarse_noise_grey: float | None = None
    coarse_noise: bool = False
    sha256: str = ""

    @classmethod
    def skipped(cls, job: RestoreJob, reason: str) -> Self:
        """Returns the result of a file that is left as it is."""
        return cls(file=str(job.source), target=str(job.target), state="skipped", reason=reason)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardStart:
    """A line of a log that says which share of the files those after it are.

    Attributes:
        shard: The share, such as "2/8".
        files: How many files it has.
    """

    shard: str
    files: int


class ResultLog:
    """A file of JSON lines that gets a line for each file as soon as it is done; a context manager.

    Lines of an earlier run are kept. If there are several for one file, the last counts; where it says that
    the file was skipped, it repeats what the log tells of its result.

    Args:
        path: The log of all files, which is made if it is missing.
        shard: The share of the files that it tells of; its log lies beside that of all files.

    Raises:
        SettingError: If it exists and is no such log.
        StorageError: If it cannot be written.
    """

    def __init__(self, path: Path, shard: Shard = ALL_FILES) -> None:
        self.path, self.shard = shard.named(path), shard
        others = {log for share, log in Shard.files_of(path).items() if share.count != shard.count}
        known = [each for log in (*sorted(others), path, self.path) for each in read_results(log)]
        self._known = {each.target: each for each in known if each.sha256}
        check_place(self.path)

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

    def start(self, files: int) -> None:
        """Notes how many files the share has, if it is not all files, so that it can be told if one lacks.

        Raises:
            StorageError: If it cannot be written.
        """
        if self.shard.count > 1:
            self._add(ShardStart(shard=str(self.shard), files=files))

    def write(self, result: FileResult) -> None:
        """Adds a line.

        Raises:
            StorageError: If it cannot be written.
        """
        known = self._known.get(result.target)
        if result.state == "skipped" and known is not None:
            # The last line counts, so it must not say less than those before.
            result = replace(known, file=result.file, state="skipped", reason=result.reason)
        self._add(result)

    def _add(self, line: FileResult | ShardStart) -> None:
        try:
            self._file.write(_line(line))
            self._file.flush()
        except OSError as error:
            raise StorageError(f"cannot write {self.path}: {error.strerror}; free some space") from error


def _line(content: FileResult | ShardStart) -> bytes:
    return json.dumps(asdict(content), allow_nan=False).encode() + b"\n"


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
    return [line for line in _read_lines(path) if isinstance(line, FileResult)]


def _read_lines(path: Path) -> list[FileResult | ShardStart]:
    try:
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    except OSError as error:
        raise SettingError(f"{path} cannot be read: {error.strerror}; choose another log") from error
    contents: list[FileResult | ShardStart] = []
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line)
            contents.append(ShardStart(**values) if "shard" in values else FileResult(**values))
        except (ValueError, TypeError) as error:
            is_whole = number == len(lines) and line.endswith(b"\n")
            begun = isinstance(error, ValueError) and line.startswith((b'{"file": ', b'{"shard": '))
            was_cut_off = not is_whole and (contents or begun)
            if not was_cut_off:
                raise SettingError(
                    f"{path}, line {number} is no result of a restored file; choose another log"
                ) from error
    return contents


@dataclass(frozen=True, kw_only=True, slots=True)
class MergedLogs:
    """What became of the files of all shares.

    Attributes:
        logs: The logs of the shares, in order.
        results: What became of each file, once, in the order of the files' names.
    """

    logs: tuple[Path, ...]
    results: tuple[FileResult, ...]


def merge_logs(log: Path | str) -> MergedLogs:
    """Merges the logs of all shares, which lie beside it as NAME-1-of-8.jsonl and so on, into one.

    It gets a line for each file. What it tells already of other files stays, and so do the logs of the
    shares.

    Args:
        log: The log of all files, NAME.jsonl, which appears complete or not at all.

    Raises:
        SettingError: If the log of a share is missing or lacks files, or a file is in two of them.
        StorageError: If the log cannot be written.
    """
    log = Path(log)
    found = Shard.files_of(log)
    counts = {shard.count for shard in found}
    if not found:
        example = Shard(number=1, count=8).named(log).name
        raise SettingError(
            f"beside {log} are no logs of shards, which are called like {example}; restore with --shard "
            f"and --log {log} first"
        )
    if len(counts) > 1:
        numbers = " and ".join(f"{count}" for count in sorted(counts))
        raise SettingError(
            f"beside {log} are logs of {numbers} shards; move those that do not belong together to another "
            "folder"
        )
    (count,) = counts
    if missing := count - len(found):
        shards = (Shard(number=number, count=count) for number in range(1, count + 1))
        first = [*islice((shard for shard in shards if shard not in found), MOST_NAMES)]
        names = ", ".join(shard.named(log).name for shard in first)
        more = " and others" if missing > MOST_NAMES else ""
        raise SettingError(
            f"{missing} of {count} logs are missing beside {log}: {names}{more}; restore with --shard "
            f"{first[0]}{' and so on' if missing > 1 else ''}, and with --log {log}"
        )
    results: list[FileResult] = []
    owners: dict[str, Path] = {}
    for shard, path in found.items():
        of_shard = _complete(path, shard)
        for name in {name for each in of_shard for name in (each.file, each.target)}:
            if (owner := owners.setdefault(name, path)) != path:
                raise SettingError(
                    f"{name} is in {owner} and in {path}, so these logs are of different paths or folders; "
                    "remove them, and restore all shards with the same paths and --out"
                )
        results += of_shard
    merged = _without_repeats([*read_results(log), *results])
    ordered = tuple(sorted(merged, key=lambda each: (each.file, each.target)))
    with replacing(log) as temporary, temporary.open("wb") as file:
        file.writelines(map(_line, ordered))
    return MergedLogs(logs=tuple(found.values()), results=ordered)


MOST_NAMES = 5
"""How many missing logs are named."""


def _complete(path: Path, shard: Shard) -> list[FileResult]:
    """Returns the results of a share, if its log tells of all its files."""
    lines = _read_lines(path)
    starts = [number for number, line in enumerate(lines) if isinstance(line, ShardStart)]
    start = lines[starts[-1]] if starts else None
    if not isinstance(start, ShardStart) or start.shard != str(shard):
        raise SettingError(f"{path} is no log of shard {shard}; rename it, or restore with --shard {shard}")
    last = {line.target for line in lines[starts[-1] :] if isinstance(line, FileResult)}
    if len(last) < start.files:
        raise SettingError(
            f"{path} tells of {len(last)} of the {start.files} files of shard {shard}: let it end, or give "
            f"the same command again"
        )
    return [line for line in lines if isinstance(line, FileResult)]


def _without_repeats(results: Iterable[FileResult]) -> Iterable[FileResult]:
    """Returns one result for each target: the last, but none that only says that it was there before."""
    last: dict[str, FileResult] = {}
    for each in results:
        before = last.get(each.target)
        if each.state != "skipped" or before is None or before.state not in ("restored", "clean"):
            last[each.target] = each
    return last.values()


_WAY_OUT = "let the environment variable XDG_STATE_HOME name a folder with space that may be written to"


@dataclass(frozen=True, slots=True)
class InPlaceHistory:
    """Which files were restored in place, by their content, whatever they are called and wherever they lie.

    Attributes:
        path: The file that gets the hashes that are added, a line each.
        hashes: The hashes that count as restored.
    """

    path: Path
    hashes: frozenset[str] = field(repr=False)

    @classmethod
    def opened(
        cls,
        path: Path | None = None,
        *,
        log: Path | None = None,
        forget: bool = False,
        shard: Shard = ALL_FILES,
    ) -> Self:
        """Returns the history of this user.

        Args:
            path: The file, or None for the usual one in the user's folder of states.
            log: A log of results, whose files count as well, and those of the logs of shares beside it.
            forget: Whether to count no file as restored; what is restored from now on is noted.
            shard: The share of the files that is restored. It is noted in a file of its own beside that of
                all, and the files of all shares count.

        Raises:
            StorageError: If the file cannot be read or written.
        """
        path = path or platformdirs.user_state_path("steadylens") / "restored-in-place.txt"
        own = shard.named(path)
        try:
            check_place(own)
        except StorageError as error:
            reason = str(error).removesuffix("; choose another place")
            raise StorageError(f"what is restored in place is noted, but {reason}; {_WAY_OUT}") from error
        hashes: set[str] = set()
        for noted in (path, *Shard.files_of(path).values()):
            try:
                text = noted.read_text(encoding="ascii", errors="replace") if noted.exists() else ""
            except OSError as error:
                raise StorageError(f"cannot read {noted}: {error.strerror}; remove it") from error
            hashes |= {*text.split()}
        for each in () if log is None else (log, *Shard.files_of(log).values()):
            # A clean file is the same before and after, so it is no sign that something was restored.
            hashes |= {result.sha256 for result in read_results(each) if result.state == "restored"}
        return cls(own, frozenset() if forget else frozenset(hashes))

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
