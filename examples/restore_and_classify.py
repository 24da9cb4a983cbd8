"""Trains a small restorer and a classifier on drawn signs, fuses them, and compares answers under noise.

It takes seconds, so the nets learn little; `steadylens reproduce` does the same at full length.
"""

import copy

import numpy as np
import torch
from torch import Tensor, nn

from steadylens import (
    Degradation,
    FusedClassifier,
    Gaussian,
    RestorationNet,
    SignNet,
    Strength,
    psnr,
    to_float,
)
from steadylens.gtsrb import CLASS_NAMES
from steadylens.initialization import initialize_xavier, silence_last_layer
from steadylens.losses import LogSquaredError
from steadylens.optimization import OneCycleAdam
from steadylens.signs import draw_track
from steadylens.training import Objective, Training, classifying_objective, restoring_objective

CLASSES = (13, 17, 38)
NOISE = Degradation(families=(Gaussian(strength=Strength.fixed(40)),))


def draw_signs(tracks: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Draws views of new signs: uint8 (N, 3, 48, 48) and their labels, int64 (N,)."""
    rng = np.random.default_rng(seed)
    views = [draw_track(sign, frames=4, rng=rng) for sign in CLASSES for _ in range(tracks)]
    images = torch.from_numpy(np.concatenate(views))
    return images, torch.arange(len(CLASSES)).repeat_interleave(len(images) // len(CLASSES))


def train(
    net: nn.Module, objective: Objective, *, steps: int, rate: float, generator: torch.Generator
) -> None:
    """Trains a net in place; the loop yields after every step, for whoever wants to look."""
    optimization = OneCycleAdam(learning_rate=rate)
    training = Training(net, objective, optimization=optimization, steps=steps, generator=generator)
    for _progress in training.run():
        pass
    net.eval()


def main() -> None:
    """Trains, fuses, and prints what restoring changes."""
    generator = torch.Generator().manual_seed(0)
    images, labels = draw_signs(12, seed=1)

    restorer = RestorationNet(depth=3)
    initialize_xavier(restorer, generator=generator)
    silence_last_layer(restorer)  # it starts as the identity
    restoring = restoring_objective(
        restorer, images, degradation=NOISE, loss=LogSquaredError(), batch=10, patch=24
    )
    train(restorer, restoring, steps=100, rate=3e-3, generator=generator)

    alone = SignNet(classes=len(CLASSES))
    initialize_xavier(alone, generator=generator)
    alone.fit_mean(images)
    classifying = classifying_objective(alone, images, labels, batch=10)
    train(alone, classifying, steps=40, rate=1e-3, generator=generator)

    fused = FusedClassifier(restorer, copy.deepcopy(alone))
    tuning = classifying_objective(fused, images, labels, batch=10, degradation=NOISE)
    train(fused, tuning, steps=30, rate=5e-4, generator=generator)

    unseen, truth = draw_signs(8, seed=2)
    clean = to_float(unseen)
    noisy = NOISE(clean, generator=generator)
    with torch.inference_mode():
        restored = NOISE.stored(restorer(noisy))
        right_alone, right_fused = (int((net(noisy).argmax(dim=1) == truth).sum()) for net in (alone, fused))
    print(f"classes: {', '.join(CLASS_NAMES[sign] for sign in CLASSES)}")
    print(f"PSNR: {psnr(noisy, clean).mean():.1f} dB noisy, {psnr(restored, clean).mean():.1f} dB restored")
    print(f"right of {len(truth)} noisy signs: {right_alone} alone, {right_fused} fused")


if __name__ == "__main__":
    main()
