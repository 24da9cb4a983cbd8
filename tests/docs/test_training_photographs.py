"""The script that fetches the training photographs takes the files of the table, checked, from git."""

import csv
import runpy
import subprocess
from pathlib import Path
from typing import Any

import pytest

from steadylens.errors import DatasetError

DOCS = Path(__file__).parents[2] / "docs"

SCRIPT: dict[str, Any] = runpy.run_path(str(DOCS / "training_photographs.py"), run_name="script")


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b.example", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a repository with the two files of the table; a later commit removes one."""
    folder = tmp_path / "host" / "some" / "one"
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet")
    for option in ("allowFilter", "allowAnySHA1InWant"):
        git(folder, "config", f"uploadpack.{option}", "true")
    (folder / "a b.png").write_bytes(b"first")
    (folder / "c.png").write_bytes(b"second")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "Add")
    commit = git(folder, "rev-parse", "HEAD")
    rows = [("x/a.png", "a b.png"), ("y/c.png", "c.png")]
    lines = ["file\trepository\tpath\tblob"]
    lines += [f"{file}\tsome/one\t{path}\t{git(folder, 'hash-object', path)}" for file, path in rows]
    git(folder, "rm", "--quiet", "c.png")
    git(folder, "commit", "--quiet", "-m", "Remove")
    (tmp_path / "table.tsv").write_text("\n".join(lines) + "\n")
    monkeypatch.setitem(SCRIPT["main"].__globals__, "TABLE", tmp_path / "table.tsv")
    monkeypatch.setitem(SCRIPT["main"].__globals__, "COMMITS", {"some/one": commit})
    return folder


def test_the_files_of_the_table_are_fetched_at_their_commit(
    repository: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    host = f"file://{tmp_path / 'host'}"
    SCRIPT["main"](tmp_path / "out", host)
    assert (tmp_path / "out" / "x" / "a.png").read_bytes() == b"first"
    assert (tmp_path / "out" / "y" / "c.png").read_bytes() == b"second"
    assert "some/one: 2 photographs" in capfd.readouterr().err
    (tmp_path / "out" / "y" / "c.png").unlink()
    SCRIPT["main"](tmp_path / "out", host)
    assert "some/one: 1 photographs" in capfd.readouterr().err
    repository.rename(tmp_path / "gone")
    SCRIPT["main"](tmp_path / "out", host)  # everything is there, so nothing is fetched


def test_another_file_than_that_of_the_training_is_refused(repository: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.tsv"
    table.write_text(table.read_text().replace(git(repository, "hash-object", "a b.png"), "0" * 40))
    with pytest.raises(DatasetError, match="another file"):
        SCRIPT["main"](tmp_path / "out", f"file://{tmp_path / 'host'}")
    assert not (tmp_path / "out" / "x" / "a.png").exists()


def test_the_table_names_every_file_once_from_a_repository_with_a_commit() -> None:
    with (DOCS / "training_photographs.tsv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    assert len(rows) == len({row["file"] for row in rows}) == len({row["blob"] for row in rows}) == 291
    commits = runpy.run_path(str(DOCS / "training_photographs.py"), run_name="script")["COMMITS"]
    assert {row["repository"] for row in rows} == set(commits)
