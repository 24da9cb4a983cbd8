"""Damage depends on the seed and the image alone, grows with severity, and is counted as in a plain loop."""

import random
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from steadylens.data.datasets import Dataset
from steadylens.errors import ImageError, MissingExtraError, SettingError
from steadylens.evaluation.stress import corruptions
from steadylens.evaluation.stress.corruptions import (
    COMMON_KINDS,
    KINDS,
    Corruptions,
    corrupted,
    corrupted_accuracy,
    measure_corruptions,
    require_corruptions,
)
from steadylens.images.tensors import to_float
from steadylens.intervals import wilson_interval
from steadylens.nets.classification import FusedClassifier, SignNet
from steadylens.nets.restoration import GaussianSmoothing, initialize_xavier
from steadylens.records import Corrupted, CorruptedComparison, Measurement
from steadylens.report.tables import select
from tests.tiny_runs import Notebook, run_of

WITHOUT_CHANCE = {
    "defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression", "gaussian_blur",
    "saturate",
}  # fmt: skip


def scenes(count: int, *, side: int = 32) -> Tensor:
    """Returns float images of a bright disc before a gradient, each with another colour and place."""
    rows, columns = torch.meshgrid(torch.linspace(0, 1, side), torch.linspace(0, 1, side), indexing="ij")
    images = []
    for number in range(count):
        generator = torch.Generator().manual_seed(number)
        front, behind = torch.rand(2, 3, 1, 1, generator=generator)
        centre = 0.3 + 0.4 * torch.rand(2, generator=generator)
        disc = ((rows - centre[0]).square() + (columns - centre[1]).square() < 0.06).float()
        images.append(disc * (0.2 + 0.6 * front) + (1 - disc) * (0.2 + 0.5 * behind * rows))
    return torch.stack(images).mul(255).round().div(255)


IMAGES = scenes(3)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_the_same_again_and_another_with_another_seed(kind: str) -> None:
    damaged = corrupted(IMAGES, kind, 4, seed=1)
    assert torch.equal(damaged, corrupted(IMAGES, kind, 4, seed=1))
    assert damaged.shape == IMAGES.shape
    assert torch.equal(damaged.mul(255).round().div(255), damaged)
    assert damaged.min() >= 0
    assert damaged.max() <= 1
    assert torch.equal(damaged, corrupted(IMAGES, kind, 4, seed=2)) == (kind in WITHOUT_CHANCE)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_damaged_the_same_in_any_batch_and_order(kind: str) -> None:
    together = corrupted(IMAGES, kind, 4, seed=1)
    assert torch.equal(corrupted(IMAGES.flip(0), kind, 4, seed=1).flip(0), together)
    assert torch.equal(corrupted(IMAGES[1:2], kind, 4, seed=1), together[1:2])


@pytest.mark.parametrize("kind", KINDS)
def test_the_severest_damage_changes_images_more_than_the_slightest(kind: str) -> None:
    slight, severe = (
        (corrupted(IMAGES, kind, severity, seed=1) - IMAGES).abs().mean() for severity in (1, 5)
    )
    assert severe > slight > 0


def test_images_of_the_same_batch_get_different_noise() -> None:
    first, second = corrupted(scenes(2) * 0 + torch.tensor([0.5, 0.6])[:, None, None, None], "fog", 3, seed=1)
    assert not torch.allclose(second - first, (second - first).mean(), atol=0.02)


def test_global_generators_have_the_same_state_as_before() -> None:
    np.random.seed(5)
    before = np.random.get_state(legacy=False), random.getstate(), torch.random.get_rng_state()
    for kind in KINDS:
        corrupted(IMAGES[:1], kind, 2, seed=1)
    now = np.random.get_state(legacy=False), random.getstate(), torch.random.get_rng_state()
    assert isinstance(before[0], dict)
    assert isinstance(now[0], dict)
    np.testing.assert_equal(now[0], before[0])
    assert now[1] == before[1]
    assert torch.equal(now[2], before[2])


def test_the_generator_of_numba_goes_on_as_if_nothing_had_happened() -> None:
    compiled: Any = numba.njit  # its types know no functions that are called

    @compiled  # type: ignore[untyped-decorator]
    def seeded(number: int) -> None:
        np.random.seed(number)

    @compiled  # type: ignore[untyped-decorator]
    def drawn() -> float:
        return np.random.random()

    seeded(3)
    alone = [drawn(), drawn()]
    seeded(3)
    first = drawn()
    corrupted(IMAGES, "glass_blur", 4, seed=1)
    assert [first, drawn()] == alone


def test_a_small_image_that_no_drop_falls_on_stays_as_it_is() -> None:
    images = scenes(60)
    spared = 0
    for seed in range(4):
        damaged = corrupted(images, "spatter", 1, seed=seed)
        assert (damaged.mean(dim=(1, 2, 3)) > 0.5 * images.mean(dim=(1, 2, 3))).all()  # the library: black
        spared += int((damaged == images).all(dim=(1, 2, 3)).sum())
    assert spared > 0


def test_another_error_of_the_library_is_not_taken_for_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(image: object, **_: object) -> object:
        raise FloatingPointError("invalid value")

    monkeypatch.setattr(corruptions, "_library", lambda: failing)
    with pytest.raises(FloatingPointError):
        corrupted(IMAGES, "fog", 1, seed=0)


def test_no_image_gives_none() -> None:
    assert corrupted(IMAGES[:0], "fog", 1, seed=0).shape == (0, 3, 32, 32)


def test_damage_of_8_bit_images_and_of_their_floats_is_one() -> None:
    odd = IMAGES + 0.3 / 255
    assert torch.equal(corrupted(odd, "frost", 2, seed=3), corrupted(IMAGES, "frost", 2, seed=3))


def test_what_cannot_be_damaged_is_refused() -> None:
    with pytest.raises(ImageError, match="31x31 pixels, at least 32x32"):
        corrupted(scenes(1, side=31), "fog", 1, seed=0)
    with pytest.raises(
        SettingError, match=r"kinds is \('rain',\); give at least one, each once, of gaussian"
    ):
        corrupted(IMAGES, "rain", 1, seed=0)
    with pytest.raises(
        SettingError, match=r"of 16 pixels, and corruptions \(--corruptions\) need at least 32; .* \(--size\)"
    ):
        require_corruptions(16)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"images": 0}, "images is 0"),
        ({"kinds": ()}, "kinds is ()"),
        ({"kinds": ("fog", "fog")}, "each once"),
        ({"severities": (0,)}, "of 1, 2, 3, 4, 5"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(SettingError, match=message.replace("(", r"\(").replace(")", r"\)")):
        Corruptions(**settings)  # type: ignore[arg-type]


def test_without_the_library_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    corruptions._library.cache_clear()
    with pytest.raises(
        MissingExtraError, match=r"imagecorruptions-imaug .* pip install 'steadylens\[stress\]'"
    ):
        require_corruptions(48)


def test_the_common_kinds_are_those_over_which_the_library_averages() -> None:
    from imagecorruptions import get_corruption_names  # noqa: PLC0415

    assert list(COMMON_KINDS) == get_corruption_names("common")
    assert list(KINDS) == get_corruption_names("all")


# Accuracy.


class Brightest(nn.Module):
    """Answers with the brightest channel."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))


NETWORKS = {"alone": Brightest(), "smooth": nn.Sequential(GaussianSmoothing(sigma_pixels=2.0), Brightest())}


def coloured(tiny_data: Dataset) -> Dataset:
    """Returns the data of the three classes whose channel is brightest, as a set of 24 test images."""
    some = tiny_data.train.subset(tiny_data.train.labels < 3)
    images = torch.cat([some.images, some.images.flip(-1)])
    labels = torch.cat([some.labels] * 2)
    test = replace(some, images=images, labels=labels, tracks=labels)
    return replace(tiny_data, train=test, validation=test, test=test, class_names=("red", "green", "blue"))


def measured(data: Dataset, kind: str = "impulse_noise") -> list[Measurement]:
    clean = {name: net(to_float(data.test.images)).argmax(dim=1) for name, net in NETWORKS.items()}
    return corrupted_accuracy(
        NETWORKS, data.test, kind, severities=(1, 5), clean=clean, against="alone",
        provenance=run_of(data, Notebook()).provenance, progress=lambda done, total: None,
    )  # fmt: skip


def test_records_are_those_of_a_plain_loop(tiny_data: Dataset) -> None:
    data = coloured(tiny_data)
    records = measured(data)
    answers = {}
    for row in select(records, Corrupted):
        given = []
        for image in data.test.images:
            damaged = corrupted(to_float(image[None]), "impulse_noise", row.severity, seed=0)
            given.append(int(NETWORKS[row.network](damaged).argmax()))
        clean = [int(NETWORKS[row.network](to_float(image[None])).argmax()) for image in data.test.images]
        right = [one == label for one, label in zip(given, data.test.labels.tolist(), strict=True)]
        assert (row.samples, row.correct) == (24, sum(right))
        assert (row.lower, row.upper) == wilson_interval(sum(right), 24)
        assert row.kept == sum(one == other for one, other in zip(given, clean, strict=True))
        answers[row.network, row.severity] = right
    (pair,) = select(records, CorruptedComparison)
    assert (pair.first, pair.second, pair.corruption, pair.severities) == (
        "smooth",
        "alone",
        "impulse_noise",
        2,
    )
    gains = [
        sum(answers["smooth", severity][place] - answers["alone", severity][place] for severity in (1, 5))
        for place in range(24)
    ]
    assert list(pair.differences) == gains


def test_the_order_of_the_work_does_not_matter(tiny_data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    data = coloured(tiny_data)
    usual = [replace(row, seconds=0.0) for row in measured(data, "frost")]

    def backwards(items: Iterable[object], work: Callable[[object], object]) -> Iterator[object]:
        found = {place: work(item) for place, item in reversed([*enumerate(items)])}
        yield from (found[place] for place in sorted(found))

    monkeypatch.setattr(corruptions, "BLOCK", 5)
    monkeypatch.setattr("steadylens.workers.divided", backwards)
    assert [replace(row, seconds=0.0) for row in measured(data, "frost")] == usual


def test_each_kind_is_a_stage_that_is_not_measured_twice(
    tiny_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes, net = Notebook(), SignNet(classes=4)
    initialize_xavier(net, generator=torch.Generator().manual_seed(0))
    networks = {"alone": net, "smooth": FusedClassifier(GaussianSmoothing(), net)}
    settings = Corruptions(images=6, kinds=("fog", "contrast"), severities=(1, 3, 5))

    def measure(settings: Corruptions) -> list[Measurement]:
        return measure_corruptions(run_of(tiny_data, notes), networks, tmp_path, settings, against="alone")

    first = measure(replace(settings, kinds=("fog",)))
    (told,) = [update.note for update in notes.updates if update.state == "noted"]
    assert re.match(r"about [\d.]+ s more, after [\d.]+ s to load and try all, for 1", told)
    assert told.endswith("for 1 kinds of damage at 3 severities, on 6 images and 2 networks")
    notes.updates.clear()
    with monkeypatch.context() as newer:
        newer.setattr(corruptions, "METHOD", corruptions.METHOD + 1)
        measure(replace(settings, kinds=("fog",)))
    assert "skipped" not in notes.states, "an older method is not reused"
    notes.updates.clear()
    both = measure(settings)
    states = {update.stage: update.state for update in notes.updates}
    assert states["images with fog"] == "skipped"
    assert states["images with contrast"] == "finished"
    assert both[: len(first)] == first
    kinds = [(row.corruption, row.severity) for row in select(both, Corrupted) if row.network == "alone"]
    assert kinds == [("none", 0), *((kind, severity) for kind in settings.kinds for severity in (1, 3, 5))]
    clean = next(row for row in select(both, Corrupted) if row.corruption == "none")
    assert (clean.samples, clean.kept) == (6, 6)
    assert "imagecorruptions-imaug" in dict(first[0].provenance.versions)
