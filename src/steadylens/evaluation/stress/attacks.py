"""Accuracy under attack by someone who knows the network: a restorer in front of it is no defence.

An image counts as wrong if the network errs on it unchanged, or on any change that an attack found within the
bound, or within a smaller one. So accuracy never rises with the bound, nor with more starts.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from steadylens import workers
from steadylens.checkpoints.checkpoint import fingerprint, fingerprints
from steadylens.data.datasets import ImageSet
from steadylens.devices import cache_batch, evaluating, forward_in_batches
from steadylens.errors import SettingError
from steadylens.evaluation.dividing import BLOCK, forward_divided
from steadylens.evaluation.experiments import measure, progress_callback, random_test_images
from steadylens.images.tensors import to_float
from steadylens.intervals import wilson_interval
from steadylens.metrics import top_k
from steadylens.progress import ProgressCallback, Update
from steadylens.randomness import derived_generator, derived_seed
from steadylens.records import Attacked, Measurement, Norm, Provenance
from steadylens.report.tables import duration
from steadylens.training.run import Run


@dataclass(frozen=True, kw_only=True, slots=True)
class Attacks:
    """How many images are attacked, and how.

    Attributes:
        images: How many random test images are attacked, or None for all of them.
        l2: Bounds of the Euclidean norm of the change, over all pixels and channels of an image in [0, 1].
        linf: Bounds of the largest change of a value.
        steps: Steps of projected gradient descent (PGD).
        restarts: Random starts of PGD, after the start at the image itself.
        autoattack: Whether AutoAttack tries the images that PGD leaves. It takes many times longer.

    Raises:
        SettingError: If a number is too small, there is no bound, or a bound is not positive and finite.
    """

    images: int | None = 50
    l2: tuple[float, ...] = (0.25, 0.5, 1.0)
    linf: tuple[float, ...] = (1 / 255, 2 / 255, 4 / 255)
    steps: int = 40
    restarts: int = 1
    autoattack: bool = False

    def __post_init__(self) -> None:
        """Checks the settings."""
        if self.images is not None and self.images < 1:
            raise SettingError(f"images is {self.images}, at least 1 must be attacked; or give None for all")
        bounds = (*self.l2, *self.linf)
        if not bounds or not all(0 < bound < math.inf for bound in bounds):
            raise SettingError(
                f"the bounds are {self.l2} and {self.linf}; give at least one, each positive and finite, for "
                "images in [0, 1]"
            )
        if self.steps < 1 or self.restarts < 0:
            raise SettingError(
                f"there are {self.steps} steps and {self.restarts} restarts; at least 1 and 0 are needed"
            )

    def bounds(self) -> dict[Norm, tuple[float, ...]]:
        """Returns the bounds of each norm that has any, in ascending order."""
        given: dict[Norm, tuple[float, ...]] = {"l2": self.l2, "linf": self.linf}
        return {norm: tuple(sorted(set(some))) for norm, some in given.items() if some}


def require_attacks(networks: Mapping[str, nn.Module], images: Tensor) -> None:
    """Checks that networks can be attacked, before hours of measuring.

    Args:
        networks: The classifiers by name on the images' device.
        images: A few test images, float (N, C, H, W) in [0, 1].

    Raises:
        MissingExtraError: If secml-torch or pyautoattack is not installed.
        SettingError: If a network lets no gradient through to its images. Against it these attacks fail,
            which would look like a defence and is none.
    """
    require_libraries()
    for name, network in networks.items():
        some = images.detach().clone().requires_grad_()
        why, cause = "is 0 or no number, as where values are rounded", None
        with _attackable(network) as net, torch.enable_grad():
            try:
                logits = net(some)
                margin = logits.amax(dim=1) - logits.mean(dim=1)
                (gradient,) = torch.autograd.grad(margin.sum(), some)
            except (RuntimeError, SettingError) as error:
                gradient, why, cause = torch.zeros_like(some), "does not exist, as in an ONNX model", error
        if not gradient.isfinite().all() or not gradient.any():
            raise SettingError(
                f"{name} cannot be attacked (--attacks): the attacks follow its gradient, which {why}; give "
                "the PyTorch net, or leave the attacks out"
            ) from cause


def require_libraries() -> None:
    """Checks that the libraries of the attacks are installed.

    Raises:
        MissingExtraError: If secml-torch or pyautoattack is not installed.
    """
    from steadylens.evaluation.stress import adversaries  # noqa: F401, PLC0415


@contextmanager
def _attackable(network: nn.Module) -> Iterator[nn.Module]:
    """Lends a copy of a network whose parameters get no gradients, in eval mode."""
    copied = copy.deepcopy(network).requires_grad_(False)
    with evaluating(copied):
        yield copied


def within(changed: Tensor, images: Tensor, *, norm: Norm, epsilon: float) -> Tensor:
    """Returns changed images brought into the bound and into [0, 1]; those that lie there hardly move.

    So an error of a library can make an attack weaker, but never let it do more than is allowed. Values that
    are not numbers become those of the image.

    Args:
        changed: Float (N, C, H, W).
        images: The images before the change, of the same shape, in [0, 1].
        norm: The norm that bounds the change.
        epsilon: The bound. Rounding of float32 may exceed it by a millionth.
    """
    change = torch.where(changed.isfinite(), changed - images, 0)
    if norm == "linf":
        change = change.clamp(-epsilon, epsilon)
    else:
        lengths = torch.linalg.vector_norm(change, dim=(1, 2, 3), keepdim=True)
        change = change * (epsilon / lengths.clamp(min=epsilon))
    return (images + change).clamp(0, 1)


def random_starts(images: Tensor, *, norm: Norm, epsilon: float, path: tuple[int, int], first: int) -> Tensor:
    """Returns a random change of each image, uniform in the ball of the norm.

    Args:
        images: Float (N, C, H, W), adjacent ones of all images.
        norm: The norm of the ball.
        epsilon: The radius of the ball.
        path: The seed of the run and the number of the restart.
        first: The place of the first image among all images. Each image has its own random generator.
    """
    seed, restart = path
    starts = []
    for place, image in enumerate(images, start=first):
        generator = derived_generator(seed, "attack", norm, repr(epsilon), restart, place)
        if norm == "linf":
            start = torch.rand(image.shape, generator=generator).mul(2).sub(1)
        else:
            direction = torch.randn(image.shape, generator=generator)
            radius = torch.rand((), generator=generator) ** (1 / image.numel())
            start = direction / torch.linalg.vector_norm(direction) * radius
        starts.append(start * epsilon)
    return torch.stack(starts).to(images)


Way = Literal["transferred", "PGD", "PGD with restarts", "AutoAttack"]
"""How a network is attacked: with images made against the classifier alone, or itself."""


def attacked_accuracy(
    classifier: nn.Module,
    pairs: Mapping[str, nn.Module],
    images: ImageSet,
    *,
    name: str,
    norm: Norm,
    settings: Attacks,
    provenance: Provenance,
    progress: ProgressCallback,
) -> list[Attacked]:
    """Measures the accuracy of a classifier and of pairs under attack, by the bound of one norm.

    Every network is attacked end to end: once from the image itself, and from random starts where that
    failed. Pairs are also shown the images that were made so against the classifier alone. Who knows the
    restorer knows these, too: they count in every way of attack, and are not attacked again from random
    starts or by AutoAttack.

    Args:
        classifier: The classifier alone, on the images' device.
        pairs: The classifier behind restorers, by name, on the same device.
        images: The test images.
        name: The name of the classifier in the records.
        norm: The norm whose bounds in `settings` are taken.
        settings: Bounds, steps and starts.
        provenance: Origin of the records, whose seed decides the random starts.
        progress: Called with the number of images done, once for each bound, and of all.
    """
    networks = {name: classifier, **pairs}
    epsilons = settings.bounds()[norm]
    device = images.images.device
    size = min(BLOCK, cache_batch(device))
    wrong = {
        each: ~top_k(forward_divided(net, images.images), images.labels, 1).cpu()
        for each, net in networks.items()
    }
    ways: list[Way] = ["PGD"]
    ways += ["PGD with restarts"] if settings.restarts else []
    ways += ["AutoAttack"] if settings.autoattack else []
    fooled: dict[tuple[str, Way], Tensor] = {(each, way): wrong[each] for each in networks for way in ways}
    fooled |= {(each, "transferred"): wrong[each] for each in pairs}
    records = _records(fooled, 0.0, norm=norm, settings=settings, seconds=0.0, provenance=provenance)
    for number, epsilon in enumerate(epsilons):
        started = time.perf_counter()
        adversary = _Adversary(norm=norm, epsilon=epsilon, settings=settings, seed=provenance.seed)

        def attacked(
            first: int, adversary: "_Adversary" = adversary, before: dict[tuple[str, Way], Tensor] = fooled
        ) -> dict[tuple[str, Way], Tensor]:
            some = slice(first, first + size)
            own = {key: value[some].to(device) for key, value in before.items()}
            floats = to_float(images.images[some])
            found = adversary.attacked(networks, floats, images.labels[some], own, name=name, first=first)
            return {key: value.cpu() for key, value in found.items()}

        parts: dict[tuple[str, Way], list[Tensor]] = {key: [] for key in fooled}
        done = number * len(images)
        for found in workers.divided(range(0, len(images), size), attacked, at_once=1):
            for key, value in found.items():
                parts[key].append(value)
            done += len(found[name, "PGD"])
            progress(done, len(epsilons) * len(images))
        fooled = {key: torch.cat(some) for key, some in parts.items()}
        seconds = time.perf_counter() - started
        records += _records(
            fooled, epsilon, norm=norm, settings=settings, seconds=seconds, provenance=provenance
        )
    return records


@dataclass(frozen=True, kw_only=True, slots=True)
class _Adversary:
    """Attacks networks within one bound."""

    norm: Norm
    epsilon: float
    settings: Attacks
    seed: int

    def attacked(
        self,
        networks: Mapping[str, nn.Module],
        images: Tensor,
        labels: Tensor,
        before: Mapping[tuple[str, Way], Tensor],
        *,
        name: str,
        first: int,
    ) -> dict[tuple[str, Way], Tensor]:
        """Returns which images each network gets wrong after each way of attack, (N,) bool by name and way.

        What transferred images do is in all ways but "PGD", which is the attack end to end alone; see
        `_records`.

        Args:
            networks: The classifier alone, called `name`, and the pairs.
            images: Float (N, C, H, W) in [0, 1].
            labels: Integers (N,).
            before: Those that are wrong after an attack within a smaller bound; they are not attacked again.
            name: The classifier alone.
            first: The place of the first image among all images.
        """
        found = dict(before)
        still = torch.zeros_like(images)
        for each, network in networks.items():
            with _attackable(network) as net:
                pgd = partial(self._pgd, net)
                if each == name:  # all images, as they are shown to the pairs too
                    changed = pgd(images, labels, still)
                    for pair in networks:
                        way: Way = "PGD" if pair == name else "transferred"
                        found[pair, way] = before[pair, way] | _wrong(networks[pair], changed, labels)
                else:
                    found[each, "PGD"] = self._on_rest(net, before[each, "PGD"], (images, labels, still), pgd)
                rest = found[each, "PGD"] | found.get((each, "transferred"), found[each, "PGD"])
                if self.settings.restarts:
                    rest = before[each, "PGD with restarts"] | rest
                    for restart in range(self.settings.restarts):
                        starts = random_starts(
                            images,
                            norm=self.norm,
                            epsilon=self.epsilon,
                            path=(self.seed, restart),
                            first=first,
                        )
                        rest = self._on_rest(net, rest, (images, labels, starts), pgd)
                    found[each, "PGD with restarts"] = rest
                if self.settings.autoattack:
                    rest = before[each, "AutoAttack"] | rest
                    auto = partial(self._autoattack, net, first)
                    found[each, "AutoAttack"] = self._on_rest(net, rest, (images, labels, still), auto)
        return found

    def _on_rest(
        self,
        net: nn.Module,
        wrong: Tensor,
        given: tuple[Tensor, Tensor, Tensor],
        attack: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> Tensor:
        """Attacks the images that are not yet wrong; returns which are wrong now.

        Args:
            net: The network.
            wrong: Which images it gets wrong, (N,) bool.
            given: The images, their labels, and the changes from which the attack starts.
            attack: Returns changed images.
        """
        left = ~wrong
        if not left.any():
            return wrong
        images, labels, starts = (each[left] for each in given)
        now = wrong.clone()
        now[left] = _wrong(net, attack(images, labels, starts), labels)
        return now

    def _pgd(self, net: nn.Module, images: Tensor, labels: Tensor, starts: Tensor) -> Tensor:
        from steadylens.evaluation.stress.adversaries import projected_gradient  # noqa: PLC0415

        changed = projected_gradient(
            net, images, labels, norm=self.norm, epsilon=self.epsilon, steps=self.settings.steps, start=starts
        )
        return within(changed, images, norm=self.norm, epsilon=self.epsilon)

    def _autoattack(
        self, net: nn.Module, first: int, images: Tensor, labels: Tensor, starts: Tensor
    ) -> Tensor:
        from steadylens.evaluation.stress.adversaries import autoattack  # noqa: PLC0415

        seed = derived_seed(self.seed, "AutoAttack", self.norm, repr(self.epsilon), first)
        changed = autoattack(net, images, labels, norm=self.norm, epsilon=self.epsilon, seed=seed)
        return within(changed, images, norm=self.norm, epsilon=self.epsilon)


def _wrong(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Returns which images a network gets wrong, by its own answers, (N,) bool."""
    return ~top_k(forward_in_batches(network, images), labels, 1)


def _records(
    fooled: Mapping[tuple[str, Way], Tensor],
    epsilon: float,
    *,
    norm: Norm,
    settings: Attacks,
    seconds: float,
    provenance: Provenance,
) -> list[Attacked]:
    """Returns the records of all networks and ways; transferred images count in PGD, too, and are told."""
    records = []
    for (name, way), found in fooled.items():
        wrong, only_transferred = found, None
        if way == "PGD" and (shown := fooled.get((name, "transferred"))) is not None:
            wrong, only_transferred = found | shown, int((shown & ~found).sum())
        record = _record(
            name, way, epsilon, wrong, norm=norm, settings=settings, seconds=seconds, provenance=provenance,
            only_transferred=only_transferred,
        )  # fmt: skip
        records.append(record)
    return records


def _record(
    name: str,
    way: Way,
    epsilon: float,
    wrong: Tensor,
    *,
    norm: Norm,
    settings: Attacks,
    seconds: float,
    provenance: Provenance,
    only_transferred: int | None,
) -> Attacked:
    correct, samples = int((~wrong).sum()), len(wrong)
    lower, upper = wilson_interval(correct, samples)
    return Attacked(
        provenance=provenance, samples=samples, seconds=seconds, network=name,
        attack="AutoAttack" if way == "AutoAttack" else "PGD", norm=norm, epsilon=epsilon,
        steps=AUTOATTACK_STEPS if way == "AutoAttack" else settings.steps,
        restarts=settings.restarts if way in ("PGD with restarts", "AutoAttack") else 0,
        knows_restorer=way != "transferred", correct=correct, lower=lower, upper=upper,
        only_transferred=only_transferred,
    )  # fmt: skip


METHOD = 2
"""Version of how networks are attacked and errors counted: raise it with every change of the numbers.

It enters the key of the records, so that those of an older method are not reused. Since 2, images made
against the classifier alone count for every attacker who knows the restorer.
"""

AUTOATTACK_STEPS = 100
"""Steps of each gradient attack in the standard version of AutoAttack."""


def measure_attacks(
    run: Run,
    classifier: nn.Module,
    pairs: Mapping[str, nn.Module],
    folder: Path,
    settings: Attacks,
    *,
    name: str,
) -> list[Measurement]:
    """Measures accuracy under attack; each norm is a stage of the run.

    Before the first one, the run's observer is told how long all will take at most.

    Args:
        run: Data, recipe and seed.
        classifier: The classifier alone, on the run's device.
        pairs: The classifier behind restorers, by name, on the same device.
        folder: Folder for the records.
        settings: How many images are attacked, and how.
        name: The name of the classifier in the records.

    Raises:
        MissingExtraError: If secml-torch or pyautoattack is not installed.
        SettingError: If a network cannot be attacked.
    """
    images = random_test_images(run, settings.images)
    networks = {name: classifier, **pairs}
    require_attacks(networks, to_float(images.images[:4]))
    used = ("secml-torch", "pyautoattack") if settings.autoattack else ("secml-torch",)
    libraries = tuple((library, version(library)) for library in used)
    provenance = replace(run.provenance, versions=(*run.provenance.versions, *libraries))
    told: list[str] = []
    records: list[Measurement] = []
    for norm in settings.bounds():
        stage = f"attacks, {norm}"

        def attacked(norm: Norm = norm, stage: str = stage) -> list[Attacked]:
            if not told:
                told.append(longest_time(networks, images, settings))
                run.observe(Update(stage="attacks", state="noted", note=told[0]))
            return attacked_accuracy(
                classifier, pairs, images, name=name, norm=norm, settings=settings, provenance=provenance,
                progress=progress_callback(run, stage),
            )  # fmt: skip

        key = run.key(
            "attacks", METHOD, norm, settings, name, libraries, fingerprint(classifier), fingerprints(pairs)
        )
        records += measure(run, stage, folder / "attacks.jsonl", attacked, key=key)
    return records


def longest_time(networks: Mapping[str, nn.Module], images: ImageSet, settings: Attacks) -> str:
    """Tells how long the attacks will take at most, after two steps on one batch with each network."""
    size = min(BLOCK, cache_batch(images.images.device))
    batch, labels = to_float(images.images[:size]), images.labels[:size]
    seconds = 0.0
    for network in networks.values():
        quick = _Adversary(norm="l2", epsilon=0.1, settings=replace(settings, steps=2), seed=0)
        with _attackable(network) as net:
            times = []
            for _ in range(2):
                started = time.perf_counter()
                quick._pgd(net, batch, labels, torch.zeros_like(batch)).sum().item()
                times.append(time.perf_counter() - started)
        seconds += min(times) / (quick.settings.steps + 1) / len(batch)  # as many gradients, and one
    count = sum(map(len, settings.bounds().values()))
    gradients = (settings.steps + 1) * (1 + settings.restarts)
    total = seconds * count * gradients * len(images) / workers.count()
    more = ", and many times that for AutoAttack" if settings.autoattack else ""
    return (
        f"at most {duration(total)} for {settings.steps} steps from {1 + settings.restarts} starts within "
        f"each of {count} bounds, on {len(images):,} images and {len(networks)} networks{more}; less where a "
        "network errs early"
    )
