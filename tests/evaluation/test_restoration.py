"""The exploratory experiment counts what a plain loop counts, whatever the batch size."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from steadylens import devices
from steadylens.errors import SettingError
from steadylens.evaluation import restoration
from steadylens.evaluation.dividing import BLOCK
from steadylens.evaluation.restoration import QUANTILES, explore, restore_by_sigma
from steadylens.images.tensors import to_float
from steadylens.noise.degradation import Degradation, gaussian_degradation
from steadylens.noise.families import Gaussian, Strength
from steadylens.randomness import derived_generator
from steadylens.records import Contraction, Hits, Measurement, Restoring, Scatter
from steadylens.training.run import GaussianNoise
from tests.sample_records import PROVENANCE as SAMPLE

VERSIONS = 2
SEED = 4
PROVENANCE = replace(SAMPLE, seed=SEED)


class Shrinking(nn.Module):
    """Pulls every value towards mid-grey: a contraction by exactly `factor`."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, images: Tensor) -> Tensor:
        return 0.5 + (images - 0.5) * self.factor


class Constant(nn.Module):
    """Answers every image with the same level."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = level

    def forward(self, images: Tensor) -> Tensor:
        return torch.full_like(images, self.level)


NETS: dict[str, nn.Module] = {
    "weak": Shrinking(0.9),
    "strong": Shrinking(0.3),
    "identity": nn.Identity(),
}
DEGRADATION = Degradation(families=(Gaussian(strength=Strength(low_grey=1, high_grey=60)),), versions=7)


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Returns two blocks of images whose contrasts differ, so that another net is best for each."""
    generator = torch.Generator().manual_seed(1)
    contrast = 0.1 + 0.9 * torch.rand(BLOCK + 3, 1, 1, 1, generator=generator)
    values = 127 + 120 * contrast * (2 * torch.rand(BLOCK + 3, 3, 8, 8, generator=generator) - 1)
    return values.to(torch.uint8)


def nothing(done: int, total: int) -> None:
    """Takes news of progress and does nothing."""


def run_explore(
    images: Tensor, nets: dict[str, nn.Module] | None = None, degradation: Degradation = DEGRADATION
) -> list[Measurement]:
    return explore(
        NETS if nets is None else nets,
        images,
        degradation,
        versions=VERSIONS,
        provenance=PROVENANCE,
        progress=nothing,
    )


def of_kind(records: list[Measurement], kind: type[Measurement]) -> dict[str, Measurement]:
    return {getattr(row, "network"): row for row in records if type(row) is kind}  # noqa: B009


def plain_loop(images: Tensor) -> list[tuple[float, float, list[float], list[float]]]:
    """Returns for each noisy image its PSNR, the norm of its noise, each net's PSNR, and each net's norm."""
    rows = []
    for block in range(math.ceil(len(images) / BLOCK)):
        clean = to_float(images[block * BLOCK : (block + 1) * BLOCK])
        for version in range(VERSIONS):
            degradation = Degradation(families=DEGRADATION.families)
            noisy = degradation(clean, generator=derived_generator(SEED, "exploration", block, version))
            for x, y in zip(clean.double(), noisy.double(), strict=True):
                decibels, norms = [], []
                for net in NETS.values():
                    restored = (net(y).clamp(0, 1) * 255).round() / 255
                    decibels.append(10 * math.log10(1 / float(((restored - x) ** 2).mean())))
                    norms.append(float(((net(y) - net(x)) ** 2).sum().sqrt()))
                noise = y - x
                noisy_db = 10 * math.log10(1 / float((noise**2).mean()))
                rows.append((noisy_db, float((noise**2).sum().sqrt()), decibels, norms))
    return rows


def test_hits_equal_those_of_a_plain_loop(images: Tensor) -> None:
    rows = of_kind(run_explore(images), Hits)
    ranked = [sorted(range(3), key=lambda net: -row[2][net]) for row in plain_loop(images)]
    for index, name in enumerate(NETS):
        row = rows[name]
        assert isinstance(row, Hits)
        assert row.samples == VERSIONS * len(images)
        assert row.top1 == sum(ranks[0] == index for ranks in ranked)
        assert row.top2 == sum(index in ranks[:2] for ranks in ranked)


def test_more_than_one_net_is_best_somewhere(images: Tensor) -> None:
    rows = of_kind(run_explore(images), Hits)
    assert sum(isinstance(row, Hits) and row.top1 > 0 for row in rows.values()) >= 2


def test_hits_sum_to_the_samples_and_fill_the_bins(images: Tensor) -> None:
    rows = [row for row in run_explore(images) if isinstance(row, Hits)]
    assert sum(row.top1 for row in rows) == rows[0].samples
    assert sum(row.top2 for row in rows) == 2 * rows[0].samples
    for row in rows:
        assert sum(row.top1_by_norm) == row.top1
        assert len(row.norm_edges) == len(row.top1_by_norm) + 1
        assert row.norm_edges == rows[0].norm_edges


def test_psnrs_and_fits_equal_those_of_a_plain_loop(images: Tensor) -> None:
    rows, expected = of_kind(run_explore(images), Scatter), plain_loop(images)
    noisy = [row[0] for row in expected]
    for index, name in enumerate(NETS):
        restored = [row[2][index] for row in expected]
        row = rows[name]
        assert isinstance(row, Scatter)
        assert row.noisy_db == pytest.approx(noisy, abs=1e-3)
        assert row.restored_db == pytest.approx(restored, abs=1e-3)
        assert row.mean_noisy_db == pytest.approx(np.mean(noisy), abs=1e-4)
        assert row.mean_restored_db == pytest.approx(np.mean(restored), abs=1e-4)
        assert row.line == pytest.approx(np.polyfit(noisy, restored, 1), rel=1e-3, abs=1e-4)
        assert row.parabola == pytest.approx(np.polyfit(noisy, restored, 2), rel=1e-3, abs=1e-4)


def test_quotients_equal_those_of_a_plain_loop(images: Tensor) -> None:
    rows, expected = of_kind(run_explore(images), Contraction), plain_loop(images)
    for index, name in enumerate(NETS):
        quotients = [row[3][index] / row[1] for row in expected]
        row = rows[name]
        assert isinstance(row, Contraction)
        assert row.noise_norms == pytest.approx([row[1] for row in expected], abs=1e-3)
        assert row.restored_norms == pytest.approx([row[3][index] for row in expected], abs=1e-3)
        assert row.largest == pytest.approx(max(quotients), rel=1e-4)
        assert [share for share, _ in row.quantiles] == list(QUANTILES)
        assert [value for _, value in row.quantiles] == pytest.approx(
            np.quantile(quotients, QUANTILES), rel=1e-4
        )


def test_a_linear_contraction_has_its_factor_as_every_quotient(images: Tensor) -> None:
    row = of_kind(run_explore(images), Contraction)["strong"]
    assert isinstance(row, Contraction)
    assert [row.largest, *(value for _, value in row.quantiles)] == pytest.approx([0.3] * 5, rel=1e-4)


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_the_numbers_do_not_depend_on_the_batch_size(
    images: Tensor, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = run_explore(images)
    monkeypatch.setattr(devices, "cache_batch", lambda device: batch)
    assert timeless(run_explore(images)) == timeless(usual)


def test_the_noise_does_not_depend_on_which_nets_are_compared(images: Tensor) -> None:
    alone = of_kind(run_explore(images, {"strong": NETS["strong"], "weak": NETS["weak"]}), Scatter)
    together = of_kind(run_explore(images), Scatter)
    assert timeless([alone["strong"]]) == timeless([together["strong"]])


def test_one_net_alone_has_no_hits_but_all_else(images: Tensor) -> None:
    records = run_explore(images, {"strong": NETS["strong"]})
    assert [type(row) for row in records] == [Scatter, Contraction]


def test_images_that_rounding_left_without_noise_are_not_counted(images: Tensor) -> None:
    half_clean = Degradation(families=DEGRADATION.families, clean_share=0.5)
    rows = of_kind(run_explore(images, degradation=half_clean), Contraction)
    row = rows["weak"]
    assert isinstance(row, Contraction)
    assert 0.3 * VERSIONS * len(images) < row.samples < 0.7 * VERSIONS * len(images)
    assert min(row.noise_norms) > 0


def test_few_points_are_kept_for_drawing(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restoration, "DRAWN_POINTS", 10)
    row = of_kind(run_explore(images), Scatter)["weak"]
    assert isinstance(row, Scatter)
    assert len(row.noisy_db) == len(row.restored_db) <= 10
    assert row.samples == VERSIONS * len(images)


def test_progress_counts_noisy_images_up_to_all(images: Tensor) -> None:
    news: list[tuple[int, int]] = []
    explore(
        NETS,
        images,
        DEGRADATION,
        versions=VERSIONS,
        provenance=PROVENANCE,
        progress=lambda done, total: news.append((done, total)),
    )
    assert news == [(50, 106), (100, 106), (103, 106), (106, 106)]


def by_sigma(
    images: Tensor, sigmas: tuple[float, ...], *, clip: bool = True, quantize: bool = True
) -> list[Restoring]:
    return restore_by_sigma(
        NETS,
        images,
        noise=GaussianNoise(sigmas_grey=sigmas, clip=clip, quantize=quantize),
        provenance=PROVENANCE,
        progress=nothing,
    )


def test_restoring_equals_a_plain_loop(images: Tensor) -> None:
    rows = by_sigma(images, (20,))
    decibels: dict[str, list[float]] = {name: [] for name in ("noisy", *NETS)}
    for block in range(2):
        clean = to_float(images[block * BLOCK : (block + 1) * BLOCK])
        generator = derived_generator(SEED, "restoring", "20.0", block)
        noisy = gaussian_degradation(20)(clean, generator=generator)
        for x, y in zip(clean.double(), noisy.double(), strict=True):
            decibels["noisy"].append(-10 * math.log10(float(((y - x) ** 2).mean())))
            for name, net in NETS.items():
                restored = (net(y).clamp(0, 1) * 255).round() / 255
                decibels[name].append(-10 * math.log10(float(((restored - x) ** 2).mean())))
    assert [row.network for row in rows] == list(NETS)
    for row in rows:
        assert (row.sigma_grey, row.samples) == (20, len(images))
        assert row.noisy_db == pytest.approx(np.mean(decibels["noisy"]), abs=1e-4)
        assert row.restored_db == pytest.approx(np.mean(decibels[row.network]), abs=1e-4)


def test_without_noise_the_identity_loses_nothing_and_others_do(images: Tensor) -> None:
    rows = {row.network: row for row in by_sigma(images, (0,))}
    assert all(row.noisy_db == math.inf for row in rows.values())
    assert rows["identity"].restored_db == math.inf
    assert math.isfinite(rows["weak"].restored_db)


def test_the_strengths_are_independent_of_each_other(images: Tensor) -> None:
    assert timeless(by_sigma(images, (5, 20))[3:]) == timeless(by_sigma(images, (20,)))


@pytest.mark.parametrize(
    ("clip", "quantize", "mode"),
    [(True, True, "clipped, 8-bit"), (True, False, "clipped"), (False, False, "unclipped")],
)
def test_rows_say_how_noisy_images_are_stored(images: Tensor, clip: bool, quantize: bool, mode: str) -> None:
    assert {row.noise for row in by_sigma(images, (5,), clip=clip, quantize=quantize)} == {mode}


def timeless(records: list[Measurement] | list[Restoring]) -> list[dict[str, object]]:
    """Returns the fields of records without the time that measuring took."""
    return [
        {name: getattr(row, name) for name in type(row).__dataclass_fields__ if name != "seconds"}
        for row in records
    ]


def test_noise_that_rounding_wiped_out_everywhere_is_refused(images: Tensor) -> None:
    with pytest.raises(SettingError, match=rf"noise of all {VERSIONS * len(images)} noisy images; make it"):
        run_explore(images, degradation=gaussian_degradation(0.05))


def test_a_net_that_restores_without_error_has_no_scatter(images: Tensor) -> None:
    flat = torch.full_like(images, 128)
    records = run_explore(flat, {"grey": Constant(128 / 255), "identity": nn.Identity()})
    assert [row.network for row in records if isinstance(row, Scatter)] == ["identity"]
    assert [row.network for row in records if isinstance(row, Contraction)] == ["grey", "identity"]
