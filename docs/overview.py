"""Draws the picture at the top of the README with the packaged classifiers, on synthetic signs.

Usage: python docs/overview.py docs/images/overview.png
"""

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from steadylens import FusedClassifier, load, load_dataset, to_float, to_uint8
from steadylens.devices import forward_in_batches
from steadylens.noise.degradation import gaussian_degradation

SIGMA_GREY = 25.0
SHOWN = 2
COLUMNS = ("noisy", "pattern", "restored")
RIGHT, WRONG = "#1b7f4d", "#b3261e"


def main(out: Path) -> None:
    """Draws the most contrasted signs whose answer noise changes and the pair brings back."""
    original, fused = load("sign-gtsrb"), load("fused-gtsrb")
    assert isinstance(fused, FusedClassifier)
    data = load_dataset("signs")
    clean = to_float(data.test.images)
    degrade = gaussian_degradation(SIGMA_GREY)
    noisy = degrade(clean, generator=torch.Generator().manual_seed(0))
    before = forward_in_batches(original, noisy).argmax(dim=1)
    right_when_clean = forward_in_batches(original, clean).argmax(dim=1) == data.test.labels
    candidates = (right_when_clean & (before != data.test.labels)).nonzero().flatten()
    after = forward_in_batches(fused, noisy[candidates]).argmax(dim=1)
    saved = candidates[after == data.test.labels[candidates]]
    chosen = _of_different_classes(saved, data.test.labels, noisy)
    with torch.inference_mode():
        restored = fused.restorer(noisy[chosen])
    figure = Figure(figsize=(8.2, 1.75 * len(chosen)), dpi=110, layout="constrained", facecolor="white")
    for row, index in enumerate(chosen.tolist()):
        images = (noisy[index], 0.5 + 2 * (restored[row] - noisy[index]), restored[row])
        for column, (title, image) in enumerate(zip(COLUMNS, images, strict=True)):
            axes = figure.add_subplot(len(chosen), 4, row * 4 + column + 1)
            axes.imshow(to_uint8(image).permute(1, 2, 0).numpy(), interpolation="nearest")
            axes.axis("off")
            if row == 0:
                axes.set_title(title, fontsize=12)
        axes = figure.add_subplot(len(chosen), 4, row * 4 + 4)
        axes.axis("off")
        if row == 0:
            axes.set_title("answer", fontsize=12)
        wrong, right = data.class_names[int(before[index])], data.class_names[int(data.test.labels[index])]
        axes.text(0, 0.72, f"alone:\n{wrong}", color=WRONG, va="center", fontsize=9, wrap=True)
        axes.text(0, 0.28, f"restored:\n{right}", color=RIGHT, va="center", fontsize=9, wrap=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)


def _of_different_classes(indices: Tensor, labels: Tensor, noisy: Tensor) -> Tensor:
    """Returns the brightest-contrasted candidate of each class, the most contrasted classes first."""
    contrast = {int(index): float(noisy[index].std()) for index in indices}
    best: dict[int, int] = {}
    for index in sorted(contrast, key=lambda each: -contrast[each]):
        best.setdefault(int(labels[index]), index)
    return torch.tensor(list(best.values())[:SHOWN])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
