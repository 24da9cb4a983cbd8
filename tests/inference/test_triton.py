"""A model repository is read by Triton's own definition of it, and agrees with the model that it holds."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import pytest
import torch
from torch import nn

from steadylens.checkpoints.loading import load
from steadylens.errors import SettingError
from steadylens.inference.export import export_triton, read_metadata, triton_config
from steadylens.inference.signature import Signature, signature_of
from steadylens.nets.classification import FusedClassifier, SignNet
from steadylens.nets.restoration import GaussianSmoothing, initialize_xavier
from tests.reading_triton import model_config, type_of


def read_config(folder: Path) -> Any:
    return model_config((folder / "config.pbtxt").read_text(encoding="utf-8"))


def classifier() -> nn.Module:
    net = FusedClassifier(GaussianSmoothing(), SignNet(2)).eval()
    initialize_xavier(net.classifier, generator=torch.Generator().manual_seed(0))
    return net


NETS: dict[str, tuple[nn.Module, dict[str, Any]]] = {
    "free": (GaussianSmoothing().eval(), {}),
    "fixed": (GaussianSmoothing().eval(), {"batch": 4, "size": (20, 30)}),
    "classifier": (classifier(), {}),
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with a model of each net; do not change it."""
    root = tmp_path_factory.mktemp("repository")
    for name, (net, fixed) in NETS.items():
        export_triton(net, root, name=name, about={"classes": ["stop", "give\nway"]}, **fixed)
    return root


@pytest.mark.parametrize("name", NETS)
def test_the_configuration_agrees_with_the_file(name: str, repository: Path) -> None:
    config = read_config(repository / name)
    # The server finds version 1 of a model of this backend in 1/model.onnx.
    session = onnxruntime.InferenceSession(repository / name / "1" / "model.onnx")
    combines = "batch" not in NETS[name][1]
    assert (config.name, config.backend) == (name, "onnxruntime")
    assert config.max_batch_size == (32 if combines else 0)
    assert config.HasField("dynamic_batching") == combines
    for tensors, values in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        for told, value in zip(tensors, values, strict=True):
            dims = [side if isinstance(side, int) else -1 for side in value.shape]
            assert combines == (dims[0] == -1)
            assert (told.name, list(told.dims)) == (value.name, dims[1:] if combines else dims)
            assert (type_of(told), value.type) == ("TYPE_FP32", "tensor(float)")


@pytest.mark.parametrize("name", ["free", "classifier"])
def test_the_model_runs_on_the_largest_batch_of_the_configuration(name: str, repository: Path) -> None:
    config = read_config(repository / name)
    (source,), (result,) = config.input, config.output
    shape = [config.max_batch_size, *(20 if side == -1 else side for side in source.dims)]
    images = np.random.default_rng(0).random(shape, dtype=np.float32)
    session = onnxruntime.InferenceSession(repository / name / "1" / "model.onnx")
    (found,) = session.run([result.name], {source.name: images})
    with torch.no_grad():
        wanted = NETS[name][0](torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)
    if result.label_filename:
        labels = (repository / name / result.label_filename).read_text(encoding="utf-8").splitlines()
        assert [len(labels)] == list(result.dims)


def test_the_names_of_classes_stand_in_a_file_of_their_own(repository: Path) -> None:
    folder = repository / "classifier"
    assert (folder / "labels.txt").read_text(encoding="utf-8") == "stop\ngive way\n"
    assert read_config(folder).output[0].label_filename == "labels.txt"
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {
        "1/model.onnx",
        "config.pbtxt",
        "labels.txt",
    }


def test_a_restorer_has_no_classes_whatever_it_was_trained_on(repository: Path) -> None:
    assert not (repository / "free" / "labels.txt").exists()
    assert not read_config(repository / "free").output[0].label_filename
    assert read_metadata(repository / "free" / "1" / "model.onnx")["classes"] == []


@pytest.mark.parametrize(
    "signature", [Signature(), Signature(batch=2, size=(3, 4)), Signature(classes=3, size=(3, 3))]
)
def test_any_name_of_a_model_is_read_as_it_is(signature: Signature) -> None:
    name = 'a "net" of \\ Köln'
    assert model_config(triton_config(name, signature, classes=("a", "b", "c"))).name == name


@pytest.mark.parametrize("name", ["", "../net", "a/b", ".", "a b"])
def test_a_name_that_is_no_folder_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="folder"):
        export_triton(nn.Identity().eval(), tmp_path, name=name)
    assert not list(tmp_path.iterdir())


def test_the_page_shows_the_configuration_that_is_written() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "deployment.md"
    config = triton_config("l11-gtsrb", signature_of(load("l11-gtsrb")))
    assert f"```\n{config}```\n" in page.read_text(encoding="utf-8")
