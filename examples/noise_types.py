"""
What each noise looks like
==========================

A noise type says how noise is distributed, how strong it is, and whether the three colours share it. A
``Degradation`` draws from one type or from several, and then clips and rounds as a stored image is.
"""

import matplotlib.pyplot as plt
import torch
from skimage.data import coffee

from steadylens import (
    Attenuated,
    Banded,
    Correlated,
    Degradation,
    Demosaiced,
    Gaussian,
    Jpeg,
    Laplacian,
    PoissonGaussian,
    Resized,
    SaltAndPepper,
    Sparse,
    Strength,
    Uniform,
    psnr,
    to_uint8,
)
from steadylens.noise import Family

# %%
# The first types treat every value alike, the last six are as cameras make noise.
# All the types below but salt and pepper have a standard deviation of 40 grey levels of 255.
# ``shared=0`` gives each colour noise of its own, ``shared=1`` gives all three the same.

strength = Strength.fixed(40)
types: dict[str, Family] = {
    "Gaussian": Gaussian(strength=strength, shared=0),
    "Gaussian, shared by the colours": Gaussian(strength=strength, shared=1),
    "uniform": Uniform(strength=strength, shared=0),
    "Laplacian": Laplacian(strength=strength, shared=0),
    "sparse: Gaussian at 20 % of the values": Sparse(
        noise=Gaussian(strength=strength, shared=0), density=(0.2, 0.2)
    ),
    "attenuated: 20 % full, the others a quarter": Attenuated(
        noise=Gaussian(strength=strength, shared=0), density=(0.2, 0.2), factor=(0.25, 0.25)
    ),
    "salt and pepper at 5 % of the pixels": SaltAndPepper(density=(0.05, 0.05)),
    "photons: stronger where it is bright": PoissonGaussian(strength=strength),
    "demosaiced: blurred by the camera": Demosaiced(strength=strength),
    "resized: enlarged twofold": Resized(strength=strength, shared=0),
    "correlated: blurred, partly shared by the colours": Correlated(strength=strength, blur=(1, 1)),
    "banded: the same along each row": Banded(strength=strength, shared=1, columns=0),
    "Gaussian, then JPEG of quality 50": Jpeg(noise=Gaussian(strength=strength, shared=0), quality=(50, 50)),
}

# %%
# The same photograph with each of them:

clean = torch.from_numpy(coffee()[40:260, 130:450]).permute(2, 0, 1)[None] / 255  # (1, 3, H, W) in [0, 1]
pictures = {"clean": clean}
for name, noise in types.items():
    noisy = Degradation(families=(noise,))(clean, generator=torch.Generator().manual_seed(0))
    pictures[f"{name}\n{psnr(noisy, clean).item():.1f} dB"] = noisy

figure, axes = plt.subplots(7, 2, figsize=(8.4, 22), layout="constrained")
for place in axes.flat:
    place.axis("off")
for place, (title, picture) in zip(axes.flat, pictures.items(), strict=False):
    place.imshow(to_uint8(picture[0]).permute(1, 2, 0).numpy())
    place.set_title(title, fontsize=10)
plt.show()

# %%
# Training wants variety. A degradation of several types draws one of them for each image, and a range
# of strengths draws one strength for each image.

mixed = Degradation(
    families=(
        Gaussian(strength=Strength(low_grey=1, high_grey=60, logarithmic=True)),
        Sparse(noise=Uniform(strength=Strength(low_grey=1, high_grey=55))),
    ),
    weights=(3, 1),
)
drawn = mixed.draw(clean.expand(6, -1, -1, -1), generator=torch.Generator().manual_seed(1))
for family, grey in zip(drawn.family, drawn.strength_grey, strict=True):
    print(f"{mixed.families[family].name}: {grey:.1f} grey levels")
