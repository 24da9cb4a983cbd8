"""A converted net passes only if every value and every answer agrees with the original."""

import pytest
import torch
from torch import Tensor, nn

from steadylens.errors import ExportError
from steadylens.inference.signature import TOLERANCE, Signature, check_parity, noisy_images
from steadylens.nets.restoration import RestorationNet

ANY = Signature(minimum_size=3)
FIXED = Signature(size=(6, 7), classes=5)


def images(signature: Signature, seed: int = 0) -> list[Tensor]:
    return list(noisy_images(signature, generator=torch.Generator().manual_seed(seed)))


def classify(given: Tensor) -> Tensor:
    return given.mean(dim=(2, 3)) * torch.tensor([1.0, 1.1, 0.9])


@pytest.mark.parametrize(
    "signature", [ANY, FIXED, Signature(batch=4), Signature(batch=50, size=(3, 3)), Signature(channels=1)]
)
def test_the_images_fit_the_signature_and_lie_in_the_unit_range(signature: Signature) -> None:
    for batch in images(signature):
        signature.check(batch)
        assert batch.min() >= 0
        assert batch.max() <= 1


def test_free_sizes_and_batches_are_varied_down_to_the_smallest() -> None:
    shapes = [tuple(batch.shape) for batch in images(ANY)]
    assert {1, 2, 3} <= {shape[0] for shape in shapes}
    assert (1, 3, 3, 3) in shapes
    assert any(height % 2 and width % 2 == 0 for _, _, height, width in shapes)


@pytest.mark.parametrize(
    "signature", [FIXED, Signature(size=(4, 4), batch=1), Signature(size=(4, 4), batch=7)]
)
def test_a_net_of_a_fixed_size_sees_at_least_32_images(signature: Signature) -> None:
    assert sum(map(len, images(signature))) >= 32


@pytest.mark.parametrize(
    ("signature", "counts"),
    [
        (Signature(size=(480, 640)), [1, 2]),
        (Signature(size=(384, 384)), [1, 2, 5]),
        (Signature(size=(1000, 1000), batch=1), [1] * 8),
        (Signature(size=(3000, 2000), batch=1), [1, 1]),
    ],
)
def test_large_images_of_a_fixed_size_are_few(signature: Signature, counts: list[int]) -> None:
    assert list(map(len, images(signature))) == counts


def test_the_images_are_those_of_the_generator() -> None:
    assert all(map(torch.equal, images(ANY), images(ANY)))
    assert not torch.equal(images(ANY)[3], images(ANY, seed=1)[3])


def test_a_net_is_the_same_as_itself() -> None:
    net = RestorationNet(3).eval()
    parity = check_parity(net, net, images(ANY))
    assert (parity.maximum_difference, parity.equal_answers) == (0, None)
    assert parity.images == sum(map(len, images(ANY)))
    assert parity.shapes == tuple(tuple(batch.shape) for batch in images(ANY))


def test_rounding_passes_and_is_told() -> None:
    parity = check_parity(classify, lambda given: classify(given) + 1e-5, images(FIXED))
    assert parity.maximum_difference == pytest.approx(1e-5, rel=0.05)
    assert parity.equal_answers == parity.images


def test_the_allowance_grows_with_the_values() -> None:
    parity = check_parity(
        lambda given: 500 * classify(given), lambda given: 500 * classify(given) + 0.02, images(FIXED)
    )
    assert parity.allowed_difference > 100 * TOLERANCE
    with pytest.raises(ExportError, match="differs"):
        check_parity(classify, lambda given: classify(given) + 0.02, images(FIXED))


@pytest.mark.parametrize("wrong", [2 * TOLERANCE, float("nan"), float("inf")])
def test_a_single_wrong_pixel_is_refused(wrong: float) -> None:
    def other(given: Tensor) -> Tensor:
        changed = given.clone()
        changed[-1, -1, -1, -1] += wrong if given.shape == (5, 3, 48, 48) else 0
        return changed

    with pytest.raises(ExportError, match="differs"):
        check_parity(nn.Identity(), other, images(ANY))


def test_another_answer_is_refused_even_within_rounding() -> None:
    def first(given: Tensor) -> Tensor:
        return torch.tensor([[1e-6, 0.0]]).expand(len(given), 2)

    with pytest.raises(ExportError, match="32 of 32 noisy images"):
        check_parity(first, lambda given: first(given).flip(1), images(FIXED))


def test_another_shape_is_refused() -> None:
    with pytest.raises(ExportError, match=r"\(1, 3, 3, 2\)"):
        check_parity(nn.Identity(), lambda given: given[..., :-1], images(ANY))
