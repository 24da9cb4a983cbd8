"""Metrics of the experiments: image quality, contraction, accuracy."""

import math
from statistics import NormalDist

import torch
import torch.nn.functional as F
from torch import Tensor

from steadylens.errors import ImageError, SettingError
from steadylens.images.tensors import GREY_LEVELS, check_form, check_images

_WAVELET = (3**0.5 - 1, 3 - 3**0.5, -3 - 3**0.5, 1 + 3**0.5)
"""The high-pass filter of Daubechies' wavelet with two vanishing moments, times sqrt(32)."""

_NORMAL_MEDIAN = NormalDist().inv_cdf(0.75)
"""The median of the absolute value of a standard normal variable."""


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """Returns the peak signal-to-noise ratio of each image against its reference, Eq. (4).

    Eq. (4) is 10 log10(255^2 / MSE) in grey levels of 255; in [0, 1] the same is 10 log10(1 / MSE).

    Args:
        images: Degraded or restored images, float (N, C, H, W) in [0, 1]; values outside are not clipped.
        reference: The clean images, of the same shape.

    Returns:
        Decibels, (N,). The mean squared error is over all pixels and channels of one image; equal images
        give infinity.

    Raises:
        ImageError: If a batch is no float tensor (N, C, H, W), or the two shapes differ.
    """
    _check_pair(images, reference)
    return -10 * (images - reference).square().mean(dim=(1, 2, 3)).log10()


def estimate_noise(images: Tensor) -> Tensor:
    """Returns how strong the noise in each image is, from the image alone: a robust estimate.

    It is the median of the absolute values of the finest diagonal wavelet coefficients, divided by that of a
    standard normal variable. Coefficients that are 0, as in saturated areas, do not count. White
    Gaussian noise is met within a few percent. Fine texture counts as noise, one or two grey levels in most
    photographs; noise that is coarser than a pixel, as after JPEG or enlarging, hardly does.

    Args:
        images: Float (N, C, H, W) in [0, 1].

    Returns:
        Standard deviations in grey levels of 255, (N,): the mean over the channels. NaN for images of less
        than 4 pixels in height or width.

    Raises:
        ImageError: If it is no float tensor (N, C, H, W).

    References:
        Donoho and Johnstone, "Ideal spatial adaptation by wavelet shrinkage", 1994, Sec. 4.2.
    """
    check_images(images)
    count, channels, *sides = images.shape
    if min(sides) < len(_WAVELET):
        return images.new_full((count,), math.nan)
    planes = images.flatten(0, 1)[:, None].double()  # else rounding would hide which coefficients are 0
    high_pass = planes.new_tensor(_WAVELET) / 32**0.5
    sizes = F.conv2d(planes, torch.outer(high_pass, high_pass)[None, None], stride=2).flatten(1).abs()
    medians = torch.where(sizes < 1e-9, math.nan, sizes).nanmedian(dim=1).values.nan_to_num(nan=0.0)
    return (medians.view(count, channels).mean(dim=1) * GREY_LEVELS / _NORMAL_MEDIAN).to(images.dtype)


def hits(psnr_db: Tensor) -> tuple[Tensor, Tensor]:
    """Returns for each image which net restored it best, and which two nets restored it best (Table 2).

    Ties, infinite PSNRs included, go to the earlier net.

    Args:
        psnr_db: PSNR of each net's restored images, float (K, N) for K nets, at least two, and N images.

    Returns:
        Two bool tensors (K, N): the best net, one True per image; and the best two nets, two True per image.

    Raises:
        SettingError: If there are fewer than two nets, or a PSNR is NaN.
    """
    if psnr_db.ndim != 2 or psnr_db.shape[0] < 2:
        raise SettingError(
            f"PSNRs have shape {tuple(psnr_db.shape)}, (K, N) with at least two nets is needed; "
            "stack one row per net"
        )
    if psnr_db.isnan().any():
        raise SettingError("a PSNR is NaN and cannot be ranked; look for NaN in the restored images")
    ranking = psnr_db.sort(dim=0, descending=True, stable=True).indices
    no_net = torch.zeros_like(psnr_db, dtype=torch.bool)
    return no_net.scatter(0, ranking[:1], True), no_net.scatter(0, ranking[:2], True)


def contraction_quotients(
    restored_noisy: Tensor, restored_clean: Tensor, noisy: Tensor, clean: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns how much of the noise a restorer F lets through: ||F(x + nu) - F(x)|| / ||nu|| (Fig. 3).

    F contracts where the quotient is below 1. Norms are Euclidean, over all pixels and channels of one image.

    Args:
        restored_noisy: F(x + nu), float (N, C, H, W).
        restored_clean: F(x), of the same shape.
        noisy: x + nu, float (N, C, H, W); larger than the restored images if the net does not pad.
        clean: x, of the shape of `noisy`.

    Returns:
        The quotients, the norms ||nu|| and the norms ||F(x + nu) - F(x)||, each (N,). Without noise
        the quotient is 0, so that it is never the largest.

    Raises:
        ImageError: If a batch is no float tensor (N, C, H, W), or the shapes do not match.
    """
    check_form(restored_noisy)
    _check_shapes(restored_noisy, restored_clean)
    _check_pair(noisy, clean)
    if len(noisy) != len(restored_noisy):
        raise ImageError(
            f"there are {len(noisy)} noisy and {len(restored_noisy)} restored images; give one restored "
            "image for each"
        )
    noise_norms = torch.linalg.vector_norm(noisy - clean, dim=(1, 2, 3))
    restored_norms = torch.linalg.vector_norm(restored_noisy - restored_clean, dim=(1, 2, 3))
    quotients = torch.where(noise_norms == 0, 0, restored_norms / noise_norms)
    return quotients, noise_norms, restored_norms


def top_k(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Returns for each image whether its label is among the k classes with the largest logits.

    Ties count against the label: a classifier with equal logits for all classes is never right (unless k is
    the number of classes). NaN counts against the label too, in its own logit and in those of other classes.

    Args:
        logits: Float (N, classes).
        labels: Integers (N,), each in [0, classes).
        k: How many classes to look at, from 1 to classes.

    Returns:
        Bool (N,).

    Raises:
        SettingError: If the shapes do not match, k is out of range, or a label is no class.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise SettingError(
            f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} do not match; "
            "(N, classes) and (N,) are needed"
        )
    classes = logits.shape[1]
    if not 1 <= k <= classes:
        raise SettingError(f"k is {k}, it must be from 1 to the number of classes, {classes}")
    if labels.is_floating_point() or ((labels < 0) | (labels >= classes)).any():
        raise SettingError(f"labels must be integers from 0 to {classes - 1}; check the class list")
    of_label = logits.gather(1, labels.long()[:, None])
    before_label = (~(logits < of_label)).sum(dim=1) - 1  # without the label itself
    return before_label < k


def answers(logits: Tensor) -> Tensor:
    """Returns for each image the class with the largest logit, or -1 where none is larger than all others.

    An image whose answer is its label is right by `top_k` with k = 1, and no other is.

    Args:
        logits: Float (N, classes).

    Returns:
        int64 (N,).
    """
    best = logits.argmax(dim=1)
    others_below = (logits < logits.gather(1, best[:, None])).sum(dim=1) == logits.shape[1] - 1
    return torch.where(others_below, best, -1)


def _check_pair(images: Tensor, reference: Tensor) -> None:
    check_form(images)
    check_images(reference)
    _check_shapes(images, reference)


def _check_shapes(images: Tensor, reference: Tensor) -> None:
    if images.shape != reference.shape:
        raise ImageError(
            f"images have shape {tuple(images.shape)} and their reference {tuple(reference.shape)}; "
            "each image needs a reference of the same size"
        )
