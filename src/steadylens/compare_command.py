"""The command that tells what a restorer does for a classifier: before and after, on one page."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steadylens.console import (
    Cache,
    ClassifierName,
    Data,
    Debug,
    Device,
    FitOption,
    HalfWidth,
    Mean,
    Out,
    RecipeName,
    RecipeOption,
    Seed,
    Size,
    Std,
    Versions,
    Weights,
    explaining,
    lent_run,
    sampled,
    say,
)
from steadylens.errors import SettingError

if TYPE_CHECKING:
    from steadylens.opening import Opened

PACKAGED = "l11-gtsrb"
"""The restorer that is tried when none is named."""


def compare(
    classifier: ClassifierName,
    restorer: Annotated[
        list[str] | None,
        typer.Option(
            help="A restorer to put in front as it is: a packaged name or a file; may be given several "
            f"times. {PACKAGED} if neither this nor --fused is given."
        ),
    ] = None,
    fused: Annotated[
        list[Path] | None,
        typer.Option(help="File of a fused classifier, as fuse writes it; may be given several times."),
    ] = None,
    weights: Weights = None,
    size: Size = None,
    mean: Mean = None,
    std: Std = None,
    fit: FitOption = None,
    data: Data = "signs",
    recipe: RecipeOption = RecipeName.quick,
    out: Out = Path("runs/comparison"),
    versions: Versions = None,
    half_width: HalfWidth = None,
    seed: Seed = 0,
    device: Device = "auto",
    cache: Cache = None,
    debug: Debug = False,
) -> None:
    """Compare a classifier alone with itself behind restorers: accuracy, stability under noise, cost."""
    with explaining(debug, goes_on=True):
        from steadylens.fitting import Fit
        from steadylens.opening import check_classes, check_order, open_classifier

        alone = open_classifier(
            classifier, weights=weights, size=size, mean=mean, std=std, fit=Fit.parse(fit) if fit else None
        )
        pairs = _pairs(alone, restorer or ([] if fused else [PACKAGED]), fused or [])
        with lent_run(data, recipe, seed, device, cache, size=alone.size, fit=str(alone.fit)) as run:
            from steadylens.comparison import compare as compare_all
            from steadylens.networks import ALONE

            for opened in (alone, *pairs):
                check_classes(opened, run.data.class_names, data)
                check_order(opened, run.data.class_names, data)
            page = compare_all(
                sampled(run, versions, half_width),
                alone.module.to(run.device),
                {pair.name: pair.fused().to(run.device) for pair in pairs},
                out,
                training_seconds={ALONE: alone.seconds, **{pair.name: pair.seconds for pair in pairs}},
            )
    say(f"report: {page.resolve()}")


def _pairs(alone: "Opened", restorers: list[str], fused: list[Path]) -> "list[Opened]":
    from steadylens.opening import open_classifier, open_restorer

    pairs = [open_restorer(source).before(alone) for source in restorers]
    pairs += [open_classifier(path) for path in fused]
    for pair in pairs:
        pair.fused()
        if pair.size != alone.size:
            raise SettingError(
                f"{pair.name} reads images of {pair.size} pixels and {alone.name} of {alone.size}; compare "
                "classifiers of one size"
            )
        if pair.fit != alone.fit:
            raise SettingError(
                f"{pair.name} reads photographs fitted by {pair.fit} and {alone.name} by {alone.fit}; give "
                f"--fit {pair.fit}, or fuse again"
            )
    names = [pair.name for pair in pairs]
    if len(set(names)) < len(names):
        raise SettingError(f"the pairs are called {', '.join(names)}; give each file a name of its own")
    return pairs
