"""Records are measured once, kept whole, and never taken for those of other settings."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from steadylens.datasets import Dataset
from steadylens.errors import RecordError
from steadylens.measuring import measure
from steadylens.records import Accuracy, Measurement
from steadylens.run import Run
from tiny_runs import Notebook, run_of


def accuracies(run: Run) -> list[Measurement]:
    return [
        Accuracy(
            provenance=run.provenance,
            samples=7,
            seconds=0.25,
            network=f"net {k}",
            k=k,
            correct=5,
            lower=0.1 + 0.2,
            upper=1.0,
        )
        for k in (1, 2)
    ]


def test_records_are_measured_once_and_read_back(tiny_data: Dataset, tmp_path: Path) -> None:
    notebook, calls = Notebook(), []
    run = run_of(tiny_data, notebook)

    def measuring() -> list[Measurement]:
        calls.append(1)
        return accuracies(run)

    first, second = (
        measure(run, "accuracy", tmp_path / "accuracy.jsonl", measuring, key="abc") for _ in range(2)
    )
    assert first == second == accuracies(run)
    assert len(calls) == 1
    assert notebook.states == ["started", "finished", "skipped"]
    assert notebook.updates[-1].note == "measured before"
    (path,) = tmp_path.iterdir()
    assert re.fullmatch(r"accuracy-[0-9a-f]{16}\.jsonl", path.name)


def test_another_recipe_or_source_is_measured_beside(tiny_data: Dataset, tmp_path: Path) -> None:
    run, path = run_of(tiny_data, Notebook()), tmp_path / "accuracy.jsonl"
    others = [
        replace(run, recipe=replace(run.recipe, name="other")),
        replace(run, data=replace(tiny_data, source="elsewhere")),
    ]
    for each in (run, *others):
        measure(each, "accuracy", path, lambda: accuracies(run), key="abc")
    assert len(list(tmp_path.iterdir())) == 3


def test_another_key_is_measured_beside(tiny_data: Dataset, tmp_path: Path) -> None:
    run, path = run_of(tiny_data, Notebook()), tmp_path / "accuracy.jsonl"
    measure(run, "accuracy", path, lambda: accuracies(run), key="abc")
    assert measure(run, "accuracy", path, lambda: accuracies(run)[:1], key="def") == accuracies(run)[:1]
    assert measure(run, "accuracy", path, list, key="abc") == accuracies(run)


def test_measuring_that_fails_leaves_no_records(tiny_data: Dataset, tmp_path: Path) -> None:
    def measuring() -> list[Measurement]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(run_of(tiny_data, Notebook()), "accuracy", tmp_path / "a.jsonl", measuring, key="abc")
    assert list(tmp_path.iterdir()) == []


def test_damaged_records_are_named(tiny_data: Dataset, tmp_path: Path) -> None:
    run, path = run_of(tiny_data, Notebook()), tmp_path / "a.jsonl"
    measure(run, "accuracy", path, lambda: accuracies(run), key="abc")
    (kept,) = tmp_path.iterdir()
    kept.write_text("{}\n")
    with pytest.raises(RecordError, match=rf"{kept.name}, line 1"):
        measure(run, "accuracy", path, list, key="abc")
