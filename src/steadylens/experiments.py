"""The experiments of Sec. 4 on trained nets, each a stage that is skipped when its records are there."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from steadylens.acceleration import ProgressCallback
from steadylens.cost import cost
from steadylens.datasets import ImageSet
from steadylens.degradation import Degradation
from steadylens.exploration import explore, restore_by_sigma
from steadylens.fusion import FusedClassifier
from steadylens.measuring import measure
from steadylens.netkeys import net_key, net_keys
from steadylens.noise import Attenuated, Gaussian, Laplacian, Sparse, Strength, Uniform
from steadylens.pictures import noise_densities, restored_samples, saved_answers
from steadylens.randomness import derived_generator
from steadylens.records import Curve, Measurement
from steadylens.restoration import DongNet, RestorationNet
from steadylens.run import Run, Update
from steadylens.stability import clean_accuracy, stability

SAVED_ANSWERS = 12
"""How many images Fig. 4 shows at most."""


def measure_restorers(run: Run, restorers: Mapping[str, nn.Module], folder: Path) -> list[Measurement]:
    """Measures PSNR by strength, hits and contraction (Table 2, Fig. 3).

    Args:
        run: Data, recipe and seed.
        restorers: The nets by name, in eval mode, on the run's device.
        folder: Where the records are kept.
    """
    recipe = run.recipe.evaluation
    keys = net_keys(restorers)
    stage = "PSNR by noise strength"
    records = measure(
        run,
        stage,
        folder / "psnr.jsonl",
        lambda: restore_by_sigma(
            restorers,
            chosen_tests(run, recipe.psnr_images).images,
            sigmas_grey=recipe.psnr_sigmas_grey,
            clip=recipe.clip,
            quantize=recipe.quantize,
            seed=run.seed,
            provenance=run.provenance,
            progress=advancing(run, stage),
        ),
        key=run.key(stage, recipe.psnr_images, recipe.psnr_sigmas_grey, recipe.clip, recipe.quantize, keys),
    )
    exploring = "hits and contraction"
    return records + measure(
        run,
        exploring,
        folder / "exploration.jsonl",
        lambda: explore(
            restorers,
            chosen_tests(run, recipe.exploration_images).images,
            recipe.degradation,
            versions=recipe.exploration_versions,
            seed=run.seed,
            provenance=run.provenance,
            progress=advancing(run, exploring),
        ),
        key=run.key(
            exploring, recipe.exploration_images, recipe.exploration_versions, recipe.degradation, keys
        ),
    )


def measure_networks(run: Run, networks: Mapping[str, nn.Module], folder: Path) -> list[Measurement]:
    """Measures accuracy on clean images and under noise (Tables 3 and 4).

    Args:
        run: Data, recipe and seed.
        networks: The classifiers by name, in eval mode, on the run's device.
        folder: Where the records are kept.
    """
    recipe = run.recipe.evaluation
    stage = "accuracy on clean images"
    records = measure(
        run,
        stage,
        folder / "accuracy.jsonl",
        lambda: clean_accuracy(
            networks,
            chosen_tests(run, recipe.accuracy_images),
            provenance=run.provenance,
            progress=advancing(run, stage),
        ),
        key=run.key(stage, recipe.accuracy_images, net_keys(networks)),
    )
    storages = [(recipe.stability_images, recipe.clip, recipe.quantize)]
    if recipe.unclipped_images:
        storages.append((recipe.unclipped_images, False, False))
    for images, clip, quantize in storages:
        for name, network in networks.items():
            records += _measure_stability(
                run, name, network, folder, images=images, clip=clip, quantize=quantize
            )
    return records


def _measure_stability(
    run: Run,
    name: str,
    network: nn.Module,
    folder: Path,
    *,
    images: int | None,
    clip: bool,
    quantize: bool,
) -> list[Measurement]:
    recipe = run.recipe.evaluation
    stage = f"stability of: {name}" if clip else f"stability, unclipped, of: {name}"
    sigmas, sampling = recipe.stability_sigmas_grey, recipe.sampling
    return measure(
        run,
        stage,
        folder / "stability.jsonl",
        partial(
            stability,
            name,
            network,
            chosen_tests(run, images),
            sigmas_grey=sigmas,
            sampling=sampling,
            clip=clip,
            quantize=quantize,
            seed=run.seed,
            provenance=run.provenance,
            progress=advancing(run, stage),
        ),
        key=run.key(stage, images, sigmas, sampling, quantize, net_key(network)),
    )


def measure_costs(
    run: Run, networks: Mapping[str, nn.Module], training_seconds: Mapping[str, float], folder: Path
) -> list[Measurement]:
    """Measures parameters, multiplications and time of restorers and classifiers.

    Args:
        run: Data, recipe and seed.
        networks: All of them by name, in eval mode, on the run's device.
        training_seconds: What training each took, by name.
        folder: Where the records are kept.
    """
    size = run.data.test.images.shape[-1]
    return measure(
        run,
        "cost",
        folder / "cost.jsonl",
        lambda: cost(networks, training_seconds, size=size, device=run.device, provenance=run.provenance),
        key=run.key("cost", net_keys(networks)),
    )


def take_pictures(
    run: Run, net: RestorationNet | DongNet, original: nn.Module, fused: FusedClassifier, folder: Path
) -> list[Measurement]:
    """Draws the densities and pictures of Fig. 1, 2 and 4.

    Args:
        run: Data, recipe and seed.
        net: The restorer whose patterns are shown.
        original: The classifier alone.
        fused: The restorer and the classifier that was fine-tuned behind it.
        folder: Where the records are kept.
    """
    names, test = run.data.class_names, chosen_tests(run, run.recipe.evaluation.accuracy_images)
    shown = replace(
        run.recipe.evaluation.degradation,
        families=(Gaussian(strength=Strength.fixed(20)),),
        weights=(),
        versions=1,
        clean_share=0.0,
    )

    def pictures() -> list[Measurement]:
        return [
            *noise_densities(example_densities(), seed=run.seed, provenance=run.provenance),
            *restored_samples(net, test, names, shown, seed=run.seed, provenance=run.provenance),
            *saved_answers(original, fused, test, names, most=SAVED_ANSWERS, provenance=run.provenance),
        ]

    key = run.key(
        "pictures",
        run.recipe.evaluation.accuracy_images,
        shown,
        net_key(net),
        net_key(original),
        net_key(fused),
    )
    return measure(run, "pictures", folder / "pictures.jsonl", pictures, key=key)


def curve_of(run: Run, about: dict[str, Any]) -> Curve:
    """Returns the course of a training as a record, from what its file says about it."""
    steps, losses, rates = zip(*about["curve"], strict=True)
    origin = {"commit": about["commit"], "versions": tuple(about["versions"].items())}
    return Curve(
        provenance=replace(run.provenance, **origin),
        samples=about["samples"],
        seconds=about["seconds"],
        stage=about["stage"],
        steps=steps,
        losses=losses,
        learning_rates=rates,
    )


def example_densities() -> list[tuple[str, float, Degradation]]:
    """Returns the five noises whose histograms stand in Fig. 1, sparse ones among them."""
    strength = Strength.fixed(20)
    families = (
        Gaussian(strength=strength),
        Uniform(strength=strength),
        Laplacian(strength=strength),
        Sparse(noise=Gaussian(strength=strength), density=(0.3, 0.3)),
        Attenuated(noise=Gaussian(strength=strength), density=(0.5, 0.5), factor=(0.3, 0.3)),
    )
    return [
        (family.name, 20.0, Degradation(families=(family,), clip=False, quantize=False))
        for family in families
    ]


def chosen_tests(run: Run, count: int | None) -> ImageSet:
    """Returns `count` test images, the same random choice for all networks; all of them for None."""
    test = run.data.test
    if count is None or count >= len(test):
        return test
    order = torch.randperm(len(test), generator=derived_generator(run.seed, "choice of test images"))
    return test.subset(order[:count].sort().values.to(test.labels.device))


def advancing(run: Run, stage: str) -> ProgressCallback:
    """Returns a callback that tells the run's observer how far a stage is."""
    return lambda done, total: run.observe(Update(stage=stage, state="advanced", done=done, total=total))
