"""A log is read whatever became of the run that wrote it, and what was restored in place stays known."""

from dataclasses import asdict
from pathlib import Path

import pytest

from steadylens.errors import SettingError, StorageError
from steadylens.inference.image_files import content_hash
from steadylens.inference.jobs import RestoreJob
from steadylens.inference.results import FileResult, InPlaceHistory, ResultLog, read_results


def result(number: int) -> FileResult:
    return FileResult(
        file=f"{number}.png", target=f"out/\udcff{number}.png", state="restored", notes=("a note",),
        seconds=1.5, noise_grey=None, sha256=f"{number:064x}",
    )  # fmt: skip


def same(one: FileResult, other: FileResult) -> bool:
    return {**asdict(one), "notes": list(one.notes)} == {**asdict(other), "notes": list(other.notes)}


def written(path: Path, *numbers: int) -> None:
    with ResultLog(path) as log:
        for number in numbers:
            log.write(result(number))


def test_what_is_written_is_read_and_a_second_run_adds_to_it(tmp_path: Path) -> None:
    written(tmp_path / "deep" / "log.jsonl", 1, 2)
    written(tmp_path / "deep" / "log.jsonl", 3)
    read = read_results(tmp_path / "deep" / "log.jsonl")
    assert len(read) == 3
    assert all(same(each, result(number)) for number, each in enumerate(read, start=1))


def test_a_line_is_there_as_soon_as_it_is_written(tmp_path: Path) -> None:
    with ResultLog(tmp_path / "log.jsonl") as log:
        log.write(result(1))
        assert len(read_results(tmp_path / "log.jsonl")) == 1


@pytest.mark.parametrize("cut", [1, 20, 90])
def test_a_line_that_was_cut_off_is_left_out_and_those_after_it_are_read(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "log.jsonl"
    written(path, 1, 2)
    path.write_bytes(path.read_bytes()[:-cut])
    expected = ["1.png", "2.png"] if cut == 1 else ["1.png"]
    assert [each.file for each in read_results(path)] == expected
    written(path, 3)
    assert [each.file for each in read_results(path)] == [*expected, "3.png"]


def test_a_log_whose_first_line_was_cut_off_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    written(path, 1)
    path.write_bytes(path.read_bytes()[:-20])
    assert read_results(path) == []
    written(path, 2)
    assert [each.file for each in read_results(path)] == ["2.png"]


@pytest.mark.parametrize(
    "content",
    [b"\x89PNG\r\n", b"[1, 2]\n", b'{"file": "a.png"}\n', b'{"file": "a.png"}', b'{"colour": "r', b"text\n"],
)
def test_another_file_is_not_taken_for_a_log(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(SettingError, match="line 1 is no result of a restored file; choose another log"):
        ResultLog(tmp_path / "other")
    assert (tmp_path / "other").read_bytes() == content


def test_a_log_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="is no folder; choose another place"):
        ResultLog(tmp_path / "file" / "log.jsonl")
    with pytest.raises(SettingError, match="cannot be read"):
        ResultLog(tmp_path)


def test_a_result_is_known_by_its_content_alone(tmp_path: Path) -> None:
    path, other, noted = tmp_path / "a.png", tmp_path / "b.png", tmp_path / "state" / "noted.txt"
    path.write_bytes(b"restored")
    other.write_bytes(b"not restored")
    history = InPlaceHistory.opened(noted)
    history.add(content_hash(path))
    assert not history.holds(RestoreJob(source=path, target=path)), "it was opened before"
    history = InPlaceHistory.opened(noted)
    assert history.holds(RestoreJob(source=path, target=path))
    assert not history.holds(RestoreJob(source=other, target=other))
    assert not history.holds(RestoreJob(source=path, target=tmp_path / "c.png")), "it is not in place"
    assert not history.holds(RestoreJob(source=tmp_path / "none", target=tmp_path / "none"))
    path.replace(other)
    assert history.holds(RestoreJob(source=other, target=other))
    forgotten = InPlaceHistory.opened(noted, forget=True)
    assert not forgotten.holds(RestoreJob(source=other, target=other))


def test_a_log_tells_what_was_restored_too(tmp_path: Path) -> None:
    path, log = tmp_path / "a.png", tmp_path / "log.jsonl"
    path.write_bytes(b"restored")
    with ResultLog(log) as results:
        results.write(FileResult(file="x", target="x", state="restored", sha256=content_hash(path)))
        results.write(FileResult(file="y", target="y", state="failed", reason="cannot be read"))
    history = InPlaceHistory.opened(tmp_path / "noted.txt", log=log)
    assert history.hashes == {content_hash(path)}


def test_a_hash_that_was_cut_off_harms_no_other(tmp_path: Path) -> None:
    noted = tmp_path / "noted.txt"
    InPlaceHistory.opened(noted).add("a" * 64)
    noted.write_bytes(noted.read_bytes()[:-9])
    InPlaceHistory.opened(noted).add("b" * 64)
    assert "b" * 64 in InPlaceHistory.opened(noted).hashes


def test_a_history_that_cannot_be_kept_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="is no folder; let the environment variable XDG_STATE_HOME"):
        InPlaceHistory.opened(tmp_path / "file" / "noted.txt")
