"""The command that puts a restorer in front of a classifier."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steadylens.console import (
    Cache,
    ClassifierName,
    Data,
    Debug,
    Device,
    File,
    FitOption,
    Mean,
    RecipeName,
    RecipeOption,
    Seed,
    Size,
    Std,
    Weights,
    explaining,
    lent_run,
    say,
)
from steadylens.errors import SettingError

if TYPE_CHECKING:
    from steadylens.opening import Opened


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
        from steadylens.checkpoint import describe
        from steadylens.fitting import Fit
        from steadylens.opening import check_classes, check_order, open_classifier, open_restorer
        from steadylens.trainingfiles import check_suffix

        check_suffix(out)
        front = open_restorer(restorer)
        behind = open_classifier(
            classifier, weights=weights, size=size, mean=mean, std=std, fit=Fit.parse(fit) if fit else None
        )
        if not restorer_only:
            describe(behind.module)  # what cannot be saved is refused before anything is done
        names = _class_names(behind, class_names)
        fitted = str(behind.fit)
        with lent_run(data, recipe, seed, device, cache, size=behind.size, fit=fitted) as run:
            from steadylens.label_free import tune_restorer
            from steadylens.pairing import fuse_as_they_are, fuse_label_free
            from steadylens.stages import fine_tune

            if tune is Part.restorer:
                unlabelled = replace(run, data=replace(run.data, class_names=names))
            else:
                check_classes(behind, run.data.class_names, data)
                check_order(behind, run.data.class_names, data)
            parts = (front.module.to(run.device), behind.module.to(run.device), out)
            seconds = front.seconds + behind.seconds
            name, origins = out.stem, {"restorer": front.origin, "classifier": behind.origin}
            match tune:
                case Part.classifier:
                    fine_tune(run, *parts, name=name, seconds_before=seconds, origins=origins)
                case Part.restorer if restorer_only:
                    tune_restorer(
                        unlabelled, *parts, name=name, seconds_before=front.seconds, origins=origins
                    )
                case Part.restorer:
                    fuse_label_free(unlabelled, *parts, name=name, seconds_before=seconds, origins=origins)
                case Part.nothing:
                    fuse_as_they_are(run, *parts, name=name, seconds=seconds, origins=origins)
    say(f"{'restorer' if restorer_only else 'fused classifier'}: {out.resolve()}")


def _class_names(classifier: "Opened", told: Path | None) -> tuple[str, ...]:
    """Returns the classes as the classifier or a file names them: the folders of the data may be others."""
    from steadylens.opening import count_classes

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
