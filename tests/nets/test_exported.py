"""An exported program becomes a classifier of plain images; it comes back as it was written, in silence."""

import warnings
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from steadylens.checkpoints.checkpoint import fingerprint, save_model
from steadylens.checkpoints.loading import load_classifier
from steadylens.errors import CheckpointError, SettingError
from steadylens.evaluation.experiments import multiplications
from steadylens.images.preprocessing import Preprocessing, PreprocessingOptions
from steadylens.nets.classification import FusedClassifier, PreparedClassifier
from steadylens.nets.exported import exported_classifier, onnx_classifier, read_program
from steadylens.nets.restoration import GaussianSmoothing
from tests.nets.small_body import MEAN, STD, body


def write_program(
    path: Path, net: nn.Module, *shapes: tuple[int, ...], dynamic: tuple[int, ...] = (0,)
) -> Path:
    """Exports a net for inputs of these shapes, whose axes `dynamic` may have any length."""
    inputs = tuple(torch.rand(shape) for shape in shapes)
    lengths = tuple(dict.fromkeys(dynamic, torch.export.Dim.DYNAMIC) for _ in shapes)
    torch.export.save(torch.export.export(net, inputs, dynamic_shapes=lengths), path)
    return path


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns an exported program of the small net; do not change it."""
    return write_program(tmp_path_factory.mktemp("program") / "net.pt2", body(), (2, 3, 8, 8))


def test_an_exported_program_answers_as_the_net_that_was_exported(program: Path) -> None:
    classifier = exported_classifier(program, PreprocessingOptions(mean=MEAN, std=STD))
    images = torch.rand(3, 3, 8, 8)
    assert classifier.input_size == 8
    expected = PreparedClassifier(body(), Preprocessing(size=8, mean=MEAN, std=STD))(images)
    torch.testing.assert_close(classifier(images), expected)
    assert classifier(images[:1]).shape == (1, 5)


def test_the_mode_of_an_exported_program_can_be_set_without_effect(program: Path) -> None:
    classifier = exported_classifier(program)
    fused = FusedClassifier(nn.Identity(), classifier)
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(fused.train()(images), fused.eval()(images))


def test_gradients_pass_through_an_exported_program(program: Path) -> None:
    net, classifier = body(), exported_classifier(program)
    one, other = (torch.full((2, 3, 8, 8), 0.5, requires_grad=True) for _ in range(2))
    classifier(one).square().sum().backward()
    net(other).square().sum().backward()
    torch.testing.assert_close(one.grad, other.grad)


def test_an_exported_program_can_be_fused_but_not_saved(program: Path, tmp_path: Path) -> None:
    classifier = exported_classifier(program)
    with pytest.raises(SettingError, match=r"exported program.* save the restorer alone"):
        save_model(tmp_path / "pair.safetensors", FusedClassifier(nn.Identity(), classifier), about={})


def test_a_program_for_any_size_needs_to_be_told_one(tmp_path: Path) -> None:
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    path = write_program(tmp_path / "net.pt2", net, (2, 3, 8, 8), dynamic=(0, 2, 3))
    with pytest.raises(SettingError, match="and give a size that fits"):
        exported_classifier(path)
    images = torch.rand(2, 3, 12, 12)
    torch.testing.assert_close(
        exported_classifier(path, PreprocessingOptions(size=12))(images), images.mean(dim=(2, 3))
    )


@pytest.mark.parametrize(
    ("shape", "dynamic", "size"),
    [((2, 3, 8, 8), (), None), ((2, 3, 8, 6), (0,), None), ((2, 3, 8, 8), (0,), 6)],
)
def test_a_program_that_reads_something_else_is_refused(
    shape: tuple[int, ...], dynamic: tuple[int, ...], size: int | None, tmp_path: Path
) -> None:
    path = write_program(tmp_path / "net.pt2", nn.Flatten(), shape, dynamic=dynamic)
    with pytest.raises(SettingError, match=r"net\.pt2 reads inputs of shape \(.*export it for one input"):
        exported_classifier(path, PreprocessingOptions(size=size))


def test_a_program_of_two_inputs_is_refused(tmp_path: Path) -> None:
    path = write_program(tmp_path / "net.pt2", nn.PairwiseDistance(), (2, 3, 8, 8), (2, 3, 8, 8))
    with pytest.raises(SettingError, match="export it for one input"):
        exported_classifier(path)


def test_a_missing_or_damaged_program_is_refused(program: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    path.write_bytes(program.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"net\.pt2 is damaged or no exported program; write it with"):
        exported_classifier(path)
    with pytest.raises(
        CheckpointError, match=r"absent\.pt2 does not exist; write it with torch\.export\.save"
    ):
        exported_classifier(tmp_path / "absent.pt2")
    torch.save({"weights": torch.rand(3)}, path)
    with pytest.raises(CheckpointError, match="damaged or no exported program"):
        exported_classifier(path)


def test_a_program_that_is_read_again_computes_the_same_and_nothing_is_warned_of(tmp_path: Path) -> None:
    net, images = nn.Conv2d(3, 4, 3).eval(), torch.rand(2, 3, 8, 9)
    torch.export.save(torch.export.export(net, (images,)), tmp_path / "net.pt2")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = read_program(tmp_path / "net.pt2").module()(images)
    assert [str(each.message) for each in caught if each.category is UserWarning] == []
    torch.testing.assert_close(found, net(images))


def test_what_is_no_program_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "net.pt2").write_bytes(b"no program")
    with pytest.raises(Exception, match=r"."):
        read_program(tmp_path / "net.pt2")


def write_onnx(path: Path, net: nn.Module, size: int, *, free: bool = True) -> Path:
    """Writes a net as ONNX, for any number of images or for one at a time."""
    images = torch.rand(2 if free else 1, 3, size, size)
    free_batch = ({0: torch.export.Dim.DYNAMIC},) if free else None
    program = torch.export.export(net, (images,), dynamic_shapes=free_batch)
    found: Any = torch.onnx.export(program, (), verbose=False)
    onnx.save(found.model_proto, path)
    return path


@pytest.mark.parametrize("free", [True, False])
def test_an_onnx_model_answers_behind_a_restorer_as_the_net_that_was_exported(
    free: bool, tmp_path: Path
) -> None:
    path = write_onnx(tmp_path / "net.onnx", body(), 8, free=free)
    classifier = onnx_classifier(path, PreprocessingOptions(mean=MEAN, std=STD))
    expected = PreparedClassifier(body(), Preprocessing(size=8, mean=MEAN, std=STD))
    restorer = GaussianSmoothing(sigma_pixels=0.5)
    images = torch.rand(3, 3, 8, 8)
    with torch.no_grad():
        wanted = FusedClassifier(restorer, expected)(images)
        torch.testing.assert_close(FusedClassifier(restorer, classifier)(images), wanted)
    assert multiplications(classifier, channels=3, size=8) == multiplications(expected, channels=3, size=8)
    assert load_classifier(path).module(images).shape == (3, 5)
    assert fingerprint(classifier) == fingerprint(
        onnx_classifier(path, PreprocessingOptions(mean=MEAN, std=STD))
    )
    with pytest.raises(SettingError, match="has no gradients, so no restorer can be tuned for it"):
        classifier(images.requires_grad_())
    with pytest.raises(SettingError, match="save the restorer alone"):
        save_model(tmp_path / "pair.safetensors", FusedClassifier(restorer, classifier), about={})


def test_an_onnx_model_that_is_damaged_or_reads_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no file"):
        onnx_classifier(tmp_path / "net.onnx")
    (tmp_path / "net.onnx").write_bytes(b"no model")
    with pytest.raises(CheckpointError, match="cannot be read as an ONNX model"):
        onnx_classifier(tmp_path / "net.onnx")
    write_onnx(tmp_path / "net.onnx", body(), 8)
    with pytest.raises(SettingError, match=r"images \(N, C, S, S\) with a free N, and give a size that fits"):
        onnx_classifier(tmp_path / "net.onnx", PreprocessingOptions(size=9))
