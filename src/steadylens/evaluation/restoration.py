"""The exploratory experiment (Sec. 4.1): how well each net restores, and whether it is a contraction.

Images are processed in blocks, and the noise of each block has its own random generator. So the numbers
depend neither on the batch size nor on the nets that are compared, nor on how many workers share the blocks.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import product

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from steadylens import workers
from steadylens.devices import forward_in_batches
from steadylens.errors import SettingError
from steadylens.evaluation.dividing import BLOCK
from steadylens.images.tensors import to_float
from steadylens.metrics import contraction_quotients, hits, psnr
from steadylens.noise.degradation import Degradation, gaussian_degradation
from steadylens.progress import ProgressCallback
from steadylens.randomness import derived_generator
from steadylens.records import Contraction, Hits, Measurement, Provenance, Restoring, Scatter
from steadylens.training.run import GaussianNoise

QUANTILES = (0.5, 0.9, 0.99, 0.999)
"""Quantiles of the contraction quotients that are recorded."""

DRAWN_POINTS = 400
"""Points of a scatter plot that are recorded."""

NORM_BINS = 24
"""Number of bins, by the norm of the noise, in which hits are counted."""

CONTRACTION_BINS = 6
"""Number of bins, by the norm of the noise, for each of which quantiles of the contraction are recorded."""


def explore(
    restorers: Mapping[str, nn.Module],
    images: Tensor,
    degradation: Degradation,
    *,
    versions: int,
    provenance: Provenance,
    progress: ProgressCallback,
) -> list[Measurement]:
    """Compares restorers on the same noisy images (Table 2, Fig. 3).

    Noisy images that equal the clean image after rounding to 8 bits are left out.

    Args:
        restorers: The nets by name on the images' device.
        images: Clean images, uint8 (N, 3, H, W).
        degradation: Adds the noise; its setting `versions` is not used.
        versions: Noisy versions of each image.
        provenance: Origin of the records; its seed is the seed of the noise.
        progress: Called after each block with the number of noisy images done and of all.

    Returns:
        For each net: its hits, if several nets are compared; its scatter of PSNRs, unless it restores every
        image without error; and its contraction.

    Raises:
        SettingError: If rounding removed the noise of every image.
    """
    started = time.perf_counter()
    degradation = replace(degradation, versions=1)

    @lru_cache(maxsize=1)  # versions of one image come one after another
    def cleaned(block: int) -> tuple[Tensor, list[Tensor]]:
        clean = to_float(images[block * BLOCK : (block + 1) * BLOCK])
        return clean, [forward_in_batches(net, clean) for net in restorers.values()]

    def explored(place: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        clean, restored_clean = cleaned(place[0])
        generator = derived_generator(provenance.seed, "exploration", *place, device=images.device)
        return _explored(restorers, clean, restored_clean, degradation, generator)

    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    done = 0
    places = product(range(-(-len(images) // BLOCK)), range(versions))
    for part in workers.divided(places, explored, at_once=1):
        parts.append(part)
        done += len(part[0])
        progress(done, len(images) * versions)
    noisy_db, noise_norms, restored_db, restored_norms = (
        torch.cat(some, dim=-1) for some in zip(*parts, strict=True)
    )
    with_noise = noise_norms > 0
    if not with_noise.any():
        raise SettingError(
            f"rounding removed the noise of all {len(with_noise)} noisy images; make it stronger, or give "
            "the degradation quantize=False"
        )
    results = _Exploration(
        noisy_db=noisy_db[with_noise],
        noise_norms=noise_norms[with_noise],
        restored_db=restored_db[:, with_noise],
        restored_norms=restored_norms[:, with_noise],
        noise=degradation.noise_mode,
        provenance=provenance,
        seconds=time.perf_counter() - started,
    )
    return results.records(list(restorers))


def _explored(
    restorers: Mapping[str, nn.Module],
    clean: Tensor,
    restored_clean: Sequence[Tensor],
    degradation: Degradation,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns PSNR and noise norm (S,) of a noisy block, and PSNRs and norms (K, S) of the restored ones."""
    noisy = degradation(clean, generator=generator)
    decibels, norms = [], []
    for net, net_clean in zip(restorers.values(), restored_clean, strict=True):
        restored = forward_in_batches(net, noisy)
        decibels.append(psnr(degradation.stored(restored), clean))
        _, noise_norm, norm = contraction_quotients(restored, net_clean, noisy, clean)
        norms.append(norm)
    return psnr(noisy, clean).cpu(), noise_norm.cpu(), torch.stack(decibels).cpu(), torch.stack(norms).cpu()


def restore_by_sigma(
    restorers: Mapping[str, nn.Module],
    images: Tensor,
    *,
    noise: GaussianNoise,
    provenance: Provenance,
    progress: ProgressCallback,
) -> list[Restoring]:
    """Measures the mean PSNR of each restorer for each strength of Gaussian noise.

    Args:
        restorers: The nets by name on the images' device.
        images: Clean images, uint8 (N, 3, H, W).
        noise: The strengths, 0 for clean images, and how noisy images are stored.
        provenance: Origin of the records; its seed is the seed of the noise.
        progress: Called after each block with the number of noisy images done and of all.
    """
    records = []
    for index, sigma in enumerate(noise.sigmas_grey):
        started = time.perf_counter()
        degradation = gaussian_degradation(sigma, clip=noise.clip, quantize=noise.quantize)
        restored_part = partial(_restored, restorers, images, degradation, (provenance.seed, float(sigma)))
        parts: list[tuple[Tensor, Tensor]] = []
        done = index * len(images)
        for part in workers.divided(range(-(-len(images) // BLOCK)), restored_part):
            parts.append(part)
            done += len(part[0])
            progress(done, len(noise.sigmas_grey) * len(images))
        noisy_db, restored_db = (torch.cat(some, dim=-1) for some in zip(*parts, strict=True))
        means = [_finite_mean(some) for some in restored_db]
        records += [
            Restoring(
                provenance=provenance,
                samples=len(images),
                seconds=time.perf_counter() - started,
                network=name,
                sigma_grey=sigma,
                noise=degradation.noise_mode,
                noisy_db=_finite_mean(noisy_db),
                restored_db=mean,
            )
            for name, mean in zip(restorers, means, strict=True)
        ]
    return records


def _restored(
    restorers: Mapping[str, nn.Module],
    images: Tensor,
    degradation: Degradation,
    path: tuple[int, float],
    block: int,
) -> tuple[Tensor, Tensor]:
    """Returns the PSNRs of one block: of noisy images (S,), and of restored ones (K, S)."""
    seed, sigma = path
    clean = to_float(images[block * BLOCK : (block + 1) * BLOCK])
    generator = derived_generator(seed, "restoring", repr(sigma), block, device=images.device)
    noisy = degradation(clean, generator=generator)
    restored = [degradation.stored(forward_in_batches(net, noisy)) for net in restorers.values()]
    return psnr(noisy, clean).cpu(), torch.stack([psnr(some, clean) for some in restored]).cpu()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Exploration:
    """Results for S noisy images and K nets, as tensors (S,) or (K, S) on the CPU."""

    noisy_db: Tensor
    noise_norms: Tensor
    restored_db: Tensor
    restored_norms: Tensor
    noise: str
    provenance: Provenance
    seconds: float

    def records(self, names: Sequence[str]) -> list[Measurement]:
        records: list[Measurement] = list(self._hits(names)) if len(names) > 1 else []
        for index, name in enumerate(names):
            if self.restored_db[index].isfinite().any():
                records.append(self._scatter(name, index))
            records.append(self._contraction(name, index))
        return records

    def _hits(self, names: Sequence[str]) -> Iterator[Hits]:
        best, best_two = hits(self.restored_db)
        edges = np.histogram_bin_edges(self.noise_norms.numpy(), bins=NORM_BINS)
        for index, name in enumerate(names):
            hit_norms = self.noise_norms[best[index]].numpy()
            yield Hits(
                provenance=self.provenance, samples=len(self.noisy_db), seconds=self.seconds, network=name,
                noise=self.noise, top1=int(best[index].sum()), top2=int(best_two[index].sum()),
                norm_edges=tuple(edges.tolist()),
                top1_by_norm=tuple(np.histogram(hit_norms, bins=edges)[0].tolist()),
            )  # fmt: skip

    def _scatter(self, name: str, index: int) -> Scatter:
        finite = self.restored_db[index].isfinite()
        noisy = self.noisy_db[finite].double().numpy()
        restored = self.restored_db[index][finite].double().numpy()
        drawn = slice(None, None, -(-len(noisy) // DRAWN_POINTS))
        return Scatter(
            provenance=self.provenance, samples=len(noisy), seconds=self.seconds, network=name,
            noise=self.noise, noisy_db=_rounded(noisy[drawn]), restored_db=_rounded(restored[drawn]),
            mean_noisy_db=float(noisy.mean()), mean_restored_db=float(restored.mean()),
            line=tuple(np.polyfit(noisy, restored, 1).tolist()),
            parabola=tuple(np.polyfit(noisy, restored, 2).tolist()),
        )  # fmt: skip

    def _contraction(self, name: str, index: int) -> Contraction:
        norms, restored = self.noise_norms.double().numpy(), self.restored_norms[index].double().numpy()
        quotients = restored / norms
        edges = np.histogram_bin_edges(norms, bins=CONTRACTION_BINS)
        bins = np.digitize(norms, edges[1:-1])
        drawn = slice(None, None, -(-len(norms) // DRAWN_POINTS))
        return Contraction(
            provenance=self.provenance, samples=len(norms), seconds=self.seconds, network=name,
            noise=self.noise, noise_norms=_rounded(norms[drawn]), restored_norms=_rounded(restored[drawn]),
            quantiles=tuple((share, float(np.quantile(quotients, share))) for share in QUANTILES),
            largest=float(quotients.max()),
            norm_edges=tuple(edges.tolist()),
            quantiles_by_norm=tuple(
                tuple(np.quantile(some, QUANTILES).tolist()) if len(some) else ()
                for some in (quotients[bins == each] for each in range(CONTRACTION_BINS))
            ),
        )  # fmt: skip


def _finite_mean(decibels: Tensor) -> float:
    finite = decibels[decibels.isfinite()]
    return float(finite.mean()) if len(finite) else math.inf


def _rounded(values: npt.NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(values.round(4).tolist())
