"""What the table of costs counts is what the nets are known to cost.

Records are measured once, kept whole, and never taken for those of other settings. The experiments measure
the chosen images, keep what they measured, and know when it is out of date.
"""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from steadylens.checkpoints.checkpoint import TrainingInfo
from steadylens.data.datasets import Dataset, ImageSet
from steadylens.errors import RecordError
from steadylens.evaluation import experiments
from steadylens.evaluation.experiments import (
    cost,
    curve_of,
    example_densities,
    measure,
    measure_differences,
    measure_networks,
    measure_restorers,
    multiplications,
    parameters,
    random_test_images,
)
from steadylens.nets.architecture import KINDS
from steadylens.nets.classification import FusedClassifier, SignNet
from steadylens.nets.facts import CLASSIFYING
from steadylens.nets.restoration import GaussianSmoothing, RestorationNet
from steadylens.progress import Update
from steadylens.records import Accuracy, Comparison, Cost, Hits, Measurement, Restoring, Stability
from steadylens.training.recipes import SMOKE
from steadylens.training.run import Run
from tests.sample_records import PROVENANCE
from tests.tiny_runs import Notebook, run_of

CPU = torch.device("cpu")


L11_PARAMETERS, L11_MULTIPLICATIONS = 397_411, 1_072_911_104


# The 1x1 convolution is computed within the next one, and so costs nothing.
SIGN_PARAMETERS, SIGN_MULTIPLICATIONS = 1_123_449, 76_305_612 - 3 * 48 * 48


def costs(networks: dict[str, nn.Module], *, size: int = 48, batches: tuple[int, ...] = (1,)) -> list[Cost]:
    seconds = {name: 10.0 * index for index, name in enumerate(networks)}
    nets = {name: network.eval() for name, network in networks.items()}
    return cost(nets, seconds, size=size, batches=batches, device=CPU, provenance=PROVENANCE)


def test_l11_costs_what_its_layers_add_up_to() -> None:
    (row,) = costs({"L11": RestorationNet(depth=11)})
    assert (row.parameters, row.multiplications) == (L11_PARAMETERS, L11_MULTIPLICATIONS)


def test_the_sign_net_costs_what_its_layers_add_up_to() -> None:
    (row,) = costs({"sign net": SignNet(classes=43)})
    assert (row.parameters, row.multiplications) == (SIGN_PARAMETERS, SIGN_MULTIPLICATIONS)


def test_a_fused_classifier_costs_its_two_parts_together() -> None:
    (row,) = costs({"fused": FusedClassifier(RestorationNet(depth=11), SignNet(classes=43))})
    assert row.parameters == L11_PARAMETERS + SIGN_PARAMETERS
    assert row.multiplications == L11_MULTIPLICATIONS + SIGN_MULTIPLICATIONS


def test_one_convolution_is_counted_as_by_hand() -> None:
    (row,) = costs({"convolution": nn.Conv2d(3, 5, 3)}, size=10)
    assert (row.parameters, row.multiplications) == (3 * 5 * 9 + 5, 8 * 8 * 3 * 5 * 9)


def test_what_has_nothing_to_learn_has_no_parameters() -> None:
    (row,) = costs({"smoothing": GaussianSmoothing()}, size=12)
    assert row.parameters == 0
    assert row.multiplications > 0


def test_each_batch_size_has_a_row_of_its_own_with_a_positive_time() -> None:
    rows = costs({"first": nn.Conv2d(3, 3, 1), "second": nn.Identity()}, size=8, batches=(1, 4))
    assert [(row.network, row.samples) for row in rows] == [
        ("first", 1), ("first", 4), ("second", 1), ("second", 4)
    ]  # fmt: skip
    assert all(row.milliseconds > 0 for row in rows)
    assert [row.training_seconds for row in rows] == [0, 0, 10, 10]
    assert {row.size for row in rows} == {8}


def test_a_pass_that_takes_long_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[torch.Size] = []
    net = nn.Conv2d(3, 3, 1)
    net.register_forward_pre_hook(lambda _, given: shapes.append(given[0].shape))
    costs({"net": net}, size=8, batches=(4,))
    assert [shape[0] for shape in shapes] == [1] + [4] * (1 + experiments.REPEATS)
    shapes.clear()
    monkeypatch.setattr(experiments, "LONG_SECONDS", 0.0)
    costs({"net": net}, size=8, batches=(4,))
    assert [shape[0] for shape in shapes] == [1, 4]


def test_a_time_is_wanted_for_every_network() -> None:
    with pytest.raises(KeyError, match="lonely"):
        cost({"lonely": nn.Identity()}, {}, size=8, device=CPU, provenance=PROVENANCE)


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


@pytest.fixture
def news() -> list[Update]:
    return []


@pytest.fixture
def run(news: list[Update]) -> Run:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (12, 3, 8, 8), generator=generator, dtype=torch.uint8)
    images = ImageSet(images=pixels, labels=torch.arange(12) % 3, tracks=torch.arange(12))
    data = Dataset(
        train=images, validation=images, test=images, class_names=("a", "b", "c"), source="made up",
    )  # fmt: skip
    return Run(data=data, recipe=SMOKE, seed=0, device=torch.device("cpu"), observe=news.append)


class Linear(nn.Module):
    """A small classifier of 8x8 images."""

    kind, task = "Linear", CLASSIFYING

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(192, 3, generator=generator), requires_grad=False)

    def config(self) -> dict[str, int]:
        return {"seed": self.seed}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) @ self.weight


@pytest.fixture(autouse=True)
def a_net_that_can_be_described(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registers the classifier: what cannot be described would be measured again each time."""
    monkeypatch.setitem(KINDS, "Linear", Linear)


def states(news: list[Update]) -> set[str]:
    """Returns what happened to the stages; doubts about results are no state of a stage."""
    return {str(update.state) for update in news} - {"noted"}


def restorers() -> dict[str, nn.Module]:
    return {"identity": nn.Identity(), "smoothing": GaussianSmoothing(sigma_pixels=0.5)}


def test_restorers_are_measured_by_strength_and_against_each_other(run: Run, tmp_path: Path) -> None:
    records = measure_restorers(run, restorers(), tmp_path)
    restoring = [row for row in records if isinstance(row, Restoring)]
    assert [(row.network, row.sigma_grey, row.samples) for row in restoring] == [
        (name, sigma, 4) for sigma in (0, 25) for name in restorers()
    ]
    assert [row.network for row in records if isinstance(row, Hits)] == list(restorers())


def test_networks_are_measured_clean_and_under_noise(run: Run, tmp_path: Path) -> None:
    records = measure_networks(run, {"one": Linear(1), "two": Linear(2)}, tmp_path)
    assert [(row.network, row.k) for row in records if isinstance(row, Accuracy)] == [
        ("one", 1), ("one", 2), ("two", 1), ("two", 2)
    ]  # fmt: skip
    assert [(row.first, row.second) for row in records if isinstance(row, Comparison)] == [("one", "two")]
    cells = {
        (row.noise, row.network, row.sigma_grey): row.samples
        for row in records
        if isinstance(row, Stability) and row.population == "all"
    }
    assert cells == {
        (noise, name, sigma): images
        for noise, images in (("clipped, 8-bit", 8), ("unclipped", 4))
        for name in ("one", "two")
        for sigma in (1, 40)
    }


def test_a_further_kind_of_noise_is_measured_beside_what_there_is(
    run: Run, news: list[Update], tmp_path: Path
) -> None:
    networks: dict[str, nn.Module] = {"one": Linear(1)}
    before = measure_networks(run, networks, tmp_path)
    news.clear()
    evaluation = replace(SMOKE.evaluation, noises=("banded", "gaussian"))
    wider = replace(run, recipe=replace(SMOKE, evaluation=evaluation))
    after = measure_networks(wider, networks, tmp_path)
    assert [update.stage for update in news if update.state == "started"] == [
        "banded noise, stability of: one"
    ]
    added = [row for row in after if row not in before]
    assert {row.noise for row in added if isinstance(row, Stability)} == {"banded, clipped, 8-bit"}
    assert [row for row in after if row not in added] == before


def test_a_noise_with_other_constants_is_measured_anew_and_gaussian_is_not(
    run: Run, news: list[Update], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = replace(SMOKE.evaluation, noises=("gaussian", "sparse"), paired_images=4)
    run = replace(run, recipe=replace(SMOKE, evaluation=evaluation))
    networks: dict[str, nn.Module] = {"one": Linear(1), "two": Linear(2)}

    def measured_anew() -> list[str]:
        news.clear()
        measure_networks(run, networks, tmp_path)
        measure_differences(run, networks, tmp_path, against="one")
        return [update.stage for update in news if update.state == "started"]

    measured_anew()
    assert measured_anew() == []
    monkeypatch.setattr("steadylens.noise.named.SPARSE_DENSITY", 0.3)
    assert measured_anew() == [
        "sparse noise, stability of: one",
        "sparse noise, stability of: two",
        "differences under sparse noise",
    ]


def test_what_was_measured_is_not_measured_again(run: Run, news: list[Update], tmp_path: Path) -> None:
    networks = {"one": Linear(1)}
    first = measure_restorers(run, restorers(), tmp_path) + measure_networks(run, networks, tmp_path)
    assert "skipped" not in states(news)
    news.clear()
    again = measure_restorers(run, restorers(), tmp_path) + measure_networks(run, networks, tmp_path)
    assert states(news) == {"skipped"}
    assert again == first


def test_other_weights_are_measured_anew(run: Run, news: list[Update], tmp_path: Path) -> None:
    measure_networks(run, {"one": Linear(1)}, tmp_path)
    news.clear()
    measure_networks(run, {"one": Linear(2)}, tmp_path)
    assert "skipped" not in states(news)


def test_other_settings_are_measured_anew(run: Run, news: list[Update], tmp_path: Path) -> None:
    measure_restorers(run, restorers(), tmp_path)
    news.clear()
    evaluation = replace(run.recipe.evaluation, psnr_sigmas_grey=(10,))
    other = replace(run, recipe=replace(run.recipe, evaluation=evaluation))
    records = measure_restorers(other, restorers(), tmp_path)
    assert {row.sigma_grey for row in records if isinstance(row, Restoring)} == {10}
    skipped = [update.stage for update in news if update.state == "skipped"]
    assert skipped == ["hits and contraction"]  # on which those strengths have no bearing


def test_renamed_nets_are_measured_under_their_new_names(run: Run, tmp_path: Path) -> None:
    measure_restorers(run, restorers(), tmp_path)
    renamed = dict(zip(("new", "newer"), restorers().values(), strict=True))
    records = measure_restorers(run, renamed, tmp_path)
    assert {row.network for row in records if isinstance(row, Restoring | Hits)} == {"new", "newer"}


def test_the_choice_of_test_images_depends_on_the_seed_alone(run: Run) -> None:
    first, again = random_test_images(run, 5), random_test_images(run, 5)
    assert torch.equal(first.tracks, again.tracks)
    assert len(set(first.tracks.tolist())) == 5
    assert first.tracks.tolist() == sorted(first.tracks.tolist())
    assert any(
        random_test_images(replace(run, seed=s), 5).tracks.tolist() != first.tracks.tolist() for s in (1, 2)
    )


def test_a_larger_choice_holds_the_smaller(run: Run) -> None:
    assert set(random_test_images(run, 4).tracks.tolist()) < set(random_test_images(run, 8).tracks.tolist())


@pytest.mark.parametrize("count", [None, 12, 100])
def test_all_test_images_are_chosen_where_no_fewer_are_wished(run: Run, count: int | None) -> None:
    assert random_test_images(run, count) is run.data.test


def test_a_curve_is_what_the_file_of_a_net_says(run: Run) -> None:
    about = {"curve": [[1, 0.5, 0.1], [2, 0.25, 0.05]], "samples": 20, "seconds": 3.0, "stage": "classifier"}
    about |= {"commit": "of then", "versions": {"torch": "of then"}}
    curve = curve_of(run, TrainingInfo.of_plain(about, name="net"))
    assert (curve.provenance.commit, curve.provenance.versions) == ("of then", (("torch", "of then"),))
    assert (curve.steps, curve.losses, curve.learning_rates) == ((1, 2), (0.5, 0.25), (0.1, 0.05))
    assert (curve.stage, curve.samples, curve.seconds) == ("classifier", 20, 3.0)


def test_the_densities_of_figure_1_are_not_cut_off() -> None:
    densities = example_densities()
    assert len({name for name, _, _ in densities}) == 5
    assert not any(degradation.clip or degradation.quantize for _, _, degradation in densities)


def test_a_net_that_cannot_be_described_is_measured_again(
    run: Run, news: list[Update], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(KINDS, "Linear")
    measure_networks(run, {"one": Linear(1)}, tmp_path)
    news.clear()
    measure_networks(run, {"one": Linear(1)}, tmp_path)
    assert "skipped" not in states(news)


class Frozen(nn.Module):
    """Some layers that a call of train() does not put into training mode."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers).eval()

    def train(self, mode: bool = True) -> "Frozen":
        self.training = mode
        return self

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.layers(images)
        return result


def test_multiplications_are_those_of_the_layers_by_hand() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3),  # 10x10 outputs
        nn.LeakyReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 6, 3, padding=1, groups=2, bias=False),  # 5x5 outputs
        nn.Flatten(),
        nn.Linear(150, 4),
    )
    expected = 10 * 10 * 8 * 3 * 9 + 5 * 5 * 6 * 4 * 9 + 150 * 4
    assert multiplications(net, channels=3, size=12) == expected


def test_multiplications_leave_modes_and_statistics_as_they_were() -> None:
    norm, frozen = nn.BatchNorm2d(4), Frozen(nn.Conv2d(4, 2, 1), nn.Dropout())
    net = nn.Sequential(nn.Conv2d(1, 4, 3), norm, frozen).train()
    before = {part: part.training for part in net.modules()}
    multiplications(net, channels=1, size=6)
    assert {part: part.training for part in net.modules()} == before
    assert not frozen.layers.training
    assert norm.num_batches_tracked is not None
    assert norm.num_batches_tracked.item() == 0


def test_multiplications_put_the_modes_back_when_the_net_fails() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Dropout()).train()
    with pytest.raises(RuntimeError):
        multiplications(net, channels=2, size=6)
    assert all(part.training for part in net.modules())


def test_multiplications_need_no_memory_for_gradients() -> None:
    net = nn.Conv2d(1, 2, 3)
    multiplications(net, channels=1, size=5)
    assert net.weight.grad is None
    assert net.weight.requires_grad


def test_multiplications_of_a_module_without_parameters_are_none() -> None:
    assert multiplications(nn.Identity(), channels=3, size=8) == 0


def test_multiplications_run_in_the_modules_own_precision() -> None:
    assert multiplications(nn.Conv2d(1, 1, 3).double(), channels=1, size=5) == 9 * 9


def test_parameters_count_frozen_and_shared_ones_once() -> None:
    shared = nn.Linear(3, 2)
    net = nn.Sequential(shared, nn.Linear(2, 3).requires_grad_(False), shared)
    assert parameters(net) == 8 + 9
