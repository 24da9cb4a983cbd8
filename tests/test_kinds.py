"""The noise that one chooses is the noise that an image gets."""

from typing import Any

import pytest
import torch
from torch import Tensor

from steadylens.degradation import Degradation
from steadylens.errors import SettingError
from steadylens.kinds import HIGHEST_SEED, KINDS, Noise
from steadylens.noise import Laplacian, Strength

GREY = torch.full((1, 3, 128, 128), 128 / 255)


def added(**settings: Any) -> Tensor:
    """Returns the noise on a grey image, in grey levels, (3, 128, 128)."""
    name = settings.pop("name")
    return ((Noise(kind=KINDS[name], **settings).add(GREY) - GREY) * 255)[0]


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_is_called_what_its_family_is_called(name: str) -> None:
    assert KINDS[name].family(Strength.fixed(10), 0.5, 0.0).name == name


@pytest.mark.parametrize("name", ["Gaussian", "uniform", "Laplacian"])
def test_the_strength_is_the_standard_deviation(name: str) -> None:
    noise = added(name=name, strength_grey=12)
    assert noise.std() == pytest.approx(12, rel=0.03)
    assert noise.mean() == pytest.approx(0, abs=0.3)


@pytest.mark.parametrize("name", ["sparse Gaussian", "sparse uniform", "salt and pepper"])
def test_the_share_is_that_of_the_noisy_values(name: str) -> None:
    noise = added(name=name, strength_grey=50, share=0.3)
    assert (noise != 0).float().mean() == pytest.approx(0.3, abs=0.015)


@pytest.mark.parametrize("name", ["attenuated Gaussian", "attenuated uniform"])
def test_attenuated_values_get_a_quarter_of_the_noise(name: str) -> None:
    noise = added(name=name, strength_grey=20, share=0.4)
    assert noise.square().mean() == pytest.approx(20**2 * (0.4 + 0.6 / 16), rel=0.05)


def test_salt_and_pepper_are_black_and_white_whatever_the_strength() -> None:
    noise = added(name="salt and pepper", strength_grey=0, share=0.5)
    assert set(noise.round().flatten().tolist()) == {-128, 0, 127}


@pytest.mark.parametrize("name", KINDS)
def test_shared_noise_is_grey_and_other_noise_is_not(name: str) -> None:
    red, green, blue = added(name=name, shared=True)
    assert red.equal(green)
    assert red.equal(blue)
    red, green, blue = added(name=name, shared=False)
    assert not red.equal(green)
    assert not red.equal(blue)


@pytest.mark.parametrize("name", KINDS)
def test_a_seed_gives_its_noise_every_time(name: str) -> None:
    noise = added(name=name, seed=5)
    assert added(name=name, seed=5).equal(noise)
    assert not added(name=name, seed=6).equal(noise)


def test_noise_is_that_of_the_degradation() -> None:
    images = torch.rand(2, 3, 20, 30, generator=torch.Generator().manual_seed(1))
    degrade = Degradation(families=(Laplacian(strength=Strength.fixed(7), shared=0.0),))
    expected = degrade(images, generator=torch.Generator().manual_seed(3))
    assert Noise(kind=KINDS["Laplacian"], strength_grey=7, seed=3).add(images).equal(expected)


def test_no_strength_is_no_noise() -> None:
    assert not added(name="Gaussian", strength_grey=0).any()
    assert not added(name="salt and pepper", share=0).any()


@pytest.mark.parametrize(
    "wrong",
    [
        {"strength_grey": -1},
        {"strength_grey": 256},
        {"strength_grey": float("nan")},
        {"share": 1.01},
        {"share": -0.1},
        {"seed": -1},
        {"seed": HIGHEST_SEED + 1},
        {"seed": 1.5},
        {"seed": None},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="choose"):
        Noise(kind=KINDS["Gaussian"], **wrong)
