"""The commands for a classifier: put a restorer in front of it, and compare it before and after."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steadylens.cli.console import (
    ClassifierName,
    ClassifierOptions,
    Debug,
    File,
    Out,
    RunOptions,
    SamplingOptions,
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

DEFAULT_RESTORER = "unet-gtsrb"
"""The packaged restorer that is compared if the user names none."""

LEARNED_SIZE = 48
"""Height and width in pixels of the images that the packaged restorers learned from."""


@with_option_groups
def compare(
    classifier: ClassifierName,
    restorer: Annotated[
        list[str] | None,
        typer.Option(
            help="A restorer to put in front of the classifier, unchanged: a .safetensors file or the name "
            f"of a packaged net. May be repeated. {DEFAULT_RESTORER} if neither this nor --fused is given."
        ),
    ] = None,
    fused: Annotated[
        list[Path] | None,
        typer.Option(
            help="Also compare this fused classifier, a file that fuse has written. May be repeated."
        ),
    ] = None,
    *,
    described: ClassifierOptions,
    options: RunOptions,
    out: Out = Path("runs/comparison"),
    sampling: SamplingOptions,
    debug: Debug = False,
) -> None:
    """Compare a classifier with and without restorers: accuracy, stability under noise, cost."""
    with sharing_work(debug):
        from steadylens.checkpoints.loading import load_classifier
        from steadylens.evaluation.checks import check_against

        alone = load_classifier(
            classifier,
            weights=described.weights,
            options=described.preprocessing(),
            ema=described.ema,
        )
        pairs = _pairs(alone, restorer or ([] if fused else [DEFAULT_RESTORER]), fused or [])
        say(_preparation(alone))
        if not restorer and not fused and alone.size != LEARNED_SIZE:
            say(
                f"note: no --restorer is given, so {DEFAULT_RESTORER} is compared; it learned from traffic "
                f"signs of {LEARNED_SIZE} pixels, and may help little on images of {alone.size}: train one "
                "on yours with steadylens train restorer"
            )
        with open_run(options, out, sampling=sampling, size=alone.size, fit=alone.fit, training=False) as run:
            from steadylens.evaluation.workflows import compare as compare_all
            from steadylens.report.paper import ALONE

            for loaded in (alone, *pairs):
                check_against(loaded, run)
            page = compare_all(
                run,
                alone.module.to(run.device),
                {pair.name: pair.pair().to(run.device) for pair in pairs},
                out,
                training_seconds={ALONE: alone.seconds, **{pair.name: pair.seconds for pair in pairs}},
            )
    say(f"report: {page.resolve()}")


def _preparation(classifier: "LoadedNet") -> str:
    """Returns in one line how images are prepared for a classifier, for users to compare with their own."""
    from steadylens.nets.facts import facts_of

    known = facts_of(classifier.module).preprocessing
    normalised = "by the net itself"
    if known is not None:
        mean, std = (" ".join(f"{value:.4g}" for value in values) for values in (known.mean, known.std))
        normalised = f"with mean {mean} and std {std}"
    size = f"{classifier.size}x{classifier.size}"
    return f"{classifier.name} reads images of {size} pixels, fit {classifier.fit}, normalised {normalised}"


def _pairs(alone: "LoadedNet", restorers: list[str], fused: list[Path]) -> "list[LoadedNet]":
    from steadylens.checkpoints.loading import load_classifier, load_net
    from steadylens.nets.facts import RESTORING

    pairs = [load_net(source, task=RESTORING).in_front_of(alone) for source in restorers]
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
        raise SettingError(f"the pairs are called {', '.join(names)}; give each file a different name")
    return pairs


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
        typer.Argument(help="The restorer: a .safetensors file or the name of a packaged net (unet-gtsrb)."),
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
    *,
    described: ClassifierOptions,
    options: RunOptions,
    debug: Debug = False,
) -> None:
    """Put a restorer in front of a classifier and save the pair; train one of the two, both, or neither."""
    with sharing_work(debug):
        if restorer_only and tune is not TunedPart.restorer:
            raise SettingError(
                "--restorer-only needs --tune restorer; otherwise the restorer stays unchanged"
            )
        from steadylens.checkpoints.loading import load_classifier, load_net
        from steadylens.evaluation.checks import check_against
        from steadylens.nets.architecture import describe
        from steadylens.nets.facts import RESTORING
        from steadylens.training.stages import check_suffix

        check_suffix(out)
        front = load_net(restorer, task=RESTORING)
        behind = load_classifier(
            classifier,
            weights=described.weights,
            options=described.preprocessing(),
            ema=described.ema,
        )
        if not restorer_only:
            describe(behind.module)  # refuses a classifier that cannot be saved, before the long work
        labels_matter = tune is not TunedPart.restorer
        names = () if labels_matter else _class_names(behind, options.class_names)
        selected = options if labels_matter else replace(options, class_names=None)
        say(_preparation(behind))
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
                    fine_tune(run, front, behind, out, name=PAIR)
                case TunedPart.both:
                    tune_together(run, front, behind, out, name=PAIR)
                case TunedPart.restorer if restorer_only:
                    tune_restorer(run, front, behind, out, name=PAIR)
                case TunedPart.restorer:
                    fuse_label_free(run, front, behind, out, name=PAIR)
                case TunedPart.nothing:
                    fuse_as_they_are(run, front, behind, out, name=PAIR)
        if tune is TunedPart.restorer and not restorer_only:
            say(f"restorer: {restorer_beside(out).resolve()}")
        say(f"{'restorer' if restorer_only else 'fused classifier'}: {out.resolve()}")


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
