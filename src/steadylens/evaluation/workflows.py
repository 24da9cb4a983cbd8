"""Whole workflows: reproduce the paper, evaluate nets, compare a classifier with and without restorers."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from torch import nn

from steadylens.checkpoints.checkpoint import fingerprint, fingerprints
from steadylens.checkpoints.loading import LoadedNet
from steadylens.devices import moved
from steadylens.errors import SettingError
from steadylens.evaluation.checks import (
    check_against,
    check_network,
    check_test_images,
    check_workers,
)
from steadylens.evaluation.experiments import (
    curve_of,
    measure,
    measure_costs,
    measure_differences,
    measure_networks,
    measure_restorers,
    noise_key,
    random_test_images,
    take_samples,
)
from steadylens.evaluation.publishing import check_out, publish
from steadylens.evaluation.samples import changed_answers
from steadylens.evaluation.stress.attacks import Attacks, measure_attacks, require_attacks
from steadylens.evaluation.stress.certificates import measure_certificates
from steadylens.evaluation.stress.certification import Certifying
from steadylens.evaluation.stress.corruptions import Corruptions, measure_corruptions, require_corruptions
from steadylens.images.tensors import to_float
from steadylens.nets.classification import FusedClassifier, as_pair
from steadylens.nets.facts import RESTORING, facts_of
from steadylens.nets.restoration import GaussianSmoothing
from steadylens.noise.named import GAUSSIAN
from steadylens.records import (
    Accuracy,
    Attacked,
    Certificate,
    Comparison,
    Confusion,
    Corrupted,
    CorruptedComparison,
    Cost,
    Measurement,
    NoisyComparison,
    Stability,
)
from steadylens.report.page import require_drawing
from steadylens.report.paper import (
    ALONE,
    AUGMENTED,
    FINE_TUNED,
    ORIGINAL,
    RESTORED,
    SMOOTHED,
    TOGETHER,
    WIDER,
)
from steadylens.training.fusing.labelled import fine_tune, tune_together
from steadylens.training.fusing.pairs import tell_of_mismatch
from steadylens.training.run import Run
from steadylens.training.stages import train_classifier, train_restorer


def reproduce(run: Run, out: Path) -> Path:
    """Trains and fuses the nets of the paper, and writes a report with its Tables 2 to 4 and Fig. 1 to 4.

    Stages that were finished in `out` before, by the same run, are skipped.

    Args:
        run: Data, recipe and seed. The data must be on the run's device.
        out: Folder for nets, records and report; it is made if it is missing.

    Returns:
        Path of the report, an HTML page.

    Raises:
        SteadylensError: If an error occurs that a user can fix. Finished stages are kept.
    """
    require_drawing()
    check_test_images(run)
    check_out(run, out)
    models = out / "models"
    paths = {net: models / f"restorer-{net}.safetensors" for net in run.recipe.nets}
    restorers = {net: train_restorer(run, net, path) for net, path in paths.items()}
    front = restorers[run.recipe.front]
    networks = _networks(run, front, models)
    nets = restorers | networks
    modules = {name: net.module for name, net in nets.items()}
    classifiers = {name: modules[name] for name in networks}
    records = out / "records"
    return publish(
        [
            *(curve_of(run, net.info) for net in nets.values()),
            *measure_restorers(run, {name: modules[name] for name in restorers}, records),
            *measure_networks(run, classifiers, records),
            *measure_differences(run, classifiers, records, against=_best(run)),
            *measure_costs(run, modules, {name: net.seconds for name, net in nets.items()}, records),
            *take_samples(run, front.module, networks[ORIGINAL].module, networks[_best(run)].pair(), records),
            *_measure_further_seeds(run, front, models, records),
        ],
        out,
    )


def _networks(run: Run, front: LoadedNet, models: Path) -> dict[str, LoadedNet]:
    """Trains the classifiers of Tables 3 and 4: alone, on noise, behind a filter and behind the restorer."""
    original = train_classifier(run, models / "original.safetensors")
    smoothing = LoadedNet(name="", module=GaussianSmoothing(sigma_pixels=run.recipe.smoothing_pixels))
    networks = {
        ORIGINAL: original,
        FINE_TUNED: _tuned(run, NOTHING, original, models / "noisy.safetensors"),
        SMOOTHED: _tuned(run, smoothing, original, models / "smoothed.safetensors"),
        RESTORED: _tuned(run, front, original, models / "restored.safetensors"),
        AUGMENTED: train_classifier(run, models / "augmented.safetensors", noisy=True),
    }
    if run.recipe.together:
        networks[TOGETHER] = _tuned(run, front, original, models / "together.safetensors", together=True)
    if run.recipe.wider is not None:
        larger = train_classifier(run, models / "wider-clean.safetensors", width=run.recipe.wider)
        networks[WIDER] = _tuned(run, NOTHING, larger, models / "wider.safetensors")
    return networks


NOTHING = LoadedNet(name="", module=nn.Identity())
"""Stands in front of a classifier that is tuned alone."""


def _best(run: Run) -> str:
    """Returns the network that the figures and the further seeds show."""
    return TOGETHER if run.recipe.together else RESTORED


def _tuned(
    run: Run, restorer: LoadedNet, original: LoadedNet, path: Path, *, together: bool = False
) -> LoadedNet:
    """Fine-tunes a copy of the classifier behind a copy of the restorer, or trains both together."""
    tune = tune_together if together else fine_tune
    return tune(run, _copied(restorer), _copied(original), path, name=path.stem.partition("-seed-")[0])


def _copied(net: LoadedNet) -> LoadedNet:
    """Returns a copy of a net of this run, without its name.

    Without a name it is not listed among the origins of the pair, whose file already describes this run.
    """
    return replace(net, name="", module=copy.deepcopy(net.module), packaged="")


def _measure_further_seeds(run: Run, front: LoadedNet, models: Path, records: Path) -> Iterator[Measurement]:
    """Trains and measures the classifiers that the run is about, with the seeds after the run's own.

    The results show the variation over seeds of the training. So all are measured on the images and the noise
    of the run's own seed, and only with clipped noise.
    """
    evaluation = replace(run.recipe.evaluation, unclipped_images=0)
    measuring = replace(run, recipe=replace(run.recipe, evaluation=evaluation))
    for seed in range(run.seed + 1, run.seed + run.recipe.seeds):
        again = replace(run, seed=seed)
        networks = _networks_of_seed(again, front, models)
        yield from (curve_of(again, net.info) for net in networks.values())
        modules = {name: net.module for name, net in networks.items()}
        for row in measure_networks(measuring, modules, records):
            yield replace(row, provenance=replace(row.provenance, seed=seed))


def _networks_of_seed(run: Run, front: LoadedNet, models: Path) -> dict[str, LoadedNet]:
    """Trains the classifier alone and behind the restorer; where both are trained together, also on noise."""
    original = train_classifier(run, models / f"original-seed-{run.seed}.safetensors")
    if not run.recipe.together:
        restored = models / f"restored-seed-{run.seed}.safetensors"
        return {ORIGINAL: original, RESTORED: _tuned(run, front, original, restored)}
    noisy, together = (models / f"{stem}-seed-{run.seed}.safetensors" for stem in ("noisy", "together"))
    return {
        ORIGINAL: original,
        FINE_TUNED: _tuned(run, NOTHING, original, noisy),
        TOGETHER: _tuned(run, front, original, together, together=True),
    }


def evaluate_nets(run: Run, nets: Sequence[LoadedNet], out: Path) -> Path:
    """Measures trained restorers and classifiers, and writes a report.

    Args:
        run: Data, recipe and seed. The data must be on the run's device.
        nets: The nets, as `load_net` returns them.
        out: Folder for records and report.

    Returns:
        Path of the report, an HTML page.

    Raises:
        SettingError: If there is no net, two have the same name, there are no test images, the images or the
            classes of the data do not fit a classifier, or `out` has the report of another run.
    """
    by_name = {net.name: net for net in nets}
    if not nets or len(by_name) < len(nets):
        names = ", ".join(net.name for net in nets) or "none"
        raise SettingError(f"the nets are {names}; give at least one, each with a different name")
    require_drawing()
    check_test_images(run)
    modules = {net.name: moved(net.module, run.device) for net in nets}
    seconds = {net.name: net.seconds for net in nets}
    restorers = {name: net for name, net in modules.items() if by_name[name].task == RESTORING}
    networks = {name: net for name, net in modules.items() if name not in restorers}
    for name in networks:
        _check_images(by_name[name], run)
        check_against(by_name[name], run)
    check_workers(run, modules)
    check_out(run, out)
    records = [*measure_costs(run, modules, seconds, out / "records")]
    if restorers:
        records += measure_restorers(run, restorers, out / "records")
    if networks:
        records += measure_networks(run, networks, out / "records")
    return publish(records, out)


def _check_images(net: LoadedNet, run: Run) -> None:
    size = run.data.test.images.shape[-1]
    if (net.size, net.fit) != (size, run.data.fit):
        raise SettingError(
            f"{net.name} reads images of {net.size} pixels, fitted by {net.fit}; these are of {size}, "
            f"fitted by {run.data.fit}; measure it with: steadylens compare CLASSIFIER --fused FILE"
        )


SAMPLE_SIGMA_GREY = 25.0
"""Standard deviation, in grey levels, of the noise in the images of changed predictions."""

MAX_SAMPLES = 6
"""Largest number of saved, and of lost, predictions that are shown for each pair."""


COMPARED = (Accuracy, Confusion, Comparison, Stability, NoisyComparison, Cost)
"""The types of records of every comparison, but for sample images."""


def compare(
    run: Run,
    classifier: nn.Module,
    fused: Mapping[str, nn.Module],
    out: str | Path,
    *,
    training_seconds: Mapping[str, float] = MappingProxyType({}),
    certifying: Certifying | None = None,
    corruptions: Corruptions | None = None,
    attacks: Attacks | None = None,
) -> Path:
    """Compares a classifier alone and behind restorers, in accuracy, stability and cost, and writes a report.

    Args:
        run: Data, recipe and seed. The data must have the classifier's input size and be on the run's device.
        classifier: The classifier alone, on the run's device.
        fused: The classifier behind restorers, by name, on the same device, each a `FusedClassifier` or an
            `nn.Sequential` of the two. The report shows the first one first. All nets are measured in eval
            mode, and keep their own.
        out: Folder for records and report. What `certify` has measured there of the same nets is kept, and so
            are corruptions and attacks.
        training_seconds: Seconds that training took, by name, as far as they are known; "alone" for the
            classifier.
        certifying: How all of them are certified, as by `certify`; None for no certificates.
        corruptions: How to measure accuracy on images with the damage of the real world; None leaves it out.
        attacks: How to measure accuracy under attack; None leaves it out.

    Returns:
        Path of the report, an HTML page.

    Raises:
        SettingError: If `fused` is empty, has the name "alone" or holds no pair, the photographs were made
            square in another way than a net needs, a net has other classes than the data, the images are too
            small to be damaged, a net cannot be attacked, or `out` has the report of another run or, with
            what is not measured now, of other nets.
        MissingExtraError: If matplotlib is not installed, or what the corruptions or attacks need.
        StorageError: If a file cannot be written.
    """
    if not fused or ALONE in fused:
        raise SettingError(f"pairs are {sorted(fused)}; give at least one, and call none {ALONE!r}")
    require_drawing()
    pairs = {name: as_pair(net) for name, net in fused.items()}
    networks: dict[str, nn.Module] = {ALONE: classifier, **pairs}
    _check_networks(run, networks)
    out = Path(out)
    known = dict(fingerprints(networks))
    asked = [
        *([Certificate] if certifying else []),
        *([Corrupted, CorruptedComparison] if corruptions else []),
        *([Attacked] if attacks else []),
    ]
    check_out(run, out, networks=known, measured=[*COMPARED, *asked])
    some = run.data.test.images[:4]
    if corruptions is not None:
        require_corruptions(min(some.shape[-2:]))
    if attacks is not None:
        require_attacks(networks, to_float(some))
    records = out / "records"
    certificates = [] if certifying is None else measure_certificates(run, networks, records, certifying)
    return publish(
        [
            *measure_networks(run, networks, records),
            *certificates,
            *_measure_stress(run, classifier, pairs, records, corruptions=corruptions, attacks=attacks),
            *measure_costs(
                run, networks, {name: training_seconds.get(name, 0.0) for name in networks}, records
            ),
            *_measure_pairs_under_noise(run, classifier, pairs, records),
            *_take_samples(run, classifier, pairs, records),
        ],
        out,
        networks=known,
    )


def _measure_pairs_under_noise(
    run: Run, classifier: nn.Module, pairs: Mapping[str, nn.Module], folder: Path
) -> Iterator[Measurement]:
    """Compares each pair with the classifier alone on the same noisy images.

    So a few images tell a difference that two separate intervals would hide. It is done on as many images as
    stability is measured on, whether the recipe asks for it or not.
    """
    recipe = run.recipe.evaluation
    images = recipe.stability_images if recipe.paired_images == 0 else recipe.paired_images
    evaluation = replace(recipe, paired_images=images)
    measuring = replace(run, recipe=replace(run.recipe, evaluation=evaluation))
    for name, pair in pairs.items():
        yield from measure_differences(measuring, {name: pair, ALONE: classifier}, folder, against=name)


def certify(
    run: Run,
    networks: Mapping[str, nn.Module],
    out: str | Path,
    *,
    sigmas: Sequence[float] = (0.25,),
    first_versions: int = 100,
    versions: int = 10_000,
    alpha: float = 0.001,
    images: int | None = 500,
    batch: int | None = None,
    precision: Literal["float32", "bfloat16"] = "float32",
) -> Path:
    """Certifies smoothed classifiers: within which radius no change of an image changes their answer.

    The smoothed classifier gives the answer that the network gives most often to noisy versions of the image
    (randomized smoothing). Its answers are certified, not those of the network to the image itself; see
    `steadylens.evaluation.stress.certify_image` for what the proof needs. An interrupted run goes on where it
    stopped.

    Args:
        run: Data, recipe and seed. The data must have the networks' input size and be on the run's device.
        networks: Classifiers by name, alone or behind restorers, on the same device. They get images outside
            [0, 1], as the noise is not clipped, and keep their mode.
        out: Folder for records and report. What `compare` has measured there of the same nets is kept.
        sigmas: Standard deviations of the smoothing noise, for images in [0, 1].
        first_versions: Noisy versions of each image that choose the answer, n0.
        versions: Noisy versions of each image that bound its probability, n.
        alpha: Probability, for each image, that its certificate is wrong.
        images: Number of test images, chosen at random with the run's seed; None for all.
        batch: Noisy versions that a net gets at once; None for as many as the device is quick with.
        precision: Number format of the networks' products. In bfloat16 each is another network, which many
            devices compute several times as fast.

    Returns:
        Path of the report, an HTML page.

    Raises:
        SettingError: If there is no network, a setting is out of its range, a network has other classes or
            needs other images than the data, or `out` has the report of another run
            or, with what is not measured now, of other nets.
        MissingExtraError: If matplotlib is not installed.
        RecordError: If what an interrupted run has left cannot be read.
        StorageError: If a file cannot be written.

    References:
        Cohen, Rosenfeld and Kolter, "Certified adversarial robustness via randomized smoothing", ICML 2019.
    """
    settings = Certifying(
        sigmas=tuple(sigmas), first_versions=first_versions, versions=versions, alpha=alpha, images=images,
        batch=batch, precision=precision,
    )  # fmt: skip
    if not networks:
        raise SettingError("there is no network to certify; give at least one")
    require_drawing()
    _check_networks(run, networks)
    out = Path(out)
    known = dict(fingerprints(networks))
    check_out(run, out, networks=known, measured=[Certificate])
    records = measure_certificates(run, networks, out / "records", settings)
    return publish(records, out, networks=known)


def _check_networks(run: Run, networks: Mapping[str, nn.Module]) -> None:
    for name, network in networks.items():
        _check_fit(name, network, run)
        check_network(name, network, run)
        if isinstance(network, FusedClassifier):
            tell_of_mismatch(run, name, network.restorer)
    check_workers(run, networks)


def _measure_stress(
    run: Run,
    classifier: nn.Module,
    pairs: Mapping[str, nn.Module],
    records: Path,
    *,
    corruptions: Corruptions | None,
    attacks: Attacks | None,
) -> list[Measurement]:
    measured: list[Measurement] = []
    if corruptions is not None:
        networks = {ALONE: classifier, **pairs}
        measured += measure_corruptions(run, networks, records, corruptions, against=ALONE)
    if attacks is not None:
        measured += measure_attacks(run, classifier, pairs, records, attacks, name=ALONE)
    return measured


def _check_fit(name: str, network: nn.Module, run: Run) -> None:
    preprocessing = facts_of(network).preprocessing
    if preprocessing is not None and preprocessing.fit != run.data.fit:
        raise SettingError(
            f"{name} reads photographs fitted by {preprocessing.fit}, these were fitted by {run.data.fit}; "
            "load them with load_dataset(..., fit=classifier.fit)"
        )


def _take_samples(
    run: Run, classifier: nn.Module, fused: Mapping[str, FusedClassifier], folder: Path
) -> list[Measurement]:
    images, kind = run.recipe.evaluation.stability_images, run.recipe.evaluation.noises[0]
    kinds = () if kind == GAUSSIAN else (kind, *noise_key(kind))
    return measure(
        run,
        "changed answers",
        folder / "pictures.jsonl",
        lambda: changed_answers(
            classifier,
            fused,
            random_test_images(run, images),
            run.data.class_names,
            sigma_grey=SAMPLE_SIGMA_GREY,
            kind=kind,
            limit=MAX_SAMPLES,
            provenance=run.provenance,
        ),
        key=run.key(
            "changed answers",
            images,
            SAMPLE_SIGMA_GREY,
            MAX_SAMPLES,
            *kinds,
            fingerprint(classifier),
            fingerprints(fused),
        ),
    )
