"""The commands that measure a classifier: alone, and with a restorer in front of it."""

from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steadylens.checkpoints.packaged import RESTORERS
from steadylens.cli.console import (
    ClassifierName,
    ClassifierOptions,
    Debug,
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
    from torch import nn

    from steadylens.checkpoints.loading import LoadedNet
    from steadylens.evaluation.stress.attacks import Attacks
    from steadylens.evaluation.stress.certification import Certifying
    from steadylens.evaluation.stress.corruptions import Corruptions
    from steadylens.training.run import Run


RestorersInFront = Annotated[
    list[str] | None,
    typer.Option(
        help="A restorer to put in front of the classifier, unchanged: a .safetensors file or the name "
        "of a packaged net. May be repeated."
    ),
]

FusedFiles = Annotated[
    list[Path] | None,
    typer.Option(help="Also measure this fused classifier, a file that fuse has written. May be repeated."),
]


class Precision(StrEnum):
    """The number formats in which networks can be certified."""

    float32 = "float32"
    bfloat16 = "bfloat16"


@dataclass(frozen=True, kw_only=True, slots=True)
class CertifyOptions:
    """The options of certificates beside a comparison, in a quick form.

    Attributes:
        certify: Whether to certify the networks.
        certify_sigma: Standard deviations of the smoothing noise, or None for 0.25.
        certify_n: Noisy versions of each image that bound the probability of its answer.
        certify_images: Number of test images.
        certify_precision: Number format of the networks' products.
    """

    certify: Annotated[
        bool,
        typer.Option(
            "--certify",
            help="Also certify within which radius the smoothed classifiers provably keep their answers; "
            "steadylens certify does so with more options.",
        ),
    ] = False
    certify_sigma: Annotated[
        list[float] | None,
        typer.Option(
            help="With --certify: standard deviation of the smoothing noise, for images in [0, 1]. May be "
            "repeated. By default, 0.25."
        ),
    ] = None
    certify_n: Annotated[
        int, typer.Option(help="With --certify: noisy versions of each image that bound its probability.")
    ] = 1000
    certify_images: Annotated[
        int, typer.Option(help="With --certify: how many test images are certified, chosen at random.")
    ] = 200
    certify_precision: Annotated[
        Precision, typer.Option(help="With --certify: as --precision of steadylens certify.")
    ] = Precision.float32

    def settings(self) -> "Certifying | None":
        """Returns how networks are certified, or None if they are not."""
        if not self.certify:
            if replace(self, certify_sigma=self.certify_sigma or None) != CertifyOptions():
                others = "--certify-sigma, --certify-n, --certify-images and --certify-precision"
                raise SettingError(f"{others} need --certify")
            return None
        from steadylens.evaluation.stress.certification import Certifying

        return Certifying(
            sigmas=tuple(self.certify_sigma or [0.25]), versions=self.certify_n, images=self.certify_images,
            precision=self.certify_precision.value,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class StressOptions:
    """The options of what else than Gaussian noise a classifier is put under.

    Attributes:
        corruptions: Whether to measure accuracy on images with the damage of the real world.
        attacks: Whether to measure accuracy under attack.
        autoattack: Whether AutoAttack tries the images that the other attack leaves.
        stress_images: Number of images for both, or None for the usual numbers.
    """

    corruptions: Annotated[
        bool,
        typer.Option(
            "--corruptions",
            help="Also measure accuracy on images with the damage of the real world: the 19 corruptions of "
            "ImageNet-C, such as blur, fog and JPEG, at five severities. Needs the extra stress.",
        ),
    ] = False
    attacks: Annotated[
        bool,
        typer.Option(
            "--attacks",
            help="Also measure accuracy under attack by someone who knows the classifier and the restorer: "
            "projected gradient descent within bounds of two norms. Needs the extra stress.",
        ),
    ] = False
    autoattack: Annotated[
        bool,
        typer.Option(
            "--autoattack",
            help="Let AutoAttack, too, try the images that --attacks leaves right; takes many times longer.",
        ),
    ] = False
    stress_images: Annotated[
        int | None,
        typer.Option(
            help="How many random test images are damaged and attacked; by default, 200 are damaged and 50 "
            "attacked."
        ),
    ] = None

    def measured_corruptions(self) -> "Corruptions | None":
        """Returns how to measure accuracy on damaged images, or None for not at all."""
        if not self.corruptions:
            return None
        from steadylens.evaluation.stress.corruptions import Corruptions

        return Corruptions() if self.stress_images is None else Corruptions(images=self.stress_images)

    def measured_attacks(self) -> "Attacks | None":
        """Returns how to measure accuracy under attack, or None for not at all."""
        if not self.attacks:
            return None
        from steadylens.evaluation.stress.attacks import Attacks

        usual = Attacks(autoattack=self.autoattack)
        return usual if self.stress_images is None else replace(usual, images=self.stress_images)

    def check(self) -> None:
        """Refuses options that have no effect, and libraries that are missing, before anything is loaded."""
        if self.autoattack and not self.attacks:
            raise SettingError("--autoattack needs --attacks")
        if self.stress_images is not None and not (self.corruptions or self.attacks):
            raise SettingError("--stress-images needs --corruptions or --attacks")
        if self.measured_corruptions() is not None:
            from steadylens.evaluation.stress.corruptions import require_library

            require_library()
        if self.measured_attacks() is not None:
            from steadylens.evaluation.stress.attacks import require_libraries

            require_libraries()


@with_option_groups
def compare(
    classifier: ClassifierName,
    restorer: Annotated[
        list[str] | None,
        typer.Option(
            help="A restorer to put in front of the classifier, unchanged: a .safetensors file or the name "
            "of a packaged net. May be repeated. If neither this nor --fused is given, the packaged one "
            f"for such images: {', '.join(f'{name} for {kind}' for kind, name in RESTORERS.items())}."
        ),
    ] = None,
    fused: FusedFiles = None,
    *,
    described: ClassifierOptions,
    options: RunOptions,
    out: Out = Path("runs/comparison"),
    sampling: SamplingOptions,
    certifying: CertifyOptions,
    stress: StressOptions,
    debug: Debug = False,
) -> None:
    """Compare a classifier with and without restorers: accuracy, stability under noise, cost."""
    with sharing_work(debug):
        stress.check()
        settings = certifying.settings()
        alone, pairs = _opened(classifier, described, restorer or [], fused or [])
        if not pairs:
            pairs = [_default_pair(alone, options.data)]
        with open_run(options, out, sampling=sampling, size=alone.size, fit=alone.fit, training=False) as run:
            from steadylens.evaluation.workflows import compare as compare_all
            from steadylens.report.paper import ALONE

            networks = _networks(run, alone, pairs)
            page = compare_all(
                run,
                networks.pop(ALONE),
                networks,
                out,
                training_seconds={ALONE: alone.seconds, **{pair.name: pair.seconds for pair in pairs}},
                certifying=settings,
                corruptions=stress.measured_corruptions(),
                attacks=stress.measured_attacks(),
            )
    say(f"report: {page.resolve()}")


@with_option_groups
def certify(
    classifier: ClassifierName,
    restorer: RestorersInFront = None,
    fused: FusedFiles = None,
    sigma: Annotated[
        list[float] | None,
        typer.Option(
            help="Standard deviation of the smoothing noise, for images in [0, 1]: larger ones can certify "
            "larger radii, and make more answers wrong. May be repeated. By default, 0.25."
        ),
    ] = None,
    n0: Annotated[
        int, typer.Option("--n0", help="Noisy versions of each image that choose the answer.")
    ] = 100,
    n: Annotated[
        int,
        typer.Option(
            "--n",
            help="Noisy versions of each image that bound the answer's probability. The largest radius that "
            "they can certify is 2.5 sigma for 1,000, 3.2 sigma for 10,000 and 3.8 sigma for 100,000.",
        ),
    ] = 10_000,
    alpha: Annotated[
        float, typer.Option(help="Probability, for each image, that its certificate is wrong.")
    ] = 0.001,
    images: Annotated[
        int,
        typer.Option(help="How many test images are certified, chosen at random; all if there are no more."),
    ] = 500,
    batch: Annotated[
        int | None,
        typer.Option(
            help="Noisy versions that a net gets at once; by default, as many as the device is quick with. "
            "It changes the results by rounding only."
        ),
    ] = None,
    precision: Annotated[
        Precision,
        typer.Option(
            help="Number format of the networks' products. What is certified in bfloat16 is the network as "
            "it answers in bfloat16, which many devices compute several times as fast."
        ),
    ] = Precision.float32,
    *,
    described: ClassifierOptions,
    options: RunOptions,
    out: Out = Path("runs/certificates"),
    debug: Debug = False,
) -> None:
    """Certify within which radius a smoothed classifier, with or without restorers, keeps its answers."""
    with sharing_work(debug):
        from steadylens.evaluation.stress.certification import Certifying

        settings = Certifying(
            sigmas=tuple(sigma or [0.25]),
            first_versions=n0,
            versions=n,
            alpha=alpha,
            images=images,
            batch=batch,
            precision=precision.value,
        )  # fmt: skip - refuses options before nets and images are read
        alone, pairs = _opened(classifier, described, restorer or [], fused or [])
        with open_run(options, out, size=alone.size, fit=alone.fit, training=False) as run:
            from steadylens.evaluation.workflows import certify as certify_all

            page = certify_all(run, _networks(run, alone, pairs), out, **asdict(settings))
    say(f"report: {page.resolve()}")


def _opened(
    classifier: str, described: ClassifierOptions, restorers: list[str], fused: list[Path]
) -> "tuple[LoadedNet, list[LoadedNet]]":
    """Opens a classifier and its pairs, and says how images are prepared for them."""
    alone = described.load(classifier)
    pairs = _pairs(alone, restorers, fused)
    say(preparation(alone))
    return alone, pairs


def _default_pair(alone: "LoadedNet", data: str) -> "LoadedNet":
    """Returns a classifier behind the packaged restorer for the data, and says which it is."""
    from steadylens.checkpoints.choosing import default_restorer

    name = default_restorer(data, size=alone.size)
    say(f"note: no --restorer is given, so {name} is compared")
    (pair,) = _pairs(alone, [name], [])
    return pair


def _networks(run: "Run", alone: "LoadedNet", pairs: "list[LoadedNet]") -> "dict[str, nn.Module]":
    """Returns the classifier alone and all pairs by name, on the run's device; their classes are checked."""
    from steadylens.evaluation.checks import check_against
    from steadylens.report.paper import ALONE

    for loaded in (alone, *pairs):
        check_against(loaded, run)
    return {
        ALONE: alone.module.to(run.device),
        **{pair.name: pair.pair().to(run.device) for pair in pairs},
    }


def preparation(classifier: "LoadedNet") -> str:
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
