"""Makes a classifier of another library steadier in three ways, and compares it before and after.

A ResNet of timm is trained on a folder of drawn signs and saved as a plain file of weights, as yours may be.
Then a packaged restorer is put in front of it: as it is; with the classifier fine-tuned behind it, as in the
paper; and tuned itself, without labels, so that the unchanged classifier keeps its answers.

On one core the ResNet takes about a minute to train, each tuning and the comparison somewhat less.
With `--tiny` all of it takes some seconds and shows how it is done, not what can be gained.

The same from the command line, for a model and images of your own:

    steadylens fuse l5-gtsrb timm:resnet10t --weights FILE --tune restorer --data folder:DIR --out PAIR
    steadylens compare timm:resnet10t --weights FILE --restorer l5-gtsrb --fused PAIR --data folder:DIR
"""

import argparse
import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from steadylens import (
    FusedClassifier,
    PreparedClassifier,
    Run,
    compare,
    fine_tune,
    fuse_label_free,
    load,
    load_dataset,
    timm_classifier,
    to_float,
    write_image,
)
from steadylens.data.synthetic_signs import draw_track
from steadylens.progress import Update
from steadylens.records import Stability, read_records
from steadylens.report.paper_tables import overall
from steadylens.report.tables import grouped, select
from steadylens.training.loop import OneCycleAdam, Training
from steadylens.training.objectives import classifying_objective
from steadylens.training.recipes import QUICK
from steadylens.training.settings import Recipe

MODEL = "resnet10t"
SIZE = 48
CLASSES = {1: "speed limit 30", 2: "speed limit 50", 14: "stop", 17: "no entry", 38: "keep right"}
PATIENT = replace(QUICK, name="example", fine_tuning=replace(QUICK.fine_tuning, steps=60))
TINY = replace(
    QUICK,
    name="tiny",
    fine_tuning=replace(QUICK.fine_tuning, steps=2, batch=4),
    evaluation=replace(QUICK.evaluation, stability_images=10, stability_sigmas_grey=(10, 40)),
)


def draw_signs(folder: Path, *, tracks: int) -> None:
    """Draws a folder for each class, with five views of each of `tracks` signs."""
    for sign, name in CLASSES.items():
        for track in range(tracks):
            views = draw_track(sign, frames=5, rng=np.random.default_rng((sign, track)), size=SIZE)
            for number, view in enumerate(to_float(torch.from_numpy(views))):
                write_image(folder / name / f"{track:03}-{number}.png", view)


def train_resnet(run: Run, net: PreparedClassifier, path: Path, *, steps: int) -> None:
    """Trains a ResNet on the clean images and writes its weights, with nothing of this package in them."""
    training = Training(
        net,
        classifying_objective(net, run.data.train.images, run.data.train.labels, batch=20),
        optimization=OneCycleAdam(learning_rate=1e-3, weight_decay=0.01),
        steps=steps,
        generator=torch.Generator().manual_seed(0),
    )
    for _progress in training.run():
        pass
    save_file(net.body.state_dict(), path)


def tell(update: Update) -> None:
    """Prints the result of each stage that is finished."""
    if update.state == "finished":
        print(f"{update.stage}: {update.note or 'done'}")


def main(out: Path, recipe: Recipe, *, restorer: str, tracks: int, steps: int) -> None:
    """Trains, fuses in three ways, compares, and prints the share of answers that stay right under noise."""
    draw_signs(out / "images", tracks=tracks)
    torch.manual_seed(0)  # timm draws first weights from the global generator
    untrained = timm_classifier(MODEL, classes=len(CLASSES), size=SIZE)
    data = load_dataset(f"folder:{out / 'images'}", size=SIZE, fit=untrained.fit, cache=out)
    run = Run(data=data, recipe=recipe, seed=0, device=torch.device("cpu"), observe=tell)

    weights = out / "resnet.safetensors"
    if not weights.exists():
        train_resnet(run, untrained, weights, steps=steps)
    alone = timm_classifier(MODEL, weights=weights, size=SIZE)

    tuned, label_free = out / "tuned.safetensors", out / "label-free.safetensors"
    pairs = {
        "restorer as it is": FusedClassifier(load(restorer), alone).eval(),
        "classifier tuned": fine_tune(run, load(restorer), copy.deepcopy(alone), tuned, name="tuned").pair(),
        "restorer tuned": fuse_label_free(run, load(restorer), alone, label_free, name="label-free").pair(),
    }
    page = compare(run, alone, pairs, out)

    rows = select(read_records(out / "records.jsonl"), Stability)
    own = [row for row in rows if row.population == "own" and row.noise == rows[0].noise]
    for name, some in grouped(own, by=lambda row: row.network).items():
        print(f"{name}: {overall(some) or 0:.1%} of the answers stay right under noise")
    print(f"report: {page}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/any-classifier"), help="where to write")
    parser.add_argument("--tiny", action="store_true", help="take seconds and learn next to nothing")
    arguments = parser.parse_args()
    if arguments.tiny:
        main(arguments.out, TINY, restorer="l3-gtsrb", tracks=2, steps=5)
    else:
        # The deeper l11-gtsrb restores better and takes eight times as long.
        main(arguments.out, PATIENT, restorer="l5-gtsrb", tracks=30, steps=300)
