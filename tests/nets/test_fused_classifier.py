"""The fused net: what is frozen, what is trained, and that it is nothing but a composition."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steadylens.checkpoints.checkpoint import save_model
from steadylens.errors import ImageError, SettingError
from steadylens.evaluation.experiments import parameters
from steadylens.images.preprocessing import Preprocessing
from steadylens.nets.classification import FusedClassifier, PreparedClassifier, SignNet, as_pair
from steadylens.nets.restoration import GaussianSmoothing, RestorationNet
from steadylens.nets.restoration_unet import RestorationUNet
from tests.nets.small_body import MEAN, STD, body
from tests.paper import FUSED_PARAMETERS


def drawn_images(count: int) -> Tensor:
    return torch.rand(count, 3, 48, 48, generator=torch.Generator().manual_seed(0))


def small_fused() -> FusedClassifier:
    return FusedClassifier(RestorationNet(3), SignNet(classes=5))


def test_the_fused_net_has_the_parameters_of_the_paper() -> None:
    assert parameters(FusedClassifier(RestorationNet(), SignNet())) == FUSED_PARAMETERS == 1_520_860


@pytest.mark.parametrize(
    "restorer", [RestorationNet(3), GaussianSmoothing(), nn.Identity()], ids=["net", "smoothing", "identity"]
)
def test_the_fused_net_equals_the_classifier_of_what_the_restorer_returns(restorer: nn.Module) -> None:
    classifier, images = SignNet(classes=5).eval(), drawn_images(2)
    with torch.no_grad():
        assert torch.equal(FusedClassifier(restorer, classifier).eval()(images), classifier(restorer(images)))


class Learning(nn.Module):
    """A restorer with weights and with running statistics, in its own order of modes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3))
        self.layers[0].get_parameter("bias").requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = images + 0.1 * self.layers(images)
        return result


def descend(fused: FusedClassifier) -> Tensor:
    """Runs a backward pass through a pair; returns the images, which bear their gradient."""
    images = drawn_images(4).requires_grad_()
    torch.autograd.backward(F.cross_entropy(fused(images), torch.tensor([0, 1, 2, 3])))
    return images


def values(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def moved(before: dict[str, Tensor], module: nn.Module) -> set[str]:
    """Returns the names of the weights and buffers that are no longer what they were."""
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


STATISTICS = {"layers.1.running_mean", "layers.1.running_var", "layers.1.num_batches_tracked"}


@pytest.mark.parametrize("given", [True, False], ids=["in train mode", "in eval mode"])
def test_a_pair_changes_nothing_in_the_nets_that_it_is_given(given: bool) -> None:
    restorer, classifier = Learning().train(given), SignNet(classes=5).train(not given)
    wishes = [tensor.requires_grad for net in (restorer, classifier) for tensor in net.parameters()]
    modes = [part.training for net in (restorer, classifier) for part in net.modules()]
    FusedClassifier(restorer, classifier)
    assert wishes == [tensor.requires_grad for net in (restorer, classifier) for tensor in net.parameters()]
    assert modes == [part.training for net in (restorer, classifier) for part in net.modules()]
    assert wishes.count(False) == 1


@pytest.mark.parametrize("given", [True, False], ids=["in train mode", "in eval mode"])
def test_a_backward_pass_leaves_a_frozen_restorer_as_it_is(given: bool) -> None:
    restorer = Learning()
    fused = FusedClassifier(restorer, SignNet(classes=5)).train()
    restorer.train(given)  # as somebody may have done who holds it elsewhere too
    wishes = [tensor.requires_grad for tensor in restorer.parameters()]
    before, modes = values(restorer), [part.training for part in restorer.modules()]
    images = descend(fused)
    assert all(tensor.grad is None for tensor in restorer.parameters())
    assert moved(before, restorer) == set()
    assert modes == [part.training for part in restorer.modules()]
    assert wishes == [tensor.requires_grad for tensor in restorer.parameters()]
    assert all(tensor.grad is not None for tensor in fused.classifier.parameters())
    assert images.grad is not None
    assert images.grad.any()


@pytest.mark.parametrize("given", [True, False], ids=["in train mode", "in eval mode"])
def test_a_compiled_pair_leaves_a_frozen_restorer_as_it_is(given: bool) -> None:
    restorer = Learning().train(given)
    fused = FusedClassifier(restorer, SignNet(classes=5))
    before = values(restorer)
    logits = torch.compile(fused, backend="eager")(drawn_images(4))
    torch.autograd.backward(F.cross_entropy(logits, torch.tensor([0, 1, 2, 3])))
    assert all(tensor.grad is None for tensor in restorer.parameters())
    assert moved(before, restorer) == set()
    assert all(tensor.grad is not None for tensor in fused.classifier.parameters())


def test_a_frozen_restorer_may_be_a_module_whose_weights_cannot_be_exchanged() -> None:
    restorer, classifier = Learning().eval(), SignNet(classes=5).eval()
    images = drawn_images(2)
    pair = FusedClassifier(nn.DataParallel(restorer), classifier).eval()
    torch.testing.assert_close(pair(images), classifier(restorer(images)))


def test_the_images_get_the_same_gradient_from_a_frozen_restorer_as_from_one_without_weights_to_learn() -> (
    None
):
    restorer, classifier = Learning().eval(), SignNet(classes=5).eval()
    frozen = descend(FusedClassifier(restorer, classifier).eval()).grad
    plain = descend(FusedClassifier(restorer.requires_grad_(False), classifier, frozen=False).eval()).grad
    torch.testing.assert_close(frozen, plain)


def test_a_restorer_that_is_not_frozen_learns_and_so_do_its_running_statistics() -> None:
    restorer = Learning()
    fused = FusedClassifier(restorer, SignNet(classes=5), frozen=False).train()
    assert all(part.training for part in fused.modules())
    before = values(restorer)
    descend(fused)
    silent = {name for name, tensor in restorer.named_parameters() if tensor.grad is None}
    assert silent == {"layers.0.bias"}, "what was told not to learn does not"
    assert moved(before, restorer) == STATISTICS
    optimizer = torch.optim.SGD(fused.parameters(), lr=0.1)
    optimizer.step()
    assert moved(before, restorer) == STATISTICS | {"layers.0.weight", "layers.1.weight", "layers.1.bias"}


def test_a_restorer_can_be_let_go_and_be_frozen_again() -> None:
    restorer = Learning()
    fused = FusedClassifier(restorer, SignNet(classes=5)).train()
    fused.frozen = False
    fused.train()
    before = values(restorer)
    descend(fused)
    assert restorer.get_parameter("layers.0.weight").grad is not None
    assert moved(before, restorer) == STATISTICS
    fused.frozen = True
    fused.train()
    fused.zero_grad(set_to_none=True)
    before = values(restorer)
    descend(fused)
    assert all(tensor.grad is None for tensor in restorer.parameters())
    assert moved(before, restorer) == set()
    assert not any(part.training for part in restorer.modules())


def test_gradients_reach_every_layer_of_the_classifier_and_none_of_the_restorer() -> None:
    fused = small_fused().train()
    descend(fused)
    assert all(tensor.grad is None for tensor in fused.restorer.parameters())
    silent = [
        name
        for name, tensor in fused.classifier.named_parameters()
        if tensor.grad is None or not tensor.grad.any()
    ]
    assert silent == []


def test_gradients_pass_through_the_restorer_to_the_images() -> None:
    images = drawn_images(1).requires_grad_()
    small_fused().eval()(images).sum().backward()
    assert images.grad is not None
    assert images.grad.any()


def test_training_changes_the_classifier_alone() -> None:
    fused = small_fused().train()
    restorer_before = [tensor.clone() for tensor in fused.restorer.parameters()]
    classifier_before = [tensor.clone() for tensor in fused.classifier.parameters()]
    optimizer = torch.optim.SGD(fused.parameters(), lr=0.1, weight_decay=0.1)
    torch.autograd.backward(F.cross_entropy(fused(drawn_images(4)), torch.tensor([0, 1, 2, 3])))
    optimizer.step()
    assert all(map(torch.equal, restorer_before, fused.restorer.parameters()))
    assert not any(map(torch.equal, classifier_before, fused.classifier.parameters()))


def test_the_restorer_stays_in_eval_mode_when_the_whole_is_put_in_train_mode() -> None:
    # Batch normalisation is the layer that would change by itself in train mode.
    fused = FusedClassifier(nn.Sequential(nn.BatchNorm2d(3)).train(), SignNet(classes=5).eval())
    assert fused.train() is fused
    assert fused.training
    assert all(part.training for part in fused.classifier.modules())
    assert not any(part.training for part in fused.restorer.modules())
    before = {name: tensor.clone() for name, tensor in fused.restorer.state_dict().items()}
    fused(drawn_images(2))
    assert all(torch.equal(before[name], tensor) for name, tensor in fused.restorer.state_dict().items())


def test_eval_mode_reaches_both_parts() -> None:
    fused = small_fused().train()
    fused.eval()
    assert not any(part.training for part in fused.modules())


def test_restoration_sees_plain_images_at_the_size_of_the_classifier() -> None:
    seen: list[Tensor] = []
    restorer = nn.Identity()
    restorer.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    fused = FusedClassifier(
        restorer, PreparedClassifier(body(), Preprocessing(size=8, mean=MEAN, std=STD))
    ).eval()
    images = torch.rand(3, 3, 8, 8)
    fused(images)
    assert torch.equal(seen[0], images)


def test_a_sequence_of_a_restorer_and_a_classifier_is_a_pair() -> None:
    restorer, classifier = GaussianSmoothing(), SignNet(4).eval()
    pair = as_pair(nn.Sequential(restorer, classifier))
    assert (pair.restorer, pair.classifier) == (restorer, classifier)
    assert as_pair(pair) is pair
    rows = (
        nn.Sequential(*row) for row in ([restorer], [classifier, restorer], [restorer, restorer, classifier])
    )
    for net in (classifier, *rows):
        with pytest.raises(SettingError, match=r"is no pair.*give FusedClassifier\(restorer, classifier\)"):
            as_pair(net)


def test_a_module_of_ones_own_can_be_fused_but_not_saved(tmp_path: Path) -> None:
    fused = FusedClassifier(nn.Identity(), PreparedClassifier(body(), Preprocessing(size=8)))
    with pytest.raises(
        SettingError, match="save the restorer alone and put it in front of the classifier again"
    ):
        save_model(tmp_path / "pair.safetensors", fused, about={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("restorer", "classifier", "told"),
    [
        (SignNet(4), RestorationNet(3), "SignNet is a classifier and was given as the restorer"),
        (
            RestorationNet(3),
            GaussianSmoothing(),
            "GaussianSmoothing is a restorer and was given as the class",
        ),
        (small_fused(), SignNet(4), "FusedClassifier is a classifier and was given as the restorer"),
    ],
)
def test_parts_in_the_wrong_place_are_refused_by_name(
    restorer: nn.Module, classifier: nn.Module, told: str
) -> None:
    with pytest.raises(SettingError, match=told):
        FusedClassifier(restorer, classifier)


def test_an_empty_batch_has_no_answers() -> None:
    for restorer in (RestorationNet(3), RestorationUNet(), GaussianSmoothing(), nn.Identity()):
        for frozen in (True, False):
            pair = FusedClassifier(restorer, SignNet(classes=5), frozen=frozen).eval()
            assert pair(drawn_images(3)[:0]).shape == (0, 5)


class Overshooting(nn.Module):
    """A restorer that leaves [0, 1] by much."""

    def forward(self, images: Tensor) -> Tensor:
        return 10 * images - 5


@pytest.mark.parametrize("frozen", [True, False])
def test_what_a_restorer_makes_reaches_the_classifier_whatever_its_range(frozen: bool) -> None:
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)).round()
    behind = PreparedClassifier(body(), Preprocessing(size=8, mean=MEAN, std=STD)).eval()
    with pytest.raises(ImageError, match=r"reach from -5 to 5"):
        behind(Overshooting()(images))
    pair = FusedClassifier(Overshooting(), behind, frozen=frozen).eval()
    with torch.inference_mode():
        restored = 10 * images - 5
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        assert torch.equal(pair(images), behind.body((restored - mean) / std))
    with pytest.raises(ImageError, match="reach from -5 to 5"):
        pair(restored)
    with pytest.raises(ImageError, match="reach from -5 to 5"):
        behind(restored)


def test_an_exported_pair_hands_on_what_overshoots_as_the_pair_does() -> None:
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    behind = PreparedClassifier(body(), Preprocessing(size=8, mean=MEAN, std=STD))
    pair = FusedClassifier(Overshooting(), behind).eval()
    expected = pair(images)
    exported = torch.export.export(pair, (images,)).module()
    torch.testing.assert_close(exported(images), expected)
