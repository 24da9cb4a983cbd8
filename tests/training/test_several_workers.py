"""Real workers that train together get what one process gets, and refuse what they could not."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.training.worker_trainings import STEPS, TRAININGS, restorer
from tests.worker_processes import run_workers

EQUAL = tuple(name for name in TRAININGS if name not in ("normalizing", "restoring by Muon"))

DONE = {1: tuple(TRAININGS), 2: tuple(TRAININGS), 4: ("classifying", "label-free")}
"""The trainings that are done by one worker, by two, and by four."""

PROGRAM = ("-m", "tests.training.worker_trainings")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trained")


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[int, list[dict[str, Any]]]:
    """Returns what each worker found, of one, of two, and of four."""
    return {
        count: [
            json.loads(output.splitlines()[-1]) for output in run_workers(count, [*PROGRAM, folder, *names])
        ]
        for count, names in DONE.items()
    }


@pytest.mark.parametrize(
    ("count", "name"),
    [(count, name) for count, names in DONE.items() for name in names if count > 1 and name in EQUAL],
)
def test_any_number_of_workers_has_the_same_losses_and_weights(
    found: dict[int, list[dict[str, Any]]], folder: Path, count: int, name: str
) -> None:
    (alone,) = found[1]
    results = [worker["trained"][name] for worker in found[count]]
    assert {result["digest"] for result in results} == {results[0]["digest"]}
    assert len(results[0]["losses"]) == STEPS
    for result in results:
        assert result["losses"] == pytest.approx(alone["trained"][name]["losses"], rel=1e-5, abs=1e-6)
    wanted = load_file(folder / f"{name}-1.safetensors")
    for key, value in load_file(folder / f"{name}-{count}.safetensors").items():
        torch.testing.assert_close(value, wanted[key], rtol=1e-5, atol=1e-5)


def test_workers_that_train_by_muon_have_the_same_weights_and_nearly_those_of_one(
    found: dict[int, list[dict[str, Any]]], folder: Path
) -> None:
    (alone,) = found[1]
    results = [worker["trained"]["restoring by Muon"] for worker in found[2]]
    assert results[0]["digest"] == results[1]["digest"]
    assert len(results[0]["losses"]) == STEPS
    for result in results:  # Muon rounds to bfloat16
        assert result["losses"] == pytest.approx(alone["trained"]["restoring by Muon"]["losses"], abs=1e-3)
    own, others = (load_file(folder / f"restoring by Muon-{count}.safetensors") for count in (1, 2))
    for key, start in restorer().state_dict().items():
        assert (others[key] - own[key]).norm() < 0.05 * (own[key] - start).norm()


def test_several_workers_refuse_what_depends_on_how_the_batch_is_divided(
    found: dict[int, list[dict[str, Any]]],
) -> None:
    (alone,) = found[1]
    assert set(alone["refused"].values()) == {""}
    for worker in found[2]:
        messages = worker["refused"]
        assert "does not say that it divides its batch" in messages["undivided"]
        assert "changes the net's buffers (seen)" in messages["counting"]
        assert "draws random numbers by randperm" in messages["shuffling"]


def test_several_workers_leave_the_statistics_of_batchnorm_alone_and_train_the_rest(
    found: dict[int, list[dict[str, Any]]], folder: Path
) -> None:
    alone, together = (load_file(folder / f"normalizing-{count}.safetensors") for count in (1, 2))
    assert {worker["trained"]["normalizing"]["frozen"] for worker in found[2]} == {1}
    assert [worker["trained"]["normalizing"]["frozen"] for worker in found[1]] == [0]
    for name in ("1.running_mean", "1.running_var"):
        assert torch.equal(together[name], torch.full((4,), 0.01))
        assert not torch.equal(alone[name], together[name])
    assert not torch.equal(together["1.weight"], torch.full((4,), 0.01))
    assert len({worker["trained"]["normalizing"]["digest"] for worker in found[2]}) == 1


def test_workers_compute_in_float32_if_one_of_them_is_slow_in_bfloat16(
    found: dict[int, list[dict[str, Any]]],
) -> None:
    assert [worker["in float32"] for worker in found[1]] == [False]
    assert [worker["in float32"] for worker in found[2]] == [True, True]
