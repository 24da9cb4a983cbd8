"""The command that puts a restorer in front of a classifier, and tunes one of them, both, or neither."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steadylens.cli.classifiers import preparation
from steadylens.cli.console import (
    ClassifierName,
    ClassifierOptions,
    Debug,
    File,
    RunOptions,
    open_run,
    sharing_work,
    with_option_groups,
)
from steadylens.cli.display import say
from steadylens.errors import SettingError

if TYPE_CHECKING:
    from steadylens.checkpoints.loading import LoadedNet


PAIR = "pair"
"""The name of every pair in its training, where it is part of the random seed; the file's name is not."""


NO_RESTORER = "none"
"""Stands for the restorer where a classifier is tuned without one."""


class TunedPart(StrEnum):
    """The part that is trained when a restorer and a classifier are fused."""

    classifier = "classifier"
    both = "both"
    restorer = "restorer"
    nothing = "nothing"


@with_option_groups
def fuse(
    restorer: Annotated[
        str,
        typer.Argument(
            help="The restorer: a .safetensors file or the name of a packaged net (unet-gtsrb). The word "
            "none stands for no restorer: then the classifier alone is tuned on noisy images, for comparison."
        ),
    ],
    classifier: ClassifierName,
    out: File,
    tune: Annotated[
        TunedPart,
        typer.Option(
            help="classifier: fine-tune the classifier on labelled noisy images, as the paper does. "
            "both: train the restorer and the classifier together, on labelled noisy images. "
            "restorer: train the restorer so that the unchanged classifier keeps its answers, without "
            "labels. nothing: only combine the two."
        ),
    ] = TunedPart.classifier,
    restorer_only: Annotated[
        bool,
        typer.Option(
            "--restorer-only", help="Write only the trained restorer, not the pair. Needs --tune restorer."
        ),
    ] = False,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            help="A classifier whose answers for clean images the pair learns for noisy ones, instead of the "
            "classifier's own: a .safetensors file or the name of a packaged net. May be repeated. Needs "
            "--tune classifier or both."
        ),
    ] = None,
    *,
    described: ClassifierOptions,
    options: RunOptions,
    debug: Debug = False,
) -> None:
    """Put a restorer in front of a classifier and save the pair; train one of the two, both, or neither."""
    with sharing_work(debug):
        has_restorer = restorer != NO_RESTORER
        _check_options(tune, has_restorer=has_restorer, restorer_only=restorer_only, teachers=teacher)
        from torch import nn

        from steadylens.checkpoints.loading import LoadedNet, load_net
        from steadylens.evaluation.checks import check_against
        from steadylens.nets.architecture import describe
        from steadylens.nets.facts import CLASSIFYING, RESTORING
        from steadylens.training.stages import check_suffix

        check_suffix(out)
        front: nn.Module | LoadedNet = nn.Identity()
        if has_restorer:
            front = load_net(restorer, task=RESTORING, alternatives=f", or {NO_RESTORER} for no restorer")
        behind = described.load(classifier)
        if not restorer_only:
            describe(behind.module)  # refuses a classifier that cannot be saved, before the long work
        teachers = [load_net(each, task=CLASSIFYING) for each in teacher or ()]
        labels_matter = tune is not TunedPart.restorer
        names = () if labels_matter else _class_names(behind, options.class_names)
        selected = options if labels_matter else replace(options, class_names=None)
        say(preparation(behind))
        training = tune is not TunedPart.nothing
        with open_run(selected, out, size=behind.size, fit=behind.fit, training=training) as opened:
            from steadylens.training.fusing import (
                fine_tune,
                fuse_as_they_are,
                fuse_label_free,
                restorer_beside,
                tune_restorer,
                tune_together,
            )

            run = opened
            if labels_matter:
                check_against(behind, run)
            else:
                run = replace(run, data=run.data.unlabelled(names))
            match tune:
                case TunedPart.classifier:
                    fine_tune(run, front, behind, out, name=PAIR, teachers=teachers)
                case TunedPart.both:
                    tune_together(run, front, behind, out, name=PAIR, teachers=teachers)
                case TunedPart.restorer if restorer_only:
                    tune_restorer(run, front, behind, out, name=PAIR)
                case TunedPart.restorer:
                    fuse_label_free(run, front, behind, out, name=PAIR)
                case TunedPart.nothing:
                    fuse_as_they_are(run, front, behind, out, name=PAIR)
        if tune is TunedPart.restorer and not restorer_only:
            say(f"restorer: {restorer_beside(out).resolve()}")
        written = "fused classifier" if has_restorer else "classifier without a restorer"
        say(f"{'restorer' if restorer_only else written}: {out.resolve()}")


def _check_options(
    tune: TunedPart, *, has_restorer: bool, restorer_only: bool, teachers: list[str] | None
) -> None:
    """Refuses options that contradict each other, before anything is loaded."""
    if teachers and tune not in (TunedPart.classifier, TunedPart.both):
        raise SettingError(f"--teacher needs --tune classifier or both; --tune {tune} learns no answers")
    if not has_restorer and tune is not TunedPart.classifier:
        raise SettingError(
            f"without a restorer ({NO_RESTORER}) only the classifier can be tuned, but --tune is {tune}; "
            "give --tune classifier, or name a restorer"
        )
    if restorer_only and tune is not TunedPart.restorer:
        raise SettingError("--restorer-only needs --tune restorer; otherwise the restorer is unchanged")


def _class_names(classifier: "LoadedNet", path: Path | None) -> tuple[str, ...]:
    """Returns the class names from a file, or those of the classifier; the data may have other classes."""
    from steadylens.checkpoints.loading import count_classes
    from steadylens.data.class_folders import read_class_names

    if path is None:
        return classifier.class_names
    names = read_class_names(path)
    if len(names) != (classes := count_classes(classifier)):
        raise SettingError(
            f"{path} has {len(names)} names; {classifier.name} has {classes} classes, and each needs a line"
        )
    return names
