"""Tiles give the same result as the whole image, whatever the sizes, the net and its padding."""

import math
from dataclasses import replace
from threading import Barrier, get_ident
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from steadylens.errors import SettingError
from steadylens.inference.tiling import (
    PIXELS_AT_ONCE,
    ImageToImage,
    Span,
    Tiling,
    from_unit,
    in_tiles,
    spans,
    tiles,
    to_unit,
)
from steadylens.nets.restoration import DongNet, GaussianSmoothing, RestorationNet, UnpaddedNet
from steadylens.nets.restoration_unet import RestorationUNet
from steadylens.progress import ProgressCallback

CPU = torch.device("cpu")


def nothing(done: int, total: int) -> None:
    """Ignores how much is done."""


def tiled(
    engine: ImageToImage,
    images: Tensor,
    tiling: Tiling,
    *,
    progress: ProgressCallback = nothing,
    at_once: int = 1,
) -> Tensor:
    restored = torch.empty_like(images)
    in_tiles(engine, images, restored, tiling=tiling, device=CPU, progress=progress, at_once=at_once)
    return restored


def seeded(make: type[nn.Module], **settings: object) -> nn.Module:
    """Returns a net with weights large enough for its border to matter."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = make(**settings)
    for parameter in net.parameters():
        parameter.data.mul_(2)
    return net.eval()


NETS = {
    "L3 zeros": (seeded(RestorationNet, depth=3), 2, 1),
    "L3 reflect": (seeded(RestorationNet, depth=3, padding="reflect"), 2, 3),
    "L5 reflect": (seeded(RestorationNet, depth=5, padding="reflect"), 3, 4),
    "Dong zeros": (seeded(DongNet), 6, 1),
    "Dong reflect": (seeded(DongNet, padding="reflect"), 6, 7),
    "smoothing": (GaussianSmoothing(sigma_pixels=1.0), 4, 5),
}


# Cutting.


@given(
    length=st.integers(1, 400),
    margin=st.integers(0, 9),
    extra=st.integers(1, 60),
    smallest=st.integers(1, 20),
    more=st.integers(0, 20),
    surrounded=st.booleans(),
)
def test_the_parts_that_count_cover_an_axis_once_and_see_their_margin(
    *, length: int, margin: int, extra: int, smallest: int, more: int, surrounded: bool
) -> None:
    tile = max(2 * margin + extra, smallest)
    surround = F.pad if surrounded else None
    found = spans(length, Tiling(tile=tile, margin=margin, smallest=smallest, surround=surround), more=more)
    assert [place for span in found for place in range(length)[span.kept]] == list(range(length))
    assert all(range(length)[span.kept] for span in found)
    first, last = (-margin, length + margin) if surrounded else (0, length)
    for span in found:
        assert first <= span.start <= max(first, span.kept.start - margin)
        assert last >= span.stop >= min(last, span.kept.stop + margin)
        made = range(span.start + margin, span.stop - margin) if surrounded else range(span.start, span.stop)
        assert made[span.kept_of_made] == range(length)[span.kept]
        assert len(range(length)[span.present(length)]) + sum(span.lacking(length)) == span.stop - span.start
    sides = {span.stop - span.start for span in found}
    assert len(sides) == 1
    if length >= smallest:
        assert max(sides) <= tile


@given(
    length=st.integers(1, 900),
    alignment=st.sampled_from([1, 2, 8]),
    steps=st.integers(0, 7),
    extra=st.integers(0, 60),
    smallest=st.integers(1, 20),
    more=st.integers(0, 20),
)
def test_tiles_begin_at_multiples_of_the_alignment(
    *, length: int, alignment: int, steps: int, extra: int, smallest: int, more: int
) -> None:
    margin = alignment * steps
    tile = max(2 * margin + alignment, -(-smallest // alignment) * alignment) + extra
    tiling = Tiling(tile=tile, margin=margin, smallest=smallest, alignment=alignment)
    found = spans(length, tiling, more=more)
    assert len(found) <= len(spans(length, tiling)) + more
    assert all(range(length)[span.kept] for span in found)
    assert [place for span in found for place in range(length)[span.kept]] == list(range(length))
    for span in found:
        assert span.start % alignment == 0
        assert span.start >= 0
        assert span.stop <= length
        assert span.stop - span.start <= tile
        assert span.start == 0 or span.kept.start - span.start >= margin
        assert span.stop == length or span.stop - span.kept.stop >= margin


@pytest.mark.parametrize(("margin", "alignment"), [(5, 8), (8, 0), (8, -8)])
def test_an_alignment_that_does_not_divide_the_margin_is_refused(margin: int, alignment: int) -> None:
    with pytest.raises(SettingError, match="must be at least 1 and divide the margin"):
        Tiling(tile=100, margin=margin, alignment=alignment)


@given(length=st.integers(20, 2000), margin=st.integers(0, 9), extra=st.integers(12, 200))
def test_an_axis_is_cut_evenly_into_as_few_parts_as_can_be(length: int, margin: int, extra: int) -> None:
    tile = 2 * margin + extra
    found = spans(length, Tiling(tile=tile, margin=margin, surround=F.pad))
    assert len(found) == -(-length // extra)
    side = found[0].stop - found[0].start
    assert len(found) * (side - 2 * margin) - length < len(found)


PHOTOGRAPH = (3000, 4000)

LARGE_TILES = Tiling(tile=1736, margin=56, smallest=10, alignment=8)


@pytest.mark.parametrize(
    ("at_once", "groups", "rows", "columns"),
    [
        (1, 1, 2, 3),
        (2, 1, 2, 3),
        (4, 1, 2, 4),  # two tiles each; of 2 x 3 tiles, two threads would have two and two only one
        (4, 8, 2, 3),  # of eight images there are enough tiles
        (16, 1, 4, 8),  # two tiles each, of at most 868 pixels, so that they fit into memory
        (16, 8, 4, 6),
    ],
)
def test_there_are_tiles_for_all_threads(at_once: int, groups: int, rows: int, columns: int) -> None:
    found = tiles(PHOTOGRAPH, LARGE_TILES, at_once=at_once, groups=groups)
    assert len({row.start for row, _ in found}) == rows
    assert len({column.start for _, column in found}) == columns
    assert len(found) == rows * columns


def test_few_threads_get_tiles_as_large_as_asked_for() -> None:
    huge = replace(LARGE_TILES, tile=5000)
    assert len(tiles(PHOTOGRAPH, huge)) == 1
    row, column = tiles((20_000, 9000), huge, at_once=4, groups=4)[0]
    assert min(row.stop - row.start, column.stop - column.start) > 4000


@settings(max_examples=60)
@given(
    size=st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    at_once=st.integers(1, 24),
    groups=st.integers(1, 40),
)
def test_no_thread_gets_more_work_than_in_the_largest_tiles(
    size: tuple[int, int], at_once: int, groups: int
) -> None:
    def busiest(found: list[tuple[Span, Span]]) -> int:
        row, column = found[0]
        rounds = math.ceil(groups * len(found) / at_once)
        return rounds * (row.stop - row.start) * (column.stop - column.start)

    chosen = tiles(size, LARGE_TILES, at_once=at_once, groups=groups)
    row, column = chosen[0]
    together = min(at_once, len(chosen)) * (row.stop - row.start) * (column.stop - column.start)
    assert together <= 1.1 * PIXELS_AT_ONCE  # tiles are rounded up to multiples of 8
    if at_once <= 4:  # the tiles of more threads are smaller
        assert busiest(chosen) <= busiest(tiles(size, LARGE_TILES))


@pytest.mark.parametrize(
    ("tile", "wanted"),
    [(80, [5, 6, 6, 6]), (16, [2, 3, 3, 3, 3, 3, 3, 3])],  # with 4 in a tile, two threads would get 8
)
def test_small_images_are_shared_among_the_threads(tile: int, wanted: list[int]) -> None:
    counts: list[int] = []

    def engine(images: Tensor) -> Tensor:
        counts.append(len(images))
        return images

    images = torch.rand(23, 3, 8, 8)
    assert torch.equal(tiled(engine, images, Tiling(tile=tile, margin=0), at_once=4), images)
    assert sorted(counts) == wanted


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"tile": 12, "margin": 6},
            "a tile of 12 pixels is too small: with a margin of 6 it needs at least 13",
        ),
        ({"tile": 13, "margin": 6, "smallest": 20}, "needs at least 20"),
        ({"tile": 13, "margin": -1}, "margin is -1"),
        ({"tile": 13, "margin": 1, "smallest": 0}, "smallest 0"),
    ],
)
def test_a_tiling_that_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Tiling(**settings)


# The whole and its tiles.


@settings(max_examples=60)
@given(
    name=st.sampled_from(sorted(NETS)),
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    extra=st.integers(1, 25),
    count=st.integers(1, 3),
    at_once=st.integers(1, 3),
    seed=st.integers(0, 9),
)
def test_tiles_give_what_the_whole_image_gives(
    *, name: str, size: tuple[int, int], extra: int, count: int, at_once: int, seed: int
) -> None:
    net, margin, smallest = NETS[name]
    height, width = (max(min(length, 6 * extra), smallest) for length in size)  # hence few tiles
    images = torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))
    tiling = Tiling(tile=2 * margin + extra, margin=margin, smallest=smallest)
    with torch.inference_mode():
        whole = net(images)
    torch.testing.assert_close(tiled(net, images, tiling, at_once=at_once), whole, rtol=0, atol=2e-6)
    if isinstance(net, RestorationNet | DongNet):
        form = UnpaddedNet(net)
        found = tiled(form, images, replace(tiling, surround=form.surround), at_once=at_once)
        torch.testing.assert_close(found, whole, rtol=0, atol=2e-6)


def test_tiles_of_several_threads_give_what_a_whole_image_gives_to_a_net_that_halves_it() -> None:
    net, known = seeded(RestorationUNet), RestorationUNet
    images = torch.rand(1, 3, 203, 541, generator=torch.Generator().manual_seed(0))
    tiling = Tiling(tile=800, margin=known.margin, smallest=known.minimum_size, alignment=known.alignment)
    assert len(tiles((203, 541), tiling, at_once=3)) == 3
    with torch.inference_mode():
        whole = net(images)
    torch.testing.assert_close(tiled(net, images, tiling, at_once=3), whole, rtol=0, atol=2e-5)


@pytest.mark.parametrize("size", [(1, 1), (2, 40), (5, 3)])
@pytest.mark.parametrize("name", [name for name in NETS if name != "smoothing"])
def test_a_tiny_image_is_mirrored_alike_for_either_form_of_a_net(name: str, size: tuple[int, int]) -> None:
    net, margin, smallest = NETS[name]
    assert isinstance(net, RestorationNet | DongNet)
    form, tiling = UnpaddedNet(net), Tiling(tile=2 * margin + 1, margin=margin, smallest=smallest)
    images = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    found = tiled(form, images, replace(tiling, surround=form.surround))
    torch.testing.assert_close(found, tiled(net, images, tiling), rtol=0, atol=2e-6)


def test_a_margin_that_is_too_small_would_be_seen() -> None:
    net, margin, _ = NETS["L5 reflect"]
    images = torch.rand(1, 3, 50, 50, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole = net(images)
    assert (tiled(net, images, Tiling(tile=20, margin=margin - 1, smallest=4)) - whole).abs().max() > 1e-3


def test_every_tile_of_an_image_has_the_same_size() -> None:
    seen = []

    def engine(images: Tensor) -> Tensor:
        seen.append(tuple(images.shape))
        return images

    tiled(engine, torch.rand(1, 3, 101, 67), Tiling(tile=32, margin=5))
    assert seen == [(1, 3, 29, 29)] * 15


def test_small_images_go_through_the_net_together() -> None:
    counts = []

    def engine(images: Tensor) -> Tensor:
        counts.append(len(images))
        return images

    images = torch.rand(23, 3, 8, 8)
    assert torch.equal(tiled(engine, images, Tiling(tile=32, margin=0)), images)
    assert counts == [12, 11]


def test_progress_counts_the_tiles() -> None:
    told: list[tuple[int, int]] = []
    tiled(
        nn.Identity(), torch.rand(1, 3, 20, 30), Tiling(tile=10, margin=0),
        progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    assert told == [(done, 6) for done in range(1, 7)]


def test_tiles_go_to_the_engine_from_several_threads_at_once() -> None:
    together, seen = Barrier(3, timeout=30), set()

    def engine(images: Tensor) -> Tensor:
        together.wait()
        seen.add(get_ident())
        return images

    images, told = torch.rand(1, 3, 30, 20), []
    restored = tiled(
        engine, images, Tiling(tile=10, margin=0), progress=lambda done, _: told.append(done), at_once=3
    )
    assert torch.equal(restored, images)
    assert told == [1, 2, 3, 4, 5, 6]
    assert len(seen) == 3


def test_an_interrupt_ends_the_work_of_all_threads() -> None:
    begun = []

    def engine(images: Tensor) -> Tensor:
        begun.append(True)
        return images

    def interrupted(done: int, _: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiled(engine, torch.rand(1, 3, 100, 100), Tiling(tile=1, margin=0), progress=interrupted, at_once=2)
    assert len(begun) < 10_000


def test_a_net_that_changes_the_shape_is_refused() -> None:
    with pytest.raises(SettingError, match=r"returned \(1, 3, 8, 8\) for \(1, 3, 10, 10\); it must keep"):
        tiled(lambda images: images[..., 1:-1, 1:-1], torch.rand(1, 3, 10, 10), Tiling(tile=10, margin=0))
    tiling = Tiling(tile=10, margin=2, surround=F.pad)
    with pytest.raises(SettingError, match=r"returned \(1, 3, 14, 14\) for .* must lose 2 pixels on each"):
        tiled(nn.Identity(), torch.rand(1, 3, 10, 10), replace(tiling, tile=20))


def test_a_net_that_returns_no_tensor_is_refused() -> None:
    def engine(images: Tensor) -> Any:
        return images.numpy()

    with pytest.raises(SettingError, match="the net returned a ndarray; it must return a tensor"):
        tiled(engine, torch.rand(1, 3, 9, 9), Tiling(tile=9, margin=0))


# Tiny images.


@given(height=st.integers(1, 9), width=st.integers(1, 9), smallest=st.integers(1, 12))
def test_a_tiny_image_is_mirrored_until_the_net_takes_it(height: int, width: int, smallest: int) -> None:
    seen: list[Tensor] = []

    def engine(images: Tensor) -> Tensor:
        seen.append(images)
        return images

    images = torch.rand(1, 2, height, width)
    assert torch.equal(tiled(engine, images, Tiling(tile=40, margin=0, smallest=smallest)), images)
    down, across = (max(0, -(-(smallest - length) // 2)) for length in (height, width))
    oracle = np_symmetric(images, down, across)
    assert torch.equal(seen[0], oracle)
    assert min(seen[0].shape[-2:]) >= smallest


def np_symmetric(images: Tensor, down: int, across: int) -> Tensor:
    """Returns images extended as NumPy does."""
    widths = ((0, 0), (0, 0), (down, down), (across, across))
    return torch.from_numpy(np.pad(images.numpy(), widths, mode="symmetric"))


@pytest.mark.parametrize("name", ["L5 reflect", "Dong reflect", "smoothing"])
def test_an_image_of_one_pixel_goes_through_a_net_that_reflects(name: str) -> None:
    net, margin, smallest = NETS[name]
    image = torch.full((1, 3, 1, 1), 0.4)
    flat = net(torch.full((1, 3, 30, 30), 0.4))[..., 15:16, 15:16].detach()
    restored = tiled(net, image, Tiling(tile=40, margin=margin, smallest=smallest))
    torch.testing.assert_close(restored, flat, rtol=0, atol=1e-6)


# Types.


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_levels_go_to_the_unit_and_back_exactly(dtype: torch.dtype) -> None:
    top = torch.iinfo(dtype).max
    levels = torch.arange(top + 1, dtype=torch.int32).to(dtype)
    unit = to_unit(levels)
    assert [unit.min().item(), unit.max().item()] == [0, 1]
    assert torch.equal(from_unit(unit, dtype).int(), levels.int())
    assert from_unit(torch.tensor([-0.1, 1.1]), dtype).tolist() == [0, top]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_levels_are_converted_as_pytorch_would_do_it(dtype: torch.dtype) -> None:
    top = torch.iinfo(dtype).max
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(top + 1, (2, 9, 7, 3), generator=generator).to(dtype).permute(0, 3, 1, 2)
    unit = to_unit(levels)
    assert unit.is_contiguous()
    assert torch.equal(unit, levels.float() / top)
    images = torch.rand(2, 3, 9, 7, generator=generator) * 1.4 - 0.2
    images[0, 0, 0] = (torch.arange(7) + 0.5) / top  # halves, which are rounded to even
    expected = (images.clamp(0, 1) * top).round().int()
    assert torch.equal(from_unit(images[..., 1:-1], dtype).int(), expected[..., 1:-1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_floats_are_not_clipped_and_the_input_stays(dtype: torch.dtype) -> None:
    images = torch.linspace(-1, 2, 48, dtype=dtype).view(1, 3, 4, 4)
    before = images.clone()
    restored = tiled(lambda some: some + 1, images, Tiling(tile=3, margin=0))
    assert restored.dtype == dtype
    assert torch.equal(restored, (before.float() + 1).to(dtype))
    assert torch.equal(images, before)


def test_the_engine_sees_no_gradients() -> None:
    weight = torch.ones(3, 3, 3, 3, requires_grad=True)
    restored = tiled(
        lambda some: F.conv2d(some, weight, padding=1), torch.rand(1, 3, 9, 9), Tiling(tile=9, margin=1)
    )
    assert not restored.requires_grad
