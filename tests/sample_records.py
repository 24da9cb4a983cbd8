"""Complete, plausible, invented records, for tests of tables, figures and pages."""

import base64
import io
import math
from statistics import NormalDist
from typing import Literal

import numpy as np
from PIL import Image

from steadylens.intervals import mcnemar, wilson_interval
from steadylens.records import (
    Accuracy,
    Attacked,
    Certificate,
    Comparison,
    Confusion,
    Contraction,
    Corrupted,
    CorruptedComparison,
    Cost,
    Curve,
    Density,
    Hits,
    Measurement,
    NoisyComparison,
    Picture,
    Provenance,
    Restoring,
    Scatter,
    Stability,
)

NOISE = "clipped, 8-bit"
SIGMAS = (1.0, 2.0, 4.0, 8.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0, 40.0)
RESTORERS = {"L11": 6.0, "L9": 5.5, "L7": 5.2, "L5": 4.4, "L3": 2.6, "Dong": 2.0}
"""Names of the nets, and the gain of each at strong noise in decibels."""

CLASSIFIERS = {
    "original": 0.20,
    "fine-tuned on noisy images": 0.12,
    "Gaussian smoothing as first layer": 0.17,
    "strong noise augmentation": 0.10,
    "restoration + original": 0.06,
}
"""Names of the networks, and the share of answers that noise of 40 grey levels spoils."""

POPULATIONS: tuple[tuple[Literal["own", "all"], float, int], ...] = (
    ("own", 1.0, 12_520),
    ("all", 0.991, 12_630),
)
"""Populations of Table 4: name, accuracy without noise, number of images."""

FIGURES: tuple[tuple[Literal[2, 4], int], ...] = ((2, 5), (4, 2))
"""Numbers of figures in the paper, and how many panels each row has."""

PROVENANCE = Provenance(
    recipe="fast",
    seed=3,
    data="GTSRB (sha256 5f2c9a01)",
    commit="0123abc",
    versions=(("steadylens", "0.1.0"), ("torch", "2.14.1")),
    device="one GPU",
)


def sample_records() -> list[Measurement]:
    """Returns records of every type, the same each time."""
    return [
        *curves(),
        *densities(),
        *restorings(),
        *explorations(),
        *accuracies(),
        *confusions(),
        *stabilities(),
        *differences(),
        *certificates(),
        *corruptions(),
        *attacks(),
        *costs(),
        *pictures(),
    ]


def curves() -> list[Measurement]:
    steps = tuple(range(100, 10_001, 100))
    stages = {f"restorer {name}": 1.0 for name in RESTORERS} | {"classifier": 3.7, "fine-tuning": 0.4}
    return [
        Curve(
            provenance=PROVENANCE,
            samples=500_000,
            seconds=700.0 + index,
            stage=stage,
            steps=steps,
            losses=tuple(start * (0.1 + 0.9 * math.exp(-step / 1500)) for step in steps),
            learning_rates=tuple(0.001 * 0.9998**step for step in steps),
        )
        for index, (stage, start) in enumerate(stages.items())
    ]


def densities() -> list[Measurement]:
    edges = np.linspace(-100, 100, 52)
    centres = (edges[1:] + edges[:-1]) / 2
    gaussian = np.exp(-(centres**2) / (2 * 30**2))
    uniform = (np.abs(centres) < 30 * math.sqrt(3)).astype(float)
    sparse = gaussian + 40 * (np.abs(centres) < 2)
    families = {
        "Gaussian": gaussian,
        "uniform": uniform,
        "Gaussian, sparse": sparse,
        "salt": gaussian[::-1] ** 4,
    }
    return [
        Density(
            provenance=PROVENANCE,
            samples=1_000_000,
            seconds=0.4,
            family=family,
            strength_grey=30.0,
            edges_grey=tuple(edges.tolist()),
            shares=tuple((values / values.sum()).tolist()),
        )
        for family, values in families.items()
    ]


def restorings() -> list[Measurement]:
    rows: list[Measurement] = []
    for sigma in (0.0, *SIGMAS):
        noisy = math.inf if sigma == 0 else 20 * math.log10(255 / sigma) + 0.3
        for name, gain in RESTORERS.items():
            restored = 46 + gain / 3 if sigma == 0 else noisy + gain * (1 - math.exp(-sigma / 15)) - 0.2
            rows.append(
                Restoring(
                    provenance=PROVENANCE,
                    samples=1_263,
                    seconds=2.5 + sigma,
                    network=name,
                    sigma_grey=sigma,
                    noise=NOISE,
                    noisy_db=noisy,
                    restored_db=restored,
                )
            )
    return rows


def explorations() -> list[Measurement]:
    rows: list[Measurement] = []
    edges = np.linspace(0, 25, 25)
    centres = (edges[1:] + edges[:-1]) / 2
    generator = np.random.default_rng(0)
    bumps = [
        gain**2 * np.exp(-(((centres - 3 - 3 * i) / 6) ** 2)) for i, gain in enumerate(RESTORERS.values())
    ]
    shares = np.array(bumps) / np.sum(bumps)
    for index, (name, gain) in enumerate(RESTORERS.items()):
        by_norm = np.round(shares[index] * 189_450).astype(int)
        rows.append(
            Hits(
                provenance=PROVENANCE,
                samples=189_450,
                seconds=950.0,
                network=name,
                noise=NOISE,
                top1=int(by_norm.sum()),
                top2=int(by_norm.sum() * 1.4),
                norm_edges=tuple(edges.tolist()),
                top1_by_norm=tuple(by_norm.tolist()),
            )
        )
        noisy = generator.uniform(12, 50, 400)
        restored = noisy * 0.7 + 9 + gain + generator.normal(0, 1, 400)
        rows.append(
            Scatter(
                provenance=PROVENANCE,
                samples=189_450,
                seconds=950.0,
                network=name,
                noise=NOISE,
                noisy_db=tuple(noisy.tolist()),
                restored_db=tuple(restored.tolist()),
                mean_noisy_db=float(noisy.mean()),
                mean_restored_db=float(restored.mean()),
                line=tuple(np.polyfit(noisy, restored, 1).tolist()),
                parabola=tuple(np.polyfit(noisy, restored, 2).tolist()),
            )
        )
        norms = generator.uniform(0.2, 25, 400)
        quotients = generator.uniform(0.1, 0.9 - gain / 12, 400)
        rows.append(
            Contraction(
                provenance=PROVENANCE,
                samples=189_450,
                seconds=950.0,
                network=name,
                noise=NOISE,
                noise_norms=tuple(norms.tolist()),
                restored_norms=tuple((norms * quotients).tolist()),
                quantiles=tuple((p, float(np.quantile(quotients, p))) for p in (0.5, 0.9, 0.99, 0.999)),
                largest=float(quotients.max()),
                norm_edges=(0.0, 5.0, 10.0, 15.0),
                quantiles_by_norm=((0.5, 0.8, 0.9, 0.95), (), (0.3, 0.5, 0.7, 0.85)),
            )
        )
    return rows


def accuracies() -> list[Measurement]:
    rows: list[Measurement] = []
    for name, loss in CLASSIFIERS.items():
        for k in (1, 2, 5):
            correct = round(12_630 * (1 - (0.004 + loss / 30) / k))
            lower, upper = wilson_interval(correct, 12_630)
            rows.append(
                Accuracy(
                    provenance=PROVENANCE,
                    samples=12_630,
                    seconds=1.5,
                    network=name,
                    k=k,
                    correct=correct,
                    lower=lower,
                    upper=upper,
                )
            )
    rows += [
        Comparison(
            provenance=PROVENANCE,
            samples=12_630,
            seconds=0.0,
            first="original",
            second=name,
            only_first=20 + index,
            only_second=40 + 9 * index,
            p_value=mcnemar(20 + index, 40 + 9 * index),
        )
        for index, name in enumerate(list(CLASSIFIERS)[1:])
    ]
    return rows


CLASSES = ("speed limit 20", "no passing", "stop <script>", "yield $5 and $6", "road | works", "keep right")


def confusions() -> list[Measurement]:
    """Returns 100 answers for each class: mostly right ones, some for the next class, and one for none."""
    return [
        Confusion(
            provenance=PROVENANCE,
            samples=100 * len(CLASSES),
            seconds=1.5,
            network=name,
            class_names=CLASSES,
            cells=tuple(
                cell
                for label in range(len(CLASSES))
                for cell in (
                    (label, -1, 1),
                    (label, label, 97 - wrong - label),
                    (label, (label + 1) % len(CLASSES), 2 + wrong + label),
                )
            ),
        )
        for wrong, name in enumerate(CLASSIFIERS)
    ]


def stabilities() -> list[Measurement]:
    rows: list[Measurement] = []
    for name, loss in CLASSIFIERS.items():
        for sigma in SIGMAS:
            for population, ceiling, images in POPULATIONS:
                samples = images * 2
                correct = round(samples * ceiling * (1 - loss * (sigma / 40) ** 1.6))
                lower, upper = wilson_interval(correct, samples)
                rows.append(
                    Stability(
                        provenance=PROVENANCE,
                        samples=samples,
                        seconds=4.0 + sigma,
                        network=name,
                        sigma_grey=sigma,
                        noise=NOISE,
                        population=population,
                        images=images,
                        correct=correct,
                        lower=lower,
                        upper=upper,
                    )
                )
    return rows


def differences() -> list[Measurement]:
    subject, *others = reversed(CLASSIFIERS)
    return [
        NoisyComparison(
            provenance=PROVENANCE,
            samples=12_630 * (len(SIGMAS) if sigma is None else 1),
            seconds=9.0,
            first=subject,
            second=other,
            sigma_grey=sigma,
            noise=NOISE,
            images=12_630,
            difference=(gain := 0.01 * index - 0.002),
            lower=gain - 0.0012,
            upper=gain + 0.0012,
        )
        for index, other in enumerate(others)
        for sigma in (*SIGMAS, None)
    ]


def certificates() -> list[Measurement]:
    """Returns certificates of 300 images, with two smoothing noises: the steadier a network, the wider."""
    rows: list[Measurement] = []
    for sigma in (0.12, 0.25):
        for name, loss in CLASSIFIERS.items():
            generator = np.random.default_rng(7)
            counts = np.clip(1000 * generator.beta(8, 20 * loss, 300), 0, 1000).astype(int)
            wrong = generator.random(300) < loss / 4
            images = []
            for index, (count, bad) in enumerate(zip(counts.tolist(), wrong.tolist(), strict=True)):
                label, low = index % len(CLASSES), min(count - 30, 993) / 1000
                answer = -1 if low <= 0.5 else (label + bad) % len(CLASSES)
                radius = sigma * NormalDist().inv_cdf(low) if answer >= 0 else 0.0
                images.append((index, label, answer, count, radius))
            rows.append(
                Certificate(
                    provenance=PROVENANCE,
                    samples=300,
                    seconds=30.0,
                    network=name,
                    sigma=sigma,
                    first_versions=100,
                    versions=1000,
                    alpha=0.001,
                    images=tuple(images),
                )
            )
    return rows


CORRUPTIONS = {"none": 0.01, "snow": 0.25, "motion_blur": 0.2, "jpeg_compression": 0.06}
"""Kinds of damage, and the share of answers that the strongest spoils; motion blur is worse when restored."""


def corruptions() -> list[Measurement]:
    rows: list[Measurement] = []
    for name, loss in CLASSIFIERS.items():
        for kind, spoiled in CORRUPTIONS.items():
            for severity in (0,) if kind == "none" else (1, 2, 3, 4, 5):
                worse = 2 - 5 * loss if kind == "motion_blur" else 5 * loss
                correct = round(1000 * (0.99 - spoiled * worse * severity / 5))
                lower, upper = wilson_interval(correct, 1000)
                rows.append(
                    Corrupted(
                        provenance=PROVENANCE,
                        samples=1000,
                        seconds=6.0,
                        network=name,
                        corruption=kind,
                        severity=severity,
                        correct=correct,
                        lower=lower,
                        upper=upper,
                        kept=min(1000, correct + 4),
                    )
                )
    return rows + corrupted_comparisons([row for row in rows if isinstance(row, Corrupted)])


def corrupted_comparisons(rows: list[Corrupted]) -> list[Measurement]:
    """Returns image by image what the differences of the records are made of, from the original network."""
    right = {(row.network, row.corruption, row.severity): row.correct for row in rows}
    return [
        CorruptedComparison(
            provenance=PROVENANCE,
            samples=1000,
            seconds=6.0,
            first=name,
            second="original",
            corruption=kind,
            severities=5,
            differences=tuple(
                sum(
                    (image < right[name, kind, severity]) - (image < right["original", kind, severity])
                    for severity in range(1, 6)
                )
                for image in range(1000)
            ),
        )
        for name in list(CLASSIFIERS)[1:]
        for kind in list(CORRUPTIONS)[1:]
    ]


BOUNDS: tuple[tuple[Literal["l2", "linf"], tuple[float, ...]], ...] = (
    ("l2", (0.0, 0.25, 1.0)),
    ("linf", (0.0, 2 / 255, 8 / 255)),
)
"""Norms and bounds of the attacks."""


def attacks() -> list[Measurement]:
    """Returns attacks with and without restarts, which know the restorer or do not."""
    rows: list[Measurement] = []
    for name, loss in CLASSIFIERS.items():
        for norm, bounds in BOUNDS:
            for place, epsilon in enumerate(bounds):
                for restarts, knows in ((0, True), (5, True), (0, False)):
                    share = 0.99 * (0.3 - loss / 2) ** place - 0.002 * restarts * (place > 0)
                    correct = round(200 * (share if knows else 1 - (1 - share) * 0.6))
                    lower, upper = wilson_interval(correct, 200)
                    rows.append(
                        Attacked(
                            provenance=PROVENANCE,
                            samples=200,
                            seconds=20.0,
                            network=name,
                            attack="PGD",
                            norm=norm,
                            epsilon=epsilon,
                            steps=40,
                            restarts=restarts,
                            knows_restorer=knows,
                            correct=correct,
                            lower=lower,
                            upper=upper,
                        )
                    )
    return rows


def costs() -> list[Measurement]:
    figures = {
        "L11": (397_411, 1_070_000_000),
        "original": (1_123_449, 76_400_000),
        "restoration + original": (1_520_860, 1_146_400_000),
    }
    return [
        Cost(
            provenance=PROVENANCE,
            samples=64,
            seconds=3.0,
            network=name,
            size=48,
            parameters=parameters,
            multiplications=multiplications,
            milliseconds=multiplications / 2e8,
            training_seconds=9_000.0,
        )
        for name, (parameters, multiplications) in figures.items()
    ]


def pictures() -> list[Measurement]:
    captions = ("clean", "noisy", "pattern", "restored", "pattern, normalised")
    classes = ("speed limit 20", "no passing", "stop <script>", "yield", "road works", "keep right")
    return [
        Picture(
            provenance=PROVENANCE,
            samples=1,
            seconds=0.1,
            figure=figure,
            title=title,
            panels=tuple((caption, drawn_png(index)) for index, caption in enumerate(captions[:panels])),
        )
        for figure, panels in FIGURES
        for title in classes
    ]


def drawn_png(seed: int) -> str:
    """Returns a small image as PNG in base64: a red ring on grey, with some noise."""
    y, x = np.mgrid[:48, :48] - 23.5
    radius = np.hypot(x, y)[..., None]
    image = np.where((radius > 14) & (radius < 20), [200, 30, 40], np.where(radius < 20, 240, 120))
    noise = np.random.default_rng(seed).normal(0, 20 if seed in {1, 2, 4} else 3, image.shape)
    file = io.BytesIO()
    Image.fromarray(np.clip(image + noise, 0, 255).astype(np.uint8)).save(file, format="png")
    return base64.b64encode(file.getvalue()).decode("ascii")
