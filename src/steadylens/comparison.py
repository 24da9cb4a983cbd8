"""A classifier before and after: alone, and behind restorers, on one report page."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from torch import nn

from steadylens.errors import SettingError
from steadylens.experiments import chosen_tests, measure_costs, measure_networks
from steadylens.fusion import FusedClassifier
from steadylens.measuring import measure
from steadylens.netkeys import net_key, net_keys
from steadylens.networks import ALONE
from steadylens.pictures import changed_answers
from steadylens.pipeline import publish
from steadylens.preparation import PreparedClassifier
from steadylens.records import Measurement
from steadylens.report import require_drawing
from steadylens.run import Run

PICTURED_SIGMA_GREY = 25.0
"""Strength of the noise in the pictures of saved and lost answers."""

PICTURES = 6
"""How many saved, and how many lost answers are shown for each pair."""


def compare(
    run: Run,
    classifier: nn.Module,
    fused: Mapping[str, FusedClassifier],
    out: str | Path,
    *,
    training_seconds: Mapping[str, float] = MappingProxyType({}),
) -> Path:
    """Measures a classifier alone and behind restorers: accuracy, stability and cost, and reports.

    Args:
        run: Data, at the size that the classifier reads, recipe and seed; the data lies on the run's device.
        classifier: The classifier alone, in eval mode, on the run's device.
        fused: The pairs to compare it with, by name, likewise; the page begins with the first.
        out: The folder of the report.
        training_seconds: What training each took, by name, as far as it is known; "alone" is the
            classifier's.

    Returns:
        The report page.

    Raises:
        SettingError: If there is no pair, one is called as the classifier alone is, or the photographs were
            fitted otherwise than a net reads them.
        MissingExtraError: If matplotlib is not installed.
        StorageError: If a file cannot be written.
    """
    if not fused or ALONE in fused:
        raise SettingError(f"pairs are {sorted(fused)}; give at least one, and call none {ALONE!r}")
    require_drawing()
    networks: dict[str, nn.Module] = {ALONE: classifier, **fused}
    for name, network in networks.items():
        _check_fit(name, network, run)
    out = Path(out)
    records = out / "records"
    return publish(
        [
            *measure_networks(run, networks, records),
            *measure_costs(
                run, networks, {name: training_seconds.get(name, 0.0) for name in networks}, records
            ),
            *_take_pictures(run, classifier, fused, records),
        ],
        out,
    )


def _check_fit(name: str, network: nn.Module, run: Run) -> None:
    for part in network.modules():
        if isinstance(part, PreparedClassifier) and part.fit != run.data.fit:
            raise SettingError(
                f"{name} reads photographs fitted by {part.fit}, these were fitted by {run.data.fit}; load "
                "them with load_dataset(..., fit=classifier.fit)"
            )


def _take_pictures(
    run: Run, classifier: nn.Module, fused: Mapping[str, FusedClassifier], folder: Path
) -> list[Measurement]:
    images = run.recipe.evaluation.stability_images
    return measure(
        run,
        "changed answers",
        folder / "pictures.jsonl",
        lambda: changed_answers(
            classifier,
            fused,
            chosen_tests(run, images),
            run.data.class_names,
            sigma_grey=PICTURED_SIGMA_GREY,
            most=PICTURES,
            seed=run.seed,
            provenance=run.provenance,
        ),
        key=run.key(
            "changed answers", images, PICTURED_SIGMA_GREY, PICTURES, net_key(classifier), net_keys(fused)
        ),
    )
