"""Restorer + classifier as one module (Sec. 4.2)."""

from typing import Self

from torch import Tensor, nn


class FusedClassifier(nn.Module):
    """A frozen restorer whose output is the input of a classifier.

    Every row of Table 4 is this class with another restorer: `nn.Identity()`, `GaussianSmoothing()` or a
    trained `RestorationNet`. The restorer takes no gradient and stays in eval mode even when the whole is
    put in train mode; the classifier's own normalisation comes behind it, as the classifier's first layer.

    Args:
        restorer: Any module from images (N, C, H, W) in [0, 1] to such images. Its parameters are frozen.
        classifier: Any module from such images to logits (N, classes).

    Example:
        >>> import torch
        >>> from steadylens import GaussianSmoothing, SignNet
        >>> fused = FusedClassifier(GaussianSmoothing(), SignNet(classes=43)).eval()
        >>> fused(torch.rand(1, 3, 48, 48)).shape
        torch.Size([1, 43])
    """

    def __init__(self, restorer: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.restorer = restorer.requires_grad_(False).eval()
        self.classifier = classifier

    def train(self, mode: bool = True) -> Self:
        """Sets the classifier's mode; the restorer stays in eval mode."""
        self.training = mode
        self.classifier.train(mode)
        self.restorer.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (N, classes) for images (N, C, H, W) in [0, 1]."""
        return self.classifier(self.restorer(images))  # type: ignore[no-any-return]
