"""The fused net: what is frozen, what is trained, and that it is nothing but a composition."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steadylens.classification import SignNet
from steadylens.fusion import FusedClassifier
from steadylens.metrics import parameters
from steadylens.paper import FUSED_PARAMETERS
from steadylens.restoration import GaussianSmoothing, RestorationNet


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


def test_every_parameter_of_the_restorer_is_frozen_and_none_of_the_classifier() -> None:
    fused = small_fused()
    assert not any(tensor.requires_grad for tensor in fused.restorer.parameters())
    assert all(tensor.requires_grad for tensor in fused.classifier.parameters())


def test_gradients_reach_every_layer_of_the_classifier_and_none_of_the_restorer() -> None:
    fused = small_fused().train()
    torch.autograd.backward(F.cross_entropy(fused(drawn_images(4)), torch.tensor([0, 1, 2, 3])))
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
    assert not any(part.training for part in fused.restorer.modules())
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
