"""The benchmark of large photographs counts the work of all tiles, and compares nets at equal precision."""

from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from torch import nn

from steadylens.inference.engines import TorchEngine
from tests.benchmark_modules import benchmark


@pytest.fixture(scope="module")
def megapixels() -> Iterator[ModuleType]:
    with benchmark("megapixels") as module:
        module.__dict__.update(HEIGHT=80, WIDTH=112)
        yield module


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def asked(
    megapixels: ModuleType,
    net: str,
    engine: str = "PyTorch",
    precision: str = "float32",
    **other: int,
) -> object:
    usual = {"height": 80, "rounds": 2, "threads": 1}
    return megapixels.Combination(net=net, engine=engine, precision=precision, **{**usual, **other})


def test_a_part_of_the_picture_is_the_upper_part(megapixels: ModuleType) -> None:
    whole = megapixels.picture(80)
    assert (whole.dtype, whole.shape) == (torch.uint8, (1, 3, 80, 112))
    smooth = nn.functional.avg_pool2d(whole.float(), 4)
    rough = nn.functional.avg_pool2d(megapixels.picture(40).float(), 4)
    assert float((smooth[..., :10, :] - rough).abs().mean()) < 6  # the same colours, other noise


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_combination_is_timed_and_tells_its_memory(megapixels: ModuleType, precision: str) -> None:
    found = megapixels.timed(asked(megapixels, "l3-gtsrb", precision=precision))
    assert found["seconds"] > 0
    assert found["peak"] > 50
    assert isinstance(megapixels.opened(asked(megapixels, "FFDNet")).engine, TorchEngine)


def test_engines_of_a_fixed_size_get_the_size_of_the_tiles(megapixels: ModuleType) -> None:
    size = megapixels.size_of_tiles(megapixels.in_tiles("l3-gtsrb"), asked(megapixels, "l3-gtsrb"))
    assert size == (80 + 2 * 2, 112 + 2 * 2)  # one tile, surrounded by the margin of L3
    unet = megapixels.in_tiles("unet-gtsrb")
    unequal = megapixels.size_of_tiles(unet, asked(megapixels, "unet-gtsrb", height=2500))
    assert unequal is None  # its tiles begin at multiples of 8, so that the last one is smaller


def test_each_stream_gets_its_share_of_the_tiles(megapixels: ModuleType) -> None:
    engine, net = megapixels.ENGINES[-1], megapixels.in_tiles("FFDNet")
    assert len(megapixels.tiles_of(net, asked(megapixels, "FFDNet", engine, height=1000, threads=4))) == 4
    assert len(megapixels.tiles_of(net, asked(megapixels, "FFDNet", height=1000, threads=4))) == 2


def test_traffic_is_what_convolutions_read_and_write(megapixels: ModuleType) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 2, 2, stride=2))
    with torch.no_grad(), megapixels.Traffic() as traffic:
        net(torch.empty(1, 3, 10, 12))
    assert traffic.values == (3 * 10 * 12 + 8 * 8 * 10) + (8 * 8 * 10 + 2 * 16 * 20)


def test_the_work_is_that_of_the_tiles(megapixels: ModuleType) -> None:
    gflop, billions = megapixels.work_of(asked(megapixels, "CDnCNN-B"))
    pixels, products = 80 * 112, 9 * (3 * 64 + 18 * 64 * 64 + 64 * 3)
    assert gflop == pytest.approx(2e-9 * products * pixels)
    assert billions == pytest.approx(1e-9 * (2 * 3 + 38 * 64) * pixels)


def test_the_best_engines_are_compared_at_equal_precision(megapixels: ModuleType) -> None:
    def row(net: str, precision: str, engine: str, seconds: float) -> dict[str, object]:
        return {"net": net, "precision": precision, "engine": engine, megapixels.SECONDS: seconds}

    rows = [
        row("ours", "float32", "a", 4.0), row("theirs", "float32", "a", 50.0),
        row("ours", "float32", "b", 2.0), row("theirs", "float32", "b", 60.0),
        row("ours", "bfloat16", "a", 1.0), row("theirs", "bfloat16", "a", 20.0),
    ]  # fmt: skip
    found = [tuple(each.values()) for each in megapixels.ratios(rows)]
    assert found == [
        ("float32", "ours", "b", 2.0, 1.0), ("float32", "theirs", "a", 50.0, 25.0),
        ("bfloat16", "ours", "a", 1.0, 1.0), ("bfloat16", "theirs", "a", 20.0, 20.0),
    ]  # fmt: skip
