"""
Stress a classifier
===================

At which noise does a classifier begin to answer wrong, and how much later behind a restorer? Gaussian noise
alone does not tell: here five types of noise rise in strength.
"""

import matplotlib.pyplot as plt
import torch

from steadylens import (
    Degradation,
    FusedClassifier,
    Gaussian,
    Laplacian,
    Sparse,
    Strength,
    Uniform,
    load,
    load_dataset,
    to_float,
)
from steadylens.noise import Family

# %%
# The classifier reads traffic signs; take your own instead. Both nets come with the package.

alone = load("sign-gtsrb")
networks = {"alone": alone, "behind l5-gtsrb": FusedClassifier(load("l5-gtsrb"), alone).eval()}

# %%
# Stress asks what noise changes, so only images count that the classifier answers right when they are
# clean. It learned from photographs, and these signs are drawn, so it does not know all of them.

data = load_dataset("signs")
images, labels = to_float(data.test.images[::8]), data.test.labels[::8]
with torch.inference_mode():
    right = alone(images).argmax(dim=1) == labels
images, labels = images[right], labels[right]
print(f"{right.float().mean():.1%} of {len(right)} clean images are right; these {len(images)} are used")

# %%
# Every type of noise at every strength, with the same noise for both networks:


def noise_types(grey: float) -> dict[str, Family]:
    """Returns five types of noise with a standard deviation of so many grey levels of 255."""
    gaussian = Gaussian(strength=Strength.fixed(grey), shared=0)
    return {
        "Gaussian": gaussian,
        "Gaussian, shared by the colours": Gaussian(strength=Strength.fixed(grey), shared=1),
        "Laplacian": Laplacian(strength=Strength.fixed(grey), shared=0),
        "uniform": Uniform(strength=Strength.fixed(grey), shared=0),
        "sparse, at 20 % of the values": Sparse(noise=gaussian, density=(0.2, 0.2)),
    }


strengths = (10, 25, 40, 80)
kept: dict[tuple[str, str], list[float]] = {}
for grey in strengths:
    for noise, family in noise_types(grey).items():
        noisy = Degradation(families=(family,))(images, generator=torch.Generator().manual_seed(grey))
        for name, network in networks.items():
            with torch.inference_mode():
                same = network(noisy).argmax(dim=1) == labels
            kept.setdefault((noise, name), []).append(100 * float(same.float().mean()))

for (noise, name), shares in kept.items():
    print(f"{noise}, {name}:", *(f"{share:.0f}%" for share in shares))

# %%
# How many answers stay right. Look at both ends: where noise is slight, a restorer can cost an answer,
# and where it is strong, it saves some.

figure, axes = plt.subplots(3, 2, figsize=(8.4, 9), sharex=True, sharey=True, layout="constrained")
for place, noise in zip(axes.flat, noise_types(0), strict=False):
    for name in networks:
        place.plot(strengths, kept[noise, name], marker="o", label=name)
    place.set_title(noise, fontsize=10)
    place.grid(alpha=0.3)
axes[2, 0].set_xlabel("grey levels of 255")
axes[0, 0].set_ylabel("answers that stay right, in %")
axes[0, 0].legend()
axes[2, 1].axis("off")
plt.show()
