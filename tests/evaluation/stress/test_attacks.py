"""Attacks find what is there and no more: their bounds hold, and the distance of a linear net is met.

An attack on a pair goes through the restorer.
"""

import importlib
import random
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from steadylens.data.datasets import Dataset, ImageSet
from steadylens.errors import MissingExtraError, SettingError
from steadylens.evaluation.stress import adversaries, attacks
from steadylens.evaluation.stress.adversaries import autoattack, projected_gradient
from steadylens.evaluation.stress.attacks import (
    Attacks,
    attacked_accuracy,
    measure_attacks,
    random_starts,
    require_attacks,
    within,
)
from steadylens.images.tensors import to_float, to_uint8
from steadylens.nets.classification import FusedClassifier, SignNet
from steadylens.nets.restoration import GaussianSmoothing, initialize_xavier
from steadylens.records import Attacked, Measurement, Norm
from steadylens.report.stress.stress_tables import attack_lead
from steadylens.report.tables import select
from tests.tiny_runs import Notebook, run_of

SIDE = 8

NORMS: tuple[Norm, ...] = get_args(Norm)


class Linear(nn.Module):
    """Two logits, linear in the pixels, whose distance to the boundary is known."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(3 * SIDE * SIDE, generator=generator))

    def forward(self, images: Tensor) -> Tensor:
        value = (images - 0.5).flatten(1) @ self.weight
        return torch.stack([-value, value], dim=1)

    def distances(self, images: Tensor, norm: Norm) -> Tensor:
        value = ((images - 0.5).flatten(1) @ self.weight).abs().detach()
        slope: Tensor = torch.linalg.vector_norm(self.weight.detach(), ord=2 if norm == "l2" else 1)
        return value / slope


def greys(count: int, seed: int = 1) -> Tensor:
    """Returns 8-bit images near mid-grey, as floats: no change of theirs that is needed leaves [0, 1]."""
    values = torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    return to_float(to_uint8(values * 0.4 + 0.3))


def labelled(net: nn.Module, images: Tensor) -> ImageSet:
    """Returns 8-bit images with the labels that a net gives them."""
    labels = net(images).argmax(dim=1)
    return ImageSet(images=to_uint8(images), labels=labels, tracks=labels)


@pytest.mark.parametrize("norm", NORMS)
def test_on_a_linear_net_pgd_errs_just_above_the_true_distance_and_never_below(norm: Norm) -> None:
    net, images = Linear().requires_grad_(False), greys(12)
    labels = net(images).argmax(dim=1)
    for image, label, distance in zip(images, labels, net.distances(images, norm), strict=True):
        for factor, errs in ((0.99, False), (1.01, True)):
            bound = factor * float(distance)
            changed = projected_gradient(
                net,
                image[None],
                label[None],
                norm=norm,
                epsilon=bound,
                steps=10,
                start=torch.zeros(1, *image.shape),
            )
            inside = within(changed, image[None], norm=norm, epsilon=bound)
            assert (inside - changed).abs().max() < 1e-6
            assert bool(net(inside).argmax() != label) == errs


@given(
    seed=st.integers(0, 2**32),
    norm=st.sampled_from(NORMS),
    epsilon=st.floats(1e-3, 3.0),
    size=st.floats(0.0, 10.0),
)
def test_whatever_a_library_returns_the_change_stays_in_the_bound(
    seed: int, norm: Norm, epsilon: float, size: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(4, 3, SIDE, SIDE, generator=generator)
    changed = images + size * torch.randn(images.shape, generator=generator)
    changed[0, 0, 0, 0], changed[1, 0, 0, 0] = torch.nan, torch.inf
    inside = within(changed, images, norm=norm, epsilon=epsilon)
    change = (inside - images).flatten(1).double()
    lengths = change.norm(dim=1) if norm == "l2" else change.abs().amax(dim=1)
    assert (lengths <= epsilon * (1 + 1e-6) + 1e-6).all()
    assert inside.min() >= 0
    assert inside.max() <= 1


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_lie_in_the_ball_and_belong_to_their_image(norm: Norm) -> None:
    images = greys(5)
    starts = random_starts(images, norm=norm, epsilon=0.3, path=(4, 0), first=10)
    lengths = starts.flatten(1).norm(p=2 if norm == "l2" else torch.inf, dim=1)
    assert (lengths <= 0.3).all()
    assert (lengths > 0.25).all(), "in many dimensions most of the ball is near its surface"
    assert torch.equal(random_starts(images[2:], norm=norm, epsilon=0.3, path=(4, 0), first=12), starts[2:])
    assert not torch.equal(random_starts(images, norm=norm, epsilon=0.3, path=(4, 1), first=10), starts)


@pytest.mark.parametrize("norm", NORMS)
def test_autoattack_errs_above_the_true_distance_and_leaves_no_trace(norm: Norm) -> None:
    net, images = Linear().requires_grad_(False), greys(3)
    labels = net(images).argmax(dim=1)
    bound = 1.1 * float(net.distances(images, norm).max())
    before = torch.random.get_rng_state(), random.getstate(), sys.gettrace()
    state = np.random.get_state(legacy=False)
    changed = autoattack(net, images, labels, norm=norm, epsilon=bound, seed=2**40)
    assert (net(within(changed, images, norm=norm, epsilon=bound)).argmax(dim=1) != labels).all()
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (random.getstate(), sys.gettrace()) == before[1:]
    np.testing.assert_equal(np.random.get_state(legacy=False), state)


@pytest.mark.parametrize("missing", ["secmlt", "pyautoattack"])
def test_without_a_library_its_extra_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtraError, match=r"is not installed; .*'steadylens\[stress\]'"):
        importlib.reload(adversaries)


# Accuracy under attack.


class Halving(nn.Module):
    """A restorer that halves contrast, and so every change."""

    def forward(self, images: Tensor) -> Tensor:
        return 0.5 + (images - 0.5) / 2


class Masking(nn.Module):
    """A restorer that hides most values from whoever does not know it, and reads them elsewhere."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flip(-1)


def accuracies(
    net: nn.Module,
    pairs: dict[str, nn.Module],
    images: ImageSet,
    settings: Attacks,
    norm: Norm = "l2",
) -> dict[tuple[str, float, int, bool], int]:
    """Returns how many answers are right by network, bound, restarts, and whether the restorer is known."""
    data = Dataset(train=images, validation=images, test=images, class_names=tuple("abcde"), source="greys")
    rows = attacked_accuracy(
        net, pairs, images, name="alone", norm=norm, settings=settings,
        provenance=run_of(data, Notebook()).provenance, progress=lambda done, total: None,
    )  # fmt: skip
    found = {(row.network, row.epsilon, row.restarts, row.knows_restorer): row.correct for row in rows}
    assert len(found) == len(rows)
    return found


@pytest.mark.parametrize("norm", NORMS)
def test_accuracy_of_a_linear_net_is_the_share_of_images_farther_than_the_bound(norm: Norm) -> None:
    net, images = Linear(), greys(30)
    distances = net.distances(images, norm)
    bounds = tuple(float(distances.quantile(share)) for share in (0.21, 0.47, 0.81))
    given = labelled(net, images)
    settings = Attacks(l2=bounds, linf=bounds, steps=10, restarts=1)
    found = accuracies(net, {"half": FusedClassifier(Halving(), net)}, given, settings, norm)
    for bound in (0.0, *bounds):
        farther = int((distances > bound).sum())
        for restarts in (0, 1):
            assert found["alone", bound, restarts, True] == farther
            assert found["half", bound, restarts, True] == farther, "the boundary of the pair is the same"
        assert found["half", bound, 0, False] == farther


def test_an_attack_that_goes_through_the_restorer_is_stronger_than_one_that_does_not() -> None:
    net = Linear()
    pair = FusedClassifier(Masking(), net)
    images = labelled(pair, greys(20))
    far = float(net.distances(greys(20).flip(-1), "l2").max()) * 1.1
    found = accuracies(net, {"mask": pair}, images, Attacks(l2=(far,), linf=(), steps=10, restarts=0))
    assert found["mask", 0.0, 0, True] == 20
    assert found["mask", far, 0, True] == 0
    assert found["mask", far, 0, False] > 0


@pytest.mark.parametrize("restarts", [0, 1])
def test_images_made_against_the_classifier_alone_count_where_the_gradient_of_a_pair_is_hidden(
    restarts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adversaries, "autoattack", lambda net, images, labels, **_: images)  # finds nothing
    net = Linear()
    images = labelled(net, greys(20))
    far = float(net.distances(greys(20), "l2").max()) * 1.1
    data = Dataset(train=images, validation=images, test=images, class_names=("a", "b"), source="greys")
    rows = attacked_accuracy(
        net, {"hidden": FusedClassifier(Rounding(), net)}, images, name="alone", norm="l2",
        settings=Attacks(l2=(far / 100, far), linf=(), steps=10, restarts=restarts, autoattack=True),
        provenance=run_of(data, Notebook()).provenance, progress=lambda done, total: None,
    )  # fmt: skip
    hidden = [row for row in rows if row.network == "hidden"]
    ways = [(row.attack, row.restarts, row.knows_restorer) for row in hidden if row.epsilon == far]
    assert len(ways) == (4 if restarts else 3)
    assert {row.correct for row in hidden if row.epsilon == far} == {0}
    only = {row.epsilon: row.only_transferred for row in rows if row.only_transferred is not None}
    assert only == {0.0: 0, far / 100: 20 - at_first(rows, far / 100), far: 20}, (
        "it has no gradient to follow"
    )
    assert "the restorer hides its gradient" in attack_lead(rows)
    seen = [replace(row, only_transferred=0) for row in rows]
    assert "hides" not in attack_lead(seen)


def at_first(rows: list[Attacked], epsilon: float) -> int:
    """Returns how many answers of the pair are right on images made against the classifier alone."""
    (row,) = (row for row in rows if row.epsilon == epsilon and not row.knows_restorer)
    return row.correct


@pytest.mark.parametrize("norm", NORMS)
def test_one_step_is_taken_and_looked_at(norm: Norm) -> None:
    net, images = Linear(), greys(10)
    far = 1.1 * float(net.distances(images, norm).max())
    settings = Attacks(l2=(far,), linf=(far,), steps=1, restarts=0)
    found = accuracies(net, {}, labelled(net, images), settings, norm)
    assert (found["alone", 0.0, 0, True], found["alone", far, 0, True]) == (10, 0)


def curved(seed: int) -> nn.Module:
    """Returns a net with many bends, on which an attack may end in a poor maximum."""
    torch.manual_seed(seed)
    layers = (nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 40), nn.Tanh(), nn.Linear(40, 5))
    net = nn.Sequential(*layers)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(4)
    return net.eval()


@pytest.mark.parametrize("norm", NORMS)
def test_neither_restarts_nor_a_larger_bound_ever_help_the_network(norm: Norm) -> None:
    with torch.random.fork_rng():
        net = curved(3)
    images = labelled(net, greys(15))
    images = replace(
        images, labels=torch.where(torch.arange(15) == 4, (images.labels + 1) % 5, images.labels)
    )
    bounds = (0.1, 0.2, 0.4) if norm == "l2" else (0.01, 0.02, 0.04)
    settings = Attacks(l2=bounds, linf=bounds, steps=3, restarts=3)
    found = accuracies(net, {"half": FusedClassifier(Halving(), net)}, images, settings, norm)
    for key in {(name, restarts, knows) for name, _, restarts, knows in found}:
        counts = [found[key[0], bound, *key[1:]] for bound in (0.0, *bounds)]
        assert counts[0] == 14 or key[0] == "half"
        assert all(larger <= smaller for smaller, larger in pairwise(counts))
    for name in ("alone", "half"):
        for bound in bounds:
            assert found[name, bound, 3, True] <= found[name, bound, 0, True]


def test_blocks_of_any_size_give_the_same_records(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.random.fork_rng():
        net = curved(5)
    images = labelled(net, greys(12))
    settings = Attacks(l2=(0.2,), linf=(), steps=3, restarts=2)
    usual = accuracies(net, {}, images, settings)
    monkeypatch.setattr(attacks, "BLOCK", 4)
    assert accuracies(net, {}, images, settings) == usual


def test_autoattack_tries_what_pgd_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []

    def perfect(net: nn.Module, images: Tensor, labels: Tensor, **_: object) -> Tensor:
        given.append(len(images))
        return images - 0.1 * torch.sign(net.get_parameter("weight")).view(images.shape[1:]) * (
            2 * labels - 1
        ).view(-1, 1, 1, 1)

    monkeypatch.setattr(adversaries, "autoattack", perfect)
    net, images = Linear(), greys(10)
    bound = float(net.distances(images, "linf").quantile(0.53))
    settings = Attacks(l2=(), linf=(bound,), steps=1, restarts=0, autoattack=True)
    data = labelled(net, images)
    run = run_of(
        Dataset(train=data, validation=data, test=data, class_names=("a", "b"), source=""), Notebook()
    )
    rows = attacked_accuracy(
        net, {}, data, name="alone", norm="linf", settings=settings, provenance=run.provenance,
        progress=lambda done, total: None,
    )  # fmt: skip
    by_attack = {row.attack: row for row in rows if row.epsilon}
    assert given == [by_attack["PGD"].correct]
    assert by_attack["AutoAttack"].correct == int((net.distances(images, "linf") > bound).sum())
    assert by_attack["AutoAttack"].steps == 100


class Rounding(nn.Module):
    """A restorer that rounds, so that its gradient is 0."""

    def forward(self, images: Tensor) -> Tensor:
        return (images * 255).round() / 255


class Detached(nn.Module):
    """A classifier outside of PyTorch."""

    def forward(self, images: Tensor) -> Tensor:
        return images.detach().mean(dim=(2, 3))


def test_a_net_that_lets_no_gradient_through_is_refused() -> None:
    net = Linear()
    require_attacks({"alone": net, "half": FusedClassifier(Halving(), net)}, greys(2))
    with pytest.raises(
        SettingError, match=r"round cannot be attacked .* its gradient, which is 0 or no number"
    ):
        require_attacks({"alone": net, "round": FusedClassifier(Rounding(), net)}, greys(2))
    with pytest.raises(
        SettingError, match=r"outside cannot be attacked .* its gradient, which does not exist"
    ):
        require_attacks({"outside": Detached()}, greys(2))


def test_what_measures_a_net_does_not_change_it() -> None:
    with torch.random.fork_rng():
        net = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5), curved(1)).train()
        pair = FusedClassifier(Halving(), net)
        images = labelled(nn.Sequential(net).eval(), greys(6))
        net.train()
        before = {name: value.clone() for name, value in net.state_dict().items()}
        accuracies(net, {"half": pair}, images, Attacks(l2=(0.2,), linf=(), steps=2, restarts=1))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(part.training for part in net.modules())
    assert all(each.requires_grad and each.grad is None for each in net.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"images": 0}, "images is 0"),
        ({"l2": (), "linf": ()}, "give at least one, each positive"),
        ({"l2": (0.0,)}, "each positive and finite"),
        ({"steps": 0}, "0 steps and 1 restarts"),
        ({"restarts": -1}, "40 steps and -1 restarts"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Attacks(**settings)  # type: ignore[arg-type]


def test_each_norm_is_a_stage_that_is_not_measured_twice(
    tiny_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, notes = SignNet(classes=4), Notebook()
    initialize_xavier(net, generator=torch.Generator().manual_seed(0))
    pairs = {"smooth": FusedClassifier(GaussianSmoothing(), net)}
    settings = Attacks(images=4, steps=2, restarts=1, l2=(0.5, 0.25))

    def measure() -> list[Measurement]:
        return measure_attacks(run_of(tiny_data, notes), net, pairs, tmp_path, settings, name="alone")

    records = measure()
    rows = select(records, Attacked)
    (told,) = [update.note for update in notes.updates if update.state == "noted"]
    assert told.startswith("at most ")
    assert "2 steps from 2 starts within each of 5 bounds, on 4 images and 2 networks" in told
    assert {row.samples for row in rows} == {4}
    alone = [row for row in rows if (row.norm, row.network, row.restarts) == ("l2", "alone", 0)]
    assert [row.epsilon for row in alone] == [0.0, 0.25, 0.5]
    assert {row.knows_restorer for row in rows if row.network == "alone"} == {True}
    assert "secml-torch" in dict(rows[0].provenance.versions)
    notes.updates.clear()
    with monkeypatch.context() as newer:
        newer.setattr(attacks, "METHOD", attacks.METHOD + 1)
        newer.setattr(attacks, "longest_time", lambda *_: "")
        newer.setattr(attacks, "attacked_accuracy", lambda *_, **__: [])
        assert measure() == [], "records of an older method are not reused"
    notes.updates.clear()
    assert measure() == records
    assert {update.stage: update.state for update in notes.updates} == {
        "attacks, l2": "skipped",
        "attacks, linf": "skipped",
    }
