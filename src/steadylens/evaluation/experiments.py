"""The experiments of Sec. 4 on trained nets, and the cost of a net in parameters, multiply-adds and time.

Each experiment is a stage of a run: its records are saved, and the stage is skipped if they exist.
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

from steadylens import workers
from steadylens.checkpoints.checkpoint import TrainingInfo, fingerprint, fingerprints
from steadylens.data.datasets import ImageSet
from steadylens.devices import evaluating
from steadylens.evaluation.restoration import explore, restore_by_sigma
from steadylens.evaluation.samples import noise_densities, restored_samples, saved_answers
from steadylens.evaluation.stability import clean_accuracy, noisy_comparisons, stability
from steadylens.nets.classification import FusedClassifier
from steadylens.noise.degradation import Degradation
from steadylens.noise.families import Attenuated, Gaussian, Laplacian, Sparse, Strength, Uniform
from steadylens.noise.named import GAUSSIAN, family_named
from steadylens.progress import ProgressCallback, Update
from steadylens.randomness import derived_generator
from steadylens.records import Cost, Curve, Measurement, Provenance, read_records, write_records
from steadylens.report.class_tables import doubts
from steadylens.training.run import GaussianNoise, Run, device_name


def multiplications(module: nn.Module, *, channels: int, size: int) -> int:
    """Counts the multiply-adds of a module for one image in eval mode.

    Those of convolutions, grouped ones too, and matrix products are counted; those of biases, activations and
    pooling are not. The module runs once on its own device, and keeps its mode. A part that PyTorch does not
    run tells its own as an attribute `multiplications`.

    Args:
        module: From images (N, C, H, W) to anything.
        channels: Number of channels of the image.
        size: Height and width of the image in pixels.
    """
    tensors = chain(module.parameters(), module.buffers(), [torch.empty(0)])
    like = next(tensor for tensor in tensors if tensor.is_floating_point())
    image = torch.zeros(1, channels, size, size, device=like.device, dtype=like.dtype)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), evaluating(module), counter:
        module(image)
    elsewhere = sum(getattr(part, "multiplications", 0) for part in module.modules())
    return counter.get_total_flops() // 2 + elsewhere


def parameters(module: nn.Module) -> int:
    """Counts a module's parameters, including frozen ones; a shared parameter counts once."""
    return sum(parameter.numel() for parameter in module.parameters())


REPEATS = 3
"""Number of timed passes. The fastest counts, as slower ones were delayed by other programs."""

LONG_SECONDS = 2.0
"""A pass that takes longer is not repeated: delays and a slow first pass hardly matter to it."""


def cost(
    networks: Mapping[str, nn.Module],
    training_seconds: Mapping[str, float],
    *,
    size: int,
    batches: tuple[int, ...] = (1, 64),
    device: torch.device,
    provenance: Provenance,
) -> list[Cost]:
    """Measures the parameters, multiply-adds and inference time of each network, for RGB images.

    Args:
        networks: Restorers or classifiers by name on `device`.
        training_seconds: Seconds that training each network took.
        size: Height and width of the images in pixels.
        batches: Batch sizes at which inference is timed.
        device: The networks' device.
        provenance: Origin of the records.
    """
    counted = {name: multiplications(net, channels=3, size=size) for name, net in networks.items()}
    return [
        Cost(
            provenance=provenance,
            samples=batch,
            seconds=0.0,
            network=name,
            size=size,
            parameters=parameters(network),
            multiplications=counted[name],
            milliseconds=_quickest_seconds(network, batch, size, device) / batch * 1000,
            training_seconds=training_seconds[name],
        )
        for name, network in networks.items()
        for batch in batches
    ]


def _quickest_seconds(network: nn.Module, batch: int, size: int, device: torch.device) -> float:
    images = torch.zeros(batch, 3, size, size, device=device)
    quickest = float("inf")
    with torch.inference_mode(), evaluating(network):
        for number in range(1 + REPEATS):
            _wait_for(device)
            started = time.perf_counter()
            network(images)
            _wait_for(device)
            seconds = time.perf_counter() - started
            is_first = number == 0
            is_long = seconds > LONG_SECONDS and not (is_first and device.type == "cuda")
            if is_long or not is_first:  # the first pass of a short one is slow
                quickest = min(quickest, seconds)
            if is_long:
                break
    return quickest


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    run: Run,
    stage: str,
    path: Path,
    measuring: Callable[[], Iterable[Measurement]],
    *,
    key: str,
    timed: bool = False,
    resumed: Update | None = None,
) -> list[Measurement]:
    """Runs an experiment and saves its records, or reads them if it was run before with the same `key`.

    Several workers run it together. Worker 0 reads and writes the records, and all return those of worker 0.

    Args:
        run: Data, recipe and seed; its observer receives progress.
        stage: Name of the experiment.
        path: File for the records; a hash is added to its name.
        measuring: Runs the experiment.
        key: Hash of the settings and nets on which the records depend.
        timed: Whether the experiment measures time, so that worker 0 runs it while the others wait.
        resumed: What the observer is told where a part of the experiment was done before; None for none.

    Raises:
        RecordError: If existing records cannot be read.
        StorageError: If the records cannot be written.
    """
    keyed = keyed_path(run, path, key)
    before = workers.by_first(lambda: read_records(keyed) if keyed.exists() else None)
    if before is not None:
        run.observe(Update(stage=stage, state="skipped", note="measured before"))
        return before
    run.observe(resumed or Update(stage=stage, state="started"))
    records = workers.by_first(lambda: list(measuring())) if timed else list(measuring())

    def written() -> list[Measurement]:
        write_records(keyed, records)
        return records

    records = workers.by_first(written)
    run.observe(Update(stage=stage, state="finished"))
    return records


def keyed_path(run: Run, path: Path, key: str) -> Path:
    """Returns where the records of an experiment are saved; see `measure`."""
    origin = run.key(key, run.recipe.name, run.data.source, device_name(run.device))
    return path.with_name(f"{path.stem}-{origin}{path.suffix}")


SAVED_ANSWERS = 12
"""Largest number of images in Fig. 4."""


def measure_restorers(run: Run, restorers: Mapping[str, nn.Module], folder: Path) -> list[Measurement]:
    """Measures PSNR by strength, hits and contraction (Table 2, Fig. 3).

    Args:
        run: Data, recipe and seed.
        restorers: The nets by name on the run's device.
        folder: Folder for the records.
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
            random_test_images(run, recipe.psnr_images).images,
            noise=GaussianNoise(
                sigmas_grey=recipe.psnr_sigmas_grey, clip=recipe.clip, quantize=recipe.quantize
            ),
            provenance=run.provenance,
            progress=progress_callback(run, stage),
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
            random_test_images(run, recipe.exploration_images).images,
            recipe.degradation,
            versions=recipe.exploration_versions,
            provenance=run.provenance,
            progress=progress_callback(run, exploring),
        ),
        key=run.key(
            exploring, recipe.exploration_images, recipe.exploration_versions, recipe.degradation, keys
        ),
    )


def measure_networks(run: Run, networks: Mapping[str, nn.Module], folder: Path) -> list[Measurement]:
    """Measures accuracy on clean images and under noise (Tables 3 and 4).

    Args:
        run: Data, recipe and seed.
        networks: The classifiers by name on the run's device.
        folder: Folder for the records.
    """
    recipe = run.recipe.evaluation
    stage = "accuracy on clean images"
    records = measure(
        run,
        stage,
        folder / "accuracy.jsonl",
        lambda: clean_accuracy(
            networks,
            random_test_images(run, recipe.accuracy_images),
            class_names=run.data.class_names,
            provenance=run.provenance,
            progress=progress_callback(run, stage),
        ),
        key=run.key(stage, "by class", recipe.accuracy_images, fingerprints(networks)),
    )
    for doubt in doubts(records):
        run.observe(Update(stage=stage, state="noted", note=doubt))
    noises = [(kind, recipe.stability_images, recipe.clip, recipe.quantize) for kind in recipe.noises]
    if recipe.unclipped_images:
        noises.append((GAUSSIAN, recipe.unclipped_images, False, False))
    for kind, images, clip, quantize in noises:
        for name, network in networks.items():
            records += _measure_stability(
                run, name, network, folder, kind=kind, images=images, clip=clip, quantize=quantize
            )
    return records


def _measure_stability(
    run: Run,
    name: str,
    network: nn.Module,
    folder: Path,
    *,
    kind: str,
    images: int | None,
    clip: bool,
    quantize: bool,
) -> list[Measurement]:
    recipe = run.recipe.evaluation
    stage = f"stability of: {name}" if clip else f"stability, unclipped, of: {name}"
    if kind != GAUSSIAN:
        stage = f"{kind} noise, {stage}"
    sigmas, sampling = recipe.stability_sigmas_grey, recipe.sampling
    return measure(
        run,
        stage,
        folder / "stability.jsonl",
        partial(
            stability,
            name,
            network,
            random_test_images(run, images),
            noise=GaussianNoise(sigmas_grey=sigmas, clip=clip, quantize=quantize),
            kind=kind,
            sampling=sampling,
            provenance=run.provenance,
            progress=progress_callback(run, stage),
        ),
        key=run.key(stage, images, sigmas, sampling, quantize, *noise_key(kind), fingerprint(network)),
    )


def noise_key(kind: str) -> tuple[str, ...]:
    """Returns what the key of a stage says about a kind of noise: all of its settings, at strength 1.

    It is empty for Gaussian noise, which has none but its strength.
    """
    return () if kind == GAUSSIAN else (repr(family_named(kind, 1)),)


def measure_differences(
    run: Run, networks: Mapping[str, nn.Module], folder: Path, *, against: str
) -> list[Measurement]:
    """Compares one network with each other one under noise, with intervals over images.

    Args:
        run: Data, recipe and seed.
        networks: The classifiers by name, in eval mode, on the run's device.
        folder: Folder for the records.
        against: Name of the network that the others are compared with.
    """
    recipe = run.recipe.evaluation
    if recipe.paired_images == 0:
        return []
    noise = GaussianNoise(
        sigmas_grey=recipe.stability_sigmas_grey, clip=recipe.clip, quantize=recipe.quantize
    )
    records = []
    for kind in recipe.noises:
        stage = f"differences under {'' if kind == GAUSSIAN else f'{kind} '}noise"
        records += measure(
            run,
            stage,
            folder / "differences.jsonl",
            partial(
                noisy_comparisons,
                networks,
                random_test_images(run, recipe.paired_images),
                against=against,
                noise=noise,
                kind=kind,
                provenance=run.provenance,
                progress=progress_callback(run, stage),
            ),
            key=run.key(
                stage, recipe.paired_images, noise, against, *noise_key(kind), fingerprints(networks)
            ),
        )
    return records


def measure_costs(
    run: Run, networks: Mapping[str, nn.Module], training_seconds: Mapping[str, float], folder: Path
) -> list[Measurement]:
    """Measures parameters, multiply-adds and inference time of restorers and classifiers; see `cost`.

    Args:
        run: Data, recipe and seed.
        networks: All nets by name on the run's device.
        training_seconds: Seconds that training each net took, by name.
        folder: Folder for the records.
    """
    size = run.data.test.images.shape[-1]
    return measure(
        run,
        "cost",
        folder / "cost.jsonl",
        lambda: cost(networks, training_seconds, size=size, device=run.device, provenance=run.provenance),
        key=run.key("cost", fingerprints(networks)),
        timed=True,
    )


def take_samples(
    run: Run, net: nn.Module, original: nn.Module, fused: FusedClassifier, folder: Path
) -> list[Measurement]:
    """Makes the noise densities and the sample images of Fig. 1, 2 and 4.

    Args:
        run: Data, recipe and seed.
        net: The restorer whose patterns are shown.
        original: The classifier alone.
        fused: The restorer with the classifier that was fine-tuned behind it.
        folder: Folder for the records.
    """
    names, test = run.data.class_names, random_test_images(run, run.recipe.evaluation.accuracy_images)
    shown = replace(
        run.recipe.evaluation.degradation,
        families=(Gaussian(strength=Strength.fixed(20)),),
        weights=(),
        versions=1,
        clean_share=0.0,
    )

    def samples() -> list[Measurement]:
        return [
            *noise_densities(example_densities(), provenance=run.provenance),
            *restored_samples(net, test, names, shown, provenance=run.provenance),
            *saved_answers(original, fused, test, names, limit=SAVED_ANSWERS, provenance=run.provenance),
        ]

    key = run.key(
        "pictures",
        run.recipe.evaluation.accuracy_images,
        shown,
        fingerprint(net),
        fingerprint(original),
        fingerprint(fused),
    )
    return measure(run, "pictures", folder / "pictures.jsonl", samples, key=key)


def curve_of(run: Run, info: TrainingInfo) -> Curve:
    """Returns the loss curve of a net's training as a record."""
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
    """Returns name, strength and degradation of the five noise types in Fig. 1."""
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


def random_test_images(run: Run, count: int | None) -> ImageSet:
    """Returns a random subset of `count` test images, the same for all networks; None for all images."""
    test = run.data.test
    if count is None or count >= len(test):
        return test
    return test.subset(random_test_indices(run, count).to(test.labels.device))


def random_test_indices(run: Run, count: int | None) -> torch.Tensor:
    """Returns the places of `random_test_images` in the test set, int64, ascending, on the CPU."""
    test = run.data.test
    if count is None or count >= len(test):
        return torch.arange(len(test))
    order = torch.randperm(len(test), generator=derived_generator(run.seed, "choice of test images"))
    return order[:count].sort().values


def progress_callback(run: Run, stage: str) -> ProgressCallback:
    """Returns a callback that passes the progress of a stage to the run's observer."""
    return lambda done, total: run.observe(Update(stage=stage, state="advanced", done=done, total=total))
