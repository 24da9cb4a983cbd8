"""Real worker processes divide work and agree; a single process does all of the work by itself."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steadylens import workers
from steadylens.errors import SettingError
from tests.worker_processes import ended, run_workers, start_workers

SCRIPT = """
import json, os, pathlib, sys, time
import torch
from steadylens import workers
from steadylens.errors import SettingError, SteadylensError

class OddError(Exception):
    def __init__(self, value, rule):
        super().__init__(f"{value}, {rule}")

def lack():
    raise OddError("value", "rule")

def refuse():
    raise SettingError("refused by the first")

done = []
def square(number):
    done.append(number)
    return number * number

with workers.joined():
    pass
with workers.joined():  # again
    found = {"rank": workers.rank(), "count": workers.count()}
    found["share"] = list(range(7))[workers.share(7)]
    found["first"] = workers.by_first(lambda: f"said by {workers.rank()}")
    try:
        workers.by_first(refuse)
    except SettingError as error:
        found["error"] = str(error)
    found["squares"] = list(workers.divided(range(11), square, at_once=2))
    found["done"] = list(done)
    try:
        workers.by_first(lack)
    except RuntimeError as error:
        found["a class of error that cannot be sent"] = str(error)
    found["gathered"] = workers.gather({"from": workers.rank()})
    some = workers.divided(iter(range(100)), square, at_once=1)
    found["stopped early"] = [next(some), next(some), next(some)]
    one, two = torch.tensor([1.0 + workers.rank()]), torch.full((2, 2), 10.0 ** workers.rank())
    workers.add_up([one, two])
    found["sums"] = [one.tolist(), two.tolist()]
    copied = torch.tensor([float(workers.rank())])
    workers.copy_from_first([copied])
    found["copied"] = copied.tolist()
    os.environ["LOCAL_RANK"] = "01"[workers.rank() % 2]  # workers 0 and 1 share a machine, 2 has another
    path = pathlib.Path(sys.argv[1], "turns")
    def take_turn():
        others = path.read_text() if path.exists() else ""
        path.write_text(others + str(workers.rank()))
        return others
    found["turn"] = workers.in_turns(take_turn)
    for number in range(3):
        def fail_once():
            if workers.rank() == number:
                refuse()
            return "done"
        try:
            workers.in_turns(fail_once)
        except SteadylensError as error:
            found[f"turns end for {number}"] = f"{type(error).__name__}: {error}"
    workers.check_agreement("numbers", "the same")
    try:
        workers.check_agreement("numbers", str(workers.rank() // 2))
    except SettingError as error:
        found["disagreement"] = str(error)
    time.sleep(0.5 if workers.rank() == 0 else 0)  # the others ask before it says something
    found["same message"] = workers.first_says("message")
    found["other message"] = workers.first_says("another" if workers.rank() else "message")
    workers.gather(0)  # nobody ends, and the store with it, before all have asked
found["says"] = workers.first_says("never", seconds=0.1)
found["after"] = workers.count()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    """Returns what each of three workers found."""
    script = tmp_path_factory.mktemp("workers") / "script.py"
    script.write_text(SCRIPT)
    return [json.loads(output.splitlines()[-1]) for output in run_workers(3, [script, script.parent])]


def test_workers_know_their_number_until_they_leave(results: list[dict[str, object]]) -> None:
    assert [found["rank"] for found in results] == [0, 1, 2]
    assert {found["count"] for found in results} == {3}
    assert {found["after"] for found in results} == {1}


def test_shares_are_adjacent_and_cover_all_places_once(results: list[dict[str, object]]) -> None:
    assert [found["share"] for found in results] == [[0, 1], [2, 3], [4, 5, 6]]


def test_the_first_worker_decides_for_all(results: list[dict[str, object]]) -> None:
    assert {found["first"] for found in results} == {"said by 0"}
    assert {found["error"] for found in results} == {"refused by the first"}


def test_divided_work_is_done_once_and_its_results_are_known_everywhere(
    results: list[dict[str, object]],
) -> None:
    for found in results:
        assert found["squares"] == [number * number for number in range(11)]
        assert found["stopped early"] == [0, 1, 4]
    assert [found["done"] for found in results] == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8]]


def test_sums_are_over_all_workers(results: list[dict[str, object]]) -> None:
    for found in results:
        assert found["sums"] == [[6.0], [[111.0, 111.0], [111.0, 111.0]]]
        assert found["copied"] == [0.0]


def test_an_error_that_cannot_be_sent_is_replaced_by_its_message(results: list[dict[str, object]]) -> None:
    assert {found["a class of error that cannot be sent"] for found in results} == {"OddError: value, rule"}


def test_all_get_what_each_gives(results: list[dict[str, object]]) -> None:
    for found in results:
        assert found["gathered"] == [{"from": 0}, {"from": 1}, {"from": 2}]


def test_the_first_worker_of_a_machine_is_before_the_others_of_it(results: list[dict[str, object]]) -> None:
    assert [found["turn"] for found in results] == ["", "02", "0"]


def test_a_failed_turn_ends_all_workers(results: list[dict[str, object]]) -> None:
    refused = "SettingError: refused by the first"
    assert [found["turns end for 0"] for found in results] == [refused] * 3
    for failed in (1, 2):
        lost = f"WorkerLostError: worker {failed} has failed, so this one ends too; see its message"
        expected = [refused if number == failed else lost for number in range(3)]
        assert [found[f"turns end for {failed}"] for found in results] == expected


def test_workers_that_differ_from_the_first_are_refused(results: list[dict[str, object]]) -> None:
    expected = "worker 2 has other numbers than worker 0 (1, not 0); give all machines the same files, "
    assert {found["disagreement"] for found in results} == {f"{expected}libraries and options"}


def test_a_worker_knows_whether_the_first_says_the_same(results: list[dict[str, object]]) -> None:
    assert [found["same message"] for found in results] == [False, True, True]
    assert [found["other message"] for found in results] == [False, False, False]
    assert [found["says"] for found in results] == [False, False, False]


def test_a_single_process_does_everything() -> None:
    assert (workers.rank(), workers.count(), workers.started()) == (0, 1, False)
    with workers.joined():
        assert workers.share(7) == slice(0, 7)
        assert workers.by_first(lambda: "done") == "done"
        assert list(workers.divided(range(3), str)) == ["0", "1", "2"]
        assert workers.gather("own") == ["own"]
        assert workers.in_turns(lambda: "done") == "done"
        workers.check_agreement("numbers", "1")
        assert not workers.first_says("message")
        tensor = torch.tensor([2.0])
        workers.add_up([tensor])
        workers.copy_from_first([tensor])
        assert tensor.tolist() == [2.0]


@given(total=st.integers(0, 10_000), count=st.integers(1, 64))
def test_shares_differ_by_one_place_at_most(total: int, count: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(workers, "count", lambda: count)
        places: list[int] = []
        sizes = set()
        for number in range(count):
            patched.setattr(workers, "rank", lambda number=number: number)
            own = range(total)[workers.share(total)]
            places += own
            sizes.add(len(own))
    assert places == list(range(total))
    assert max(sizes) - min(sizes) <= 1


def test_an_incomplete_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SettingError, match="RANK, MASTER_ADDR, MASTER_PORT is not set; start"):
        workers.joined().__enter__()
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(SettingError, match="WORLD_SIZE is 'two', it must be a whole number"):
        workers.started()


def test_each_worker_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    assert workers.local_device(cuda) == cuda  # one process
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert workers.local_device(torch.device("cpu")) == torch.device("cpu")
    assert workers.local_device(cuda) == torch.device("cuda", 1)
    with pytest.raises(SettingError, match="cuda:0, but each worker takes a GPU of its own; give cuda"):
        workers.local_device(torch.device("cuda", 0))
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(SettingError, match="worker 2 of the machine, which has 2 GPUs"):
        workers.local_device(cuda)


def test_a_worker_whose_partner_dies_does_not_wait_for_ever(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal\nfrom steadylens import workers\n"
        "from steadylens.errors import WorkerLostError\nwith workers.joined():\n"
        "    if workers.rank() == 1:\n        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    try:\n        workers.by_first(lambda: 1)\n        workers.by_first(lambda: 2)\n"
        "        list(workers.divided([1, 2], int))\n"
        "    except WorkerLostError as error:\n        print(error)\n        raise SystemExit(3)\n"
    )
    (code, output), _ = ended(start_workers(2, [script]))
    assert code == 3, output
    assert "another worker has ended, so this one ends too (" in output


def test_the_first_worker_waits_until_a_slower_one_has_read_its_message(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, time\nfrom steadylens import workers\nwith workers.joined():\n"
        "    time.sleep(workers.rank())\n"
        "    print(workers.first_says('message', seconds=60), flush=True)\n"
        "    os._exit(0)\n"  # the store ends with worker 0
    )
    assert run_workers(2, [script]) == ["False\n", "True\n"]
