"""Metrics against scikit-image, torchmetrics, SciPy, plain loops and numbers calculated by hand."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage import data
from skimage.metrics import peak_signal_noise_ratio
from skimage.restoration import estimate_sigma
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy
from torchmetrics.functional.image import peak_signal_noise_ratio as torchmetrics_psnr

from steadylens.errors import ImageError, SettingError
from steadylens.metrics import (
    answers,
    contraction_quotients,
    estimate_noise,
    hits,
    psnr,
    top_k,
)


def drawn_images(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# PSNR, Eq. (4)


def test_psnr_agrees_with_scikit_image_image_by_image() -> None:
    clean, noisy = drawn_images(0, 4, 3, 9, 7), drawn_images(1, 4, 3, 9, 7)
    for value, x, y in zip(psnr(noisy, clean), clean.numpy(), noisy.numpy(), strict=True):
        expected = peak_signal_noise_ratio(x, y, data_range=1)
        assert value.item() == pytest.approx(expected, abs=1e-4)


def test_psnr_agrees_with_torchmetrics() -> None:
    clean, noisy = drawn_images(0, 4, 3, 9, 7), drawn_images(1, 4, 3, 9, 7)
    expected = torchmetrics_psnr(noisy, clean, data_range=1.0, reduction="none", dim=(1, 2, 3))
    torch.testing.assert_close(psnr(noisy, clean), expected)


@pytest.mark.parametrize(("grey_levels", "decibels"), [(1, 48.1308), (2, 42.1102), (25.5, 20.0), (255, 0.0)])
def test_psnr_of_a_constant_error_is_that_of_eq_4(grey_levels: float, decibels: float) -> None:
    clean = torch.zeros(2, 3, 4, 4)
    assert psnr(clean + grey_levels / 255, clean).tolist() == pytest.approx([decibels] * 2, abs=1e-4)


def test_psnr_is_accurate_in_float32_for_one_wrong_grey_level_in_a_large_image() -> None:
    clean = drawn_images(2, 1, 3, 480, 640)
    noisy = clean.clone()
    noisy[0, 1, 100, 100] += 1 / 255
    expected = psnr(noisy.double(), clean.double())
    assert psnr(noisy, clean).item() == pytest.approx(expected.item(), abs=1e-4)


def test_psnr_of_equal_images_is_infinite_and_does_not_change_the_others() -> None:
    clean = drawn_images(0, 2, 3, 5, 5)
    noisy = clean.clone()
    noisy[1] += 0.1
    assert psnr(noisy, clean).tolist() == pytest.approx([math.inf, 20.0], abs=1e-4)


@pytest.mark.parametrize("shape", [(1, 3, 5, 5), (2, 1, 5, 5), (2, 3, 5, 4)])
def test_psnr_refuses_to_broadcast(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="a reference of the same size"):
        psnr(torch.zeros(2, 3, 5, 5), torch.zeros(shape))


def test_psnr_refuses_stored_images() -> None:
    stored = torch.zeros(1, 3, 5, 5, dtype=torch.uint8)
    with pytest.raises(ImageError, match="uint8"):
        psnr(stored, stored)


# Hits, Table 2


def test_hits_of_an_example_by_hand() -> None:
    psnr_db = torch.tensor([[30.0, 20.0, 25.0], [28.0, math.inf, 24.0], [29.0, 40.0, 26.0]])
    best, best_two = hits(psnr_db)
    assert best.int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert best_two.int().tolist() == [[1, 0, 1], [0, 1, 0], [1, 1, 1]]


@pytest.mark.parametrize("value", [31.5, math.inf, -math.inf])
def test_hits_give_ties_to_the_earlier_nets(value: float) -> None:
    best, best_two = hits(torch.full((6, 40), value))
    assert best.sum(dim=1).tolist() == [40, 0, 0, 0, 0, 0]
    assert best_two.sum(dim=1).tolist() == [40, 40, 0, 0, 0, 0]


@given(
    st.integers(2, 6).flatmap(
        lambda nets: st.lists(
            # Few values, so that ties are common.
            st.lists(st.sampled_from([-math.inf, 10.0, 20.0, 30.0, math.inf]), min_size=nets, max_size=nets),
            min_size=1,
            max_size=8,
        )
    )
)
def test_hits_agree_with_a_plain_sort(rows: list[list[float]]) -> None:
    best, best_two = hits(torch.tensor(rows).T)
    for image, row in enumerate(rows):
        ranking = sorted(range(len(row)), key=lambda net: -row[net])  # Python's sort is stable
        assert best[:, image].nonzero().flatten().tolist() == ranking[:1]
        assert best_two[:, image].nonzero().flatten().tolist() == sorted(ranking[:2])


def test_hits_of_no_image_are_empty() -> None:
    best, best_two = hits(torch.empty(3, 0))
    assert best.shape == best_two.shape == (3, 0)


def test_hits_refuse_nan() -> None:
    with pytest.raises(SettingError, match="NaN"):
        hits(torch.tensor([[30.0], [math.nan]]))


@pytest.mark.parametrize("shape", [(1, 5), (5,), (2, 3, 4)])
def test_hits_refuse_fewer_than_two_nets(shape: tuple[int, ...]) -> None:
    with pytest.raises(SettingError, match="at least two nets"):
        hits(torch.zeros(shape))


# Contraction, Fig. 3


def test_contraction_quotients_agree_with_a_plain_loop() -> None:
    restored_noisy, restored_clean, noisy, clean = (drawn_images(seed, 3, 3, 5, 6) for seed in range(4))
    quotients, noise_norms, restored_norms = contraction_quotients(
        restored_noisy, restored_clean, noisy, clean
    )
    for index in range(3):
        noise = float(np.linalg.norm((noisy - clean)[index].numpy().ravel()))
        left = float(np.linalg.norm((restored_noisy - restored_clean)[index].numpy().ravel()))
        assert noise_norms[index].item() == pytest.approx(noise, rel=1e-5)
        assert restored_norms[index].item() == pytest.approx(left, rel=1e-5)
        assert quotients[index].item() == pytest.approx(left / noise, rel=1e-5)


@given(st.floats(0, 4, width=32))
def test_a_restorer_that_scales_has_its_factor_as_the_quotient(factor: float) -> None:
    clean, noise = drawn_images(0, 2, 3, 5, 5), drawn_images(1, 2, 3, 5, 5)
    quotients, _, _ = contraction_quotients(factor * noise, torch.zeros_like(noise), clean + noise, clean)
    assert quotients.tolist() == pytest.approx([factor] * 2, rel=1e-5)


def test_a_restorer_without_padding_is_measured_on_its_smaller_output() -> None:
    clean = torch.zeros(1, 1, 5, 5)
    noisy = clean.clone()
    noisy[..., 2, 2] = 0.5
    quotients, _, restored_norms = contraction_quotients(
        noisy[..., 1:-1, 1:-1], clean[..., 1:-1, 1:-1], noisy, clean
    )
    assert quotients.tolist() == [1.0]
    assert restored_norms.tolist() == [0.5]


def test_zero_noise_has_quotient_zero_in_spite_of_rounding() -> None:
    clean = drawn_images(0, 2, 3, 5, 5)
    quotients, noise_norms, _ = contraction_quotients(
        clean + torch.tensor([0, 1e-6]).view(2, 1, 1, 1), clean, clean, clean
    )
    assert noise_norms.tolist() == [0, 0]
    assert quotients.tolist() == [0, 0]


def test_contraction_refuses_another_number_of_restored_images() -> None:
    with pytest.raises(ImageError, match="there are 2 noisy and 1 restored images"):
        contraction_quotients(*[torch.zeros(1, 3, 5, 5)] * 2, *[torch.zeros(2, 3, 5, 5)] * 2)


# Top-k, Table 3


@pytest.mark.parametrize("k", [1, 2, 5, 7])
def test_top_k_agrees_with_torchmetrics_without_ties(k: int) -> None:
    logits = drawn_images(0, 200, 7)
    labels = torch.randint(7, (200,), generator=torch.Generator().manual_seed(1))
    expected = multiclass_accuracy(logits, labels, num_classes=7, top_k=k, average="micro")
    torch.testing.assert_close(top_k(logits, labels, k).float().mean(), expected)


@given(st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=6), st.data())
def test_top_k_agrees_with_a_plain_loop_with_many_ties(rows: list[list[int]], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, 4))
    labels = data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows)))
    answers = top_k(torch.tensor(rows).float(), torch.tensor(labels), k).tolist()
    for right, row, label in zip(answers, rows, labels, strict=True):
        before = sum(row[other] >= row[label] for other in range(4) if other != label)
        assert right == (before < k)


@given(st.integers(2, 9), st.data())
def test_top_k_never_loses_an_image_when_k_grows(classes: int, data: st.DataObject) -> None:
    logits = drawn_images(data.draw(st.integers(0, 99)), 10, classes)
    labels = torch.arange(10) % classes
    right = [top_k(logits, labels, k) for k in range(1, classes + 1)]
    assert all((fewer <= more).all() for fewer, more in pairwise(right))
    assert right[-1].all()


def test_a_constant_classifier_is_never_right() -> None:
    labels = torch.arange(5)
    assert not top_k(torch.zeros(5, 5), labels, 1).any()
    assert not top_k(torch.zeros(5, 5), labels, 4).any()


@pytest.mark.parametrize("logits", [[math.nan] * 3, [0.0, math.nan, 0.0], [math.nan, 1.0, 0.0]])
def test_nan_logits_count_against_the_label(logits: list[float]) -> None:
    assert not top_k(torch.tensor([logits]), torch.tensor([1]), 1).any()


def test_top_k_takes_labels_of_any_integer_type() -> None:
    logits = torch.eye(3)
    for dtype in (torch.uint8, torch.int32, torch.int64):
        assert top_k(logits, torch.arange(3, dtype=dtype), 1).all()


@pytest.mark.parametrize("k", [-1, 0, 4])
def test_top_k_refuses_a_k_that_is_no_number_of_classes(k: int) -> None:
    with pytest.raises(SettingError, match=f"k is {k}, .* number of classes, 3"):
        top_k(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), k)


@pytest.mark.parametrize("labels", [[0, 3], [-1, 0], [0.0, 1.0]])
def test_top_k_refuses_labels_that_are_no_class(labels: list[float]) -> None:
    with pytest.raises(SettingError, match="integers from 0 to 2"):
        top_k(torch.zeros(2, 3), torch.tensor(labels), 1)


def test_top_k_refuses_another_number_of_labels() -> None:
    with pytest.raises(SettingError, match="do not match"):
        top_k(torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64), 1)


# Noise from the image alone


@pytest.mark.parametrize("sigma_grey", [1, 5, 25, 60])
def test_known_noise_on_a_flat_image_is_met_within_a_few_percent(sigma_grey: float) -> None:
    noise = torch.randn(4, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    estimated = estimate_noise(0.5 + noise * (sigma_grey / 255))
    assert estimated.shape == (4,)
    torch.testing.assert_close(estimated, torch.full((4,), float(sigma_grey)), rtol=0.05, atol=0)


@pytest.mark.parametrize("sigma_grey", [0, 4, 25])
def test_the_noise_of_a_photograph_is_estimated_as_scikit_image_does(sigma_grey: float) -> None:
    photograph = torch.from_numpy(data.astronaut()[:256, :200]).permute(2, 0, 1)[None].float() / 255
    noise = torch.randn(photograph.shape, generator=torch.Generator().manual_seed(0))
    noisy = photograph + noise * (sigma_grey / 255)
    estimated = estimate_noise(noisy).item()
    theirs = 255 * estimate_sigma(noisy[0].permute(1, 2, 0).numpy(), average_sigmas=True, channel_axis=-1)
    assert estimated == pytest.approx(theirs, rel=0.02)
    assert estimated == pytest.approx(sigma_grey, abs=2.5)


def test_what_is_saturated_hides_no_noise() -> None:
    image = torch.ones(1, 1, 64, 64)
    image[..., :16] = 0.5 + torch.randn(64, 16, generator=torch.Generator().manual_seed(0)) * (10 / 255)
    assert estimate_noise(image).item() == pytest.approx(10, rel=0.2)
    assert estimate_noise(torch.ones(1, 1, 64, 64)).item() == 0


def test_images_that_are_too_small_to_tell_give_nan() -> None:
    assert estimate_noise(torch.rand(2, 3, 3, 40)).isnan().tolist() == [True, True]
    with pytest.raises(ImageError, match=r"must be \(N, C, H, W\)"):
        estimate_noise(torch.rand(3, 40, 40))


def test_an_answer_is_the_one_largest_logit_and_agrees_with_top_1() -> None:
    nan = float("nan")
    logits = torch.tensor([[1.0, 3, 2], [2, 2, 1], [nan, 1, 2], [1, nan, 2], [0, 0, 0], [-1, -2, -3]])
    assert answers(logits).tolist() == [1, -1, -1, -1, -1, 0]
    for label in range(3):
        labels = torch.full((6,), label)
        assert torch.equal(answers(logits) == labels, top_k(logits, labels, 1))


def test_a_poor_restorer_is_measured_however_far_its_images_leave_the_range() -> None:
    clean, far = drawn_images(0, 2, 3, 8, 8), 5 * drawn_images(1, 2, 3, 8, 8)
    expected = -10 * np.log10((far - clean).double().square().mean(dim=(1, 2, 3)).numpy())
    np.testing.assert_allclose(psnr(far, clean).numpy(), expected, rtol=1e-4)
    with pytest.raises(ImageError, match="images reach from"):
        psnr(clean, far)
