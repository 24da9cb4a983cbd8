"""The strength is a blend of image and restored image, made before anything is rounded."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from steadylens.errors import SettingError
from steadylens.images.reading import read_image_file
from steadylens.inference.engines import TorchEngine
from steadylens.inference.image_files import RestoreSettings, restore_file
from steadylens.inference.jobs import RestoreJob
from steadylens.inference.restorer import Restorer, restore, restorer_of
from steadylens.inference.tiling import Tiling
from steadylens.nets.restoration import GaussianSmoothing, RestorationNet, initialize_xavier
from steadylens.randomness import derived_generator

SMOOTHING = GaussianSmoothing(sigma_pixels=1.0)
RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (40, 53, 4), dtype=np.uint8)
DEEP = RANDOM.integers(0, 65536, (40, 53, 4), dtype=np.uint16)
SHARES = (0.0, 0.25, 0.5, 0.7, 1.0)


def l5() -> RestorationNet:
    net = RestorationNet(depth=5)
    initialize_xavier(net, generator=derived_generator(0, "net"))
    return net


@pytest.mark.parametrize("strength", SHARES)
@pytest.mark.parametrize("net", [SMOOTHING, l5(), lambda images: 1 - images])
@pytest.mark.parametrize("tile", [16, 200])
def test_a_float_result_is_the_image_plus_a_share_of_the_change(net: Any, tile: int, strength: float) -> None:
    image = torch.rand(2, 3, 40, 53, generator=derived_generator(1, "image"))
    margin = 2 if isinstance(net, RestorationNet) else 4
    change = restore(image, net, margin=margin, tile=tile) - image
    blended = restore(image, net, margin=margin, tile=tile, strength=strength)
    torch.testing.assert_close(blended, image + strength * change, rtol=0, atol=3e-6)


@pytest.mark.parametrize("strength", SHARES)
@pytest.mark.parametrize("pixels", [PIXELS, PIXELS[..., :3], PIXELS[..., 0], DEEP, DEEP[..., :2]])
def test_levels_are_rounded_once_and_alpha_stays(pixels: Any, strength: float) -> None:
    top = np.iinfo(pixels.dtype).max
    opaque = pixels.copy()
    if pixels.ndim == 3 and pixels.shape[-1] in (2, 4):
        opaque[..., -1] = np.maximum(opaque[..., -1], 1)  # what is hidden is not restored
    exact = restore((opaque / top).astype(np.float32), SMOOTHING, strength=strength).astype(float)
    restored = restore(opaque, SMOOTHING, strength=strength)
    assert restored.dtype == pixels.dtype
    assert abs(restored - exact.clip(0, 1) * top).max() < 0.5 + 2e-6 * top
    if opaque.ndim == 3 and opaque.shape[-1] in (2, 4):
        assert np.array_equal(restored[..., -1], opaque[..., -1])


def test_a_blend_of_rounded_images_would_lose_small_changes() -> None:
    image = np.full((20, 20, 3), 100, np.uint8)
    darker = restore(image, lambda images: images - 0.8 / 255, margin=0, strength=0.5)
    assert (darker == 100).all()  # 99.6; half of the rounded change would be 99.5, and 99 if cut off
    deep = restore(image.astype(np.uint16) * 257, lambda images: images - 0.8 / 255, margin=0, strength=0.5)
    assert (deep == round((100 - 0.4) * 257)).all()


@pytest.mark.parametrize("pixels", [PIXELS, DEEP, PIXELS.astype(np.float64) / 255])
def test_strength_0_gives_the_image_back_without_running_the_net(pixels: Any) -> None:
    def never(images: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the net ran")

    restored = restore(pixels, never, margin=0, strength=0)
    assert np.array_equal(restored, pixels)
    assert not np.shares_memory(restored, pixels)


def test_any_engine_is_blended() -> None:
    image = torch.from_numpy(PIXELS[..., :3].copy()).permute(2, 0, 1)[None]
    tiling, net = Tiling(tile=32, margin=2), l5()
    blends = [
        Restorer(engine=engine, channels=3, tiling=tiling, device=torch.device("cpu"), strength=0.3)(image)
        for engine in (net, TorchEngine(net))
    ]
    torch.testing.assert_close(blends[0].int(), blends[1].int(), rtol=0, atol=1)
    assert not torch.equal(blends[0], image)


@pytest.mark.parametrize("strength", [-0.1, 1.01, float("nan"), float("inf")])
def test_what_is_no_share_is_refused(strength: float) -> None:
    with pytest.raises(
        SettingError, match=r"the strength is .*; it must be from 0, which keeps the image, to 1"
    ):
        restore(PIXELS, nn.Identity(), strength=strength)


def test_the_pattern_shows_what_was_really_removed(tmp_path: Path) -> None:
    Image.fromarray(PIXELS[..., :3]).save(tmp_path / "a.png")
    job = RestoreJob(source=tmp_path / "a.png", target=tmp_path / "b.png", view=tmp_path / "view.png")
    restored = restore_file(job, restorer_of(SMOOTHING, strength=0.4), settings=RestoreSettings())
    scale = float(restored.notes[-1].partition("nothing at 128, ")[2].split()[0])
    removed = PIXELS[..., :3].astype(float) - read_image_file(tmp_path / "b.png").pixels
    assert scale == abs(removed).max()
    view = read_image_file(tmp_path / "view.png").pixels
    assert abs((view - 128.0) / 127 * scale - removed).max() <= scale / 127 / 2 + 1e-9
