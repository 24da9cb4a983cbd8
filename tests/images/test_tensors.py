"""Files of any kind become 8-bit RGB, and what is not a batch of images is refused."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.nn import functional

from steadylens.errors import ImageError, SettingError, StorageError
from steadylens.images.tensors import (
    GREY_LEVELS,
    STRONGEST_NOISE_GREY,
    WRITTEN_SUFFIXES,
    array_to_tensor,
    check_images,
    check_range,
    pil_to_tensor,
    quantize,
    read_image,
    tensor_to_array,
    tensor_to_pil,
    to_float,
    to_uint8,
    write_image,
)
from steadylens.nets.restoration import GaussianSmoothing, RestorationNet
from steadylens.noise.degradation import Degradation
from steadylens.noise.families import Gaussian, Laplacian, Strength, Uniform

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
RGB = Image.fromarray(PIXELS)


def planes(image: Image.Image) -> torch.Tensor:
    """Returns an RGB image as uint8 (3, H, W)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


# Batches.


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.bfloat16])
def test_float_batches_may_leave_the_range_as_restored_images_do(dtype: torch.dtype) -> None:
    images = torch.linspace(-0.2, 1.2, 2 * 3 * 8 * 8, dtype=dtype).reshape(2, 3, 8, 8)
    before = images.clone()
    check_images(images, channels=3, minimum_size=8)
    assert torch.equal(images, before)


@pytest.mark.parametrize("side", [1, 3, 8, 9, 48, 300])
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("distribution", [Gaussian, Uniform, Laplacian])
def test_unclipped_noise_of_75_grey_levels_is_accepted(
    side: int, level: float, distribution: type[Gaussian | Uniform | Laplacian]
) -> None:
    noise = Degradation(
        families=(distribution(strength=Strength.fixed(STRONGEST_NOISE_GREY)),), clip=False, quantize=False
    )
    generator = torch.Generator().manual_seed(side)
    images = noise(torch.full((16, 3, side, side), level), generator=generator)
    check_images(images)
    assert side < 8 or not 0 <= images.min() <= images.max() <= 1  # the noise does leave the range


def photograph(*shape: int) -> Tensor:
    """Returns smooth random images in [0, 1], from dark to bright."""
    coarse = torch.rand(*shape[:2], 4, 4, generator=torch.Generator().manual_seed(1))
    smooth = functional.interpolate(coarse, size=shape[2:], mode="bilinear")
    return (smooth - smooth.amin()) / (smooth.amax() - smooth.amin())


@pytest.mark.parametrize("shape", [(1, 3, 48, 48), (1, 1, 60, 50), (64, 3, 32, 32), (1, 3, 1000, 700)])
@pytest.mark.parametrize(
    "change",
    [
        lambda images: images * 255,
        lambda images: 2 * images - 1,
        lambda images: (images - 0.45) / 0.225,
        lambda images: torch.randn(images.shape, generator=torch.Generator().manual_seed(2)),
        lambda images: torch.rand(images.shape, generator=torch.Generator().manual_seed(2)) * 2 - 1,
        lambda images: images + torch.nan,
    ],
    ids=["grey levels", "[-1, 1]", "normalised", "normal noise", "noise in [-1, 1]", "not a number"],
)
def test_images_of_another_range_are_refused_by_name(
    shape: tuple[int, ...], change: Callable[[Tensor], Tensor]
) -> None:
    check_images(photograph(*shape))
    images = change(photograph(*shape))
    ends = re.escape(f"from {images.min():.3g} to {images.max():.3g}, they must lie in [0, 1]")
    with pytest.raises(ImageError, match=rf"{ends}; divide .* by 255, or undo .* by images \* std \+ mean"):
        check_images(images)


def test_noise_too_strong_not_to_be_clipped_is_named_as_a_cause() -> None:
    noise = 200 / 255 * torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ImageError, match="clip noise that is stronger than 75 grey levels"):
        check_range(noise)
    check_range(noise.clamp(0, 1))


def test_the_range_is_not_looked_at_where_there_are_no_values() -> None:
    check_range(torch.full((2, 3, 8, 8), 255.0, device="meta"))
    check_range(torch.zeros(0, 3, 8, 8))
    net = GaussianSmoothing()
    images = photograph(2, 3, 16, 16)
    each = torch.func.vmap(lambda image: net(image[None])[0])(images)
    torch.testing.assert_close(each, net(images))


def test_nets_refuse_another_range_and_compile_without_looking_at_it() -> None:
    net = RestorationNet(3).eval()
    with pytest.raises(ImageError, match="divide grey levels by 255"):
        net(photograph(1, 3, 16, 16) * 255)
    program = torch.export.export(net, (photograph(1, 3, 16, 16),))
    images = photograph(1, 3, 16, 16)
    torch.testing.assert_close(program.module()(images), net(images))


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), {}, "torch.uint8, they must be float.*to_float"),
        (torch.zeros(3, 8, 8), {}, r"\(3, 8, 8\), it must be \(N, C, H, W\).*images\[None\]"),
        (torch.zeros(1, 1, 8, 8), {"channels": 3}, "have 1 channels where 3 are needed"),
        (torch.zeros(1, 3, 8, 7), {"minimum_size": 8}, "8x7 pixels, at least 8x8 are needed"),
    ],
)
def test_what_is_no_batch_of_images_is_refused(
    images: torch.Tensor, options: dict[str, int], message: str
) -> None:
    with pytest.raises(ImageError, match=message):
        check_images(images, **options)


# Numbers.


def test_all_256_pixel_values_survive_the_way_through_float() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    as_float = to_float(pixels)
    assert as_float.dtype == torch.float32
    assert [as_float.min().item(), as_float.max().item()] == [0, 1]
    assert torch.equal(to_uint8(as_float), pixels)
    assert torch.equal(quantize(as_float), as_float)


def test_to_float_refuses_what_is_not_stored() -> None:
    with pytest.raises(ImageError, match=r"images are torch\.float32, only uint8"):
        to_float(torch.zeros(1))


@given(value=st.floats(-2, 3, width=32))
def test_to_uint8_clips_and_rounds_to_nearest(value: float) -> None:
    rounded = to_uint8(torch.tensor([value], dtype=torch.float64)).item()
    assert rounded == min(max(round(value * GREY_LEVELS), 0), GREY_LEVELS)


@given(value=st.floats(-2, 3, width=32))
def test_quantize_rounds_without_clipping(value: float) -> None:
    rounded = quantize(torch.tensor([value], dtype=torch.float64)).item()
    assert rounded == round(value * GREY_LEVELS) / GREY_LEVELS


@pytest.mark.parametrize("convert", [to_uint8, quantize])
def test_conversions_leave_their_input_alone(convert: Callable[[torch.Tensor], torch.Tensor]) -> None:
    images = torch.tensor([0.1234, 1.5])
    before = images.clone()
    convert(images)
    assert torch.equal(images, before)


def test_to_float_leaves_its_input_alone() -> None:
    images = torch.tensor([7, 255], dtype=torch.uint8)
    to_float(images)
    assert images.tolist() == [7, 255]


# Arrays and PIL images.


def test_an_array_and_its_tensor_share_their_memory() -> None:
    pixels = PIXELS.copy()
    image = array_to_tensor(pixels)
    assert torch.equal(image, planes(RGB))
    image[0] = 7
    assert (pixels[..., 0] == 7).all()
    assert np.array_equal(tensor_to_array(image), pixels)


def test_a_pil_image_survives_the_way_through_a_tensor() -> None:
    image = pil_to_tensor(RGB)
    assert torch.equal(image, planes(RGB))
    assert image.is_contiguous()
    assert np.array_equal(np.asarray(tensor_to_pil(image)), PIXELS)


# Reading.


@pytest.mark.parametrize("suffix", ["bmp", "png", "ppm", "tif", "tiff"])
def test_lossless_formats_are_read_exactly(tmp_path: Path, suffix: str) -> None:
    image = read_image(saved(tmp_path / f"a.{suffix}", RGB))
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    assert torch.equal(image, planes(RGB))


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "webp"])
def test_lossy_formats_are_read_as_pillow_does(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path / f"a.{suffix}", RGB)
    with Image.open(path) as opened:
        assert torch.equal(read_image(str(path)), planes(opened.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.png", RGB, exif=exif)
    mirrored = PIXELS.transpose(1, 0, 2)
    upright = {
        1: PIXELS, 2: np.fliplr(PIXELS), 3: np.rot90(PIXELS, 2), 4: np.flipud(PIXELS), 5: mirrored,
        6: np.rot90(PIXELS, -1), 7: np.rot90(mirrored, 2), 8: np.rot90(PIXELS, 1),
    }[orientation]  # fmt: skip
    assert np.array_equal(read_image(path).permute(1, 2, 0), upright)


def test_the_box_counts_in_the_upright_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path / "a.png", RGB, exif=exif)
    assert torch.equal(read_image(path, box=(1, 2, 5, 7)), read_image(path)[:, 2:7, 1:5])


@pytest.mark.parametrize("transparency", [None, 2, bytes([0, 128, 255, 7])])
def test_palettes_are_resolved(tmp_path: Path, transparency: int | bytes | None) -> None:
    palette = RGB.quantize(8)
    options = {} if transparency is None else {"transparency": transparency}
    path = saved(tmp_path / "a.png", palette, **options)
    assert torch.equal(read_image(path), planes(palette.convert("RGB")))


def test_grey_fills_three_channels(tmp_path: Path) -> None:
    grey = RGB.convert("L")
    image = read_image(saved(tmp_path / "a.pgm", grey))
    assert torch.equal(image, torch.from_numpy(np.array(grey)).expand(3, -1, -1))


def test_black_and_white_is_0_and_255(tmp_path: Path) -> None:
    image = read_image(saved(tmp_path / "a.png", RGB.convert("1")))
    assert image.unique(sorted=True).tolist() == [0, 255]  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bits_are_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    pixels = np.array([[0, 128, 129], [32768, 65534, 65535]], dtype=np.uint16)
    image = read_image(saved(tmp_path / f"a.{suffix}", Image.fromarray(pixels)))
    assert image[0].tolist() == [[0, 0, 1], [128, 255, 255]]
    assert torch.equal(image[0], image[2])


def test_cmyk_is_converted(tmp_path: Path) -> None:
    cyan = Image.new("CMYK", (4, 4), (255, 0, 0, 0))
    image = read_image(saved(tmp_path / "a.tif", cyan))
    assert image[:, 0, 0].tolist() == [0, 255, 255]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_dropped_and_colours_stay(tmp_path: Path, mode: str) -> None:
    source = RGB.convert("RGB" if mode == "RGBA" else "L").convert(mode)
    source.putalpha(Image.fromarray(PIXELS[..., 0]))
    image = read_image(saved(tmp_path / "a.png", source))
    opaque = RGB if mode == "RGBA" else RGB.convert("L").convert("RGB")
    assert torch.equal(image, planes(opaque))


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    path = saved(tmp_path / "a.png", frames[0], save_all=True, append_images=frames[1:])
    assert torch.equal(read_image(path), planes(frames[0]))


# Box and size.


def test_the_box_excludes_its_right_and_bottom(tmp_path: Path) -> None:
    image = read_image(saved(tmp_path / "a.png", RGB), box=(1, 2, 4, 6))
    assert torch.equal(image, planes(RGB)[:, 2:6, 1:4])


@pytest.mark.parametrize(
    "box", [(-1, 0, 4, 4), (0, 0, 9, 6), (0, 0, 8, 7), (3, 0, 3, 6), (0, 4, 8, 2)], ids=str
)
def test_a_box_that_leaves_the_image_or_is_empty_is_refused(
    tmp_path: Path, box: tuple[int, int, int, int]
) -> None:
    with pytest.raises(ImageError, match=r"a\.png: the box .* does not lie within the 8x6 image; correct"):
        read_image(saved(tmp_path / "a.png", RGB), box=box)


def test_resizing_looks_at_the_box_alone(tmp_path: Path) -> None:
    pixels = np.full((9, 9, 3), 255, np.uint8)
    pixels[2:6, 2:6] = 40
    image = read_image(saved(tmp_path / "a.png", Image.fromarray(pixels)), box=(2, 2, 6, 6), size=11)
    assert image.shape == (3, 11, 11)
    assert (image == 40).all()


def test_shrinking_averages_instead_of_picking(tmp_path: Path) -> None:
    checks = np.indices((64, 64)).sum(0) % 2 * 255
    path = saved(tmp_path / "a.png", Image.fromarray(checks.astype(np.uint8)))
    assert (read_image(path, size=8).float() - 127.5).abs().max() < 8


def test_a_size_below_one_pixel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="size is 0, it must be at least 1"):
        read_image(saved(tmp_path / "a.png", RGB), size=0)


# Damage.


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"none\.png does not exist"):
        read_image(tmp_path / "none.png")


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(tmp_path)


def test_text_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(ImageError, match=r"a\.png is not an image of a known format"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["bmp", "jpg", "png", "ppm", "webp"])
def test_a_truncated_file_is_refused_wherever_it_lacks_pixels(tmp_path: Path, suffix: str) -> None:
    source = saved(tmp_path / f"whole.{suffix}", RGB)
    whole, path = source.read_bytes(), tmp_path / f"cut.{suffix}"
    for length in range(0, len(whole) - 20, 3):  # checksums and marks stand behind the last pixel
        path.write_bytes(whole[:length])
        with pytest.raises(ImageError, match=f"cut.{suffix}"):
            read_image(path)


# Writing.


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", to_float(planes(RGB)))
    assert torch.equal(read_image(tmp_path / "a.png"), planes(RGB))


def test_writing_clips(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", torch.tensor([-1.0, 0.5, 2.0]).view(3, 1, 1))
    assert read_image(tmp_path / "a.png").flatten().tolist() == [0, 128, 255]


@pytest.mark.parametrize("suffix", sorted(WRITTEN_SUFFIXES))
def test_every_image_suffix_can_be_written_and_read(tmp_path: Path, suffix: str) -> None:
    write_image(tmp_path / f"a{suffix}", torch.full((3, 16, 16), 0.4))
    assert (read_image(tmp_path / f"a{suffix}").int() - 102).abs().max() <= 2


def test_an_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"a\.xyz does not end like an image file; use one of \.bmp"):
        write_image(tmp_path / "a.xyz", torch.zeros(3, 4, 4))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "image", [torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4), torch.zeros(3, 4, 4).byte()]
)
def test_only_one_float_rgb_image_can_be_written(tmp_path: Path, image: torch.Tensor) -> None:
    with pytest.raises(ImageError):
        write_image(tmp_path / "a.png", image)


def test_a_place_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="choose another place"):
        write_image(tmp_path / "file" / "a.png", torch.zeros(3, 4, 4))


def test_restored_images_of_a_net_in_training_may_lie_far_outside() -> None:
    far = torch.full((1, 3, 16, 16), 3.0)
    with pytest.raises(ImageError, match="images reach from 3 to 3"):
        check_images(far)
    check_images(far.clone().requires_grad_())
