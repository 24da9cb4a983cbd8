"""A preview shows a part of the result itself, where much is removed and there is detail."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from steadylens.errors import ImageError
from steadylens.images.pixels import flattened
from steadylens.images.reading import ImageContent, Metadata, read_image_file
from steadylens.images.writing import write_image_file
from steadylens.inference.inspecting.noise_level import CENTRE, noise_level_of, places
from steadylens.inference.inspecting.preview import ENLARGED, GAP, SHOWN, Preview, write_preview
from steadylens.inference.restorer import restore_array, restorer_of
from steadylens.nets.restoration import GaussianSmoothing
from steadylens.nets.restoration_unet import RestorationUNet
from tests.inference.inspecting.scenes import levels, noise, scene

SMOOTHING = GaussianSmoothing(sigma_pixels=1.0)


def unet() -> RestorationUNet:
    net = RestorationUNet()
    net.initialize(generator=torch.Generator().manual_seed(0))
    torch.nn.init.normal_(net.tail.weight, std=0.02, generator=torch.Generator().manual_seed(1))
    return net


def shown(path: Path, found: Preview) -> tuple[Any, Any]:
    """Returns what a preview shows before and after, each pixel once."""
    picture = read_image_file(path).pixels
    height, width = found.height * ENLARGED, found.width * ENLARGED
    assert picture.shape[1] == 2 * width + GAP
    before, after = picture[-height:, :width], picture[-height:, width + GAP :]
    for side in (before, after):
        assert np.array_equal(side, side[::2, ::2].repeat(2, axis=0).repeat(2, axis=1))
    return before[::2, ::2], after[::2, ::2]


@pytest.mark.parametrize("strength", [1.0, 0.6])
@pytest.mark.parametrize("net", [SMOOTHING, unet()])
@pytest.mark.parametrize("size", [(290, 301), (270, 130), (60, 70), (12, 9)])
def test_both_sides_are_parts_of_the_image_and_of_the_whole_result(
    tmp_path: Path, net: Any, size: tuple[int, int], strength: float
) -> None:
    pixels = levels(scene(*size) + noise((*size, 3), 15))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    restorer = restorer_of(net, strength=strength, tile=160)
    found = write_preview(tmp_path / "a.png", tmp_path / "p.png", restorer)
    assert (found.height, found.width) == (min(SHOWN, size[0]), min(SHOWN, size[1]))
    rows, columns = slice(found.top, found.top + found.height), slice(found.left, found.left + found.width)
    before, after = shown(tmp_path / "p.png", found)
    assert np.array_equal(before, pixels[rows, columns])
    whole = restore_array(pixels, restorer).astype(int)
    assert abs(whole[rows, columns] - after).max() <= 1
    assert abs(before.astype(int) - after).max() > 5
    assert found.level == noise_level_of(torch.from_numpy(pixels).permute(2, 0, 1), restorer)


def test_the_part_has_detail(tmp_path: Path) -> None:
    image = np.full((500, 800, 3), 120.0)
    image[200:500, 500:800] = scene(300, 300)
    Image.fromarray(levels(image + noise(image.shape, 10))).save(tmp_path / "a.png")
    found = write_preview(tmp_path / "a.png", tmp_path / "p.png", restorer_of(SMOOTHING))
    assert found.top + SHOWN // 2 >= 200
    assert found.left + SHOWN // 2 >= 500


def test_the_net_runs_once_on_what_is_looked_at_and_once_on_what_is_shown(tmp_path: Path) -> None:
    seen: list[int] = []

    def watched(images: torch.Tensor) -> torch.Tensor:
        seen.append(images.numel() // 3)
        return images

    Image.fromarray(levels(scene(500, 800))).save(tmp_path / "a.png")
    write_preview(tmp_path / "a.png", tmp_path / "p.png", restorer_of(watched, margin=0))
    assert sum(seen) == len(places(500, 800)) * CENTRE**2 + SHOWN**2


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("scale", [1, 257])
def test_grey_stays_grey_and_what_is_transparent_has_a_background(
    tmp_path: Path, channels: int, scale: int
) -> None:
    colours = levels(scene(90, 80)[..., : channels - (channels in (2, 4))], scale)
    alpha = np.random.default_rng(0).integers(1, 256 * scale, (90, 80, 1)).astype(colours.dtype)
    pixels = np.concatenate([colours, alpha], axis=2) if channels in (2, 4) else colours
    content = ImageContent(pixels=pixels, format="PNG", lossless=True, metadata=Metadata())
    write_image_file(tmp_path / "a.png", content)
    colour = (255, 0, 0) if channels == 4 else (255, 255, 255)
    found = write_preview(
        tmp_path / "a.png", tmp_path / "p.png", restorer_of(torch.nn.Identity()), background=colour
    )
    expected = flattened(pixels, colour) if channels in (2, 4) else pixels
    for side in shown(tmp_path / "p.png", found):
        assert side.shape[-1] == (3 if channels == 4 else 1)
        assert abs(side * float(scale) - expected).max() <= scale / 2 + 0.5


def test_the_colour_profile_stays(tmp_path: Path) -> None:
    Image.fromarray(levels(scene(90, 80))).save(tmp_path / "a.png", icc_profile=b"profile" * 30)
    write_preview(tmp_path / "a.png", tmp_path / "p.png", restorer_of(torch.nn.Identity()))
    assert read_image_file(tmp_path / "p.png").metadata.icc_profile == b"profile" * 30


def test_what_cannot_be_read_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"a\.png is not an image of a known format"):
        write_preview(tmp_path / "a.png", tmp_path / "p.png", restorer_of(torch.nn.Identity()))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
