"""Any module becomes a classifier of plain images; an exported program too."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from steadylens.checkpoint import save_model
from steadylens.errors import CheckpointError, ImageError, SettingError
from steadylens.fitting import Fit
from steadylens.fusion import FusedClassifier
from steadylens.preparation import PreparedClassifier, exported_classifier

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def body() -> nn.Module:
    """Returns the same small net each time."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        layers = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))
    return nn.Sequential(*layers).eval()


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


# Any module.


def test_the_normalisation_comes_first() -> None:
    net = body()
    classifier = PreparedClassifier(net, size=8, mean=MEAN, std=STD)
    images = torch.rand(3, 3, 8, 8)
    by_hand = torch.stack([(images[:, c] - MEAN[c]) / STD[c] for c in range(3)], dim=1)
    torch.testing.assert_close(classifier(images), net(by_hand))


def test_restoration_sees_plain_images_at_the_size_of_the_classifier() -> None:
    seen: list[Tensor] = []
    restorer = nn.Identity()
    restorer.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    fused = FusedClassifier(restorer, PreparedClassifier(body(), size=8, mean=MEAN, std=STD)).eval()
    images = torch.rand(3, 3, 8, 8)
    fused(images)
    assert torch.equal(seen[0], images)


def test_logits_within_an_output_are_taken() -> None:
    class Wrapped(nn.Module):
        def forward(self, images: Tensor) -> object:
            return type("Output", (), {"logits": images.mean(dim=(2, 3))})()

    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(PreparedClassifier(Wrapped(), size=8)(images), images.mean(dim=(2, 3)))


@pytest.mark.parametrize(
    "make", [nn.Identity, lambda: nn.Flatten(0), lambda: nn.MaxPool2d(8, return_indices=True)]
)
def test_what_is_no_logits_is_refused(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(SettingError, match=r"returns (Tensor|tuple).*, not logits \(N, classes\); wrap it"):
        PreparedClassifier(make(), size=8)(torch.rand(2, 3, 8, 8))


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ImageError, match="images are 9x8 pixels, this classifier reads 8x8; load or resize"):
        PreparedClassifier(body(), size=8)(torch.rand(2, 3, 9, 8))


@pytest.mark.parametrize(
    ("size", "mean", "std"),
    [(0, MEAN, STD), (8, (0.5,), (0.5,)), (8, MEAN, (1.0, 1.0)), (8, MEAN, (1.0, 0.0, 1.0))],
)
def test_settings_that_are_none_are_refused(
    size: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    with pytest.raises(SettingError, match="std"):
        PreparedClassifier(body(), size=size, mean=mean, std=std)


def test_a_fit_that_does_not_reach_the_size_is_refused() -> None:
    with pytest.raises(SettingError, match="of which no 8 can be cut out"):
        PreparedClassifier(body(), size=8, fit=Fit(side=7))


def test_a_fit_is_shown_and_described_unless_it_is_the_plain_one() -> None:
    plain, cropped = (
        PreparedClassifier(body(), size=8, fit=fit, architecture={"kind": "mine"})
        for fit in (Fit(), Fit(keeps_shape=True, side=10))
    )
    assert plain.described() == {"kind": "mine"}
    assert cropped.described() == {"kind": "mine", "fit": "crop:10"}
    assert "fit" not in str(plain)
    assert "size=8, fit=crop:10" in str(cropped)


def test_a_module_of_ones_own_can_be_fused_but_not_saved(tmp_path: Path) -> None:
    fused = FusedClassifier(nn.Identity(), PreparedClassifier(body(), size=8))
    with pytest.raises(
        SettingError, match="save the restorer alone and put it in front of the classifier again"
    ):
        save_model(tmp_path / "pair.safetensors", fused, about={})
    assert list(tmp_path.iterdir()) == []


# Exported programs.


def test_an_exported_program_answers_as_the_net_that_was_exported(program: Path) -> None:
    classifier = exported_classifier(program, mean=MEAN, std=STD)
    images = torch.rand(3, 3, 8, 8)
    assert classifier.size == 8
    expected = PreparedClassifier(body(), size=8, mean=MEAN, std=STD)(images)
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
    with pytest.raises(SettingError, match="and give a size that it reads"):
        exported_classifier(path)
    images = torch.rand(2, 3, 12, 12)
    torch.testing.assert_close(exported_classifier(path, size=12)(images), images.mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("shape", "dynamic", "size"),
    [((2, 3, 8, 8), (), None), ((2, 3, 8, 6), (0,), None), ((2, 3, 8, 8), (0,), 6)],
)
def test_a_program_that_reads_something_else_is_refused(
    shape: tuple[int, ...], dynamic: tuple[int, ...], size: int | None, tmp_path: Path
) -> None:
    path = write_program(tmp_path / "net.pt2", nn.Flatten(), shape, dynamic=dynamic)
    with pytest.raises(SettingError, match=r"net\.pt2 reads inputs of shape \(.*export it for one input"):
        exported_classifier(path, size=size)


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
