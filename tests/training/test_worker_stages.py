"""A stage of several workers of which one is killed goes on later, with as many workers or another number."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from steadylens.checkpoints.checkpoint import load_model, load_state
from tests.tiny_runs import Notebook
from tests.training.worker_stages import CUT, STEPS, trained
from tests.worker_processes import ended, run_workers, start_workers

PROGRAM = ("-m", "tests.training.worker_stages")

NAME = "net.safetensors"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Returns folders with a net trained at once, and twice with what two workers left when one died."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("whole", "alone", "both")}
    trained(folders["whole"] / NAME, observe=Notebook())
    results = ended(start_workers(2, [*PROGRAM, folders["both"] / NAME, "killing"]))
    assert all(code for code, _ in results), "both ended, and not well"
    shutil.copytree(folders["both"], folders["alone"], dirs_exist_ok=True)
    return folders


@pytest.fixture(scope="module")
def resumed(folders: dict[str, Path]) -> list[dict[str, Any]]:
    """Returns what two workers found that went on."""
    outputs = run_workers(2, [*PROGRAM, folders["both"] / NAME])
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def assert_same_net(path: Path, wanted: Path) -> None:
    (net, about), (other, other_about) = load_model(path), load_model(wanted)
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name], rtol=1e-5, atol=1e-5)
    assert [about[key] for key in ("key", "steps", "samples")] == [
        other_about[key] for key in ("key", "steps", "samples")
    ]
    losses, wanted_losses = ([loss for _, loss, _ in known["curve"]] for known in (about, other_about))
    assert losses == pytest.approx(wanted_losses, rel=1e-4)
    assert len(losses) == STEPS


def test_one_process_goes_on_where_two_were_cut_off(folders: dict[str, Path]) -> None:
    path = folders["alone"] / NAME
    assert [file.name for file in path.parent.iterdir()] == [f"{NAME}.training"]
    assert load_state(path.with_name(f"{NAME}.training"))[1]["step"] in {CUT - 1, CUT}
    assert trained(path, observe=Notebook())[:2] == ["resumed", "finished"]
    assert_same_net(path, folders["whole"] / NAME)


def test_two_workers_go_on_and_both_have_the_net(
    folders: dict[str, Path], resumed: list[dict[str, Any]]
) -> None:
    first, second = (worker["trained"] for worker in resumed)
    assert first == second
    assert first[:2] == ["resumed", "finished"]
    assert_same_net(folders["both"] / NAME, folders["whole"] / NAME)
    for worker in resumed:
        assert worker["again"] == ["skipped", *first[2:]]


def test_no_thread_of_the_exchange_is_left_that_could_abort_a_process_as_it_ends(
    resumed: list[dict[str, Any]],
) -> None:
    assert [worker["threads of the exchange"] for worker in resumed] == [[], []]


def test_workers_with_other_settings_are_refused_before_a_step(resumed: list[dict[str, Any]]) -> None:
    for worker in resumed:
        assert "worker 1 has other data, settings or seed than worker 0 (" in worker["seeds of their own"]


def test_an_error_of_worker_0_is_raised_on_all(
    folders: dict[str, Path], resumed: list[dict[str, Any]]
) -> None:
    for worker in resumed:
        assert "was made with other data, settings or seed" in worker["other seed"]
        assert worker["full disk"] == "StorageError: the disk is full"
    assert [file.name for file in folders["both"].iterdir()] == [NAME]
