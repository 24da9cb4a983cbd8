"""A net becomes plain data and comes back, whatever its kind; a new kind takes one line."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from steadylens.errors import SettingError
from steadylens.images.preprocessing import Fit, Preprocessing
from steadylens.nets.architecture import KINDS, build, describe, register_net
from steadylens.nets.classification import FusedClassifier, PreparedClassifier, SignNet
from steadylens.nets.facts import CLASSIFYING, RESTORING
from steadylens.nets.restoration import DongNet, GaussianSmoothing, RestorationNet
from steadylens.nets.restoration_unet import RestorationUNet
from steadylens.nets.third_party import timm_classifier, torchvision_classifier


class Stack(nn.Module):
    """A net of nets, as somebody may write it."""

    kind = "tests.Stack"
    task = RESTORING

    def __init__(self, first: nn.Module, second: nn.Module, *, weight: float = 1.0) -> None:
        super().__init__()
        self.first, self.second, self.weight = first, second, weight

    def config(self) -> dict[str, Any]:
        return {"first": self.first, "second": self.second, "weight": self.weight}


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Takes out what a test registered."""
    before = dict(KINDS)
    yield
    KINDS.clear()
    KINDS.update(before)


def prepared_by_transformers() -> PreparedClassifier:
    config = {
        "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8], "depths": [1], "num_channels": 3
    }  # fmt: skip
    architecture = {"kind": "transformers", "config": config, "size": 32}
    found = build(architecture)
    assert isinstance(found, PreparedClassifier)
    return found


def nested() -> FusedClassifier:
    behind = FusedClassifier(GaussianSmoothing(sigma_pixels=1.1), SignNet(classes=4))
    return FusedClassifier(RestorationNet(depth=3), behind)


NETS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "RestorationNet": (
        partial(RestorationNet, depth=5, channels=1, padding="reflect"),
        {"depth": 5, "channels": 1, "padding": "reflect"},
    ),
    "DongNet": (partial(DongNet, channels=4), {"channels": 4, "padding": "zeros"}),
    "GaussianSmoothing": (partial(GaussianSmoothing, sigma_pixels=1.3), {"sigma_pixels": 1.3}),
    "RestorationUNet": (partial(RestorationUNet, channels=1), {"channels": 1}),
    "Identity": (nn.Identity, {}),
    "SignNet": (partial(SignNet, classes=7, standardize=True), {"classes": 7, "standardize": True}),
    "FusedClassifier": (
        nested,
        {
            "restorer": {"kind": "RestorationNet", "depth": 3, "channels": 3, "padding": "zeros"},
            "classifier": {
                "kind": "FusedClassifier",
                "restorer": {"kind": "GaussianSmoothing", "sigma_pixels": 1.1},
                "classifier": {"kind": "SignNet", "classes": 4, "standardize": False},
            },
        },
    ),
    "timm": (
        partial(timm_classifier, "test_resnet", classes=5, size=48, fit=Fit(keeps_shape=True, side=52)),
        {"name": "test_resnet", "classes": 5, "size": 48, "fit": "crop:52"},
    ),
    "torchvision": (
        partial(torchvision_classifier, "shufflenet_v2_x0_5", classes=4, size=48, fit=Fit()),
        {"name": "shufflenet_v2_x0_5", "classes": 4, "size": 48},
    ),
}


def test_every_kind_is_tried() -> None:
    assert {*NETS, "transformers"} == KINDS.keys()


@pytest.mark.parametrize("kind", NETS)
def test_a_net_is_told_in_plain_data_as_files_hold_it(kind: str) -> None:
    make, settings = NETS[kind]
    assert describe(make()) == {"kind": kind, **settings}


@pytest.mark.parametrize(
    "make",
    [
        *(make for make, _ in NETS.values()),
        prepared_by_transformers,
        lambda: FusedClassifier(
            nn.Identity(),
            FusedClassifier(GaussianSmoothing(), timm_classifier("test_resnet", classes=5, size=48)),
        ),
        lambda: FusedClassifier(RestorationNet(depth=3), prepared_by_transformers()),
    ],
    ids=[*NETS, "transformers", "pair of a pair and timm", "pair with transformers"],
)
def test_a_description_is_plain_and_builds_the_same_architecture(make: Callable[[], nn.Module]) -> None:
    net = make()
    description = json.loads(json.dumps(describe(net)))
    again = build(description)
    assert type(again) is type(net)
    assert describe(again) == describe(net)
    shapes, others = (
        {name: value.shape for name, value in each.state_dict().items()} for each in (net, again)
    )
    assert shapes == others


def test_a_pair_is_frozen_unless_its_description_says_otherwise() -> None:
    thawed = FusedClassifier(GaussianSmoothing(), SignNet(), frozen=False)
    again = build(json.loads(json.dumps(describe(thawed))))
    assert isinstance(again, FusedClassifier)
    assert not again.frozen
    assert "frozen" not in describe(FusedClassifier(GaussianSmoothing(), SignNet()))


class Noted(nn.Module):
    kind, task = "tests.Noted", RESTORING

    def __init__(self, note: object) -> None:
        super().__init__()
        self.note = note

    def config(self) -> dict[str, Any]:
        return {"note": self.note}


@pytest.mark.parametrize("note", [{"kind": "DongNet"}, {"kind": 3, "held": 1}, {"a": {"kind": "b"}}, None])
def test_a_mapping_is_kept_as_it_is_whatever_its_keys(note: object) -> None:
    register_net(Noted)
    again = build(json.loads(json.dumps(describe(Noted(note)))))
    assert isinstance(again, Noted)
    assert again.note == note


@pytest.mark.parametrize("given", [3, {"kind": "a"}])
def test_a_config_that_is_no_dict_of_arguments_is_refused(given: Any) -> None:
    register_net(Noted)
    net = Noted(1)
    net.config = lambda: given  # type: ignore[method-assign]
    with pytest.raises(
        SettingError, match=r"config\(\) of a Noted gives .*; it must give a dict of the cons"
    ):
        describe(net)


def test_a_kind_of_ones_own_takes_one_line_and_may_hold_other_nets() -> None:
    assert register_net(Stack) is Stack
    assert register_net(Stack) is Stack, "twice is as good as once"
    net = Stack(Stack(nn.Identity(), DongNet()), GaussianSmoothing(), weight=0.5)
    again = build(json.loads(json.dumps(describe(net))))
    assert isinstance(again, Stack)
    assert isinstance(again.first, Stack)
    assert (again.weight, type(again.first.second), type(again.second)) == (0.5, DongNet, GaussianSmoothing)
    assert describe(FusedClassifier(net, SignNet()))["restorer"]["kind"] == "tests.Stack"


def test_it_may_be_written_above_the_class() -> None:
    @register_net
    class Flat(nn.Module):
        kind, task = "tests.Flat", CLASSIFYING

        def config(self) -> dict[str, Any]:
            return {}

    assert isinstance(build({"kind": "tests.Flat"}), Flat)


class Kindless(nn.Module):
    def config(self) -> dict[str, Any]:
        return {}


class Numbered(Kindless):
    kind = 3


class Unsettled(nn.Module):
    kind = "tests.Unsettled"


@pytest.mark.parametrize("made", [Kindless, Numbered, Unsettled])
def test_a_class_without_kind_or_config_is_not_registered(made: type[nn.Module]) -> None:
    with pytest.raises(
        SettingError, match=rf"{made.__name__} needs an attribute kind, a string, and a method con"
    ):
        register_net(made)
    assert "tests.Unsettled" not in KINDS


@pytest.mark.parametrize("task", [None, "restore"])
def test_a_class_without_a_task_is_not_registered(task: str | None) -> None:
    made = type("Idle", (Kindless,), {"kind": "tests.Idle", "task": task})
    with pytest.raises(SettingError, match=rf"Idle has the task {task!r}; give it 'image-to-image' or"):
        register_net(made)
    assert "tests.Idle" not in KINDS


def test_a_class_that_is_defined_again_takes_its_own_place() -> None:
    def define() -> type[nn.Module]:
        class Cell(Kindless):
            kind, task = "tests.Cell", RESTORING

        return Cell

    register_net(define())
    again = register_net(define())
    assert type(build({"kind": "tests.Cell"})) is again


@pytest.mark.parametrize("taken", ["tests.Stack", "RestorationNet", "timm", "Identity"])
def test_a_second_class_of_the_same_kind_is_refused(taken: str) -> None:
    register_net(Stack)
    before = KINDS[taken]
    second = type("Second", (Kindless,), {"kind": taken, "task": RESTORING})
    with pytest.raises(SettingError, match=f"another class has the kind '{taken}' already; give Second"):
        register_net(second)
    assert KINDS[taken] is before


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(
        SettingError, match=r"the architecture 'tests\.Stack' is unknown to this version; update"
    ):
        build({"kind": "tests.Stack"})
    with pytest.raises(SettingError, match="the architecture 'Deep' is unknown"):
        build({"kind": "FusedClassifier", "restorer": {"kind": "Deep"}, "classifier": {"kind": "SignNet"}})


def test_a_net_that_is_not_registered_is_not_described() -> None:
    with pytest.raises(
        SettingError, match=r"Stack cannot be saved: its kind 'tests\.Stack' is unknown; use reg"
    ):
        describe(Stack(nn.Identity(), nn.Identity()))
    with pytest.raises(SettingError, match="a Linear cannot be saved; save its state_dict yourself"):
        describe(FusedClassifier(nn.Identity(), nn.Linear(2, 2)))
    with pytest.raises(SettingError, match="save the restorer alone"):
        describe(PreparedClassifier(nn.Flatten(), Preprocessing(size=8)))


def test_a_pair_of_something_else_than_modules_is_refused() -> None:
    with pytest.raises(SettingError, match=r"a dict is no part of a pair; wrap it in an nn\.Module"):
        build({"kind": "FusedClassifier", "restorer": {"depth": 3}, "classifier": {"kind": "SignNet"}})


def test_a_net_comes_with_weights_of_its_own() -> None:
    one, other = (build(describe(RestorationNet(depth=3))) for _ in range(2))
    assert not torch.equal(next(one.parameters()), next(other.parameters()))
