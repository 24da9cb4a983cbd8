"""The benchmark that compares nets of several seeds on clean and noisy test images."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from steadylens.checkpoints.checkpoint import save_model
from steadylens.data.datasets import Dataset
from steadylens.errors import SettingError
from steadylens.images.tensors import to_float
from steadylens.intervals import mcnemar, mean_difference
from steadylens.nets.classification import SignNet
from steadylens.nets.restoration import GaussianSmoothing, initialize_xavier
from tests.benchmark_modules import benchmark


@pytest.fixture(scope="module")
def seeds() -> Iterator[ModuleType]:
    with benchmark("seeds") as module:
        yield module


def sign_net(seed: int) -> SignNet:
    net = SignNet(classes=4, standardize=True, width=0.2).eval()
    initialize_xavier(net, generator=torch.Generator().manual_seed(seed), gain=5)
    return net


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Returns four nets that answer at random."""
    paths = [tmp_path / f"{seed}.safetensors" for seed in range(4)]
    for seed, path in enumerate(paths):
        save_model(path, sign_net(seed), about={})
    return [str(path) for path in paths]


def test_right_answers_on_clean_images_are_those_of_the_net_and_noise_changes_some(
    seeds: ModuleType, tiny_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seeds, "SIGMAS", (0, 0.1, 1000))
    found = seeds.right_answers(sign_net(0), tiny_data.test, tmp_path, key="x")
    assert found.shape == (3, len(tiny_data.test))
    with torch.inference_mode():
        right = sign_net(0)(to_float(tiny_data.test.images)).argmax(dim=1) == tiny_data.test.labels
    assert torch.equal(found[0], right)
    assert torch.equal(found[1], found[0])
    assert not torch.equal(found[2], found[0])


def test_what_was_measured_once_is_read_again_by_the_weights_of_the_net(
    seeds: ModuleType, tiny_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = seeds.right_answers(sign_net(1), tiny_data.test, tmp_path, key="x")
    monkeypatch.setattr(seeds, "forward_in_batches", None)
    assert torch.equal(seeds.right_answers(sign_net(1), tiny_data.test, tmp_path, key="x"), first)
    for seed, key in ((2, "x"), (1, "y")):
        with pytest.raises(TypeError):
            seeds.right_answers(sign_net(seed), tiny_data.test, tmp_path, key=key)


def test_other_images_are_measured_anew(
    seeds: ModuleType, files: list[str], tiny_data: Dataset, tmp_path: Path
) -> None:
    seeds.main(tiny_data, {"one": files[:1]}, tmp_path / "work", against="one")
    other = replace(tiny_data, test=tiny_data.validation)
    seeds.main(other, {"one": files[:1]}, tmp_path / "work", against="one")
    assert len([*(tmp_path / "work").iterdir()]) == 2


def test_each_number_is_that_of_a_plain_count(
    seeds: ModuleType, files: list[str], tiny_data: Dataset, tmp_path: Path
) -> None:
    groups = {"one": files[:2], "other": files[2:]}
    result = seeds.main(tiny_data, groups, tmp_path / "work", against="other")
    right = [
        seeds.right_answers(sign_net(seed), tiny_data.test, tmp_path, key="x").tolist() for seed in range(4)
    ]
    images = len(tiny_data.test)
    assert result["test images"] == images

    first, second = ([100 * sum(right[seed][-1]) / images for seed in pair] for pair in ((0, 1), (2, 3)))
    deviation = abs(first[0] - first[1]) / 2**0.5
    one, other = result["accuracy"]
    assert one["sigma 40"] == f"{sum(first) / 2:.2f} \N{PLUS-MINUS SIGN} {deviation:.2f}"
    overall = [100 * sum(map(sum, right[seed][1:])) / (images * (len(right[seed]) - 1)) for seed in (0, 1)]
    assert one["overall"].startswith(f"{sum(overall) / 2:.2f} ")
    assert other["net"] == "other"

    only, only_first = [], []
    for before, after in ((0, 2), (1, 3)):
        pairs = list(zip(right[before][0], right[after][0], strict=True))
        only.append(pairs.count((False, True)))
        only_first.append(pairs.count((True, False)))
    itself, clean = result["clean images"]
    assert itself["accuracy less that of one"].startswith("+0.00 (")
    assert clean["mistakes by seed"] == ", ".join(str(images - sum(right[seed][0])) for seed in (2, 3))
    assert clean["right, and one wrong"] == ", ".join(map(str, only))
    assert clean["wrong, and one right"] == ", ".join(map(str, only_first))
    values = [mcnemar(*counts) for counts in zip(only, only_first, strict=True)]
    assert clean["McNemar's p"] == ", ".join(f"{value:.2g}" for value in values)
    mean = 100 * (sum(only) - sum(only_first)) / (2 * images)
    assert clean["accuracy less that of one"].startswith(f"{mean:+.2f} (")

    (difference,) = result["difference under noise"]
    assert (difference["net"], difference["less"]) == ("one", "other")
    assert difference["sigma 40"].startswith(f"{sum(first) / 2 - sum(second) / 2:+.2f} (")


def test_groups_are_read_from_texts(seeds: ModuleType) -> None:
    assert seeds.read_groups(["a b=x,y", "c=z"]) == {"a b": ["x", "y"], "c": ["z"]}
    for wrong in (["a"], ["=x"], ["a="], ["a=x", "a=y"]):
        with pytest.raises(SettingError, match="give each as NAME=FILE,FILE"):
            seeds.read_groups(wrong)


def test_a_group_with_more_seeds_than_the_first_is_refused(
    seeds: ModuleType, files: list[str], tiny_data: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(SettingError, match="b has 2 nets, but a, whose net of the same seed"):
        seeds.main(tiny_data, {"a": files[:1], "b": files[1:3]}, tmp_path, against="a")


def test_nets_of_different_seeds_are_not_compared_and_restorers_are_refused(
    seeds: ModuleType, tiny_data: Dataset, tmp_path: Path
) -> None:
    for seed in (1, 2):
        save_model(tmp_path / f"{seed}.safetensors", sign_net(seed), about={"seed": seed})
    save_model(tmp_path / "front.safetensors", GaussianSmoothing(), about={})
    groups = {"a": [str(tmp_path / "1.safetensors")], "b": [str(tmp_path / "2.safetensors")]}
    with pytest.raises(SettingError, match=r"net 1 of each group .* seeds differ: 1 of 1, 2 of 2;"):
        seeds.main(tiny_data, groups, tmp_path / "work", against="a")
    groups["b"] = [str(tmp_path / "front.safetensors")]
    with pytest.raises(SettingError, match="where a classifier is needed"):
        seeds.main(tiny_data, groups, tmp_path / "work", against="a")


def test_a_group_of_one_seed_shows_no_deviation_and_is_compared_over_that_seed(
    seeds: ModuleType, files: list[str], tiny_data: Dataset, tmp_path: Path
) -> None:
    result = seeds.main(tiny_data, {"a": files[:2], "b": files[2:3]}, tmp_path, against="b")
    assert "\N{PLUS-MINUS SIGN}" not in result["accuracy"][1]["sigma 0"]
    assert result["difference under noise"][0]["seeds"] == 1
    mine, other = (seeds.right_answers(sign_net(seed), tiny_data.test, tmp_path, key="x") for seed in (0, 2))
    values = (mine[-1].double() - other[-1].double()).tolist()
    mean, lower, upper = (100 * value for value in mean_difference(values))
    assert result["difference under noise"][0]["sigma 40"] == f"{mean:+.2f} ({lower:+.2f} to {upper:+.2f})"


def test_a_group_that_there_is_not_is_refused(
    seeds: ModuleType, files: list[str], tiny_data: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(SettingError, match=r"no group 'x' to compare with; the groups are \['one'\]"):
        seeds.main(tiny_data, {"one": files}, tmp_path, against="x")
