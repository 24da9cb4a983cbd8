"""The experiments of Sec. 4 on trained nets, each a stage that is skipped when its records are there.

Beside them: what a net costs in parameters, multiply-adds and time.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from steadylens.checkpoints.checkpoint import fingerprint, fingerprints
from steadylens.checkpoints.info import TrainingInfo
from steadylens.data.datasets import ImageSet
from steadylens.evaluation.restoration import explore, restore_by_sigma
from steadylens.evaluation.samples import noise_densities, restored_samples, saved_answers
from steadylens.evaluation.stability import clean_accuracy, stability
from steadylens.nets.classification import FusedClassifier, evaluating
from steadylens.noise.degradation import Degradation
from steadylens.noise.families import Attenuated, Gaussian, Laplacian, Sparse, Strength, Uniform
from steadylens.progress import ProgressCallback, Update
from steadylens.randomness import derived_generator
from steadylens.records import Cost, Curve, Measurement, Provenance, read_records, write_records
from steadylens.training.run import Run, device_name
from steadylens.training.settings import GaussianNoise


def multiplications(module: nn.Module, *, channels: int, size: int) -> int:
    """Counts the multiply-adds that a module spends on one image in evaluation mode.

    Convolutions and matrix products count, in groups as they are; biases, activations and pooling do not.
    The module runs once, on its own device, and keeps its mode.

    Args:
        module: Images (N, C, H, W) -> anything.
        channels: Channels of the image.
        size: Height and width of the image in pixels.
    """
    tensors = chain(module.parameters(), module.buffers(), [torch.empty(0)])
    like = next(tensor for tensor in tensors if tensor.is_floating_point())
    image = torch.zeros(1, channels, size, size, device=like.device, dtype=like.dtype)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), evaluating(module), counter:
        module(image)
    return counter.get_total_flops() // 2


def parameters(module: nn.Module) -> int:
    """Counts a module's parameters, frozen ones too; one that is shared counts once."""
    return sum(parameter.numel() for parameter in module.parameters())


REPEATS = 3
"""Timed passes, of which the quickest counts: what slows a pass is not the network's."""


def cost(
    networks: Mapping[str, nn.Module],
    training_seconds: Mapping[str, float],
    *,
    size: int,
    batches: tuple[int, ...] = (1, 64),
    device: torch.device,
    provenance: Provenance,
) -> list[Cost]:
    """Measures parameters, multiply-adds and time of each network, for RGB images and each batch size.

    Args:
        networks: Restorers or classifiers by name, in eval mode, on `device`.
        training_seconds: What training each took.
        size: Height and width of the images in pixels.
        batches: Batch sizes to time.
        device: Where the networks are.
        provenance: Where the rows come from.
    """
    return [
        Cost(
            provenance=provenance,
            samples=batch,
            seconds=0.0,
            network=name,
            size=size,
            parameters=parameters(network),
            multiplications=multiplications(network, channels=3, size=size),
            milliseconds=_quickest_seconds(network, batch, size, device) / batch * 1000,
            training_seconds=training_seconds[name],
        )
        for name, network in networks.items()
        for batch in batches
    ]


def _quickest_seconds(network: nn.Module, batch: int, size: int, device: torch.device) -> float:
    images = torch.zeros(batch, 3, size, size, device=device)
    quickest = float("inf")
    with torch.inference_mode():
        network(images)
        for _ in range(REPEATS):
            _wait_for(device)
            started = time.perf_counter()
            network(images)
            _wait_for(device)
            quickest = min(quickest, time.perf_counter() - started)
    return quickest


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    run: Run, stage: str, path: Path, measuring: Callable[[], Iterable[Measurement]], *, key: str
) -> list[Measurement]:
    """Makes the records of one experiment, or reads them if they were made with the same `key` before.

    Args:
        run: Who is told.
        stage: The experiment's name.
        path: Where the records are kept; the key becomes part of the name.
        measuring: Makes the records.
        key: What they depend on.

    Raises:
        RecordError: If records that are there cannot be read.
        StorageError: If they cannot be written.
    """
    origin = run.key(key, run.recipe.name, run.data.source, device_name(run.device))
    keyed = path.with_name(f"{path.stem}-{origin}{path.suffix}")
    if keyed.exists():
        run.observe(Update(stage=stage, state="skipped", note="measured before"))
        return read_records(keyed)
    run.observe(Update(stage=stage, state="started"))
    records = list(measuring())
    write_records(keyed, records)
    run.observe(Update(stage=stage, state="finished"))
    return records


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
    keys = fingerprints(restorers)
    stage = "PSNR by noise strength"
    records = measure(
        run,
        stage,
        folder / "psnr.jsonl",
        lambda: restore_by_sigma(
            restorers,
            chosen_tests(run, recipe.psnr_images).images,
            noise=GaussianNoise(
                sigmas_grey=recipe.psnr_sigmas_grey, clip=recipe.clip, quantize=recipe.quantize
            ),
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
        key=run.key(stage, recipe.accuracy_images, fingerprints(networks)),
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
            noise=GaussianNoise(sigmas_grey=sigmas, clip=clip, quantize=quantize),
            sampling=sampling,
            provenance=run.provenance,
            progress=advancing(run, stage),
        ),
        key=run.key(stage, images, sigmas, sampling, quantize, fingerprint(network)),
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
        key=run.key("cost", fingerprints(networks)),
    )


def take_samples(
    run: Run, net: nn.Module, original: nn.Module, fused: FusedClassifier, folder: Path
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
            *noise_densities(example_densities(), provenance=run.provenance),
            *restored_samples(net, test, names, shown, provenance=run.provenance),
            *saved_answers(original, fused, test, names, most=SAVED_ANSWERS, provenance=run.provenance),
        ]

    key = run.key(
        "pictures",
        run.recipe.evaluation.accuracy_images,
        shown,
        fingerprint(net),
        fingerprint(original),
        fingerprint(fused),
    )
    return measure(run, "pictures", folder / "pictures.jsonl", pictures, key=key)


def curve_of(run: Run, info: TrainingInfo) -> Curve:
    """Returns the course of a training as a record, from what its file says about it."""
    steps, losses, rates = zip(*info.curve, strict=True)
    return Curve(
        provenance=replace(run.provenance, commit=info.commit, versions=info.versions),
        samples=info.samples or 0,
        seconds=info.seconds or 0.0,
        stage=info.stage,
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
