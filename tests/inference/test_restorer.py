"""Any kind of image comes back restored as the same kind, alpha untouched."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

import steadylens
from steadylens.checkpoints.checkpoint import save_model
from steadylens.checkpoints.loading import load_net
from steadylens.errors import CheckpointError, ImageError, SettingError
from steadylens.images.tensors import to_float, to_uint8
from steadylens.inference.restorer import Restorer, restore, restorer_of
from steadylens.inference.tiling import Tiling
from steadylens.nets.classification import FusedClassifier, SignNet
from steadylens.nets.restoration import DongNet, GaussianSmoothing, RestorationNet
from steadylens.nets.restoration_unet import RestorationUNet

SMOOTHING = GaussianSmoothing(sigma_pixels=1.0)
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8)


def inverted(images: Tensor) -> Tensor:
    return 1 - images


# Nets.


def test_a_packaged_net_restores_by_its_name() -> None:
    net = steadylens.load("l3-gtsrb")
    image = torch.from_numpy(PIXELS[..., :3].copy()).permute(2, 0, 1)
    with torch.inference_mode():
        expected = to_uint8(net(to_float(image[None]))[0])
    assert (restore(image, "l3-gtsrb").int() - expected.int()).abs().max() <= 1


def test_a_file_restores_by_its_path(tmp_path: Path) -> None:
    save_model(tmp_path / "net.safetensors", nn.Identity(), about={})
    assert np.array_equal(restore(PIXELS, tmp_path / "net.safetensors"), PIXELS)


def test_a_restorer_knows_the_name_of_a_packaged_net_and_of_no_other(tmp_path: Path) -> None:
    net = steadylens.load("l3-gtsrb")
    save_model(tmp_path / "l3-gtsrb.safetensors", net, about={})
    assert restorer_of("l3-gtsrb").packaged == "l3-gtsrb"
    assert restorer_of(tmp_path / "l3-gtsrb.safetensors").packaged == ""
    assert restorer_of(net).packaged == ""
    loaded = load_net("l3-gtsrb")
    assert restorer_of(loaded).packaged == "l3-gtsrb"
    assert not loaded.in_front_of(load_net("sign-gtsrb")).packaged


def test_tiles_do_not_show() -> None:
    image = torch.rand(3, 50, 70, generator=torch.Generator().manual_seed(0))
    whole = restore(image, "l5-gtsrb", tile=200)
    torch.testing.assert_close(restore(image, "l5-gtsrb", tile=16), whole, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("net", "tile"),
    [
        (RestorationNet(depth=11), 272),  # a margin of 6 costs little in any tile
        (RestorationUNet(), 1736),  # it says so itself
        (GaussianSmoothing(sigma_pixels=10), 16 * 40),
        (GaussianSmoothing(sigma_pixels=20), 1024),  # a margin of 80
        (GaussianSmoothing(sigma_pixels=80), 4 * 320 + 1),
    ],
)
def test_tiles_are_larger_where_nets_look_further(net: nn.Module, tile: int) -> None:
    assert restorer_of(net).tiling.tile == tile


def test_bfloat16_changes_the_result_slightly_and_spares_what_the_net_does_not_touch() -> None:
    image = torch.rand(3, 40, 50, generator=torch.Generator().manual_seed(0))
    plain = restore(image, "unet-gtsrb")
    lower = restore(image, "unet-gtsrb", dtype=torch.bfloat16)
    assert lower.dtype == torch.float32
    assert 0 < float((lower - plain).abs().max()) < 0.03
    unchanged = RestorationUNet()
    unchanged.initialize(generator=torch.Generator().manual_seed(0))  # it starts as the identity
    assert torch.equal(restore(image, unchanged, dtype=torch.bfloat16), image)


def test_a_function_takes_no_number_format() -> None:
    with pytest.raises(SettingError, match="a function decides itself in which numbers"):
        restorer_of(inverted, margin=0, dtype=torch.bfloat16)


@pytest.mark.parametrize(
    ("net", "margin", "smallest"),
    [
        (RestorationNet(depth=11), 6, 1),
        (RestorationNet(depth=11, padding="reflect"), 6, 7),
        (DongNet(), 6, 1),
        (SMOOTHING, 4, 5),
        (GaussianSmoothing(sigma_pixels=60), 240, 241),
        (nn.Identity(), 0, 1),
    ],
)
def test_nets_of_the_package_tell_how_far_they_look(net: nn.Module, margin: int, smallest: int) -> None:
    restorer = restorer_of(net)
    assert (restorer.tiling.margin, restorer.tiling.smallest) == (margin, smallest)
    assert restorer.tiling.tile >= 4 * margin + 1


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (SignNet(classes=4), "a SignNet answers with classes, not with images; give a restorer"),
        (FusedClassifier(nn.Identity(), nn.Identity()), r"answers with classes.*with its \.restorer"),
        (inverted, "the margin of a function is not known; give the radius"),
        ("l12-gtsrb", "no net 'l12-gtsrb'; give a .safetensors file or one of"),
    ],
)
def test_what_cannot_restore_is_refused(net: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        restore(PIXELS, net)


def test_a_missing_file_of_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        restore(PIXELS, tmp_path / "none.safetensors")


def test_a_net_of_one_channel_sees_grey_as_it_is() -> None:
    seen: list[int] = []

    def engine(images: Tensor) -> Tensor:
        seen.append(images.shape[1])
        return images

    restorer = Restorer(
        engine=engine, channels=1, tiling=Tiling(tile=64, margin=0), device=torch.device("cpu")
    )
    restorer(torch.rand(1, 1, 8, 8))
    assert seen == [1]


def test_grey_is_the_mean_of_three_like_channels() -> None:
    factors = torch.tensor([0.2, 0.4, 0.9]).view(3, 1, 1)
    image = torch.rand(1, 8, 8)
    torch.testing.assert_close(restore(image, lambda some: some * factors, margin=0), image * 0.5)


# Kinds.


@given(
    channels=st.integers(1, 4),
    dtype=st.sampled_from(["uint8", "uint16", ">u2", "float16", "float32", "float64"]),
    flat=st.booleans(),
    seed=st.integers(0, 99),
)
def test_an_identity_gives_back_any_array(channels: int, dtype: str, flat: bool, seed: int) -> None:
    generator = np.random.default_rng(seed)
    array = generator.random((7, 9, channels))
    if not dtype.startswith("f"):
        array = array * np.iinfo(dtype).max
    array = array.astype("float32").astype(dtype)
    if flat and channels == 1:
        array = array[..., 0]
    restored = restore(array, nn.Identity())
    assert restored.dtype == array.dtype
    assert restored.flags.writeable
    if dtype.startswith("f") and channels in (1, 2):  # a mean of three equal numbers is rounded
        np.testing.assert_allclose(restored, array, rtol=1e-6)
    else:
        assert np.array_equal(restored, array)


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_stays_and_the_rest_does_not(channels: int) -> None:
    array = PIXELS[..., :channels]
    restored = restore(array, inverted, margin=0)
    assert np.array_equal(restored[..., -1], array[..., -1])
    shown = array[..., -1:] > 0
    assert np.array_equal(restored[..., :-1], np.where(shown, 255 - array[..., :-1], array[..., :-1]))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_net_may_compute_in_any_precision_within(dtype: Any) -> None:
    def rounded(images: Tensor) -> Tensor:
        return images.bfloat16()

    array = (PIXELS[..., :3] // 64 * 64).astype(dtype)
    difference = restore(array, rounded, margin=0).astype(int) - array
    assert abs(difference).max() <= np.iinfo(dtype).max / 255


def test_the_result_takes_no_gradient_of_the_image() -> None:
    image = torch.rand(4, 8, 9, requires_grad=True)
    assert not restore(image, nn.Identity()).requires_grad


def test_a_device_may_be_given_by_its_name() -> None:
    expected = restore(PIXELS[..., :3], SMOOTHING)
    assert np.array_equal(restore(PIXELS[..., :3], SMOOTHING, device="cpu"), expected)


@pytest.mark.parametrize("net", [SMOOTHING, "l3-gtsrb"])
@pytest.mark.parametrize("device", ["hpu", "abacus"])
def test_a_device_that_cannot_be_used_is_refused_with_those_that_can(net: Any, device: str) -> None:
    with pytest.raises(SettingError, match=f"device '{device}'.*; here, there are cpu"):
        restore(PIXELS[..., :3], net, device=device)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_a_net_of_another_precision_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(SettingError, match=rf"the net computes in {dtype}.* make it so by net\.float\(\)"):
        restore(PIXELS[..., :3], RestorationNet(depth=3).to(dtype))


def test_views_and_read_only_arrays_are_taken_and_left_alone() -> None:
    view = PIXELS[::-1, ::2, :3]
    before = PIXELS.copy()
    assert np.array_equal(restore(view, inverted, margin=0), 255 - view)
    frozen = np.broadcast_to(np.uint8(7), (4, 4))
    assert (restore(frozen, inverted, margin=0) == 248).all()
    assert np.array_equal(PIXELS, before)


@pytest.mark.parametrize("shape", [(3, 8, 9), (2, 3, 8, 9), (1, 8, 9), (2, 4, 8, 9)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
def test_an_identity_gives_back_any_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tensor = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    restored = restore(tensor, nn.Identity())
    assert restored.dtype == dtype
    assert torch.equal(restored, tensor)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16", "I;16B"])
def test_a_picture_keeps_its_mode_its_size_and_what_it_says(mode: str) -> None:
    deep = {"I;16": "<u2", "I;16B": ">u2"}
    if mode in deep:
        source = Image.fromarray((PIXELS[..., 0].astype(np.uint16) * 257).astype(deep[mode]))
    else:
        source = Image.fromarray(PIXELS).convert(mode)
    source.info["icc_profile"] = b"profile"
    restored = restore(source, nn.Identity())
    assert (restored.mode, restored.size) == (mode, source.size)
    assert restored.info == source.info
    assert np.array_equal(np.array(restored), np.array(source))


@pytest.mark.parametrize(
    ("mode", "becomes"),
    [("P", "RGB"), ("1", "L"), ("CMYK", "RGB"), ("YCbCr", "RGB"), ("RGBX", "RGB"), ("RGBa", "RGBA")],
)
def test_a_picture_of_another_mode_is_converted(mode: str, becomes: str) -> None:
    source = Image.fromarray(PIXELS).convert("RGBA" if mode == "RGBa" else "RGB").convert(mode)
    source.info |= {"icc_profile": b"profile", "dpi": (72, 72)}
    restored = restore(source, nn.Identity())
    assert restored.mode == becomes
    assert np.array_equal(np.array(restored), np.array(source.convert(becomes)))
    kept = {"dpi": (72, 72)} if mode == "CMYK" else {"icc_profile": b"profile", "dpi": (72, 72)}
    assert restored.info == kept


@pytest.mark.parametrize(("mode", "key"), [("L", 7), ("RGB", (7, 7, 7)), ("P", 7)])
def test_a_transparent_colour_becomes_alpha_since_restoring_would_move_it(mode: str, key: Any) -> None:
    source = Image.new(mode, (4, 4))
    source.info["transparency"] = key
    source.putpixel((1, 2), key)
    restored = restore(source, nn.Identity())
    assert restored.mode == {"L": "LA", "RGB": "RGBA", "P": "RGBA"}[mode]
    alpha = np.array(restored.getchannel("A"))
    assert alpha[2, 1] == 0
    assert alpha.sum() == 15 * 255
    assert restored.info == {}


@pytest.mark.parametrize(("bits", "key"), [(1, 0), (1, 1), (2, 2), (4, 7), (8, 7)])
def test_a_transparent_colour_of_few_bits_is_found_in_a_file(bits: int, key: int, tmp_path: Path) -> None:
    levels = np.arange(2**bits, dtype=np.uint8)
    packed = np.packbits((levels[:, None] >> np.arange(bits)[::-1]) & 1)
    header = struct.pack(">2I5B", len(levels), 1, bits, 0, 0, 0, 0)
    parts = (
        (b"IHDR", header),
        (b"tRNS", struct.pack(">H", key)),
        (b"IDAT", zlib.compress(b"\0" + packed.tobytes())),
        (b"IEND", b""),
    )
    chunks = b"".join(
        struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part))
        for kind, part in parts
    )
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    with Image.open(tmp_path / "a.png") as image:
        for _ in range(2):  # decoded by the first, it tells no more of its bits
            restored = restore(image, nn.Identity())
            assert restored.mode == "LA"
            assert np.flatnonzero(np.array(restored.getchannel("A")) == 0).tolist() == [key]


def test_a_palette_with_alpha_keeps_it() -> None:
    source = Image.fromarray(PIXELS).quantize(16)
    assert (source.mode, source.info) == ("P", {})
    restored = restore(source, nn.Identity())
    assert np.array_equal(np.array(restored), np.array(source.convert("RGBA")))


@pytest.mark.parametrize("mode", ["F", "I", "HSV", "LAB"])
def test_a_picture_of_no_plain_mode_is_refused_with_the_way_out(mode: str) -> None:
    with pytest.raises(ImageError, match=rf"mode {mode}, which .* give its levels as an array of uint8"):
        restore(Image.new(mode, (4, 4)), nn.Identity())


def test_a_transparent_colour_of_16_bits_is_refused() -> None:
    image = Image.new("I;16", (4, 4))
    image.info["transparency"] = 3
    with pytest.raises(ImageError, match="mode I;16 and a transparent colour, which is not restored"):
        restore(image, nn.Identity())


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ([[0]], "a list is no image here"),
        (
            "sign.png",
            r"'sign\.png' is a path, not an image; .* restore\(steadylens\.read_image\('sign\.png'\)\)",
        ),
        (Path("sign.png"), r"'sign\.png' is a path, not an image; read it first"),
        (np.zeros((2, 2, 2, 3), np.uint8), r"shape \(2, 2, 2, 3\); an image is"),
        (np.zeros((4, 4, 5), np.uint8), r"shape \(4, 4, 5\); .* which comes last, is 1 to 4"),
        (np.zeros((0, 4), np.uint8), "at least one pixel"),
        (np.zeros((4, 4, 3), np.int32), "int32; give uint8"),
        (np.zeros((4, 4, 3), np.complex64), "complex64; give uint8"),
        (np.zeros((4, 4, 3), np.longdouble), "give uint8"),
        (torch.zeros(8, 8), r"the tensor has shape \(8, 8\); images are \(C, H, W\)"),
        (
            np.zeros((3, 9, 8), np.uint8),
            r"the array has shape \(3, 9, 8\); .* C, which comes last, is 1 to 4",
        ),
        (np.zeros((9, 8), bool), "the array is bool; give uint8"),
        (np.full((4, 4, 3), 255.0), "from 255 to 255.*divide grey levels by 255"),
        (torch.full((3, 4, 4), torch.nan), "not finite"),
    ],
)
def test_what_is_no_image_is_refused(image: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        restore(image, nn.Identity())


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2), (6, 7)])
def test_images_smaller_than_the_margin_are_restored(size: tuple[int, int]) -> None:
    for net in ("l11-gtsrb", RestorationNet(depth=11), SMOOTHING):
        assert restore(np.full((*size, 3), 99, np.uint8), net).shape == (*size, 3)


class Cautious(RestorationNet):
    """A net whose form without padding loses more than its margin."""

    @property
    def valid_margin(self) -> int:
        return self.margin + 1

    def valid(self, images: Tensor) -> Tensor:
        return super().valid(images)[..., 1:-1, 1:-1]


def test_a_net_that_loses_more_than_its_margin_is_run_with_its_own_padding() -> None:
    net = Cautious(3)
    images = torch.rand(1, 3, 40, 50)
    with torch.no_grad():
        torch.testing.assert_close(restore(images, net, tile=24), net(images), atol=1e-5, rtol=0)
