"""Whatever happens while a file is written, its path has the old file or the whole new one."""

import os
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from steadylens.errors import StorageError
from steadylens.files import MOST_SUFFIXES, check_folder, check_place, describe_suffixes, replacing


def write_in_limited_process(path: Path, body: str) -> subprocess.CompletedProcess[str]:
    """Runs `body` with a temporary path for `path` in a process that cannot write more than 64 KiB."""
    code = (
        "import os, resource, signal\n"
        "from pathlib import Path\n"
        "from steadylens.errors import StorageError\n"
        "from steadylens.files import replacing\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "try:\n"
        f"    with replacing(Path({str(path)!r})) as temporary:\n"
        f"        {body}\n"
        "except StorageError as error:\n"
        "    print(error)\n"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_a_new_file_appears_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folders" / "a.txt"
    with replacing(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_the_temporary_file_is_a_sibling_with_the_same_suffix(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.tar.gz") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".gz"
        assert temporary.name.startswith(".")


def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with replacing(path) as first, replacing(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # renamed last
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, OSError, StorageError])
def test_the_old_file_stays_when_the_block_raises(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    expected = StorageError if issubclass(error, OSError) else error

    def interrupted() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise error("stop")

    with pytest.raises(expected):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_storage_error_passes_unchanged(tmp_path: Path) -> None:
    ours = StorageError("ours")
    with pytest.raises(StorageError) as caught, replacing(tmp_path / "a.txt"):
        raise ours
    assert caught.value is ours


def test_the_old_file_stays_when_the_disk_is_full(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_text("old")
    run = write_in_limited_process(path, "temporary.write_bytes(bytes(1_000_000))")
    assert run.returncode == 0, run.stderr
    assert str(path) in run.stdout
    assert "File too large; free some space" in run.stdout
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_stays_when_the_process_is_interrupted(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_text("old")
    run = write_in_limited_process(
        path,
        "signal.signal(signal.SIGINT, signal.default_int_handler); "  # background processes ignore it
        "temporary.write_bytes(bytes(1000)); os.kill(os.getpid(), signal.SIGINT)",
    )
    assert run.returncode != 0
    assert "KeyboardInterrupt" in run.stderr
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_process_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_text("old")
    run = write_in_limited_process(
        path, "temporary.write_bytes(bytes(1000)); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert run.returncode != 0
    assert path.read_text() == "old"


def test_a_folder_that_is_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StorageError, match=r"file/a\.txt.*choose another place"),
        replacing(tmp_path / "file" / "a.txt"),
    ):
        pass


def test_a_path_that_is_a_folder_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(StorageError, match=r"a\.txt"), replacing(tmp_path / "a.txt"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_text("text"),
        lambda path: save_file({"a": torch.zeros(2)}, path),  # replaces the file by its own
    ],
    ids=["text", "safetensors"],
)
def test_the_permissions_are_those_of_any_new_file(tmp_path: Path, write: Callable[[Path], object]) -> None:
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "a") as temporary:
            write(temporary)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@pytest.mark.parametrize("mode", [0o600, 0o444, 0o664, 0o200])
def test_a_file_that_replaces_another_has_its_permissions(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(mode)
    with replacing(path) as temporary:
        assert stat.S_IMODE(temporary.stat().st_mode) == mode | 0o600, "nobody else may read it meanwhile"
        temporary.write_text("new")
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", mode)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
def test_a_file_that_replaces_another_has_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    os.chown(path, 1234, 4321)
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 4321)


def test_a_group_that_cannot_be_kept_gives_no_rights_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(0o640)
    before = path.stat()

    def refuse(*arguments: object) -> None:
        raise PermissionError

    elsewhere = os.stat_result((*before[:5], before.st_gid + 1, *before[6:10]))
    stat_of = Path.stat
    monkeypatch.setattr(os, "chown", refuse, raising=False)
    monkeypatch.setattr(Path, "stat", lambda self: elsewhere if self == path else stat_of(self))
    with replacing(path) as temporary:
        temporary.write_text("new")
    monkeypatch.undo()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_error_of_a_long_name_says_so(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match="File name too long; choose a shorter name"),
        replacing(tmp_path / ("n" * 300)) as temporary,
    ):
        temporary.write_text("whole")
    assert list(tmp_path.iterdir()) == []


def test_a_path_is_checked_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check_place(tmp_path / "file")
    check_place(tmp_path / "new" / "folders" / "a.txt")
    for place, reason in (
        ("file/a", "file is no folder"),
        ("file/b/a", "file is no folder"),
        (".", "a folder"),
    ):
        with pytest.raises(StorageError, match=rf"cannot write .*{reason}; choose another place"):
            check_place(tmp_path / place)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_may_not_be_written_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_folder(tmp_path / "new")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(StorageError, match=r"new: .* may not be written to; choose another place"):
        check_folder(tmp_path / "new")


def test_a_long_name_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250 + ".txt")
    with replacing(path) as temporary:
        temporary.write_text("whole")
    assert path.read_text() == "whole"


def test_files_are_described_by_their_suffixes_the_most_frequent_first() -> None:
    assert describe_suffixes(Counter({"": 1, ".gif": 2})) == "2 .gif, 1 without an ending"
    many = describe_suffixes(Counter(f".{number}" for number in range(MOST_SUFFIXES + 1)))
    assert many.count(",") == MOST_SUFFIXES
    assert many.endswith(", others")
