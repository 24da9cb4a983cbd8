"""The image gets the noise that was chosen.

The result is what the nets themselves return, and a file that is not an image is refused.
"""

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

import steadylens
from steadylens.data import sources
from steadylens.errors import ImageError, SettingError
from steadylens.images.preprocessing import Fit
from steadylens.inference.restorer import restorer_of
from steadylens.nets.classification import FusedClassifier
from steadylens.nets.restoration import RestorationNet
from steadylens.noise.degradation import Degradation
from steadylens.noise.families import Laplacian, Strength
from steadylens.serving.pages.demo import (
    HIGHEST_SEED,
    MOST_PIXELS,
    MOST_SIDE,
    NOISE_TYPES,
    Answer,
    Answers,
    DemoNets,
    NoiseSettings,
    draw_sign,
    fitted,
    read_upload,
    resized,
    run_demo,
)

GREY = torch.full((1, 3, 128, 128), 128 / 255)


def added(**settings: Any) -> Tensor:
    """Returns the noise on a grey image, in grey levels, (3, 128, 128)."""
    name = settings.pop("name")
    return ((NoiseSettings(noise_type=NOISE_TYPES[name], **settings).add(GREY) - GREY) * 255)[0]


@pytest.mark.parametrize("name", NOISE_TYPES)
def test_a_noise_type_has_the_name_of_its_family(name: str) -> None:
    assert NOISE_TYPES[name].family(Strength.fixed(10), 0.5, 0.0).name == name


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


@pytest.mark.parametrize("name", NOISE_TYPES)
def test_shared_noise_is_grey_and_other_noise_is_not(name: str) -> None:
    red, green, blue = added(name=name, shared=True)
    assert red.equal(green)
    assert red.equal(blue)
    red, green, blue = added(name=name, shared=False)
    assert not red.equal(green)
    assert not red.equal(blue)


@pytest.mark.parametrize("name", NOISE_TYPES)
def test_a_seed_gives_its_noise_every_time(name: str) -> None:
    noise = added(name=name, seed=5)
    assert added(name=name, seed=5).equal(noise)
    assert not added(name=name, seed=6).equal(noise)


def test_noise_is_that_of_the_degradation() -> None:
    images = torch.rand(2, 3, 20, 30, generator=torch.Generator().manual_seed(1))
    degrade = Degradation(families=(Laplacian(strength=Strength.fixed(7), shared=0.0),))
    expected = degrade(images, generator=torch.Generator().manual_seed(3))
    assert (
        NoiseSettings(noise_type=NOISE_TYPES["Laplacian"], strength_grey=7, seed=3)
        .add(images)
        .equal(expected)
    )


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
        NoiseSettings(noise_type=NOISE_TYPES["Gaussian"], **wrong)


CPU = torch.device("cpu")


NOISE = NoiseSettings(noise_type=NOISE_TYPES["Gaussian"], strength_grey=30, seed=4)


@pytest.fixture(scope="module")
def nets() -> DemoNets:
    return DemoNets.named("l3-gtsrb", "sign-gtsrb", "fused-gtsrb", device=CPU)


def test_a_file_with_the_name_of_a_packaged_net_is_none(tmp_path: Path) -> None:
    own = tmp_path / "unet-photos.safetensors"
    shutil.copy(Path(steadylens.__file__).parent / "weights" / "l3-gtsrb.safetensors", own)
    for restorer, packaged in ((str(own), ""), ("unet-photos", "unet-photos")):
        found = DemoNets.named(restorer, "sign-gtsrb", "fused-gtsrb", device=torch.device("cpu"))
        assert restorer_of(found.restorer).packaged == packaged


def photograph(width: int, height: int) -> Image.Image:
    coarse = np.random.default_rng(width).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def levels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def answers(first: int, second: int) -> Answers:
    clean, noisy = (Answer(number=number, label="", probability=1.0) for number in (first, second))
    return Answers(name="net", clean=(clean,), noisy=(noisy,))


def test_a_result_is_what_the_nets_return(nets: DemoNets) -> None:
    sign = draw_sign(18, 0)
    result = run_demo(sign, NOISE, nets)
    clean = steadylens.to_float(levels(sign))[None]
    noisy = NOISE.add(clean)
    with torch.inference_mode():
        pattern = steadylens.load("l3-gtsrb").pattern(noisy)[0]  # type: ignore[operator]
        alone = steadylens.load("sign-gtsrb")(torch.cat([clean, noisy])).softmax(dim=1)
        fused = steadylens.load("fused-gtsrb")(torch.cat([clean, noisy])).softmax(dim=1)
    restored = (noisy[0] + pattern).clamp(0, 1).mul(255).round()
    assert result.clean.equal(levels(sign))
    assert result.noisy.equal(noisy[0].mul(255).round().byte())
    assert (result.restored.float() - restored).abs().max() <= 1
    stretched = 255 * (pattern - pattern.min()) / (pattern.max() - pattern.min())
    assert (result.pattern.float() - stretched).abs().max() <= 1
    for found, picture in ((result.noisy_db, result.noisy), (result.restored_db, result.restored)):
        error = (picture.double() - result.clean.double()).square().mean()
        assert found == pytest.approx(10 * math.log10(255**2 / error), abs=0.01)
    for given_, expected in ((result.classifier, alone), (result.fused, fused)):
        for listed, probabilities in zip((given_.clean, given_.noisy), expected, strict=True):
            order = probabilities.argsort(descending=True)[:5].tolist()
            assert [answer.number for answer in listed] == order
            assert [answer.label for answer in listed] == [sources.CLASS_NAMES[number] for number in order]
            assert [answer.probability for answer in listed] == pytest.approx(
                probabilities[order].tolist(), abs=1e-4
            )


def test_an_answer_is_changed_when_its_first_class_is_another() -> None:
    assert answers(3, 4).changed
    assert not answers(3, 3).changed


def test_without_noise_nothing_changes(nets: DemoNets) -> None:
    result = run_demo(
        draw_sign(14, 0), NoiseSettings(noise_type=NOISE_TYPES["Gaussian"], strength_grey=0), nets
    )
    assert result.noisy.equal(result.clean)
    assert result.noisy_db == math.inf
    # A batch may be summed in another order.
    for noisy, clean in zip(result.classifier.noisy, result.classifier.clean, strict=True):
        assert (noisy.number, noisy.label) == (clean.number, clean.label)
        assert noisy.probability == pytest.approx(clean.probability, rel=1e-4)
    assert not result.classifier.changed


def test_the_same_settings_give_the_same_result(nets: DemoNets) -> None:
    first, second = (run_demo(photograph(60, 50), NOISE, nets) for _ in range(2))
    assert first.noisy.equal(second.noisy)
    assert first.restored.equal(second.restored)
    assert first.fused == second.fused


@pytest.mark.parametrize("size", [(1, 1), (3, 90), (200, 7)])
def test_images_of_any_shape_are_restored(size: tuple[int, int], nets: DemoNets) -> None:
    result = run_demo(photograph(*size), NOISE, nets)
    assert result.restored.shape == result.pattern.shape == result.noisy.shape == (3, size[1], size[0])


def test_classifiers_read_images_resized_as_for_training(tmp_path: Path) -> None:
    image = photograph(131, 77)
    image.save(tmp_path / "sign.png")
    expected = steadylens.read_image(tmp_path / "sign.png", size=48)
    assert levels(resized(read_upload(tmp_path / "sign.png"), 48)).equal(expected)
    fit = Fit(keeps_shape=True, side=56)
    expected = steadylens.read_image(tmp_path / "sign.png", size=48, fit=fit)
    small = resized(image, 48, fit=fit)
    assert levels(small).equal(expected)
    assert resized(small, 48, fit=fit) is small, "what is fitted is not fitted again"


@given(width=st.integers(1, 3000), height=st.integers(1, 3000))
def test_a_large_image_is_made_to_fit_in_its_shape(width: int, height: int) -> None:
    small = fitted(Image.new("RGB", (width, height)))
    if max(width, height) <= MOST_SIDE:
        assert small.size == (width, height)
        return
    assert max(small.size) == MOST_SIDE
    scale = MOST_SIDE / max(width, height)
    assert small.width == pytest.approx(width * scale, abs=1)
    assert small.height == pytest.approx(height * scale, abs=1)


def test_a_drawing_is_made_from_its_seed() -> None:
    assert levels(draw_sign(3, 1)).equal(levels(draw_sign(3, 1)))
    assert not levels(draw_sign(3, 1)).equal(levels(draw_sign(3, 2)))
    assert draw_sign(3, 1).size == (48, 48)
    with pytest.raises(SettingError, match="label is 43"):
        draw_sign(43, 0)
    with pytest.raises(SettingError, match="seed is -1"):
        draw_sign(0, -1)


def test_about_a_quarter_of_synthetic_signs_are_misread() -> None:
    drawn = torch.stack([levels(draw_sign(label, 0)) for label in range(43)])
    with torch.inference_mode():
        found = steadylens.load("sign-gtsrb")(steadylens.to_float(drawn)).argmax(dim=1)
    assert 0.15 < (found != torch.arange(43)).float().mean() < 0.35


def test_a_file_that_is_not_an_image_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "holiday.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(ImageError, match=r"^holiday\.png is damaged") as refusal:
        read_upload(path)
    assert str(tmp_path) not in str(refusal.value)
    path.write_text("a letter")
    with pytest.raises(ImageError, match=r"^holiday.png is not an image of a known format"):
        read_upload(path)


def test_an_image_of_too_many_pixels_is_refused(tmp_path: Path) -> None:
    Image.new("1", (8000, MOST_PIXELS // 8000 + 1)).save(tmp_path / "map.png")
    with pytest.raises(
        ImageError, match=r"^map.png has 8,000x6,251 pixels, 50\.0 megapixels; at most 50 are .* choose a sm"
    ):
        read_upload(tmp_path / "map.png")


def test_nets_of_another_task_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="restorer"):
        DemoNets.named("sign-gtsrb", "sign-gtsrb", "fused-gtsrb", device=CPU)
    with pytest.raises(SettingError, match="classifier"):
        DemoNets.named("l3-gtsrb", "l3-gtsrb", "fused-gtsrb", device=CPU)
    with pytest.raises(SettingError, match="fused"):
        DemoNets.named("l3-gtsrb", "sign-gtsrb", "sign-gtsrb", device=CPU)
    with pytest.raises(SettingError, match="there is no net 'l12-gtsrb'"):
        DemoNets.named("l12-gtsrb", "sign-gtsrb", "fused-gtsrb", device=CPU)
    pair = FusedClassifier(RestorationNet(depth=3), steadylens.SignNet(classes=3))
    steadylens.save_model(tmp_path / "three.safetensors", pair, about={})
    three = str(tmp_path / "three.safetensors")
    with pytest.raises(SettingError, match="sign-gtsrb has 43 classes and three 3; to compare"):
        DemoNets.named("l3-gtsrb", "sign-gtsrb", three, device=CPU)


def test_nets_of_files_without_names_of_classes_answer_with_numbers(tmp_path: Path) -> None:
    torch.manual_seed(1)
    net, classifier = RestorationNet(depth=3), steadylens.SignNet(classes=4)
    steadylens.save_model(tmp_path / "net.safetensors", net, about={})
    steadylens.save_model(tmp_path / "alone.safetensors", classifier, about={})
    steadylens.save_model(tmp_path / "pair.safetensors", FusedClassifier(net, classifier), about={})
    paths = (str(tmp_path / f"{name}.safetensors") for name in ("net", "alone", "pair"))
    result = run_demo(photograph(40, 40), NOISE, DemoNets.named(*paths, device=CPU))
    assert {answer.label for answer in result.fused.noisy} == {f"class {number}" for number in range(4)}
    assert sum(answer.probability for answer in result.classifier.clean) == pytest.approx(1)
