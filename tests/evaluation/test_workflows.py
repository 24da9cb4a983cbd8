"""The whole paper runs in one call, and a second call makes nothing again."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from steadylens.checkpoints.checkpoint import load_model, save_model
from steadylens.checkpoints.loading import load_net
from steadylens.data.datasets import Dataset, ImageSet
from steadylens.errors import SettingError
from steadylens.evaluation import experiments
from steadylens.evaluation.experiments import measure_networks
from steadylens.evaluation.samples import changed_answers
from steadylens.evaluation.workflows import evaluate_nets, reproduce
from steadylens.images.preprocessing import Fit
from steadylens.nets.classification import FusedClassifier, SignNet
from steadylens.nets.restoration import GaussianSmoothing
from steadylens.nets.third_party import timm_classifier
from steadylens.progress import Update
from steadylens.records import (
    Accuracy,
    Contraction,
    Cost,
    Curve,
    Density,
    Hits,
    Picture,
    Restoring,
    Scatter,
    Stability,
    read_records,
)
from steadylens.report.paper import (
    AUGMENTED,
    FINE_TUNED,
    ORIGINAL,
    RESTORED,
    SMOOTHED,
    TOGETHER,
    WIDER,
)
from steadylens.report.tables import first_run, select
from steadylens.training.recipes import SMOKE
from steadylens.training.run import Run, Sampling
from tests.mapped import mapped

NAMES = ("red", "green", "blue", "grey")


NETS = ("L5", "L3", "Dong", "UNet")

NETWORKS = (ORIGINAL, FINE_TUNED, SMOOTHED, RESTORED, AUGMENTED, TOGETHER, WIDER)

RECIPE = replace(SMOKE, nets=NETS, front="L5", seeds=2, together=True, wider=0.5)


def patches(count: int, seed: int) -> ImageSet:
    """Returns patches in the colours of the classes, with some grain."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % len(NAMES)
    colours = torch.tensor([[200, 40, 40], [40, 200, 40], [40, 40, 200], [128, 128, 128]])
    grain = torch.randint(-30, 31, (count, 3, 48, 48), generator=generator)
    pixels = (colours[labels][:, :, None, None] + grain).to(torch.uint8)
    return ImageSet(images=pixels, labels=labels, tracks=torch.arange(count))


def new_run(news: list[Update] | None = None) -> Run:
    data = Dataset(
        train=patches(12, 1), validation=patches(4, 2), test=patches(8, 3), class_names=NAMES,
        source="coloured patches",
    )  # fmt: skip
    observe = (lambda update: None) if news is None else news.append
    return Run(data=data, recipe=RECIPE, seed=0, device=torch.device("cpu"), observe=observe)


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a run from end to end; do not change it."""
    out = tmp_path_factory.mktemp("pipeline") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiments, "REPEATS", 1)  # times are not looked at here
        assert reproduce(new_run(), out) == out / "report.html"
    return out


@pytest.fixture(autouse=True)
def blank_figures(undrawn: None) -> None:
    """Leaves figures out: they are drawn in the whole run alone."""


@pytest.fixture
def restorer(reproduced: Path) -> Path:
    return reproduced / "models" / "restorer-L5.safetensors"


@pytest.fixture
def classifier(reproduced: Path) -> Path:
    return reproduced / "models" / "original.safetensors"


def test_a_run_leaves_report_tables_records_and_nets(reproduced: Path) -> None:
    assert {path.name for path in reproduced.iterdir()} == {
        "models", "records", "records.jsonl", "pictures.jsonl", "tables.md", "report.html"
    }  # fmt: skip
    nets = {f"restorer-{net}" for net in NETS} | {"original", "noisy", "smoothed", "restored", "augmented"}
    nets |= {"together", "wider-clean", "wider", "original-seed-1", "noisy-seed-1", "together-seed-1"}
    assert {path.name for path in (reproduced / "models").iterdir()} == {f"{n}.safetensors" for n in nets}
    assert (reproduced / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    tables = (reproduced / "tables.md").read_text(encoding="utf-8")
    assert all(network in tables for network in NETWORKS)


def test_images_that_stay_in_a_file_are_measured_alike(reproduced: Path, tmp_path: Path) -> None:
    few = replace(
        RECIPE.evaluation,
        exploration_versions=1,
        psnr_sigmas_grey=(0, 10),
        stability_sigmas_grey=(10, 30),
        sampling=Sampling(versions=2),
    )
    run = replace(new_run(), recipe=replace(RECIPE, evaluation=few))
    original, _ = load_model(reproduced / "models" / "original.safetensors")
    pair, _ = load_model(reproduced / "models" / "restored.safetensors")
    assert isinstance(pair, FusedClassifier)
    restorers = {"L5": pair.restorer, "smoothing": GaussianSmoothing()}
    found = []
    for name, data in {"memory": run.data, "file": mapped(run.data, tmp_path)}.items():
        measured, folder = replace(run, data=data), tmp_path / name
        records = [
            *measure_networks(measured, {"original": original, "restored": pair}, folder),
            *experiments.measure_restorers(measured, restorers, folder),
            *experiments.take_samples(measured, pair.restorer, original, pair, folder),
            *changed_answers(
                original, {"restored": pair}, data.test, NAMES, sigma_grey=30, limit=3,
                provenance=measured.provenance,
            ),
        ]  # fmt: skip
        found.append([replace(row, seconds=0.0) for row in records])
    assert found[0] == found[1]


def test_every_table_and_figure_of_the_paper_has_its_records(reproduced: Path) -> None:
    records = read_records(reproduced / "records.jsonl")
    assert {type(row) for row in records} >= {
        Curve, Restoring, Hits, Scatter, Contraction, Accuracy, Stability, Cost, Density
    }  # fmt: skip
    assert sum(isinstance(row, Curve) for row in first_run(records)) == len(NETS) + len(NETWORKS)
    assert [row.network for row in records if isinstance(row, Hits)] == list(NETS)
    accuracies = [row for row in records if isinstance(row, Accuracy) and row.k == 1]
    assert [row.network for row in accuracies if row.provenance.seed == 0] == list(NETWORKS)
    stable = dict.fromkeys(row.network for row in records if isinstance(row, Stability))
    assert tuple(stable) == NETWORKS
    assert {row.network for row in records if isinstance(row, Cost)} == {*NETS, *NETWORKS}


def test_the_classifier_alone_and_fused_is_trained_and_measured_with_each_seed(reproduced: Path) -> None:
    records = read_records(reproduced / "records.jsonl")
    rows = [row for row in records if isinstance(row, Accuracy | Stability) and row.provenance.seed == 1]
    assert {(type(row), row.network) for row in rows} == {
        (kind, network) for kind in (Accuracy, Stability) for network in (ORIGINAL, FINE_TUNED, TOGETHER)
    }
    assert {row.noise for row in rows if isinstance(row, Stability)} == {"clipped, 8-bit"}
    curves = {row.stage for row in records if isinstance(row, Curve) and row.provenance.seed == 1}
    assert curves == {"classifier", "fine-tuning noisy", "joint training together"}


def test_all_seeds_are_measured_on_the_same_images_and_noise(reproduced: Path) -> None:
    run = new_run()
    net, _ = load_model(reproduced / "models" / "original-seed-1.safetensors")
    expected = measure_networks(run, {ORIGINAL: net}, reproduced.parent / "again")
    found = [row for row in read_records(reproduced / "records.jsonl") if row.provenance.seed == 1]
    cells = {
        (row.sigma_grey, row.population): row.correct
        for row in found
        if isinstance(row, Stability) and row.network == ORIGINAL
    }
    assert cells
    for row in select(expected, Stability):
        if row.noise == "clipped, 8-bit":
            assert cells[row.sigma_grey, row.population] == row.correct
    first, again = (
        load_model(reproduced / "models" / f"{stem}.safetensors")[0].state_dict()
        for stem in ("together", "together-seed-1")
    )
    changed = {name.partition(".")[0] for name, value in first.items() if not torch.equal(value, again[name])}
    assert changed == {"restorer", "classifier"}
    assert "Variation over seeds" in (reproduced / "tables.md").read_text(encoding="utf-8")


def test_pictures_are_kept_apart_from_the_other_records(reproduced: Path) -> None:
    pictures = read_records(reproduced / "pictures.jsonl")
    assert all(isinstance(row, Picture) for row in pictures)
    assert [row.title for row in pictures if isinstance(row, Picture) and row.figure == 2] == list(NAMES)
    assert not any(isinstance(row, Picture) for row in read_records(reproduced / "records.jsonl"))


def test_training_times_hold_the_stages_before(reproduced: Path) -> None:
    records = read_records(reproduced / "records.jsonl")
    own = {row.stage: row.seconds for row in first_run(records) if isinstance(row, Curve)}
    total = {row.network: row.training_seconds for row in records if isinstance(row, Cost)}
    assert total["L5"] == own["restorer L5"]
    assert total[ORIGINAL] == own["classifier"]
    assert total[AUGMENTED] == own["classifier, noise-augmented"]
    assert total[FINE_TUNED] == pytest.approx(own["classifier"] + own["fine-tuning noisy"])
    assert total[SMOOTHED] == pytest.approx(own["classifier"] + own["fine-tuning smoothed"])
    assert total[RESTORED] == pytest.approx(
        own["restorer L5"] + own["classifier"] + own["fine-tuning restored"]
    )
    assert total[TOGETHER] == pytest.approx(
        own["restorer L5"] + own["classifier"] + own["joint training together"]
    )


def test_a_file_of_a_pair_tells_the_time_of_all_its_stages(reproduced: Path) -> None:
    total = {
        row.network: row.training_seconds
        for row in read_records(reproduced / "records.jsonl")
        if isinstance(row, Cost)
    }
    opened = load_net(reproduced / "models" / "restored.safetensors")
    assert opened.seconds == pytest.approx(total[RESTORED])


def test_fine_tuning_leaves_the_restorer_and_the_original_as_they_are(
    reproduced: Path, restorer: Path, classifier: Path
) -> None:
    fused, _ = load_model(reproduced / "models" / "restored.safetensors")
    assert isinstance(fused, FusedClassifier)
    front, original = load_model(restorer)[0].state_dict(), load_model(classifier)[0].state_dict()
    assert all(torch.equal(value, front[name]) for name, value in fused.restorer.state_dict().items())
    tuned = fused.classifier.state_dict()
    assert any(not torch.equal(value, original[name]) for name, value in tuned.items())


def test_a_second_call_skips_everything_and_writes_the_same(reproduced: Path) -> None:
    files = ("records.jsonl", "pictures.jsonl", "tables.md")
    before = [(reproduced / name).read_bytes() for name in files]
    news: list[Update] = []
    reproduce(new_run(news), reproduced)
    assert {update.state for update in news} - {"noted"} == {"skipped"}
    assert [(reproduced / name).read_bytes() for name in files] == before


def test_another_seed_does_not_go_on_with_the_files_of_the_first(reproduced: Path) -> None:
    with pytest.raises(SettingError, match="was made with other data, settings or seed"):
        reproduce(replace(new_run(), seed=1), reproduced)


def test_nets_from_files_are_measured_under_the_names_of_the_files(
    restorer: Path, classifier: Path, tmp_path: Path
) -> None:
    nets = [load_net(restorer), load_net(classifier)]
    assert evaluate_nets(new_run(), nets, tmp_path) == tmp_path / "report.html"
    records = read_records(tmp_path / "records.jsonl")
    assert {row.network for row in records if isinstance(row, Restoring)} == {"restorer-L5"}
    assert {row.network for row in records if isinstance(row, Stability)} == {"original"}
    assert {row.network for row in records if isinstance(row, Cost)} == {"restorer-L5", "original"}


def test_a_classifier_alone_is_measured_as_in_the_whole_run(
    reproduced: Path, classifier: Path, tmp_path: Path
) -> None:
    evaluate_nets(new_run(), [load_net(classifier)], tmp_path)
    alone, whole = (
        [
            (row.noise, row.sigma_grey, row.population, row.correct, row.samples)
            for row in read_records(folder / "records.jsonl")
            if isinstance(row, Stability) and row.network == "original" and row.provenance.seed == 0
        ]
        for folder in (tmp_path, reproduced)
    )
    assert alone == whole


@pytest.mark.parametrize("repeats", [0, 2])
def test_each_net_needs_a_name_of_its_own(restorer: Path, tmp_path: Path, repeats: int) -> None:
    with pytest.raises(SettingError, match=r"the nets are .*; give at least one, each with a different name"):
        evaluate_nets(new_run(), [load_net(restorer)] * repeats, tmp_path)


def test_a_classifier_of_other_classes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "three.safetensors"
    save_model(path, SignNet(classes=3).eval(), about={})
    with pytest.raises(SettingError, match="three tells 3 classes apart, coloured patches has 4"):
        evaluate_nets(new_run(), [load_net(path)], tmp_path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("size", "fit"), [(32, Fit()), (48, Fit(keeps_shape=True))])
def test_a_classifier_of_other_images_is_sent_to_compare(size: int, fit: Fit, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_model(path, timm_classifier("test_resnet", classes=4, size=size, fit=fit), about={})
    message = rf"other reads images of {size} pixels, fitted by {fit}; these .* steadylens compare CLASSIFIER"
    with pytest.raises(SettingError, match=message):
        evaluate_nets(new_run(), [load_net(path)], tmp_path / "out")
    assert not (tmp_path / "out").exists()
