"""A net from outside the package, its class with a few facts and one line, does what ours do."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import steadylens
from steadylens.checkpoints.checkpoint import load_model
from steadylens.data.datasets import Dataset
from steadylens.nets.architecture import KINDS
from steadylens.nets.classification import FusedClassifier, SignNet
from steadylens.nets.facts import RESTORING
from steadylens.training.fusing import fuse_as_they_are, tune_restorer
from steadylens.training.stages import train_restorer
from tests.tiny_runs import STEPS, Notebook, run_of


class ShortcutNet(nn.Module):
    """Two convolutions beside a shortcut; each pads the border by itself."""

    kind = "outside.ShortcutNet"
    task = RESTORING
    purpose = "A net of two convolutions beside a shortcut."
    margin = 3

    def __init__(self, maps: int = 6) -> None:
        super().__init__()
        self.maps = maps
        self.layers = nn.Sequential(
            nn.Conv2d(3, maps, 3, padding=1), nn.LeakyReLU(), nn.Conv2d(maps, 3, 5, padding=2)
        )

    def config(self) -> dict[str, Any]:
        return {"maps": self.maps}

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = images + self.layers(images)
        return result


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """Registers the net for one test."""
    steadylens.register_net(ShortcutNet)
    yield
    del KINDS[ShortcutNet.kind]


def untrained() -> ShortcutNet:
    """Returns the same net each time."""
    with torch.random.fork_rng():
        torch.manual_seed(6)
        return ShortcutNet(maps=5)


@pytest.fixture
def file(tiny_data: Dataset, tmp_path: Path) -> Path:
    """Returns the file of a trained net."""
    path = tmp_path / "added.safetensors"
    train_restorer(run_of(tiny_data, Notebook()), untrained(), path)
    return path


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


def test_it_is_trained_in_place_and_the_file_tells_how(tiny_data: Dataset, tmp_path: Path) -> None:
    net, path, notebook = untrained(), tmp_path / "added.safetensors", Notebook()
    trained = train_restorer(run_of(tiny_data, notebook, seconds=1000), net, path)
    assert trained.module is net
    assert not net.training
    before = untrained().state_dict()
    assert not any(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert notebook.states == ["started", *["advanced"] * STEPS, "finished"]
    assert (trained.info.stage, trained.info.data) == ("restorer ShortcutNet", "coloured")
    assert trained.info.validation.keys() == {"noisy_db", "restored_db", "images"}
    assert steadylens.card(path).purpose == ShortcutNet.purpose


def test_its_training_goes_on_where_it_was_cut_off_and_is_not_done_twice(
    tiny_data: Dataset, file: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train_restorer(run_of(tiny_data, Notebook(limit=2)), untrained(), cut)
    notebook = Notebook()
    resumed = train_restorer(run_of(tiny_data, notebook), untrained(), cut)
    again = train_restorer(run_of(tiny_data, notebook), untrained(), file)
    assert [state for state in notebook.states if state != "advanced"] == ["resumed", "finished", "skipped"]
    for name, value in resumed.module.state_dict().items():
        assert torch.equal(value, again.module.state_dict()[name])
    with pytest.raises(steadylens.SteadylensError, match="was made with other data, settings or seed"):
        train_restorer(run_of(tiny_data, Notebook()), ShortcutNet(maps=5), file)


def test_it_comes_back_from_its_file(file: Path) -> None:
    net = steadylens.load(file)
    assert isinstance(net, ShortcutNet)
    assert net.maps == 5
    assert not net.training
    loaded = steadylens.load_net(file, task=RESTORING)
    assert loaded.task == RESTORING
    with torch.inference_mode():
        assert torch.equal(loaded.module(images(2, 3, 20, 30)), net(images(2, 3, 20, 30)))


def test_it_restores_an_image_in_tiles_as_the_whole(file: Path) -> None:
    net = steadylens.load(file)
    whole = images(1, 3, 70, 90)
    with torch.inference_mode():
        wanted = net(whole)
    for source in (file, net):
        found = steadylens.restore(whole, source, tile=32)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    photograph = (whole[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    assert steadylens.restore(photograph, file, tile=32).shape == (70, 90, 3)


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_it_is_exported(suffix: str, file: Path, tmp_path: Path) -> None:
    net = steadylens.load(file)
    exported = steadylens.export_net(net, tmp_path / f"added{suffix}")
    assert exported.signature.output_shape == ("batch", 3, "height", "width")
    with torch.inference_mode():
        found = steadylens.open_engine(exported.path)(images(2, 3, 21, 34))
        torch.testing.assert_close(found, net(images(2, 3, 21, 34)), rtol=0, atol=1e-5)


def test_it_stands_in_front_of_a_classifier_and_the_pair_is_kept(
    tiny_data: Dataset, file: Path, tmp_path: Path
) -> None:
    front, classifier = steadylens.load_net(file), SignNet(classes=4)
    path = tmp_path / "pair.safetensors"
    fused = fuse_as_they_are(run_of(tiny_data, Notebook()), front, classifier, path, name="pair").pair()
    pair = steadylens.load(path)
    assert isinstance(pair, FusedClassifier)
    assert isinstance(pair.restorer, ShortcutNet)
    with torch.inference_mode():
        signs = images(2, 3, 48, 48)
        assert torch.equal(pair(signs), fused(signs))
        assert torch.equal(pair(signs), classifier.eval()(front.module(signs)))
    assert load_model(path)[1]["origins"]["restorer"]["name"] == "added"


def test_it_is_tuned_for_a_classifier_without_labels(tiny_data: Dataset, file: Path, tmp_path: Path) -> None:
    net = steadylens.load(file)
    before = copy.deepcopy(net.state_dict())
    path = tmp_path / "tuned.safetensors"
    tuned = tune_restorer(run_of(tiny_data, Notebook()), net, SignNet(classes=4), path, name="added")
    assert isinstance(steadylens.load(path), ShortcutNet)
    assert any(not torch.equal(value, before[name]) for name, value in tuned.module.state_dict().items())


def test_without_the_line_its_file_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.delitem(KINDS, ShortcutNet.kind)
        with pytest.raises(
            steadylens.SteadylensError, match=r"the architecture 'outside\.ShortcutNet' is unknown"
        ):
            steadylens.load(file)
        # In memory it does all that needs no file.
        assert steadylens.restore(images(3, 40, 50), untrained(), tile=32).shape == (3, 40, 50)


def test_the_net_in_the_page_for_contributors_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.setitem(KINDS, "ShortcutNet", ShortcutNet)  # is taken out again afterwards
    del KINDS["ShortcutNet"]
    names: dict[str, Any] = {"__name__": "mine"}
    exec(code, names)  # noqa: S102 - our own page
    net = names["ShortcutNet"](maps=4).eval()
    steadylens.save_model(tmp_path / "net.safetensors", net, about={})
    loaded = steadylens.load(tmp_path / "net.safetensors")
    assert type(loaded) is names["ShortcutNet"]
    whole = images(1, 3, 70, 90)
    with torch.inference_mode():
        wanted = net(whole)
    torch.testing.assert_close(steadylens.restore(whole, loaded, tile=32), wanted, rtol=0, atol=1e-5)
