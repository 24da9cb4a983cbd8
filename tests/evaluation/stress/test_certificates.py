"""Certificates of many images: those of a plain loop, also after an interruption and by several workers."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from steadylens.data.datasets import Dataset
from steadylens.errors import RecordError
from steadylens.evaluation.experiments import random_test_indices
from steadylens.evaluation.stress import certificates
from steadylens.evaluation.stress.certificates import measure_certificates
from steadylens.evaluation.stress.certification import Certifying, certify_image
from steadylens.progress import Update
from steadylens.randomness import derived_generator
from steadylens.records import Certificate
from steadylens.training.run import Run
from tests.coloured import COLOURS
from tests.mapped import mapped
from tests.tiny_runs import Notebook, run_of

SETTINGS = Certifying(sigmas=(0.12, 0.5), first_versions=5, versions=40, images=6, batch=16)


def network(pooled: int) -> nn.Module:
    """Returns a net that tells colours apart by the mean of one part of the image, the worse the smaller."""
    linear = nn.Linear(3, len(COLOURS))
    centred = COLOURS / 255 - 0.5
    with torch.no_grad():
        linear.weight.copy_(centred)
        linear.bias.copy_(-centred.square().sum(dim=1) / 2 - centred.sum(dim=1) / 2)
    return nn.Sequential(nn.AvgPool2d(pooled, stride=48), nn.Flatten(), linear)


@pytest.fixture
def networks() -> dict[str, nn.Module]:
    return {"by a part": network(4), "by a pixel": network(1)}


def measured(
    run: Run, networks: Mapping[str, nn.Module], folder: Path, settings: Certifying = SETTINGS
) -> list[Certificate]:
    rows = measure_certificates(run, networks, folder, settings)
    assert all(isinstance(row, Certificate) for row in rows)
    return [replace(row, seconds=0.0) for row in rows if isinstance(row, Certificate)]


def test_the_rows_are_those_of_a_plain_loop(
    tiny_data: Dataset, networks: dict[str, nn.Module], tmp_path: Path
) -> None:
    run = run_of(tiny_data, Notebook(), seed=3)
    rows = measured(run, networks, tmp_path)
    assert [(row.sigma, row.network) for row in rows] == [
        (0.12, "by a part"), (0.12, "by a pixel"), (0.5, "by a part"), (0.5, "by a pixel")
    ]  # fmt: skip
    indices = random_test_indices(run, 6).tolist()
    assert len(set(indices)) == 6
    assert indices == sorted(indices) != list(range(6))
    for row in rows:
        assert (row.samples, row.first_versions, row.versions, row.alpha) == (6, 5, 40, 0.001)
        expected = []
        for index in indices:
            found = certify_image(
                networks[row.network], tiny_data.test.images[index], sigma=row.sigma, settings=SETTINGS,
                generator=derived_generator(3, "certificates", repr(row.sigma), index),
            )  # fmt: skip
            label = int(tiny_data.test.labels[index])
            expected.append((index, label, found.answer, found.count, found.radius))
        assert row.images == tuple(expected)
    assert any(radius > 0 for row in rows for *_, radius in row.images)
    assert any(answer < 0 for row in rows for _, _, answer, _, _ in row.images)


def test_equal_networks_have_records_of_their_own(tiny_data: Dataset, tmp_path: Path) -> None:
    networks = {"one": network(4), "another": network(4)}
    first, second = measured(
        run_of(tiny_data, Notebook()), networks, tmp_path, replace(SETTINGS, sigmas=(0.12,))
    )
    assert (first.network, second.network) == ("one", "another")
    assert first.images == second.images, "all networks get the same noisy images"


def test_another_call_measures_nothing_again(
    tiny_data: Dataset, networks: dict[str, nn.Module], tmp_path: Path
) -> None:
    first = measured(run_of(tiny_data, Notebook()), networks, tmp_path)
    again = Notebook()
    assert measured(run_of(tiny_data, again), networks, tmp_path) == first
    assert {*again.states} == {"skipped"}
    other = Notebook()
    measured(run_of(tiny_data, other), networks, tmp_path, replace(SETTINGS, versions=41, sigmas=(0.12,)))
    assert "skipped" not in other.states


@pytest.mark.parametrize("limit", [1, 4, 5])
def test_an_interrupted_run_goes_on_and_gives_the_same_rows(
    limit: int, tiny_data: Dataset, networks: dict[str, nn.Module], tmp_path: Path
) -> None:
    expected = measured(run_of(tiny_data, Notebook()), networks, tmp_path / "at once")
    folder = tmp_path / "interrupted"
    with pytest.raises(KeyboardInterrupt):
        measured(run_of(tiny_data, Notebook(limit=limit)), networks, folder)
    left = [*folder.glob("*.unfinished.json")]
    assert len(left) == (1 if limit > 4 else 0), "four images are certified before they are saved"
    news = Notebook()
    assert measured(run_of(tiny_data, news), networks, folder) == expected
    resumed = [(each.done, each.total, each.note) for each in news.updates if each.state == "resumed"]
    assert resumed == [(4, 6, "image")] * len(left)
    assert [*folder.glob("*.unfinished.json")] == []


def test_of_a_net_that_cannot_be_known_again_nothing_unfinished_is_left_and_that_is_said_first(
    tiny_data: Dataset, networks: dict[str, nn.Module], tmp_path: Path
) -> None:
    class Own(nn.Sequential):
        """A class of which nothing is known elsewhere."""

    news = Notebook(limit=5)
    with pytest.raises(KeyboardInterrupt):
        measured(run_of(tiny_data, news), {"own": Own(network(4)), **networks}, tmp_path)
    assert [*tmp_path.glob("*.unfinished.json")] == []
    notes = [each.note for each in news.updates if "register_net" in each.note]
    assert [note.partition(" has")[0] for note in notes] == ["own"]
    assert news.updates[0].note == notes[0]


def test_rows_of_other_versions_of_the_libraries_are_not_taken_over(
    tiny_data: Dataset, networks: dict[str, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        measured(run_of(tiny_data, Notebook(limit=5)), networks, tmp_path)
    monkeypatch.setattr("steadylens.training.run.versions", lambda: (("torch", "0.0"),))
    news = Notebook()
    measured(run_of(tiny_data, news), networks, tmp_path)
    assert "resumed" not in news.states


def test_rows_are_saved_no_more_often_than_the_run_says(
    tiny_data: Dataset, networks: dict[str, nn.Module], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        measured(run_of(tiny_data, Notebook(limit=5), seconds=1000), networks, tmp_path)
    assert [*tmp_path.glob("*.unfinished.json")] == []


@pytest.mark.parametrize("text", ["", "{}", '{"rows": [[1]], "seconds": 1}', '{"rows": 3, "seconds": 1}'])
def test_a_damaged_file_of_unfinished_rows_is_refused(
    text: str, tiny_data: Dataset, networks: dict[str, nn.Module], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        measured(run_of(tiny_data, Notebook(limit=5)), networks, tmp_path)
    (left,) = tmp_path.glob("*.unfinished.json")
    left.write_text(text)
    with pytest.raises(RecordError, match=r"unfinished certificates .*; remove it to begin again"):
        measured(run_of(tiny_data, Notebook()), networks, tmp_path)


def test_the_time_of_all_that_is_left_is_told_first(
    tiny_data: Dataset, networks: dict[str, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, "_seconds_of_image", lambda run, network, settings: 10.0)
    news = Notebook(limit=5)
    with pytest.raises(KeyboardInterrupt):
        measured(run_of(tiny_data, news), networks, tmp_path)
    note = "about 4 min 00 s in all: 24 times an image of a network, with 45 noisy versions each"
    assert news.updates[0] == Update(stage="certificates", state="noted", note=note)
    news = Notebook()
    measured(run_of(tiny_data, news), networks, tmp_path)
    assert news.updates[0].note.startswith("about 3 min 20 s in all: 20 times an image")


def test_the_time_of_an_image_is_measured(tiny_data: Dataset, networks: dict[str, nn.Module]) -> None:
    seconds = certificates._seconds_of_image(run_of(tiny_data, Notebook()), networks["by a pixel"], SETTINGS)
    assert 0 < seconds < 60


def test_all_images_are_certified_if_there_are_no_more_than_asked_for(
    tiny_data: Dataset, networks: dict[str, nn.Module], tmp_path: Path
) -> None:
    for number, images in enumerate((None, 8, 500)):
        settings = replace(SETTINGS, sigmas=(0.12,), images=images)
        (row, _) = measured(run_of(tiny_data, Notebook()), networks, tmp_path / str(number), settings)
        assert [index for index, *_ in row.images] == list(range(8))


def test_images_that_stay_in_a_file_are_certified_alike(
    tiny_data: Dataset, networks: dict[str, nn.Module], tmp_path: Path
) -> None:
    in_memory = measured(run_of(tiny_data, Notebook()), networks, tmp_path / "a")
    in_file = measured(run_of(mapped(tiny_data, tmp_path), Notebook()), networks, tmp_path / "b")
    assert in_file == in_memory


def test_unfinished_rows_are_plain_json(
    tiny_data: Dataset, networks: dict[str, nn.Module], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        measured(run_of(tiny_data, Notebook(limit=5)), networks, tmp_path)
    (left,) = tmp_path.glob("*.unfinished.json")
    saved: dict[str, Any] = json.loads(left.read_text())
    assert len(saved["rows"]) == 4
    assert saved["seconds"] > 0
    assert torch.tensor(saved["rows"]).shape == (4, 5)
