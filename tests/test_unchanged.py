"""No function changes a net that it measures, applies, converts or saves, even one in train mode.

All functions that the package offers are looked through for arguments that are nets.
"""

import ast
import hashlib
import importlib
import inspect
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import steadylens
from steadylens.checkpoints.loading import LoadedNet, check_classes, count_classes
from steadylens.data.datasets import Dataset
from steadylens.devices import evaluating, forward_in_batches
from steadylens.evaluation import experiments
from steadylens.evaluation.stress import certify_image, measure_certificates
from steadylens.evaluation.workflows import evaluate_nets
from steadylens.images.preprocessing import Preprocessing, PreprocessingOptions
from steadylens.images.tensors import to_float
from steadylens.inference.export import export_triton
from steadylens.inference.restorer import restorer_of
from steadylens.inference.signature import Signature
from steadylens.nets.architecture import KINDS
from steadylens.nets.facts import CLASSIFYING, RESTORING
from steadylens.records import Accuracy, Stability, read_records
from steadylens.serving.payloads import Classifying
from steadylens.training.run import Run, Sampling
from tests.tiny_runs import TINY, Notebook, run_of

PACKAGE = Path(steadylens.__file__).parent


class Blur(nn.Module):
    """A restorer whose result in train mode differs, with statistics that a run in train mode overwrites."""

    kind, task, margin = "test of unchanged nets: Blur", RESTORING, 1

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Dropout(0.5))

    def config(self) -> dict[str, Any]:
        return {}

    def forward(self, images: Tensor) -> Tensor:
        return images + 0.1 * self.layers(images)  # type: ignore[no-any-return]


class Colour(nn.Module):
    """A classifier of the same kind, for four classes."""

    kind, task, input_size = "test of unchanged nets: Colour", CLASSIFYING, 48

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.AvgPool2d(16), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Flatten())
        self.head = nn.Linear(27, 4)

    def config(self) -> dict[str, Any]:
        return {}

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.layers(images))  # type: ignore[no-any-return]


@dataclass
class Given:
    """What a measuring function gets: two nets that a training loop left in train mode, and a run."""

    restorer: nn.Module
    classifier: nn.Module
    run: Run
    folder: Path

    @property
    def pair(self) -> steadylens.FusedClassifier:
        return steadylens.FusedClassifier(self.restorer, self.classifier, frozen=False)

    @property
    def loaded(self) -> tuple[LoadedNet, LoadedNet]:
        return LoadedNet(name="blur", module=self.restorer), LoadedNet(name="colour", module=self.classifier)


def state_of(net: nn.Module) -> str:
    """Returns a hash of all values, modes and flags of a net."""
    digest = hashlib.sha256()
    for name, value in net.state_dict().items():
        digest.update(f"{name} {value.dtype} {value.device} {value.stride()}".encode())
        digest.update(np.ascontiguousarray(value.detach().numpy()).tobytes())
    for name, part in net.named_modules():
        digest.update(f"{name} {part.training}".encode())
    for name, parameter in net.named_parameters():
        digest.update(f"{name} {parameter.requires_grad} {parameter.grad}".encode())
    return digest.hexdigest()


@pytest.fixture
def given(tiny_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undrawn: None) -> Given:
    for kind in (Blur, Colour):
        monkeypatch.setitem(KINDS, kind.kind, kind)  # is taken out again afterwards
    evaluation = replace(
        TINY.evaluation, psnr_sigmas_grey=(20,), psnr_images=4, exploration_images=4, exploration_versions=1,
        stability_sigmas_grey=(20,), stability_images=4, sampling=Sampling(versions=1), unclipped_images=2,
    )  # fmt: skip
    run = run_of(tiny_data, Notebook(), recipe=replace(TINY, evaluation=evaluation))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        nets = Blur(), Colour()
    nets[0].layers[0].requires_grad_(False)
    nets[1].layers[0].eval()  # a part that is not in the mode of the whole
    return Given(*nets, run, tmp_path)


CERTIFYING = steadylens.Certifying(first_versions=2, versions=12, images=2)

IMAGE = np.zeros((20, 20, 3), np.uint8)

MEASURES: dict[str, Callable[[Given], object]] = {
    "Classifying": lambda g: Classifying(
        g.classifier, torch.device("cpu"), signature=Signature(size=(48, 48), classes=4), classes=()
    )(torch.zeros(2, 3, 48, 48, dtype=torch.uint8)),
    "FusedClassifier": lambda g: steadylens.FusedClassifier(g.restorer, g.classifier),
    "LoadedNet": lambda g: g.loaded[0].in_front_of(g.loaded[1]),
    "PreparedClassifier": lambda g: steadylens.PreparedClassifier(
        g.classifier, Preprocessing(size=48)
    ).prepared_for(PreprocessingOptions(mean=(0.5,) * 3, std=(0.5,) * 3)),
    "certify": lambda g: steadylens.certify(
        g.run, {"pair": g.pair, "alone": g.classifier}, g.folder, first_versions=2, versions=12, images=2
    ),
    "certify_image": lambda g: certify_image(
        g.classifier, g.run.data.test.images[0], sigma=0.25, settings=CERTIFYING, generator=torch.Generator()
    ),
    "measure_certificates": lambda g: measure_certificates(g.run, {"pair": g.pair}, g.folder, CERTIFYING),
    "card": lambda g: [steadylens.card(net) for net in (g.restorer, g.loaded[1])],
    "check_classes": lambda g: check_classes(g.loaded[1], ("a", "b", "c", "d"), "data"),
    "compare": lambda g: steadylens.compare(
        g.run, g.classifier, {"pair": g.pair, "row": nn.Sequential(g.restorer, g.classifier)}, g.folder
    ),
    "count_classes": lambda g: count_classes(g.loaded[1]),
    "evaluate_nets": lambda g: evaluate_nets(g.run, g.loaded, g.folder),
    "export_net": lambda g: steadylens.export_net(g.pair, g.folder / "a.pt2", size=(48, 48)),
    "export_triton": lambda g: export_triton(g.restorer, g.folder, name="blur"),
    "fastest_engine": lambda g: steadylens.fastest_engine(g.restorer, seconds=0.001),
    "fuse_as_they_are": lambda g: steadylens.fuse_as_they_are(
        g.run, g.restorer, g.classifier, g.folder / "a.safetensors", name="a"
    ),
    "restore": lambda g: steadylens.restore(IMAGE, g.restorer),
    "restorer_of": lambda g: restorer_of(g.restorer)(torch.zeros(1, 3, 20, 20)),
    "save_model": lambda g: steadylens.save_model(g.folder / "a.safetensors", g.pair, about={}),
    "save_pretrained": lambda g: steadylens.save_pretrained(g.pair, g.folder / "net"),
}
"""A use of each function that gets nets and trains none of them."""

TRAINS = {
    "Training", "classifying_objective", "consistency_objective", "fine_tune", "fuse_label_free",
    "initialize_xavier", "pair_objective", "register_net", "restoring_objective", "train_restorer",
    "tune_restorer", "tune_together", "zero_last_layer",
}  # fmt: skip
"""What trains a net that it gets, or makes the weights of one."""

SAVES_FIRST = {"push_to_hub"}
"""What does nothing to a net but what `save_pretrained` does."""

NOT_OFFERED = {"Classifying", "check_classes", "count_classes", "export_triton"}
"""What is tried here although no face of a package names it."""

BY_ANY_CALLABLE = {"restore"}
"""What takes any function of images, so that its annotation names no net."""


def takes_a_net(function: object) -> bool:
    try:
        found = inspect.signature(function)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    kinds = r"\.Module\b|LoadedNet|FusedClassifier|~Net"
    return any(re.search(kinds, str(each.annotation)) for each in found.parameters.values())


def test_every_offered_function_that_takes_a_net_is_looked_at() -> None:
    found = set()
    for face in PACKAGE.glob("**/__init__.pyi"):
        package = importlib.import_module(".".join(("steadylens", *face.parent.relative_to(PACKAGE).parts)))
        tree = ast.parse(face.read_text(encoding="utf-8"))
        names = [node.names[0].name for node in tree.body if isinstance(node, ast.ImportFrom)]
        found |= {name for name in names if takes_a_net(getattr(package, name))}
    assert found == (MEASURES.keys() - NOT_OFFERED - BY_ANY_CALLABLE) | TRAINS | SAVES_FIRST


@pytest.mark.parametrize("name", MEASURES)
def test_what_measures_a_net_leaves_it_as_it_was(
    name: str, given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiments, "REPEATS", 1)
    before = state_of(given.restorer), state_of(given.classifier)
    MEASURES[name](given)
    assert (state_of(given.restorer), state_of(given.classifier)) == before


def test_tuning_changes_only_the_net_that_it_trains(given: Given) -> None:
    before = state_of(given.restorer), state_of(given.classifier)
    path = given.folder / "a.safetensors"
    steadylens.fine_tune(given.run, given.restorer, given.classifier, path, name="a")
    assert state_of(given.restorer) == before[0]
    assert state_of(given.classifier) != before[1]
    before = state_of(given.restorer), state_of(given.classifier)
    path = given.folder / "b.safetensors"
    steadylens.fuse_label_free(given.run, given.restorer, given.classifier, path, name="b")
    assert state_of(given.restorer) != before[0]
    assert state_of(given.classifier) == before[1]


def test_a_net_in_train_mode_gets_the_figures_that_it_gets_in_eval_mode(
    given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiments, "REPEATS", 1)

    def figures(folder: Path) -> list[object]:
        steadylens.compare(given.run, given.classifier, {"pair": given.pair}, folder)
        rows = read_records(folder / "records.jsonl")
        counts = [row.correct for row in rows if isinstance(row, Accuracy | Stability)]
        steadylens.export_net(given.classifier, folder / "a.onnx")
        images = given.run.data.test.images
        exported = steadylens.open_engine(folder / "a.onnx")(to_float(images))
        return [counts, steadylens.restore(images, given.restorer).tolist(), exported.tolist()]

    in_train_mode = figures(given.folder / "train")
    for net in (given.restorer, given.classifier):
        net.eval()
    assert figures(given.folder / "eval") == in_train_mode


def test_several_threads_measure_one_net_in_train_mode(given: Given) -> None:
    images = torch.rand(4, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    before = state_of(given.restorer)
    with evaluating(given.restorer):
        wanted = given.restorer(images)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: forward_in_batches(given.restorer, images, batch=4), range(60)))
    assert all(torch.equal(each, wanted) for each in found)
    assert state_of(given.restorer) == before


def test_a_program_without_a_method_eval_is_applied_too() -> None:
    program = torch.export.export(nn.Conv2d(3, 3, 1), (torch.zeros(1, 3, 16, 16),)).module()
    with pytest.raises(NotImplementedError):
        program.eval()
    images = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(steadylens.restore(images, program, margin=0, tile=16), program(images))
