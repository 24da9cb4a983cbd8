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
    explaining,
    open_run,
    say,
    with_option_groups,
)
from steadylens.errors import SettingError

if TYPE_CHECKING:
    from steadylens.checkpoints.loading import LoadedNet


DEFAULT_RESTORER = "unet-gtsrb"
"""The packaged restorer that is compared if the user names none."""


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
    with explaining(debug, resumable=True):
        from steadylens.checkpoints.loading import check_classes, check_order, load_classifier

        alone = load_classifier(
            classifier,
            weights=described.weights,
            options=described.preprocessing(),
            ema=described.ema,
        )
        pairs = _pairs(alone, restorer or ([] if fused else [DEFAULT_RESTORER]), fused or [])
        with open_run(options, sampling=sampling, size=alone.size, fit=alone.fit) as run:
            from steadylens.evaluation.workflows import compare as compare_all
            from steadylens.report.paper import ALONE

            for loaded in (alone, *pairs):
                check_classes(loaded, run.data.class_names, options.data)
                check_order(loaded, run.data.class_names, options.data)
            page = compare_all(
                run,
                alone.module.to(run.device),
                {pair.name: pair.pair().to(run.device) for pair in pairs},
                out,
                training_seconds={ALONE: alone.seconds, **{pair.name: pair.seconds for pair in pairs}},
            )
    say(f"report: {page.resolve()}")


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
    class_names: Annotated[
        Path | None,
        typer.Option(help="Text file with the class names in order, one per line. Needs --tune restorer."),
    ] = None,
    *,
    described: ClassifierOptions,
    options: RunOptions,
    debug: Debug = False,
) -> None:
    """Put a restorer in front of a classifier and save the pair; train one of the two, both, or neither."""
    with explaining(debug, resumable=True):
        if restorer_only and tune is not TunedPart.restorer:
            raise SettingError(
                "--restorer-only needs --tune restorer; otherwise the restorer stays unchanged"
            )
        if class_names is not None and tune is not TunedPart.restorer:
            raise SettingError("--class-names needs --tune restorer; otherwise the data names the classes")
        from steadylens.checkpoints.loading import check_classes, check_order, load_classifier, load_net
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
        names = _class_names(behind, class_names)
        with open_run(options, size=behind.size, fit=behind.fit) as run:
            from steadylens.training.fusing import (
                fine_tune,
                fuse_as_they_are,
                fuse_label_free,
                tune_restorer,
                tune_together,
            )

            if tune is TunedPart.restorer:
                unlabelled = replace(run, data=replace(run.data, class_names=names))
            else:
                check_classes(behind, run.data.class_names, options.data)
                check_order(behind, run.data.class_names, options.data)
            match tune:
                case TunedPart.classifier:
                    fine_tune(run, front, behind, out, name=out.stem)
                case TunedPart.both:
                    tune_together(run, front, behind, out, name=out.stem)
                case TunedPart.restorer if restorer_only:
                    tune_restorer(unlabelled, front, behind, out, name=out.stem)
                case TunedPart.restorer:
                    fuse_label_free(unlabelled, front, behind, out, name=out.stem)
                case TunedPart.nothing:
                    fuse_as_they_are(run, front, behind, out, name=out.stem)
    say(f"{'restorer' if restorer_only else 'fused classifier'}: {out.resolve()}")


def _class_names(classifier: "LoadedNet", path: Path | None) -> tuple[str, ...]:
    """Returns the class names from a file, or those of the classifier; the data may have other classes."""
    from steadylens.checkpoints.loading import count_classes

    if path is None:
        return classifier.class_names
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a text file"
        raise SettingError(f"{path} cannot be read: {reason}; write one name per line") from error
    names = tuple(line.strip() for line in text.strip().split("\n"))
    different, classes = len({*names} - {""}), count_classes(classifier)
    if not different == len(names) == classes:
        raise SettingError(
            f"{path} has {different} names in {len(names)} lines; {classifier.name} has {classes} classes, "
            "and each needs a line with a different name"
        )
    return names
