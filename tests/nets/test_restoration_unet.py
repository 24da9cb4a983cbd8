"""The U-Net: its size and cost, any image, tiles like the whole, and what it is equivariant to."""

from functools import cache
from pathlib import Path

import pytest
import torch

import steadylens
from steadylens.checkpoints.checkpoint import load_model, save_model
from steadylens.errors import ImageError, SettingError
from steadylens.evaluation.experiments import multiplications, parameters
from steadylens.inference.engines import to_program
from steadylens.inference.restorer import restorer_of
from steadylens.nets.facts import facts_of
from steadylens.nets.restoration_unet import RestorationUNet


def restless(seed: int = 0, channels: int = 3) -> RestorationUNet:
    """Returns a net whose last layer does not begin at zero, so that its pattern is not nothing."""
    generator = torch.Generator().manual_seed(seed)
    net = RestorationUNet(channels).eval()
    net.initialize(generator=generator)
    torch.nn.init.normal_(net.tail.weight, std=0.02, generator=generator)
    return net.requires_grad_(False)


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_it_is_small_and_cheap() -> None:
    net = RestorationUNet()
    assert parameters(net) == 449_216
    assert multiplications(net, channels=3, size=48) <= 35_000 * 48**2
    assert multiplications(net, channels=3, size=256) <= 35_000 * 256**2


def test_it_starts_as_the_identity() -> None:
    net = RestorationUNet()
    net.initialize(generator=torch.Generator().manual_seed(0))
    images = noise(2, 3, 24, 31)
    assert torch.equal(net(images), images)


def test_weights_come_from_the_generator_alone() -> None:
    first, again, other = (restless(seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("size", [(10, 10), (11, 17), (16, 48), (47, 33)])
def test_any_size_is_restored_as_its_reflected_multiple_of_8(size: tuple[int, int]) -> None:
    net, images = restless(), noise(2, 3, *size)
    height, width = size
    padded = torch.nn.functional.pad(images, (0, -width % 8, 0, -height % 8), mode="reflect")
    inner = (..., slice(0, height), slice(0, width))
    whole, cropped = net(images), net(padded)[inner]
    far = (..., slice(0, max(0, height - 56)), slice(0, max(0, width - 56)))
    assert whole.shape == images.shape
    assert torch.isfinite(whole).all()
    if height % 8 == width % 8 == 0:
        assert torch.equal(whole, cropped)
    assert torch.allclose(whole[far], cropped[far], atol=1e-6)


def test_other_numbers_of_channels_are_restored() -> None:
    assert restless(channels=1)(noise(2, 1, 12, 20)).shape == (2, 1, 12, 20)
    with pytest.raises(SettingError, match="channels is 0"):
        RestorationUNet(channels=0)


@pytest.mark.parametrize("shape", [(1, 3, 9, 30), (1, 3, 30, 9), (1, 1, 30, 30)])
def test_what_it_cannot_read_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError):
        RestorationUNet()(noise(*shape))


@pytest.mark.parametrize("size", [(150, 211), (137, 300), (120, 40)])
@pytest.mark.parametrize("tile", [120, 128, 137])
def test_tiles_give_the_result_of_the_whole_image(size: tuple[int, int], tile: int) -> None:
    net, images = restless(), noise(1, 3, *size)
    assert torch.allclose(restorer_of(net, tile=tile)(images), net(images), atol=1e-5)


def test_tiny_images_are_restored() -> None:
    image = (noise(3, 5, 7) * 255).to(torch.uint8)
    assert steadylens.restore(image, restless()).shape == (3, 5, 7)


def test_a_shift_by_8_pixels_shifts_the_result_away_from_the_border() -> None:
    net, images = restless(), noise(1, 3, 144, 144)
    shifted = net(images[..., 8:, 8:])
    inner = (..., slice(56, 80), slice(56, 80))
    assert torch.allclose(net(images)[..., 8:, 8:][inner], shifted[inner], atol=1e-6)
    by_one = net(images[..., 1:, 1:])[inner]
    assert not torch.allclose(net(images)[..., 1:, 1:][inner], by_one, atol=1e-4)


def test_without_biases_the_pattern_scales_with_the_image() -> None:
    net, images = restless(), noise(1, 3, 32, 32)
    assert torch.allclose(net.pattern(images / 2), net.pattern(images) / 2, atol=1e-6)


def test_a_pixel_depends_on_no_pixel_beyond_the_margin() -> None:
    net = restless()
    images = noise(1, 3, 128, 128).requires_grad_(True)
    net(images)[..., 67, 61].sum().backward()
    assert images.grad is not None
    rows, columns = (images.grad.abs().sum(dim=(0, 1)) > 0).nonzero().T
    reach = max(int((rows - 67).abs().max()), int((columns - 61).abs().max()))
    assert 40 < reach <= net.margin == facts_of(net).margin


def test_it_comes_back_from_a_file(tmp_path: Path) -> None:
    net = restless()
    save_model(tmp_path / "unet.safetensors", net, about={})
    loaded, _ = load_model(tmp_path / "unet.safetensors")
    images = noise(1, 3, 16, 24)
    assert torch.equal(loaded(images), net(images))


def test_it_is_exported_for_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What takes longest is done once.
    monkeypatch.setattr("steadylens.inference.export.to_program", cache(to_program))
    net, images = restless(), noise(2, 3, 21, 34)
    for name in ("unet.pt2", "unet.onnx"):
        exported = steadylens.export_net(net, tmp_path / name)
        assert exported.parity.maximum_difference <= exported.parity.allowed_difference
        engine = steadylens.open_engine(tmp_path / name)
        assert torch.allclose(engine(images), net(images), atol=1e-4)
