"""
Restore a photograph
====================

``steadylens.restore`` takes the noise out of an image of any size. It takes a PIL image, a NumPy array or a
tensor, and returns the same kind of object.
"""

import matplotlib.pyplot as plt
import torch
from skimage.data import astronaut

import steadylens

# %%
# Take a photograph and add noise to it. Yours may be noisy already; here we need the clean one to
# compare with. ``skimage.data.astronaut()`` is an array (H, W, 3) of 8 bits, as
# ``np.asarray(Image.open("photo.jpg"))`` is.

clean = torch.from_numpy(astronaut()[:320, 60:380]).permute(2, 0, 1)[None] / 255  # (1, 3, H, W) in [0, 1]
gaussian = steadylens.Gaussian(strength=steadylens.Strength.fixed(25), shared=0)  # 25 grey levels of 255
degrade = steadylens.Degradation(families=(gaussian,))
noisy = degrade(clean, generator=torch.Generator().manual_seed(0))

# %%
# Restoring is one call. It takes the packaged net for photographs, ``unet-photos``, unless another is named;
# ``unet-camera`` is for the noise of cameras.

restored = steadylens.restore(noisy)
before, after = steadylens.psnr(noisy, clean).item(), steadylens.psnr(restored, clean).item()
print(f"PSNR: {before:.1f} dB noisy, {after:.1f} dB restored")

# %%
# What the net removed is the difference. It is shown around grey, twice as strong as it is.

pictures = {
    "clean": clean,
    f"noisy, {before:.1f} dB": noisy,
    f"restored, {after:.1f} dB": restored,
    "removed": 0.5 + 2 * (noisy - restored),
}
figure, axes = plt.subplots(2, 2, figsize=(8, 8.4), layout="constrained")
for place, (title, picture) in zip(axes.flat, pictures.items(), strict=True):
    place.imshow(steadylens.to_uint8(picture[0]).permute(1, 2, 0).numpy())
    place.set_title(title)
    place.axis("off")
plt.show()

# %%
# Files are restored by the command ``steadylens restore photo.jpg --out restored``, which keeps 16
# bits, transparency, EXIF data and colour profiles.
