"""Noise by name: every kind has the strength that is asked for, and the same names are known everywhere."""

import pytest
import torch

from steadylens.cli.console import NoiseName
from steadylens.errors import SettingError
from steadylens.noise.degradation import gaussian_degradation
from steadylens.noise.named import NAMED, family_named, named_degradation
from steadylens.report.noise_names import KINDS


def test_commands_and_reports_know_the_same_names() -> None:
    assert [name.value for name in NoiseName] == [*KINDS] == [*NAMED]


@pytest.mark.parametrize("name", [name for name in NAMED if name != "jpeg"])
def test_every_kind_has_the_standard_deviation_that_is_asked_for_on_mid_grey(name: str) -> None:
    grey = torch.full((1500, 3, 8, 8), 0.5)
    degrade = named_degradation(name, 12, clip=False, quantize=False)
    noise = (degrade(grey, generator=torch.Generator().manual_seed(3)) - 0.5).double() * 255
    power = noise.square().mean(dim=(1, 2, 3))
    error = 5 * power.std().item() / 1500**0.5
    assert power.mean().item() == pytest.approx(144, abs=error)
    assert error < 30


def test_jpeg_has_the_noise_before_storing() -> None:
    assert family_named("jpeg", 12).strength.low_grey == 12


@pytest.mark.parametrize("name", NAMED)
def test_every_kind_may_have_strength_0(name: str) -> None:
    images = torch.full((4, 3, 16, 16), 100 / 255)
    noisy = named_degradation(name, 0)(images, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(noisy, images, rtol=0, atol=1e-6)  # JPEG keeps a constant grey


def test_gaussian_noise_is_that_of_table_4() -> None:
    assert named_degradation("gaussian", 7, clip=False) == gaussian_degradation(7, clip=False)


def test_an_unknown_name_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(SettingError, match=r"no noise called 'rain'; choose from gaussian, uniform, .*jpeg"):
        family_named("rain", 3)


def test_too_strong_salt_and_pepper_is_refused() -> None:
    assert family_named("salt-and-pepper", 127.5).density == (1, 1)
    with pytest.raises(SettingError, match=r"is 130; .* at 127\.5 grey levels"):
        family_named("salt-and-pepper", 130)
