"""Trains a small restorer and a classifier on drawn signs, fuses them, and compares answers under noise.

The classifier is a plain `nn.Sequential`: anything from images in [0, 1] to logits will do. All of this takes
seconds, so the nets learn little, and a few answers more or less are chance; `steadylens reproduce` trains at
full length, fine-tunes the classifier behind the restorer, and says how sure its numbers are.
"""

import numpy as np
import torch
from torch import Tensor, nn

from steadylens import (
    ChannelNormalization,
    Degradation,
    FusedClassifier,
    Gaussian,
    RestorationNet,
    Strength,
    psnr,
    to_float,
)
from steadylens.data.sources import CLASS_NAMES
from steadylens.data.synthetic_signs import draw_track
from steadylens.nets.restoration import initialize_xavier, zero_last_layer
from steadylens.training.loop import OneCycleAdam, Training
from steadylens.training.objectives import (
    LogSquaredError,
    Objective,
    classifying_objective,
    restoring_objective,
)

CLASSES = (1, 2, 7, 14, 17, 38)
NOISE = Degradation(families=(Gaussian(strength=Strength.fixed(50)),))


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
    zero_last_layer(restorer)  # it starts as the identity
    restoring = restoring_objective(
        restorer, images, degradation=NOISE, loss=LogSquaredError(), batch=8, patch=24
    )
    train(restorer, restoring, steps=80, rate=3e-3, generator=generator)

    alone = nn.Sequential(
        ChannelNormalization(mean=(0.45, 0.45, 0.45), std=(0.25, 0.25, 0.25)),
        *(nn.Conv2d(3, 16, 5, stride=2), nn.ReLU()),  # 48 -> 22
        *(nn.Conv2d(16, 32, 4, stride=2), nn.ReLU()),  # 22 -> 10
        *(nn.Flatten(), nn.Linear(32 * 10 * 10, len(CLASSES))),
    )
    initialize_xavier(alone, generator=generator)
    classifying = classifying_objective(alone, images, labels, batch=20)
    train(alone, classifying, steps=150, rate=1e-3, generator=generator)

    fused = FusedClassifier(restorer, alone).eval()

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
