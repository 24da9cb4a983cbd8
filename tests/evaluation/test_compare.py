"""A classifier is compared with itself behind restorers, and the page shows what was saved and lost."""

import base64
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from steadylens.checkpoints.loading import LoadedNet
from steadylens.data.datasets import Dataset
from steadylens.errors import SettingError
from steadylens.evaluation import experiments
from steadylens.evaluation.checks import check_against
from steadylens.evaluation.samples import changed_answers
from steadylens.evaluation.workflows import compare, evaluate_nets, reproduce
from steadylens.images.preprocessing import Fit, Preprocessing
from steadylens.images.tensors import to_float
from steadylens.nets.architecture import KINDS
from steadylens.nets.classification import FusedClassifier, PreparedClassifier
from steadylens.nets.facts import RESTORING
from steadylens.nets.restoration import GaussianSmoothing
from steadylens.noise.degradation import gaussian_degradation
from steadylens.progress import Update
from steadylens.randomness import derived_generator
from steadylens.records import (
    Accuracy,
    Comparison,
    Cost,
    NoisyComparison,
    Picture,
    Stability,
    read_records,
)
from steadylens.report.page import facts
from steadylens.training.recipes import SMOKE
from steadylens.training.run import Run


class FirstPixel(nn.Module):
    """Tells the class by the colour of the first pixel alone, so that noise often changes the answer."""

    def forward(self, images: Tensor) -> Tensor:
        colour = images[..., 0, 0]
        yellow = colour[:, :2].amin(dim=1, keepdim=True) + 0.1
        return torch.cat([colour, yellow], dim=1)


class Inversion(nn.Module):
    """Spoils every image."""

    kind, task = "Inversion", RESTORING

    def config(self) -> dict[str, object]:
        return {}

    def forward(self, images: Tensor) -> Tensor:
        return 1 - images


def fragile() -> PreparedClassifier:
    described = {"kind": "FirstPixel"}
    return PreparedClassifier(FirstPixel(), Preprocessing(size=48), architecture=described).eval()


@pytest.fixture(autouse=True)
def nets_that_can_be_described(monkeypatch: pytest.MonkeyPatch, undrawn: None) -> None:
    """Registers the nets of this module: what cannot be described would be measured again each time."""
    monkeypatch.setitem(KINDS, "FirstPixel", FirstPixel)
    monkeypatch.setitem(KINDS, "Inversion", Inversion)


def run_of(data: Dataset, news: list[Update]) -> Run:
    recipe = replace(SMOKE, evaluation=replace(SMOKE.evaluation, stability_images=None))
    return Run(data=data, recipe=recipe, seed=0, device=torch.device("cpu"), observe=news.append)


@pytest.fixture
def pairs() -> dict[str, FusedClassifier]:
    """Returns a pair that saves answers, and one that loses them."""
    fronts = {"behind smoothing": GaussianSmoothing(sigma_pixels=3), "behind inversion": Inversion()}
    return {name: FusedClassifier(front, fragile()).eval() for name, front in fronts.items()}


def test_photographs_that_were_fitted_otherwise_are_refused(tiny_data: Dataset, tmp_path: Path) -> None:
    alone = PreparedClassifier(
        FirstPixel(), Preprocessing(size=48, fit=Fit(keeps_shape=True, side=56))
    ).eval()
    pair = {"behind": FusedClassifier(GaussianSmoothing(), alone).eval()}
    with pytest.raises(SettingError, match=r"alone reads .* by crop:56, these were fitted by squash; load"):
        compare(run_of(tiny_data, []), alone, pair, tmp_path)


def test_alone_and_pairs_are_measured_alike(
    pairs: dict[str, FusedClassifier], tiny_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiments, "REPEATS", 1)
    news: list[Update] = []
    for _ in range(2):
        page = compare(run_of(tiny_data, news), fragile(), pairs, tmp_path, training_seconds={"alone": 7.0})
    assert page == tmp_path / "report.html"
    assert [update.state for update in news[-8:]] == 8 * ["skipped"], "accuracy, noise, cost, pictures"
    rows = read_records(tmp_path / "records.jsonl")
    names = ["alone", *pairs]
    assert [row.network for row in rows if isinstance(row, Accuracy) and row.k == 1] == names
    assert list(dict.fromkeys(row.network for row in rows if isinstance(row, Stability))) == names
    assert {row.population for row in rows if isinstance(row, Stability)} == {"own", "all"}
    assert sum(isinstance(row, Comparison) for row in rows) == 3
    compared = {(row.first, row.second) for row in rows if isinstance(row, NoisyComparison)}
    assert compared == {("behind smoothing", "alone"), ("behind inversion", "alone")}
    costs = {row.network: row.training_seconds for row in rows if isinstance(row, Cost)}
    assert costs == {"alone": 7.0, "behind smoothing": 0.0, "behind inversion": 0.0}
    assert [fact.note.partition(";")[0] for fact in facts(rows)] == [
        "top-1, alone and behind smoothing",
        *2 * ["overall, alone and behind smoothing, each on what it gets right when clean"],
    ]
    text = page.read_text(encoding="utf-8")
    assert "in the paper" not in text


def test_the_page_shows_saved_and_lost_answers(
    pairs: dict[str, FusedClassifier], tiny_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiments, "REPEATS", 1)
    page = compare(run_of(tiny_data, []), fragile(), pairs, tmp_path, training_seconds={})
    text = page.read_text(encoding="utf-8")
    rows = changed(pairs, tiny_data, limit=6)
    assert {row.figure for row in rows} == {"saved", "lost"}
    assert 0 < text.index("Answers corrected by restoration") < text.index("Answers spoiled by restoration")
    assert all(image in text for row in rows for _, image in row.panels)


def changed(pairs: dict[str, FusedClassifier], data: Dataset, *, limit: int) -> list[Picture]:
    run = run_of(data, [])
    return changed_answers(
        fragile(),
        pairs,
        data.test,
        data.class_names,
        sigma_grey=25.0,
        limit=limit,
        provenance=run.provenance,
    )


@pytest.mark.parametrize(("name", "kind"), [("behind smoothing", "saved"), ("behind inversion", "lost")])
def test_pictures_hold_the_noisy_and_the_restored_image_with_their_answers(
    name: str, kind: str, pairs: dict[str, FusedClassifier], tiny_data: Dataset
) -> None:
    pair, labels, names = pairs[name], tiny_data.test.labels, tiny_data.class_names
    noisy = gaussian_degradation(25)(
        to_float(tiny_data.test.images), generator=derived_generator(0, "changed answers")
    )
    alone, fused = fragile()(noisy).argmax(dim=1), pair(noisy).argmax(dim=1)
    right, wrong = (fused, alone) if kind == "saved" else (alone, fused)
    numbers = ((right == labels) & (wrong != labels)).nonzero().flatten().tolist()
    rows = [row for row in changed({name: pair}, tiny_data, limit=8) if row.figure == kind]
    assert rows
    for row, number in zip(rows, numbers, strict=True):
        (before, first), (after, second) = row.panels
        assert row.title == f"{names[labels[number]]}, noise of 25 grey levels"
        assert (before, after) == (f"alone: {names[alone[number]]}", f"{name}: {names[fused[number]]}")
        for panel, image in ((first, noisy[number]), (second, pair.restorer(noisy)[number])):
            shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(panel))))
            assert np.abs(shown - 255 * image.permute(1, 2, 0).numpy()).max() <= 0.51


def test_no_more_pictures_are_shown_than_asked_for(
    pairs: dict[str, FusedClassifier], tiny_data: Dataset
) -> None:
    kinds = [row.figure for row in changed(pairs, tiny_data, limit=1)]
    assert kinds == ["saved", "lost"], "one of each pair"


@pytest.mark.parametrize("names", [(), ("alone",)])
def test_there_must_be_a_pair_of_another_name(
    names: tuple[str, ...], tiny_data: Dataset, tmp_path: Path
) -> None:
    pairs = {name: FusedClassifier(nn.Identity(), fragile()) for name in names}
    with pytest.raises(SettingError, match="give at least one, and call none 'alone'"):
        compare(run_of(tiny_data, []), fragile(), pairs, tmp_path, training_seconds={})
    assert list(tmp_path.iterdir()) == []


def test_other_classes_are_refused_before_anything_is_measured(tiny_data: Dataset, tmp_path: Path) -> None:
    three = PreparedClassifier(nn.Sequential(nn.Flatten(), nn.Linear(3 * 48 * 48, 3)), Preprocessing(size=48))
    image = nn.Identity()
    moved = PreparedClassifier(FirstPixel(), Preprocessing(size=48), class_names=("green", "red", "x", "y"))
    for wrong, message in (
        (three, "alone tells 3 classes apart, coloured has 4"),
        (image, r"alone is no classifier: the classifier returns Tensor, not logits \(N, classes\)"),
        (moved, "class 0 is 'green' for alone and 'red' in coloured"),
    ):
        with pytest.raises(SettingError, match=message):
            compare(run_of(tiny_data, []), wrong, {"pair": FusedClassifier(Inversion(), wrong)}, tmp_path)
    untested = replace(tiny_data, test=tiny_data.test.subset([]))
    with pytest.raises(SettingError, match="coloured has no test images"):
        compare(run_of(untested, []), fragile(), {"pair": FusedClassifier(Inversion(), fragile())}, tmp_path)
    with pytest.raises(SettingError, match="coloured has no test images"):
        evaluate_nets(run_of(untested, []), [LoadedNet(name="inversion", module=Inversion())], tmp_path)
    with pytest.raises(SettingError, match="coloured has no test images"):
        reproduce(run_of(untested, []), tmp_path)
    with pytest.raises(SettingError, match=r"images without labels; give labelled ones to net"):
        check_against(LoadedNet(name="net", module=three), run_of(tiny_data.unlabelled(), []))
    assert list(tmp_path.iterdir()) == []
