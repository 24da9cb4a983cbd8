"""Attacks of other libraries: projected gradient descent of secml-torch, and AutoAttack of pyautoattack.

Neither library is relied on for what counts: `attacks` brings images into the bound, and asks the network.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from steadylens.errors import MissingExtraError
from steadylens.records import Norm

try:
    from secmlt.adv.evasion.modular_attacks.modular_attack import LOGIT_LOSS
    from secmlt.adv.evasion.modular_attacks.modular_attack_fixed_eps import ModularEvasionAttackFixedEps
    from secmlt.manipulations.manipulation import AdditiveManipulation
    from secmlt.models.pytorch.base_pytorch_nn import BasePyTorchClassifier
    from secmlt.optimization.constraints import ClipConstraint, L2Constraint, LInfConstraint
    from secmlt.optimization.gradient_processing import LinearProjectionGradientProcessing
    from secmlt.optimization.optimizer_factory import OptimizerFactory
    from secmlt.optimization.scheduler_factory import LRSchedulerFactory
except ImportError as error:
    raise MissingExtraError("secml-torch", "stress") from error
try:
    import pyautoattack
except ImportError as error:
    raise MissingExtraError("pyautoattack", "stress") from error

_MOST_TARGETS = 9
"""How many wrong classes the targeted attacks of AutoAttack's standard version aim at, if there are any."""


class _Placed(nn.Module):
    """A network with a parameter on its device, by which secml-torch finds the device."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.empty(0, device=device), requires_grad=False)
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)  # type: ignore[no-any-return]


def projected_gradient(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: Norm,
    epsilon: float,
    steps: int,
    start: Tensor,
) -> Tensor:
    """Returns images that projected gradient descent (PGD) changed so that the network errs, if it can.

    It raises the margin: the largest logit of a wrong class less the logit of the label. Unlike the
    cross-entropy, its gradient does not vanish where a network is sure. Each step is 2.5 epsilon / steps
    long, in the direction of the gradient, or of its signs for l-infinity; then the change is brought back
    into the bound, and the image into [0, 1]. The image with the largest margin of all steps is returned.

    Args:
        network: The classifier in eval mode, whose parameters need no gradient.
        images: Float (N, C, H, W) in [0, 1].
        labels: Integers (N,).
        norm: The norm that bounds the change of an image.
        epsilon: The bound.
        steps: Number of steps, at least 1.
        start: The change of each image from which the attack starts, of the images' shape.

    References:
        Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018; the margin
        is that of Carlini and Wagner, "Towards evaluating the robustness of neural networks", 2017.
    """
    step = 2.5 * epsilon / steps
    bound = L2Constraint(radius=epsilon) if norm == "l2" else LInfConstraint(radius=epsilon)
    attack = ModularEvasionAttackFixedEps(
        y_target=None,
        num_steps=steps + 1,  # the library never looks at where its last step leads
        step_size=step,
        loss_function=LOGIT_LOSS,
        optimizer_cls=OptimizerFactory.create_sgd(step),
        scheduler_cls=LRSchedulerFactory.create_no_scheduler(),
        manipulation_function=AdditiveManipulation(
            domain_constraints=[ClipConstraint(lb=0.0, ub=1.0)], perturbation_constraints=[bound]
        ),
        initializer=lambda clean: start.to(clean.device, clean.dtype).clone(),
        gradient_processing=LinearProjectionGradientProcessing(norm),
    )
    model = BasePyTorchClassifier(_Placed(network, images.device).eval())
    batches = [(images.cpu(), labels.cpu())]  # the library's own tensors are on the CPU
    with torch.enable_grad():
        changed, _ = next(iter(attack(model, batches, stream=True)))
    return changed.detach().to(images.device)  # type: ignore[no-any-return]


def autoattack(
    network: nn.Module, images: Tensor, labels: Tensor, *, norm: Norm, epsilon: float, seed: int
) -> Tensor:
    """Returns images that the standard version of AutoAttack changed so that the network errs, if it can.

    With fewer than four classes its loss of three logits does not exist; then the attacks that need it are
    left out.

    Args:
        network: The classifier in eval mode, whose parameters need no gradient.
        images: Float (N, C, H, W) in [0, 1].
        labels: Integers (N,).
        norm: The norm that bounds the change of an image.
        epsilon: The bound.
        seed: Seed of the attacks; PyTorch's global generators have the same state afterwards as before.

    References:
        Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
        parameter-free attacks", ICML 2020.
    """
    with torch.no_grad():
        classes = network(images[:1]).shape[1]
    few = classes < 4
    attack = pyautoattack.AutoAttack(
        network,
        attacks=["apgd-ce", "fab", "square"] if few else None,
        version="custom" if few else "standard",
        norm="L2" if norm == "l2" else "Linf",
        eps=epsilon,
        device=images.device,
        seed=seed % 2**32,
    )
    attack.verbose = False
    attack.apgd.n_restarts = 1
    attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(_MOST_TARGETS, classes - 1)
    with _globals_kept(images.device):
        changed, _ = attack.run_standard_evaluation(images, labels, batch_size=len(images))
    return changed.detach()  # type: ignore[no-any-return]


@contextmanager
def _globals_kept(device: torch.device) -> Iterator[None]:
    """Gives PyTorch's generators their state back after the block, and Python its trace function."""
    traced = sys.gettrace()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        sys.settrace(traced)
