"""The large classifier of the benchmark of the ceiling, and its groups of test images."""

from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

from steadylens.data.datasets import Dataset
from steadylens.evaluation.experiments import parameters
from steadylens.nets.architecture import KINDS, build, describe
from steadylens.nets.classification import SignNet
from tests.benchmark_modules import benchmark


@pytest.fixture(scope="module")
def ceiling() -> Iterator[ModuleType]:
    with benchmark("ceiling") as module:
        yield module


def test_it_has_about_ten_times_the_weights_of_the_sign_net(ceiling: ModuleType) -> None:
    assert parameters(ceiling.LargeClassifier(43)) == pytest.approx(10 * parameters(SignNet(43)), rel=0.05)


def test_it_is_made_again_from_its_description(ceiling: ModuleType) -> None:
    net = ceiling.LargeClassifier(7)
    again = build(describe(net))
    assert isinstance(again, ceiling.LargeClassifier)
    again.load_state_dict(net.state_dict())
    images = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(again.eval()(images), net.eval()(images))


def test_its_kind_is_known_only_where_the_benchmark_is_imported() -> None:
    before = {*KINDS}
    with benchmark("ceiling"):
        pass
    assert {*KINDS} == before


def test_brightness_and_contrast_of_an_image_do_not_matter(ceiling: ModuleType) -> None:
    net = ceiling.LargeClassifier(7).eval()
    net.initialize(generator=torch.Generator().manual_seed(0))
    images = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        plain, dark = net(images), net(0.1 + 0.5 * images)
    torch.testing.assert_close(dark, plain, rtol=0, atol=0.02 * float(plain.std()))


def test_groups_hold_every_image_once_and_are_of_equal_size(ceiling: ModuleType) -> None:
    values = torch.rand(400, generator=torch.Generator().manual_seed(0)) * 200
    found = ceiling.groups(values, "pixels")
    assert torch.equal(torch.stack([*found.values()]).sum(dim=0), torch.ones(400, dtype=torch.int64))
    assert [int(mask.sum()) for mask in found.values()] == [100, 100, 100, 100]
    smallest, *_, largest = found.values()
    assert values[smallest].max() < values[largest].min()


def test_hits_tell_each_strength_of_noise(ceiling: ModuleType, tiny_data: Dataset) -> None:
    class Oracle(torch.nn.Module):
        """Answers the class of the nearest test image, which slight noise does not change."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            distances = torch.cdist(images.flatten(1), clean.flatten(1))
            labels = tiny_data.test.labels[distances.argmin(dim=1)]
            return torch.nn.functional.one_hot(labels, len(tiny_data.class_names)).float()

    clean = tiny_data.test.images / 255
    found = ceiling.hits(Oracle(), tiny_data, tiny_data.test.images)
    assert found.shape == (len(ceiling.SIGMAS), len(tiny_data.test))
    assert found[: ceiling.SIGMAS.index(8)].all()
