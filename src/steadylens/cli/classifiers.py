"""The commands for a classifier: put a restorer in front of it, and compare it before and after."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steadylens.cli.console import (
    Cache,
    ClassifierName,
    Data,
    Debug,
    Device,
    File,
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
    preprocessing_options,
    sampled,
    say,
)
from steadylens.errors import SettingError

if TYPE_CHECKING:
    from steadylens.checkpoints.loading import LoadedNet


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
        from steadylens.checkpoints.loading import check_classes, check_order, load_classifier

        options = preprocessing_options(size, mean, std, fit)
        alone = load_classifier(classifier, weights=weights, options=options)
        pairs = _pairs(alone, restorer or ([] if fused else [PACKAGED]), fused or [])
        with lent_run(data, recipe, seed, device, cache, size=alone.size, fit=alone.fit) as run:
            from steadylens.evaluation.workflows import compare as compare_all
            from steadylens.report.paper import ALONE

            for opened in (alone, *pairs):
                check_classes(opened, run.data.class_names, data)
                check_order(opened, run.data.class_names, data)
            page = compare_all(
                sampled(run, versions, half_width),
                alone.module.to(run.device),
                {pair.name: pair.pair().to(run.device) for pair in pairs},
                out,
                training_seconds={ALONE: alone.seconds, **{pair.name: pair.seconds for pair in pairs}},
            )
    say(f"report: {page.resolve()}")


def _pairs(alone: "LoadedNet", restorers: list[str], fused: list[Path]) -> "list[LoadedNet]":
    from steadylens.checkpoints.loading import load_classifier, load_net
    from steadylens.nets.facts import RESTORING

    pairs = [load_net(source, task=RESTORING).before(alone) for source in restorers]
    pairs += [load_classifier(path) for path in fused]
    for pair in pairs:
        pair.pair()
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


class Part(StrEnum):
    """What is trained when a restorer and a classifier are fused."""

    classifier = "classifier"
    restorer = "restorer"
    nothing = "nothing"


def fuse(
    restorer: Annotated[
        str, typer.Argument(help="The restorer: the name of a packaged one (l11-gtsrb) or a file.")
    ],
    classifier: ClassifierName,
    out: File,
    tune: Annotated[
        Part,
        typer.Option(
            help="classifier: fine-tune it on labelled noisy images, as the paper does. restorer: tune it so "
            "that the unchanged classifier keeps its answers, without labels. nothing: put both together."
        ),
    ] = Part.classifier,
    restorer_only: Annotated[
        bool, typer.Option("--restorer-only", help="Write the tuned restorer alone instead of the pair.")
    ] = False,
    class_names: Annotated[
        Path | None,
        typer.Option(help="With --tune restorer: text file that names the classes, one a line, in order."),
    ] = None,
    weights: Weights = None,
    size: Size = None,
    mean: Mean = None,
    std: Std = None,
    fit: FitOption = None,
    data: Data = "signs",
    recipe: RecipeOption = RecipeName.quick,
    seed: Seed = 0,
    device: Device = "auto",
    cache: Cache = None,
    debug: Debug = False,
) -> None:
    """Put a restorer in front of a classifier, and tune one of the two, or none."""
    with explaining(debug, goes_on=True):
        if restorer_only and tune is not Part.restorer:
            raise SettingError(
                "--restorer-only goes with --tune restorer; otherwise the restorer stays as it is"
            )
        if class_names is not None and tune is not Part.restorer:
            raise SettingError("--class-names goes with --tune restorer; otherwise the data name the classes")
        from steadylens.checkpoints.loading import check_classes, check_order, load_classifier, load_net
        from steadylens.nets.architecture import describe
        from steadylens.nets.facts import RESTORING
        from steadylens.training.stages import check_suffix

        check_suffix(out)
        front = load_net(restorer, task=RESTORING)
        options = preprocessing_options(size, mean, std, fit)
        behind = load_classifier(classifier, weights=weights, options=options)
        if not restorer_only:
            describe(behind.module)  # what cannot be saved is refused before anything is done
        names = _class_names(behind, class_names)
        with lent_run(data, recipe, seed, device, cache, size=behind.size, fit=behind.fit) as run:
            from steadylens.training.fusing import fine_tune, fuse_as_they_are, fuse_label_free, tune_restorer

            if tune is Part.restorer:
                unlabelled = replace(run, data=replace(run.data, class_names=names))
            else:
                check_classes(behind, run.data.class_names, data)
                check_order(behind, run.data.class_names, data)
            match tune:
                case Part.classifier:
                    fine_tune(run, front, behind, out, name=out.stem)
                case Part.restorer if restorer_only:
                    tune_restorer(unlabelled, front, behind, out, name=out.stem)
                case Part.restorer:
                    fuse_label_free(unlabelled, front, behind, out, name=out.stem)
                case Part.nothing:
                    fuse_as_they_are(run, front, behind, out, name=out.stem)
    say(f"{'restorer' if restorer_only else 'fused classifier'}: {out.resolve()}")


def _class_names(classifier: "LoadedNet", told: Path | None) -> tuple[str, ...]:
    """Returns the classes as the classifier or a file names them: the folders of the data may be others."""
    from steadylens.checkpoints.loading import count_classes

    if told is None:
        return classifier.class_names
    try:
        text = told.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise SettingError(f"{told} cannot be read: {reason}; give a text with a name a line") from error
    names = tuple(line.strip() for line in text.strip().split("\n"))
    different, classes = len({*names} - {""}), count_classes(classifier)
    if not different == len(names) == classes:
        raise SettingError(
            f"{told} has {different} names in {len(names)} lines; {classifier.name} tells {classes} classes "
            "apart, each needs a line with a name of its own"
        )
    return names
