"""An augmentation that changes nothing, and what its tests share."""

import numpy as np
import scipy.stats
import torch

from steadylens.training.augmentation import StrongAugmentation

STILL = StrongAugmentation(
    rotation_degrees=0,
    scale=0,
    stretch=0,
    shear=0,
    shift=0,
    unmoved_share=0,
    light=0,
    blurred_share=0,
    hidden_share=0,
    noise_grey=0,
)
"""All amounts are 0; a test sets those that it is about."""


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def uniform_within(values: object, amount: float) -> bool:
    """Whether numbers look as if drawn uniformly between minus and plus the amount."""
    drawn = np.asarray(values)
    fits = scipy.stats.kstest(drawn, scipy.stats.uniform(-amount, 2 * amount).cdf).pvalue > 0.001
    return bool(fits and abs(drawn).max() <= amount * 1.005)
