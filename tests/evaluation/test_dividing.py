"""Workers that share the measurements find what one process finds, to the last digit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steadylens import devices
from steadylens.devices import forward_in_batches
from steadylens.evaluation.dividing import BLOCK, forward_divided
from steadylens.images.tensors import to_float
from steadylens.records import Stability, read_records
from tests.evaluation.worker_measurements import RECIPE, measure_all
from tests.worker_processes import run_workers


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of one process, which computed as the workers do: with one thread."""
    folder = tmp_path_factory.mktemp("alone")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        measure_all(folder)
    finally:
        torch.set_num_threads(before)
    return folder


@pytest.fixture(scope="module")
def told(alone: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Path, list[list[str]]]:
    """Returns the folder that each of three workers was given, and what the worker was told."""
    folder = tmp_path_factory.mktemp("workers")
    outputs = run_workers(3, ["-m", "tests.evaluation.worker_measurements", folder, alone])
    return {folder / str(number): json.loads(output) for number, output in enumerate(outputs)}


def measured(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Returns the records of each file without the seconds that something took."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*.jsonl")}
    return {name: [_untimed(line) for line in path.read_text().splitlines()] for name, path in files.items()}


def _untimed(line: str) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(line)
    return {key: value for key, value in row.items() if key not in ("seconds", "milliseconds")}


def test_records_are_equal_to_those_of_one_process(alone: Path, told: dict[Path, list[list[str]]]) -> None:
    expected = measured(alone)
    assert {name.partition("-")[0] for name in expected} == {
        "records.jsonl", "pictures.jsonl", "records/accuracy", "records/stability", "records/cost",
        "records/pictures", "records/certificates", "records/differences", "restorers/psnr",
        "restorers/exploration",
        "paired/differences", "costs/cost",
    }  # fmt: skip
    assert measured(next(iter(told))) == expected


def test_the_early_stop_is_among_what_is_compared(alone: Path) -> None:
    rows = [row for row in read_records(alone / "records.jsonl") if isinstance(row, Stability)]
    samples = {row.samples for row in rows if row.population == "all"}
    most = 110 * RECIPE.evaluation.sampling.versions
    assert len(samples) > 2
    assert min(samples) < most


def test_only_the_first_worker_writes(told: dict[Path, list[list[str]]]) -> None:
    first, *others = told
    assert (first / "report.html").exists()
    assert [folder for folder in others if folder.exists()] == []


def test_what_one_process_has_measured_no_worker_measures_again(told: dict[Path, list[list[str]]]) -> None:
    for (*first, _), (*second, _) in told.values():
        assert {stage.rpartition(": ")[2] for stage in first} == {"finished"}
        assert {stage.rpartition(": ")[2] for stage in second} == {"skipped"}
        assert len(first) == len(second)


def test_workers_with_other_weights_are_refused(told: dict[Path, list[list[str]]]) -> None:
    refusals = {refusal for stages in told.values() for *_, refusal in stages}
    assert len(refusals) == 2  # the same on every worker, each time
    for refusal in refusals:
        assert "worker 1 has other nets or weights than worker 0 (" in refusal


def test_nets_get_the_same_batches_as_without_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    class Counting(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            sizes.append(len(images))
            return images.mean(dim=(2, 3))

    images = torch.randint(0, 256, (2 * BLOCK + 17, 3, 4, 4), dtype=torch.uint8)
    for batch in (10, 7, 64, 1000):
        monkeypatch.setattr(devices, "cache_batch", lambda device, batch=batch: batch)
        monkeypatch.setattr("steadylens.evaluation.dividing.cache_batch", lambda device, batch=batch: batch)
        sizes.clear()
        expected = forward_in_batches(Counting(), to_float(images))
        usual = [*sizes]
        sizes.clear()
        assert torch.equal(forward_divided(Counting(), images), expected)
        assert sizes == usual
        assert torch.equal(forward_divided(Counting(), to_float(images)), expected)
    assert forward_divided(Counting(), images[:0]).shape == (0, 3)
