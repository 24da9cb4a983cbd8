"""JPEG after noise is what Pillow stores, image by image."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from steadylens.errors import ImageError, SettingError
from steadylens.noise.camera import Demosaiced, PoissonGaussian
from steadylens.noise.degradation import Degradation
from steadylens.noise.families import Attenuated, Gaussian, SaltAndPepper, Sparse, Strength, Uniform
from steadylens.noise.jpeg import Jpeg
from steadylens.noise.pool import NoisePool


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def through_pillow(image: Tensor, quality: int) -> Tensor:
    """Returns an image, float (C, H, W), as Pillow stores it."""
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(
        file, "JPEG", quality=quality
    )
    stored = np.array(Image.open(file)).reshape(pixels.shape)
    return torch.from_numpy(stored).permute(2, 0, 1).float() / 255


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [(75, 75), (20, 90)])
def test_without_noise_images_are_what_pillow_stores(channels: int, quality: tuple[int, int]) -> None:
    images = torch.rand(12, channels, 17, 23, generator=seeded())
    degrade = Degradation(families=(Jpeg(noise=Gaussian(strength=Strength.fixed(0)), quality=quality),))
    drawn = degrade.draw(images, generator=seeded())
    for clean, found, drawn_quality in zip(images, drawn.images, drawn.quality.tolist(), strict=True):
        assert quality[0] <= drawn_quality <= quality[1]
        assert torch.equal(found, through_pillow(clean, drawn_quality))
    assert torch.equal(drawn.images, degrade(images, generator=seeded()))


def test_the_noise_comes_before_storing() -> None:
    # With one quality nothing is different but the storing, so that the noise itself is the same.
    images = torch.rand(5, 3, 24, 24, generator=seeded()) / 2 + 0.25
    noise = PoissonGaussian(strength=Strength.fixed(15))
    degrade = Degradation(families=(Jpeg(noise=noise, quality=(60, 60)),))
    noisy = Degradation(families=(noise,))(images, generator=seeded())
    stored = degrade(images, generator=seeded())
    for each, found in zip(noisy, stored, strict=True):
        assert torch.equal(found, through_pillow(each, 60))


def test_every_quality_of_the_range_is_drawn_equally_often() -> None:
    degrade = Degradation(families=(Jpeg(noise=Gaussian(), quality=(90, 93)), Uniform()), weights=(3, 1))
    drawn = degrade.draw(torch.rand(2000, 1, 2, 2, generator=seeded()), generator=seeded())
    assert torch.equal(drawn.quality > 0, drawn.family == 0)
    counts = drawn.quality.bincount()[90:]
    assert len(counts) == 4
    assert (counts - 375).abs().max() < 5 * 375**0.5


@pytest.mark.parametrize(
    "noise",
    [Gaussian(), Sparse(noise=Uniform()), Attenuated(noise=Gaussian()), SaltAndPepper(), Demosaiced()],
    ids=lambda noise: noise.name,
)
def test_any_noise_can_come_before(noise: Any) -> None:
    images = torch.rand(10, 3, 16, 16, generator=seeded())
    drawn = Degradation(families=(Jpeg(noise=noise),), clean_share=0.3).draw(images, generator=seeded())
    bare = Degradation(families=(noise,), clean_share=0.3).draw(images, generator=seeded())
    for name in ("family", "strength_grey", "shared", "density", "factor"):
        assert torch.equal(getattr(drawn, name), getattr(bare, name))
    assert torch.equal(drawn.quality == 0, drawn.family == -1)
    assert Jpeg(noise=noise).name == f"{noise.name} and JPEG"


@settings(max_examples=20, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 4), st.sampled_from([1, 3]), st.integers(1, 20), st.integers(1, 20)),
    dtype=st.sampled_from([torch.float16, torch.float32, torch.float64]),
    clip=st.booleans(),
)
def test_any_batch_keeps_its_type_and_size_and_has_whole_grey_levels(
    shape: tuple[int, int, int, int], dtype: torch.dtype, clip: bool
) -> None:
    images = torch.rand(shape, generator=seeded()).to(dtype)
    degrade = Degradation(families=(Jpeg(noise=Gaussian()),), versions=2, clip=clip, quantize=False)
    noisy = degrade(images, generator=seeded())
    assert (noisy.shape, noisy.dtype) == ((2 * shape[0], *shape[1:]), dtype)
    assert ((noisy.float() * 255).round() - noisy.float() * 255).abs().sum() <= noisy.numel() * 0.05
    assert ((noisy >= 0) & (noisy <= 1)).all()


def test_images_with_other_channels_are_refused() -> None:
    with pytest.raises(ImageError, match="images have 4 channels; JPEG stores 1 or 3"):
        Degradation(families=(Jpeg(noise=Gaussian()),))(torch.rand(1, 4, 8, 8), generator=seeded())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"noise": 25}, "noise is 25; give a family"),
        ({"noise": Jpeg(noise=Gaussian())}, "that is not stored yet"),
        ({"noise": Gaussian(), "quality": (0, 50)}, r"quality is \(0, 50\); a pair"),
        ({"noise": Gaussian(), "quality": (60, 50)}, r"quality is \(60, 50\); a pair"),
        ({"noise": Gaussian(), "quality": 75}, "quality is 75; a pair"),
        ({"noise": Gaussian(), "quality": (50, 101)}, "100 is needed"),
    ],
)
def test_bad_settings_are_refused_with_the_rule(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Jpeg(**given)


def test_stored_noise_is_neither_masked_nor_kept_in_a_pool() -> None:
    with pytest.raises(SettingError, match="wrap Gaussian, Uniform"):
        Sparse(noise=Jpeg(noise=Gaussian()))
    with pytest.raises(SettingError, match="Gaussian and JPEG noise depends on the image"):
        NoisePool.fill(Degradation(families=(Jpeg(noise=Gaussian()),)), generator=seeded())
