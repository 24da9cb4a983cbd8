"""
Train on your own folder
========================

The restorers of the package learned from photographs of traffic signs. If your images look otherwise, train
one on them. A restorer needs no labels: it learns to make clean images of noisy ones.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import nn

from steadylens import (
    ChannelNormalization,
    Degradation,
    FusedClassifier,
    Gaussian,
    RestorationNet,
    Strength,
    Training,
    classifying_objective,
    load_dataset,
    psnr,
    restoring_objective,
    save_model,
    to_float,
    to_uint8,
    write_image,
)
from steadylens.nets import initialize_xavier, zero_last_layer
from steadylens.training import LogSquaredError, OneCycleAdam

# %%
# Your folder holds ``train`` and ``test``, and in these one folder for each class. To have one, we draw
# traffic signs of six classes. Leave this step out and give your own folder below.

folder = Path(tempfile.mkdtemp())
names = {
    1: "speed limit 30",
    2: "speed limit 50",
    7: "speed limit 100",
    14: "stop",
    17: "no entry",
    38: "keep right",
}
signs = load_dataset("signs")
for part, drawn in {"train": signs.train, "test": signs.test}.items():
    for number, (image, label) in enumerate(zip(drawn.images, drawn.labels.tolist(), strict=True)):
        if label in names:
            write_image(folder / "images" / part / names[label] / f"{number:05}.png", to_float(image))

data = load_dataset(f"folder:{folder / 'images'}", size=48, cache=folder / "cache")
print(f"{len(data.train)} images to train on, {len(data.test)} to test; {', '.join(data.class_names)}")

# %%
# Train a restorer. Each step cuts patches out of the clean images and adds fresh noise to them. The
# smallest net learns something in 150 steps, which take seconds; a good one takes
# ``RestorationNet(depth=11)``, noise of several types and strengths, and hours: ``steadylens train
# restorer L11 --data folder:DIR --recipe thorough``.

generator = torch.Generator().manual_seed(0)
degrade = Degradation(families=(Gaussian(strength=Strength.fixed(50)),))
restorer = RestorationNet(depth=3, padding="reflect")
initialize_xavier(restorer, generator=generator)
zero_last_layer(restorer)  # it begins as a net that changes nothing
training = Training(
    restorer,
    restoring_objective(
        restorer, data.train.images, degradation=degrade, loss=LogSquaredError(), batch=8, patch=24
    ),
    optimization=OneCycleAdam(learning_rate=3e-3),
    steps=150,
    generator=generator,
)
for progress in training.run():
    if progress.step % 50 == 0:
        print(f"step {progress.step}: loss {progress.loss:.2f}")
restorer.eval()

# %%
# Keep it in a file. ``steadylens.load``, ``steadylens.restore`` and the commands take its path where they
# take the name of a packaged net.

save_model(folder / "restorer.safetensors", restorer, about={})

# %%
# What it makes of images that it has not seen:

clean = to_float(data.test.images)
noisy = degrade(clean, generator=generator)
with torch.inference_mode():
    restored = degrade.stored(restorer(noisy))  # clipped and rounded, as a stored image is
print(f"PSNR: {psnr(noisy, clean).mean():.1f} dB noisy, {psnr(restored, clean).mean():.1f} dB restored")

shown = range(0, len(clean), len(clean) // len(names))
figure, axes = plt.subplots(3, len(shown), figsize=(8.4, 4.4), layout="constrained")
for row, (title, images) in enumerate({"clean": clean, "noisy": noisy, "restored": restored}.items()):
    for column, index in enumerate(shown):
        axes[row, column].imshow(to_uint8(images[index]).permute(1, 2, 0).numpy())
        axes[row, column].set(xticks=[], yticks=[])
    axes[row, 0].set_ylabel(title)
plt.show()

# %%
# Put it in front of a classifier. Any module from images in [0, 1] to logits will do; this one learns from
# clean images for some seconds.

classifier = nn.Sequential(
    ChannelNormalization(mean=(0.45, 0.45, 0.45), std=(0.25, 0.25, 0.25)),
    *(nn.Conv2d(3, 16, 5, stride=2), nn.ReLU()),  # 48 -> 22 pixels
    *(nn.Conv2d(16, 32, 4, stride=2), nn.ReLU()),  # 22 -> 10 pixels
    *(nn.Flatten(), nn.Linear(32 * 10 * 10, len(data.class_names))),
)
initialize_xavier(classifier, generator=generator)
training = Training(
    classifier,
    classifying_objective(classifier, data.train.images, data.train.labels, batch=20),
    optimization=OneCycleAdam(learning_rate=1e-3),
    steps=200,
    generator=generator,
)
for _progress in training.run():
    pass


def right(net: nn.Module) -> int:
    """Returns how many noisy test images a net answers right."""
    with torch.inference_mode():
        return int((net.eval()(noisy).argmax(dim=1) == data.test.labels).sum())


fused = FusedClassifier(restorer, classifier)
print(f"right of {len(clean)} noisy images: {right(classifier)} alone, {right(fused)} behind the restorer")

# %%
# A restored image is not quite a clean one, and the classifier has seen no other. So the paper goes on to
# train it behind the restorer, which stays as it is, on noisy images.

training = Training(
    fused.train(),
    classifying_objective(fused, data.train.images, data.train.labels, batch=20, degradation=degrade),
    optimization=OneCycleAdam(learning_rate=1e-3),
    steps=100,
    generator=generator,
)
for _progress in training.run():
    pass
print(f"right of {len(clean)} noisy images: {right(fused)} fine-tuned behind the restorer")
