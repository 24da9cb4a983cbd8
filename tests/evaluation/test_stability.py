"""Tables 3 and 4 count what a plain loop counts, and sampling stops when it may and not before."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn

from steadylens import devices
from steadylens.data.datasets import ImageSet
from steadylens.errors import SettingError
from steadylens.evaluation.dividing import BLOCK
from steadylens.evaluation.stability import clean_accuracy, noisy_comparisons, stability
from steadylens.images.tensors import to_float
from steadylens.intervals import mcnemar, wilson_interval
from steadylens.noise.degradation import gaussian_degradation
from steadylens.noise.named import named_degradation
from steadylens.randomness import derived_generator
from steadylens.records import Accuracy, Comparison, Confusion, Stability
from steadylens.report.tables import select
from steadylens.training.run import GaussianNoise, Sampling
from tests.sample_records import PROVENANCE as SAMPLE

SEED = 8
PROVENANCE = replace(SAMPLE, seed=SEED)
CLASSES = 6
NAMES = tuple("abcdef")


class Nearest(nn.Module):
    """Tells classes by the mean level of a channel: right on most images, less so under noise."""

    def __init__(self, channel: int) -> None:
        super().__init__()
        self.channel = channel

    def forward(self, images: Tensor) -> Tensor:
        levels = torch.arange(CLASSES) / (CLASSES - 1)
        return -(images[:, self.channel].mean(dim=(1, 2))[:, None] - levels).abs()


class Wrong(nn.Module):
    """Answers the class after the right one, as `Nearest` sees it."""

    def forward(self, images: Tensor) -> Tensor:
        return Nearest(0)(images).roll(1, dims=1)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def images() -> ImageSet:
    """Returns images whose channels are near the level of their class, some not near enough."""
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(BLOCK + 20) % CLASSES
    levels = labels[:, None] * 255 / (CLASSES - 1) + 20 * torch.randn(len(labels), 3, generator=generator)
    flat = levels.clamp(0, 255)[:, :, None, None].expand(-1, -1, 4, 4)
    return ImageSet(images=flat.to(torch.uint8), labels=labels, tracks=torch.arange(len(labels)))


def nothing(done: int, total: int) -> None:
    """Takes news of progress and does nothing."""


def measured(
    images: ImageSet,
    network: nn.Module | None = None,
    *,
    sigmas: tuple[float, ...] = (30,),
    kind: str = "gaussian",
    sampling: Sampling | None = None,
    clip: bool = True,
    quantize: bool = True,
    progress: Callable[[int, int], None] = nothing,
) -> list[Stability]:
    return stability(
        "net",
        network or Nearest(0),
        images,
        noise=GaussianNoise(sigmas_grey=sigmas, clip=clip, quantize=quantize),
        kind=kind,
        sampling=sampling or Sampling(versions=3),
        provenance=PROVENANCE,
        progress=progress,
    )


def blocks(images: ImageSet, sigma: float, versions: int) -> list[tuple[list[bool], list[bool]]]:
    """Returns, block by block, which noisy images are right and which were when clean; a plain loop."""
    order = torch.randperm(len(images), generator=derived_generator(SEED, "stability order")).tolist()
    found = []
    for version in range(versions):
        for start in range(0, len(images), BLOCK):
            chosen = order[start : start + BLOCK]
            clean = to_float(images.images[chosen])
            generator = derived_generator(SEED, "stability", repr(sigma), version, start)
            noisy = gaussian_degradation(sigma)(clean, generator=generator)
            labels = images.labels[chosen].tolist()
            found.append((answers_right(noisy, labels), answers_right(clean, labels)))
    return found


def answers_right(images: Tensor, labels: list[int]) -> list[bool]:
    network = Nearest(0)
    return [int(network(image[None]).argmax()) == label for image, label in zip(images, labels, strict=True)]


def timeless(rows: list[Stability]) -> list[tuple[object, ...]]:
    return [
        (row.sigma_grey, row.population, row.images, row.samples, row.correct, row.lower, row.upper)
        for row in rows
    ]


def test_counts_equal_those_of_a_plain_loop(images: ImageSet) -> None:
    own, everything = measured(images)
    right = [hit for hits, _ in blocks(images, 30.0, 3) for hit in hits]
    owned = [was for _, clean in blocks(images, 30.0, 3) for was in clean]
    assert (everything.population, everything.correct) == ("all", sum(right))
    assert everything.samples == len(right) == 3 * len(images)
    assert (own.population, own.samples) == ("own", sum(owned))
    assert own.correct == sum(hit and was for hit, was in zip(right, owned, strict=True))
    for row in (own, everything):
        assert (row.lower, row.upper) == wilson_interval(row.correct, row.samples)


@pytest.mark.parametrize("kind", ["poisson", "jpeg"])
def test_noise_of_another_kind_is_counted_and_named(images: ImageSet, kind: str) -> None:
    own, everything = measured(images, kind=kind)
    order = torch.randperm(len(images), generator=derived_generator(SEED, "stability order")).tolist()
    right = []
    for version in range(3):
        for start in range(0, len(images), BLOCK):
            chosen = order[start : start + BLOCK]
            generator = derived_generator(SEED, "stability", kind, "30.0", version, start)
            noisy = named_degradation(kind, 30)(to_float(images.images[chosen]), generator=generator)
            right += answers_right(noisy, images.labels[chosen].tolist())
    assert (everything.correct, everything.samples) == (sum(right), len(right))
    assert own.noise == everything.noise == f"{kind}, clipped, 8-bit"
    assert own.sigma_grey == 30
    assert measured(images)[0].noise == "clipped, 8-bit"


def test_own_rows_count_the_images_that_are_right_when_clean(images: ImageSet) -> None:
    own, everything = measured(images)
    right_clean = sum(answers_right(to_float(images.images), images.labels.tolist()))
    assert own.images == right_clean
    assert own.samples == 3 * right_clean
    assert everything.images == len(images)
    assert 0 < right_clean < len(images)


def test_slight_noise_breaks_fewer_answers_than_strong(images: ImageSet) -> None:
    slight, strong = (row for row in measured(images, sigmas=(0.5, 120)) if row.population == "own")
    assert slight.correct > strong.correct


def test_strengths_do_not_depend_on_each_other(images: ImageSet) -> None:
    assert timeless(measured(images, sigmas=(5, 30)))[2:] == timeless(measured(images, sigmas=(30,)))


@pytest.mark.parametrize("batch", [1, 9, 1000])
def test_the_numbers_do_not_depend_on_the_batch_size(
    images: ImageSet, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = measured(images)
    monkeypatch.setattr(devices, "cache_batch", lambda device: batch)
    assert timeless(measured(images)) == timeless(usual)


def test_all_networks_see_the_same_noise(images: ImageSet) -> None:
    class Listening(Nearest):
        def __init__(self, channel: int) -> None:
            super().__init__(channel)
            self.heard: list[Tensor] = []

        def forward(self, images: Tensor) -> Tensor:
            self.heard.append(images.clone())
            return super().forward(images)

    first, second = Listening(0), Listening(1)
    measured(images, first)
    measured(images, second)
    assert torch.equal(torch.cat(first.heard), torch.cat(second.heard))


def test_a_network_that_is_right_on_nothing_has_no_own_row(images: ImageSet) -> None:
    steady = images.subset(torch.tensor(answers_right(to_float(images.images), images.labels.tolist())))
    rows = measured(steady, Wrong(), sigmas=(0.5,))
    assert [row.population for row in rows] == ["all"]


def test_sampling_stops_as_soon_as_both_intervals_are_narrow_and_not_before(images: ImageSet) -> None:
    half_width = 0.05
    own, everything = measured(images, sampling=Sampling(versions=40, half_width=half_width))
    found = blocks(images, 30.0, 40)

    def widths(count: int) -> list[float]:
        right = [hit for hits, _ in found[:count] for hit in hits]
        owned = [was for _, clean in found[:count] for was in clean]
        kept = sum(hit and was for hit, was in zip(right, owned, strict=True))
        ends = [wilson_interval(sum(right), len(right)), wilson_interval(kept, sum(owned))]
        return [upper - lower for lower, upper in ends]

    stop = next(count for count in range(1, len(found) + 1) if max(widths(count)) <= 2 * half_width)
    assert 1 < stop < len(found)
    assert everything.samples == sum(len(hits) for hits, _ in found[:stop])
    assert own.samples == sum(sum(clean) for _, clean in found[:stop])
    assert all(row.upper - row.lower <= 2 * half_width for row in (own, everything))


def test_sampling_ends_with_the_versions_when_the_interval_stays_wide(images: ImageSet) -> None:
    _, everything = measured(images, sampling=Sampling(versions=2, half_width=0.0001))
    assert everything.samples == 2 * len(images)


@pytest.mark.parametrize(
    ("clip", "quantize", "mode"),
    [(True, True, "clipped, 8-bit"), (True, False, "clipped"), (False, False, "unclipped")],
)
def test_rows_say_how_noisy_images_are_stored(
    images: ImageSet, clip: bool, quantize: bool, mode: str
) -> None:
    assert {row.noise for row in measured(images, clip=clip, quantize=quantize)} == {mode}


def test_unclipped_noise_leaves_the_range_of_images(images: ImageSet) -> None:
    class Range(Nearest):
        lowest = highest = 0.5

        def forward(self, images: Tensor) -> Tensor:
            self.lowest = min(self.lowest, float(images.min()))
            self.highest = max(self.highest, float(images.max()))
            return super().forward(images)

    clipped, unclipped = Range(0), Range(0)
    measured(images, clipped)
    measured(images, unclipped, clip=False, quantize=False)
    assert (clipped.lowest, clipped.highest) == (0, 1)
    assert unclipped.lowest < 0
    assert unclipped.highest > 1


def test_progress_never_falls_and_ends_at_all(images: ImageSet) -> None:
    news: list[tuple[int, int]] = []
    measured(
        images,
        sigmas=(5, 30),
        sampling=Sampling(versions=40, half_width=0.1),
        progress=lambda done, total: news.append((done, total)),
    )
    assert news == sorted(news)
    assert news[-1] == (2 * 40 * len(images), 2 * 40 * len(images))


@pytest.mark.parametrize("versions", [0, -1])
def test_no_versions_are_refused(versions: int) -> None:
    with pytest.raises(SettingError, match=f"versions is {versions}"):
        Sampling(versions=versions)


@pytest.mark.parametrize("half_width", [0, -0.1, 0.5, float("nan")])
def test_widths_that_measure_nothing_are_refused(half_width: float) -> None:
    with pytest.raises(SettingError, match="half_width is"):
        Sampling(half_width=half_width)


def test_clean_accuracy_equals_a_plain_loop(images: ImageSet) -> None:
    networks = {"red": Nearest(0), "green": Nearest(1)}
    rows = clean_accuracy(networks, images, class_names=NAMES, provenance=PROVENANCE, progress=nothing)
    accuracies = [row for row in rows if isinstance(row, Accuracy)]
    assert [(row.network, row.k) for row in accuracies] == [(name, k) for name in networks for k in (1, 2, 5)]
    for row in accuracies:
        logits = networks[row.network](to_float(images.images)).tolist()
        correct = 0
        for scores, label in zip(logits, images.labels.tolist(), strict=True):
            ranking = sorted(range(CLASSES), key=lambda answer: -scores[answer])
            correct += label in ranking[: row.k]
        assert (row.correct, row.samples) == (correct, len(images))
        assert (row.lower, row.upper) == wilson_interval(correct, len(images))


def test_each_two_networks_are_compared_on_the_same_images(images: ImageSet) -> None:
    networks = {"red": Nearest(0), "green": Nearest(1), "blue": Nearest(2)}
    rows = clean_accuracy(networks, images, class_names=NAMES, provenance=PROVENANCE, progress=nothing)
    pairs = [row for row in rows if isinstance(row, Comparison)]
    assert [(row.first, row.second) for row in pairs] == [
        ("red", "green"),
        ("red", "blue"),
        ("green", "blue"),
    ]
    inputs, labels = to_float(images.images), images.labels.tolist()
    right = {
        name: [
            int(answer) == label for answer, label in zip(network(inputs).argmax(dim=1), labels, strict=True)
        ]
        for name, network in networks.items()
    }
    for row in pairs:
        outcomes = list(zip(right[row.first], right[row.second], strict=True))
        assert row.only_first == outcomes.count((True, False)) > 0
        assert row.only_second == outcomes.count((False, True)) > 0
        assert row.p_value == mcnemar(row.only_first, row.only_second)


def test_differences_under_noise_equal_a_plain_loop_with_scipys_interval(images: ImageSet) -> None:
    networks = {"red": Nearest(0), "green": Nearest(1), "wrong": Wrong()}
    noise = GaussianNoise(sigmas_grey=(20, 60))
    news: list[tuple[int, int]] = []
    rows = noisy_comparisons(
        networks,
        images,
        against="green",
        noise=noise,
        provenance=PROVENANCE,
        progress=lambda done, total: news.append((done, total)),
    )
    assert news[-1] == (6 * len(images), 6 * len(images))
    assert [(row.first, row.second, row.sigma_grey) for row in rows] == [
        ("green", other, sigma) for other in ("red", "wrong") for sigma in (20, 60, None)
    ]
    right: dict[str, list[list[float]]] = {name: [] for name in networks}
    order = torch.randperm(len(images), generator=derived_generator(SEED, "stability order"))
    for name, network in networks.items():
        for sigma in noise.sigmas_grey:
            hits = []
            for start in range(0, len(images), BLOCK):
                some = images.subset(order[start : start + BLOCK])
                generator = derived_generator(SEED, "stability", repr(float(sigma)), 0, start)
                noisy = gaussian_degradation(sigma)(to_float(some.images), generator=generator)
                hits += (network(noisy).argmax(dim=1) == some.labels).double().tolist()
            right[name].append(hits)
    for row in rows:
        differences = np.subtract(right[row.first], right[row.second])
        index = None if row.sigma_grey is None else noise.sigmas_grey.index(row.sigma_grey)
        per_image = differences.mean(axis=0) if index is None else differences[index]
        wider = np.append(per_image, [0.5**0.5, -(0.5**0.5)])  # two more images, by Agresti and Min
        interval = scipy.stats.norm.interval(0.95, wider.mean(), scipy.stats.sem(wider, ddof=0))
        assert (row.difference, row.lower, row.upper) == pytest.approx((per_image.mean(), *interval))
        assert (row.images, row.noise) == (len(images), "clipped, 8-bit")
        assert row.samples == len(images) * (2 if index is None else 1)


def test_differences_under_noise_are_those_of_the_first_noisy_versions(images: ImageSet) -> None:
    noise = GaussianNoise(sigmas_grey=(60,))
    networks = {"red": Nearest(0), "green": Nearest(1)}
    (row, _) = noisy_comparisons(
        networks, images, against="green", noise=noise, provenance=PROVENANCE, progress=lambda *_: None
    )
    shares = {}
    for name, network in networks.items():
        (everything,) = (
            record
            for record in stability(
                name, network, images, noise=noise, sampling=Sampling(versions=1), provenance=PROVENANCE,
                progress=lambda *_: None,
            )
            if record.population == "all"
        )  # fmt: skip
        shares[name] = everything.correct / everything.samples
    assert row.difference == pytest.approx(shares["green"] - shares["red"])
    assert shares["green"] != shares["red"]


def test_top_5_is_left_out_where_there_are_fewer_classes(images: ImageSet) -> None:
    class Three(Nearest):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images)[:, :3]

    few = images.subset(images.labels < 3)
    rows = clean_accuracy(
        {"three": Three(0)}, few, class_names="abc", provenance=PROVENANCE, progress=nothing
    )
    assert [row.k for row in rows if isinstance(row, Accuracy)] == [1, 2]


class Undecided(Nearest):
    """Gives all classes one logit for the first image of a batch, and NaN for the second."""

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        logits[0], logits[1] = 1, float("nan")
        return logits


def test_answers_are_counted_by_class_and_agree_with_the_accuracy(images: ImageSet) -> None:
    networks = {"red": Nearest(0), "undecided": Undecided(0)}
    rows = clean_accuracy(networks, images, class_names=NAMES, provenance=PROVENANCE, progress=nothing)
    right = {row.network: row.correct for row in rows if isinstance(row, Accuracy) and row.k == 1}
    for row in select(rows, Confusion):
        assert row.class_names == NAMES
        assert sum(count for _, _, count in row.cells) == row.samples == len(images)
        assert sum(n for label, answer, n in row.cells if label == answer) == right[row.network]
    plain, undecided = select(rows, Confusion)
    batches = -(-len(images) // devices.cache_batch(torch.device("cpu")))
    given = networks["red"](to_float(images.images)).argmax(dim=1).tolist()
    pairs = list(zip(images.labels.tolist(), given, strict=True))
    assert {(label, answer): n for label, answer, n in plain.cells} == {
        pair: pairs.count(pair) for pair in set(pairs)
    }
    assert sum(n for _, answer, n in undecided.cells if answer == -1) == 2 * batches
