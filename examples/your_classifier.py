"""
Put a restorer in front of your classifier
==========================================

You have a classifier and images of your own. Does a restorer in front of it help, and by how much? Here the
classifier is a ResNet of timm, and three ways to put a restorer in front of it are compared with it alone.
"""

import copy
import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from safetensors.torch import save_file

from steadylens import (
    FusedClassifier,
    Run,
    Training,
    classifying_objective,
    compare,
    fine_tune,
    fuse_label_free,
    load,
    load_dataset,
    recipe_named,
    timm_classifier,
    to_float,
    write_image,
)
from steadylens.records import Accuracy, Stability, read_records
from steadylens.training import OneCycleAdam

# %%
# Your images lie in a folder with ``train`` and ``test``, and in these one folder for each class. To
# have some, we draw traffic signs of five classes. Leave this step out and give your own folder below.

folder = Path(tempfile.mkdtemp())
names = {1: "speed limit 30", 2: "speed limit 50", 14: "stop", 17: "no entry", 38: "keep right"}
signs = load_dataset("signs")
for part, drawn in {"train": signs.train, "test": signs.test}.items():
    for number, (image, label) in enumerate(zip(drawn.images, drawn.labels.tolist(), strict=True)):
        if label in names:
            write_image(folder / "images" / part / names[label] / f"{number:05}.png", to_float(image))

# %%
# Your classifier is trained already, and its weights lie in a file. Ours is trained here, on clean
# images, for want of one. ``untrained.fit`` says how photographs are resized and cut for it, as timm
# does it.

torch.manual_seed(0)  # timm draws the first weights from the global generator
untrained = timm_classifier("resnet10t", classes=len(names), size=48)
data = load_dataset(f"folder:{folder / 'images'}", size=48, fit=untrained.fit, cache=folder / "cache")
training = Training(
    untrained,
    classifying_objective(untrained, data.train.images, data.train.labels, batch=20),
    optimization=OneCycleAdam(learning_rate=1e-3, weight_decay=0.01),
    steps=300,
    generator=torch.Generator().manual_seed(0),
)
for _progress in training.run():
    pass
save_file(untrained.body.state_dict(), folder / "resnet.safetensors")

# %%
# The three ways: the restorer as it is; the classifier fine-tuned behind it, on noisy images, as in the
# paper; and the restorer tuned, without labels, so that the unchanged classifier keeps its answers
# under noise. The two tunings are far shorter here than they should be: 30 steps each.

classifier = timm_classifier("resnet10t", weights=folder / "resnet.safetensors", size=48)
quick = recipe_named("quick")
recipe = replace(
    quick,
    name="example",
    fine_tuning=replace(quick.fine_tuning, steps=30),
    evaluation=replace(quick.evaluation, stability_sigmas_grey=(10, 20, 30, 40)),
)
run = Run(data=data, recipe=recipe, seed=0, device=torch.device("cpu"))
pairs = {
    "restorer as it is": FusedClassifier(load("l5-gtsrb"), classifier).eval(),
    "classifier tuned": fine_tune(
        run, load("l5-gtsrb"), copy.deepcopy(classifier), folder / "tuned.safetensors", name="tuned"
    ).pair(),
    "restorer tuned": fuse_label_free(
        run, load("l5-gtsrb"), classifier, folder / "label-free.safetensors", name="label-free"
    ).pair(),
}

# %%
# ``compare`` measures all of them on the test images: accuracy, accuracy under Gaussian noise of rising
# strength, and cost. It writes a page to look at, and every number as a record.

page = compare(run, classifier, pairs, folder / "compared")
print(f"wrote {page.name}")

# %%
# How often each is right on clean images, and how often it stays right when noise is added to those. This
# classifier has learned for seconds, and noise disturbs it much; one that has learned for longer is steadier
# by itself, and gains less.

records = read_records(folder / "compared" / "records.jsonl")
for record in records:
    if isinstance(record, Accuracy) and record.k == 1:
        print(f"{record.network}: {record.correct} of {record.samples} clean images right")

rows = [row for row in records if isinstance(row, Stability) and row.population == "own"]
figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
for name in ("alone", *pairs):
    own = [row for row in rows if row.network == name]
    shares = [row.correct / row.samples for row in own]
    axes.plot([row.sigma_grey for row in own], [100 * share for share in shares], marker="o", label=name)
    print(f"{name}: {sum(shares) / len(shares):.1%} of the answers stay right under noise")
axes.set_xlabel("standard deviation of the noise in grey levels of 255")
axes.set_ylabel("answers that stay right, in %")
axes.grid(alpha=0.3)
axes.legend()
plt.show()

# %%
# From the command line, for a model and images of your own:
#
# .. code-block:: sh
#
#    steadylens compare timm:resnet10t --weights FILE --restorer l5-gtsrb --data folder:DIR --out PAGE
