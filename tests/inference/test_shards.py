"""Each file belongs to one share, wherever the folder lies, and the logs of all shares make up one."""

import unicodedata
from itertools import permutations
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadylens.errors import SettingError
from steadylens.inference.image_files import content_hash
from steadylens.inference.jobs import RestoreJob, Shard, plan_jobs
from steadylens.inference.results import FileResult, InPlaceHistory, ResultLog, merge_logs, read_results

PLACES = ["a.png", "b.png", "deep/a.png", "deep/b.png", "deep/er/c.png", "d.png", "e.png"]


def shards(count: int) -> list[Shard]:
    return [Shard(number=number, count=count) for number in range(1, count + 1)]


def filled(folder: Path) -> Path:
    for place in PLACES:
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(place.encode())
    return folder


@given(st.lists(st.text("ab/.é\udcff", min_size=1), min_size=1), st.integers(1, 9))
def test_each_path_belongs_to_exactly_one_share(names: list[str], count: int) -> None:
    for name in names:
        assert sum(shard.holds(PurePosixPath(name)) for shard in shards(count)) == 1


@pytest.mark.parametrize(
    ("place", "numbers"), [("a.png", (1, 3, 1)), ("deep/b.jpg", (2, 3, 2)), ("deep/é.tif", (1, 3, 3))]
)
def test_the_share_follows_from_sha256_on_every_machine(place: str, numbers: tuple[int, ...]) -> None:
    for count, number in zip((2, 3, 8), numbers, strict=True):
        for form in ("NFC", "NFD"):
            for kind in (PurePosixPath, PureWindowsPath):
                assert Shard(number=number, count=count).holds(kind(unicodedata.normalize(form, place)))


def test_the_shares_of_many_files_are_of_about_one_size() -> None:
    counts = [sum(shard.holds(PurePath(f"{n}.png")) for n in range(8_000)) for shard in shards(8)]
    assert min(counts) > 900
    assert max(counts) < 1_100


def test_the_shares_make_up_the_plan_and_each_knows_how_many_files_there_are(tmp_path: Path) -> None:
    folder = filled(tmp_path / "in")
    whole = plan_jobs([folder], tmp_path / "out")
    plans = [plan_jobs([str(folder)], str(tmp_path / "out"), shard=shard) for shard in shards(3)]
    assert sorted(job.source for plan in plans for job in plan.jobs) == sorted(
        job.source for job in whole.jobs
    )
    assert {plan.found for plan in plans} == {len(PLACES)} == {len(whole.jobs)}


@pytest.mark.parametrize("out", [True, False])
def test_neither_the_place_of_the_folder_nor_the_order_of_the_paths_matters(
    tmp_path: Path, out: bool
) -> None:
    found = []
    for name in ("one", "another/deep"):
        folder = filled(tmp_path / name)
        (folder / "link.png").symlink_to(folder / "a.png")
        target = tmp_path / "out" if out else None
        for paths in permutations([folder, folder / "deep", folder / "d.png", folder / "link.png"]):
            jobs = plan_jobs(paths, target, shard=Shard(number=1, count=2)).jobs
            found.append({(job.target if target is None else job.source).relative_to(folder) for job in jobs})
    assert all(each == found[0] for each in found)
    assert 0 < len(found[0]) < len(PLACES)


def test_a_file_that_is_written_to_two_places_belongs_to_one_share(tmp_path: Path) -> None:
    folder = filled(tmp_path / "in")
    for shard in shards(4):
        plan = plan_jobs([folder, folder / "deep"], tmp_path / "out", shard=shard)
        sources = [job.source for job in plan.jobs]
        assert all(sources.count(source) == 2 for source in sources if "deep" in source.parts)


@pytest.mark.parametrize("text", ["", "2", "0/2", "3/2", "1/0", "-1/2", "1 / 2", "1/2/3", "a/b", "²/3"])
def test_a_share_that_does_not_exist_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match=r"a number and a count, such as 2/8|the numbers are 1 to N"):
        Shard.parse(text)


def test_one_file_has_no_shares(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(SettingError, match=r"b\.png is one file, and a shard is a share of several"):
        plan_jobs([tmp_path / "a.png"], tmp_path / "b.png", shard=Shard(number=1, count=2))


def slurm(*values: object) -> dict[str, str]:
    names = ("ID", "COUNT", "MIN", "MAX", "STEP")
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in zip(names, values, strict=False)}


@pytest.mark.parametrize(
    ("array", "share"),
    [
        ((0, 8, 0, 7, 1), "1/8"),
        ((7, 8, 0, 7, 1), "8/8"),
        ((1, 4, 1, 4, 1), "1/4"),
        ((8, 4, 0, 12, 4), "3/4"),
        ((5, 1, 5, 5, 1), "1/1"),
    ],
)
def test_the_tasks_of_a_slurm_array_each_have_a_share(array: tuple[int, ...], share: str) -> None:
    assert str(Shard.of_slurm(slurm(*array))) == share


@pytest.mark.parametrize(
    "array",
    [
        (5, 3, 1, 7, 1),
        (1, 3, 1, 7, 1),
        (3, 4, 0, 12, 4),
        (9, 8, 0, 7, 1),
        (0, 8),
        ("a", 8, 0, 7, 1),
        (0,) * 5,
    ],
)
def test_an_array_with_gaps_is_refused(array: tuple[object, ...]) -> None:
    with pytest.raises(SettingError, match=r"not numbered evenly .*ID=.*; give --shard"):
        Shard.of_slurm(slurm(*array))


def test_elsewhere_there_are_no_shares() -> None:
    assert Shard.of_slurm({}) is None
    assert Shard.of_slurm({"SLURM_ARRAY_TASK_ID": "3"}) is None


def result(name: str, state: str = "restored", **more: object) -> FileResult:
    known = {"noise_grey": 5.5, "sha256": f"of {name}"} if state == "restored" else {"reason": "why"}
    values = {"file": name, "target": f"out/{name}", "state": state, **known, **more}
    return FileResult(**values)  # type: ignore[arg-type]


def written(log: Path, share: str, *results: FileResult, files: int | None = None) -> Path:
    shard = Shard.parse(share)
    with ResultLog(log, shard) as made:
        made.start(len(results) if files is None else files)
        for each in results:
            made.write(each)
    return shard.named(log)


def test_the_logs_of_all_shares_are_merged_into_one(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    written(log, "2/3", result("b"), result("d", "failed"))
    written(log, "1/3", result("c"), result("a"))
    assert written(log, "3/3") == tmp_path / "log-3-of-3.jsonl", "a share may have no file"
    merged = merge_logs(str(log))
    assert [path.name for path in merged.logs] == [f"log-{number}-of-3.jsonl" for number in (1, 2, 3)]
    read = read_results(log)
    assert [(each.file, each.state) for each in read] == [
        ("a", "restored"), ("b", "restored"), ("c", "restored"), ("d", "failed")
    ]  # fmt: skip
    before = log.read_bytes()
    merge_logs(log)
    assert log.read_bytes() == before, "it can be done again"


def test_a_share_that_is_missing_or_not_complete_is_told(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with pytest.raises(SettingError, match=r"are no logs of shards, which are called like log-1-of-8\.jsonl"):
        merge_logs(log)
    written(log, "2/3", result("b"))
    with pytest.raises(SettingError, match=r"2 of 3 .*: log-1-of-3\.jsonl, log-3-of-3\.jsonl; .* 1/3 and so"):
        merge_logs(log)
    written(log, "1/3", result("a"))
    path = written(log, "3/3", result("c"), result("d"), files=3)
    with pytest.raises(SettingError, match=r"tells of 2 of the 3 files of shard 3/3: let it end, or give"):
        merge_logs(log)
    path.write_bytes(path.read_bytes()[:-9])  # as a machine that went down leaves it
    with pytest.raises(SettingError, match="tells of 1 of the 3 files"):
        merge_logs(log)
    assert not log.exists()
    written(log, "3/3", result("c", "skipped"), result("d"), result("e"))
    assert [each.state for each in merge_logs(log).results] == ["restored"] * 5


def test_a_log_that_became_that_of_another_share_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    first = written(log, "1/2", result("a"))
    first.rename(tmp_path / "log-2-of-2.jsonl")
    written(log, "1/2", result("a"))
    with pytest.raises(SettingError, match=r"log-2-of-2\.jsonl is no log of shard 2/2"):
        merge_logs(log)


def test_a_file_in_two_shares_and_logs_of_two_counts_are_refused(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    written(log, "1/2", result("a"), result("b"))
    written(log, "2/2", result("b", target="elsewhere/b"))
    with pytest.raises(SettingError, match=r"b is in .*log-1-of-2\.jsonl and in .*log-2-of-2\.jsonl"):
        merge_logs(log)
    (tmp_path / "log-1-of-999999999.jsonl").touch()
    with pytest.raises(SettingError, match="are logs of 2 and 999999999 shards; move those"):
        merge_logs(log)


def test_what_was_restored_before_by_another_number_of_shares_stays_known(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    written(log, "1/1", result("a"))
    old = written(log, "1/2", result("b"))
    written(log, "1/3", result("a", "skipped"), result("b", "skipped"))
    old.unlink()
    written(log, "2/3")
    written(log, "3/3", result("c"))
    first, second, third = merge_logs(log).results
    assert (first.state, second.state, third.state) == ("restored", "skipped", "restored")
    assert {each.noise_grey for each in (first, second, third)} == {5.5}


def test_what_a_share_restored_in_place_all_shares_know(tmp_path: Path) -> None:
    path, noted, log = tmp_path / "a.png", tmp_path / "state" / "noted.txt", tmp_path / "log.jsonl"
    path.write_bytes(b"restored")
    history = InPlaceHistory.opened(noted, shard=Shard(number=2, count=3))
    history.add(content_hash(path))
    assert history.path == tmp_path / "state" / "noted-2-of-3.txt"
    job = RestoreJob(source=path, target=path)
    assert InPlaceHistory.opened(noted).holds(job)
    assert InPlaceHistory.opened(noted, shard=Shard(number=1, count=8)).holds(job)
    written(log, "1/2", result("a", sha256=content_hash(path)))
    assert InPlaceHistory.opened(tmp_path / "other.txt", log=log).holds(job)
