"""The benchmark on photographs adds the noise that it says, keeps every value, and goes on where it was."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.benchmark_modules import benchmark


@pytest.fixture(scope="module")
def photographs() -> Iterator[ModuleType]:
    with benchmark("photographs") as module:
        yield module


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three grey ramps of 40x48 pixels, and as many noisy versions in the form of CC15."""
    folder, generator = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    found = []
    for number in range(3):
        clean = np.linspace(40, 200, 40 * 48 * 3).reshape(40, 48, 3) + 10 * number
        noisy = clean + generator.normal(0, 10, clean.shape)
        for ending, pixels in (("", clean), ("_mean", clean), ("_real", noisy)):
            path = folder / f"{number}{ending}.png"
            Image.fromarray(np.rint(pixels).clip(0, 255).astype(np.uint8)).save(path)
        found.append(folder / f"{number}.png")
    return found


def pairs(photographs: ModuleType, paths: list[Path], noise: str, sigma: int | None) -> list[Any]:
    return list(photographs.noisy_pairs(paths, photographs.Case(noise=noise, sigma_grey=sigma)))


def method_of(photographs: ModuleType, name: str = "first", version: str = "1", **more: Any) -> Any:
    """A method that multiplies the difference to a grey of 0.5 by its setting, and its calls."""

    def restore(noisy: Tensor, sigma_grey: float, setting: float) -> Tensor:
        calls.append((sigma_grey, setting))
        return noisy if setting == 1 else 0.5 + (noisy - 0.5) * setting

    calls: list[tuple[float, float]] = []
    made = photographs.Method(name=name, version=version, told=False, restore=restore, **more)
    return made, calls


def test_float_noise_leaves_the_range_and_has_its_strength(
    photographs: ModuleType, paths: list[Path]
) -> None:
    for pair in pairs(photographs, paths, photographs.FLOAT, 75):
        noise = 255 * (pair.noisy - pair.clean)
        assert pair.noisy.min() < 0
        assert pair.noisy.max() > 1
        assert float(noise.std()) == pytest.approx(75, rel=0.03)
        assert abs(float(noise.mean())) < 4


def test_stored_noise_is_the_same_noise_in_8_bits(photographs: ModuleType, paths: list[Path]) -> None:
    stored = pairs(photographs, paths, photographs.STORED, 50)
    for one, other in zip(stored, pairs(photographs, paths, photographs.FLOAT, 50), strict=True):
        levels = (255 * other.noisy).clamp(0, 255).round()
        assert torch.equal((255 * one.noisy).round(), levels)


def test_each_image_has_noise_of_its_own_that_does_not_depend_on_the_others(
    photographs: ModuleType, paths: list[Path]
) -> None:
    all_of_them = pairs(photographs, paths, photographs.FLOAT, 25)
    (last,) = pairs(photographs, paths[2:], photographs.FLOAT, 25)
    assert torch.equal(all_of_them[2].noisy, last.noisy)
    noise = [pair.noisy - pair.clean for pair in all_of_them]
    assert float((noise[0] - noise[1]).abs().mean()) > 0.05


def test_real_pairs_tell_the_strength_of_their_noise(photographs: ModuleType, paths: list[Path]) -> None:
    real = [path.with_name(f"{path.stem}_real.png") for path in paths]
    for pair in pairs(photographs, real, photographs.REAL, None):
        assert pair.sigma_grey == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize(("count", "expected"), [(None, "0123456"), (9, "0123456"), (3, "024"), (1, "0")])
def test_a_subset_is_evenly_spaced(photographs: ModuleType, count: int | None, expected: str) -> None:
    assert "".join(map(str, photographs.evenly_spaced([Path(each) for each in "0123456"], count))) == expected


def test_quality_is_that_of_the_definitions(photographs: ModuleType) -> None:
    clean = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    psnr, ssim, largest = photographs.quality(clean, clean)
    assert (psnr, ssim, largest) == (math.inf, pytest.approx(1), 0)
    psnr, ssim, largest = photographs.quality(clean + 0.1, clean)
    assert psnr == pytest.approx(20, abs=1e-3)
    assert largest == pytest.approx(25.5, abs=1e-3)
    assert 0.8 < ssim < 1


def test_the_best_setting_counts(photographs: ModuleType, paths: list[Path]) -> None:
    method, _ = method_of(photographs, settings=(0.2, 1.0, 0.5))
    row = photographs.measured(method, photographs.Case(noise=photographs.FLOAT, sigma_grey=5), paths, 2)
    assert row.setting == 1.0
    assert row.psnr_db == pytest.approx([34.1] * 3, abs=0.5)  # 20 log10(255 / 5)


def test_a_run_goes_on_where_it_was_and_measures_other_weights_anew(
    photographs: ModuleType, paths: list[Path], tmp_path: Path
) -> None:
    cases = {photographs.Case(noise=photographs.FLOAT, sigma_grey=sigma): paths for sigma in (0, 15)}
    kept = tmp_path / "kept.jsonl"

    def rows(*methods: Any) -> list[Any]:
        return list(photographs.all_rows(methods, cases, kept, slow_images=2, chosen_on=1))

    first, calls = method_of(photographs)
    before = rows(first)
    assert len(calls) == 6
    other, other_calls = method_of(photographs, name="other", slow=True)
    again = rows(first, other)
    assert len(calls) == 6
    assert len(other_calls) == 4
    assert [row for row in again if row.method == "first"] == before
    changed, changed_calls = method_of(photographs, version="2")
    assert [row.version for row in rows(changed)] == ["2", "2"]
    assert len(changed_calls) == 6
    lines = map(json.loads, kept.read_text().splitlines())
    names = sorted((line["method"], line["version"]) for line in lines)
    assert names == [("first", "2"), ("first", "2"), ("other", "1"), ("other", "1")]


def test_the_tables_hold_means_gains_and_what_becomes_of_clean_images(
    photographs: ModuleType, paths: list[Path]
) -> None:
    exact, _ = method_of(photographs, name="exact")
    worse, _ = method_of(photographs, name="worse", settings=(0.9,), slow=True)
    sets = {
        photographs.Case(noise=photographs.STORED, sigma_grey=0): paths,
        photographs.Case(noise=photographs.FLOAT, sigma_grey=15): paths,
        photographs.Case(noise=photographs.REAL, sigma_grey=None): [
            path.with_name(f"{path.stem}_real.png") for path in paths
        ],
    }
    rows = photographs.all_rows([photographs.NOISY, exact, worse], sets, None, slow_images=2, chosen_on=1)
    found = photographs.summary(rows)
    noisy, same, lower = found["CBSD68, float noise: PSNR in dB"]
    assert noisy == {"method": "noisy", "told sigma": False, "images": 3, "sigma 15": noisy["sigma 15"]}
    assert float(noisy["sigma 15"]) == pytest.approx(20 * math.log10(255 / 15), abs=0.1)
    assert (same["sigma 15"], lower["images"]) == (noisy["sigma 15"], 2)
    no_gain, gain = found["CBSD68, float noise: gain of exact in dB"]
    assert no_gain["sigma 15"] == "+0.00 \N{PLUS-MINUS SIGN} 0.00"
    each = {row.method: row.psnr_db for row in rows if row.sigma_grey == 15}
    differences = [each["exact"][number] - each["worse"][place] for place, number in enumerate((0, 1))]
    assert gain["sigma 15"].startswith(f"{np.mean(differences):+.2f} ")
    unharmed, harmed = found["CBSD68, clean images"]
    assert (unharmed["left as they are"], unharmed["lowest"]) == (3, "")
    assert harmed["left as they are"] == 0
    assert float(harmed["lowest"]) < 45
    assert [row["method"] for row in found["CC15, real noise"]] == ["noisy", "exact", "worse"]
    json.dumps(found, allow_nan=False)
