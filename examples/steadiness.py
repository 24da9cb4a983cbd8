"""
Certify, damage, attack
=======================

Noise is not the only thing that changes an answer. Here a few signs meet three more: every small change at
once, by a proof; blur, fog and JPEG; and someone who looks for the worst change.
"""

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from steadylens import FusedClassifier, load, load_dataset, to_float
from steadylens.evaluation.stress import Certifying, certify_image, corrupted
from steadylens.evaluation.stress.adversaries import projected_gradient

# %%
# The classifier alone, and behind a restorer that was trained without it. Both nets come with the package.
# Of the synthetic signs, those count that both answer right when nothing is changed.

alone = load("sign-gtsrb")
networks = {"alone": alone, "behind unet-gtsrb": FusedClassifier(load("unet-gtsrb"), alone).eval()}
data = load_dataset("signs")
levels, labels = data.test.images[::50], data.test.labels[::50]  # 8-bit, as signs are stored


def right(name: str, shown: Tensor) -> Tensor:
    """Returns which of the images a network answers right."""
    with torch.inference_mode():
        answers: Tensor = networks[name](shown).argmax(dim=1)
    return answers == labels


both = right("alone", to_float(levels)) & right("behind unet-gtsrb", to_float(levels))
levels, labels = levels[both], labels[both]
images = to_float(levels)
print(f"{len(images)} signs")

# %%
# A certificate: the network votes on noisy versions of the sign. The more of them agree, the further away
# is every image that could change the vote. The radius is a Euclidean norm, for values in [0, 1]; 0 stands
# for a wrong vote, and for none that can be proven.

settings = Certifying(first_versions=50, versions=300, alpha=0.01)
certified: dict[str, list[float]] = {}
for name, network in networks.items():
    for index, image in enumerate(levels[:6]):
        found = certify_image(
            network, image, sigma=0.25, settings=settings, generator=torch.Generator().manual_seed(index)
        )
        certified.setdefault(name, []).append(found.radius if found.answer == labels[index] else 0.0)
    print(f"{name}, certified radii:", *(f"{radius:.2f}" for radius in certified[name]))

# %%
# Damage of the real world, as ImageNet-C draws it. A restorer learned noise: blur, fog and JPEG need not
# get better.

kinds = ("gaussian_noise", "motion_blur", "fog", "jpeg_compression")
damaged = {kind: corrupted(images, kind, 3, seed=0) for kind in kinds}
for kind, shown in damaged.items():
    counts = (f"{int(right(name, shown).sum())} {name}" for name in networks)
    print(f"{kind}, right of {len(images)}:", ", ".join(counts))

# %%
# An attack looks for the worst change within a bound; it goes through the restorer as well. A restorer is no
# defence against someone who knows it.

attacked = {}
for name, network in networks.items():
    attacked[name] = projected_gradient(
        network, images, labels, norm="l2", epsilon=0.5, steps=10, start=torch.zeros_like(images)
    )
    print(f"attacked, {name}: {int(right(name, attacked[name]).sum())} of {len(images)} stay right")

# %%
# Two of the signs, as they are and as they were changed. The attack's changes are the smallest to the eye.

pictures = {"clean": images, **{kind.replace("_", " "): some for kind, some in damaged.items()}}
pictures |= {f"attacked, {name}": some for name, some in attacked.items()}
figure, axes = plt.subplots(2, len(pictures), figsize=(12, 3.8), layout="constrained")
for column, (title, some) in zip(axes.T, pictures.items(), strict=True):
    for place, image in zip(column, some, strict=False):
        place.imshow(image.permute(1, 2, 0))
        place.axis("off")
    column[0].set_title(title, fontsize=8)
plt.show()
