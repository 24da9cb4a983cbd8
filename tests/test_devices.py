"""Batches, number formats and layouts change the speed, never the result."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from steadylens import devices
from steadylens.devices import (
    cache_batch,
    default_device,
    device_named,
    evaluating,
    fast_autocast,
    fast_memory_format,
    forward_in_batches,
    has_fast_bfloat16,
    moved,
)
from steadylens.errors import SettingError
from steadylens.nets.restoration import RestorationNet

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
NET = RestorationNet(3).eval()


class CountingIdentity(nn.Module):
    """Records the sizes of batches."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        return images


def drawn_images(count: int) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def pretend_capabilities(
    monkeypatch: pytest.MonkeyPatch, *, faster: bool = True, **capabilities: bool
) -> None:
    monkeypatch.setattr(devices, "_cpu_is_faster_in_bfloat16", lambda: faster)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)


# In batches


@settings(deadline=None, max_examples=25)
@given(count=st.integers(0, 25), batch=st.none() | st.integers(1, 30))
def test_the_result_does_not_depend_on_the_batch(count: int, batch: int | None) -> None:
    images = drawn_images(count)
    with torch.no_grad():
        expected = NET(images)
    torch.testing.assert_close(forward_in_batches(NET, images, batch=batch), expected)


def test_images_pass_in_order_and_at_most_a_batch_at_a_time() -> None:
    module, images = CountingIdentity(), drawn_images(23)
    assert torch.equal(forward_in_batches(module, images, batch=5), images)
    assert module.sizes == [5, 5, 5, 5, 3]


def test_a_batch_fits_the_cache_unless_the_caller_says_otherwise() -> None:
    module = CountingIdentity()
    forward_in_batches(module, drawn_images(23))
    assert module.sizes == [10, 10, 3]
    assert (cache_batch(CPU), cache_batch(CUDA)) == (10, 1024)


def test_no_gradient_is_kept() -> None:
    restored = forward_in_batches(NET, drawn_images(2).requires_grad_())
    assert not restored.requires_grad
    assert restored.is_inference()
    assert restored.dtype == torch.float32


# Number formats


@pytest.mark.parametrize(
    ("capabilities", "faster", "fast"),
    [
        ({"avx512_bf16": True}, True, True),
        ({"avx512_bf16": True}, False, False),
        ({"amx_bf16": True, "avx512_bf16": False}, True, True),
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, True, False),
        ({}, True, False),
    ],
    ids=["fast AVX512-BF16", "slow AVX512-BF16", "AMX", "AVX2", "nothing known"],
)
def test_a_cpu_is_fast_in_bfloat16_if_it_has_the_instructions_and_they_are_faster(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], faster: bool, fast: bool
) -> None:
    pretend_capabilities(monkeypatch, faster=faster, **capabilities)
    assert has_fast_bfloat16(CPU) is fast
    assert fast_memory_format(CPU) is torch.channels_last


def test_a_cpu_can_be_kept_to_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_float32_alone", False)  # given back afterwards
    pretend_capabilities(monkeypatch, faster=True, avx512_bf16=True)
    assert has_fast_bfloat16(CPU)
    devices.keep_to_float32()
    assert not has_fast_bfloat16(CPU)


def test_a_cpu_is_timed_once_in_a_process() -> None:
    devices._cpu_is_faster_in_bfloat16.cache_clear()
    first = devices._cpu_is_faster_in_bfloat16()
    assert devices._cpu_is_faster_in_bfloat16() is first
    assert devices._cpu_is_faster_in_bfloat16.cache_info().misses == 1


def test_a_cpu_that_cannot_be_asked_keeps_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not has_fast_bfloat16(CPU)


@pytest.mark.parametrize(
    ("capability", "fast"), [((7, 5), False), ((8, 0), True), ((8, 6), True), ((9, 0), True)]
)
def test_a_gpu_of_2020_on_is_fast_in_bfloat16(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], fast: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    assert has_fast_bfloat16(CUDA) is fast


def test_other_devices_keep_float32() -> None:
    assert not has_fast_bfloat16(torch.device("meta"))
    assert fast_memory_format(torch.device("meta")) is torch.contiguous_format


@pytest.mark.parametrize("fast", [True, False])
def test_bfloat16_is_used_where_it_is_fast_alone(monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    pretend_capabilities(monkeypatch, avx512_bf16=fast)
    matrix: Any = torch.ones(2, 2)
    with fast_autocast(CPU):
        product = matrix @ matrix
    assert product.dtype == (torch.bfloat16 if fast else torch.float32)
    assert (matrix @ matrix).dtype == torch.float32


@pytest.mark.parametrize(("available", "kind"), [(True, "cuda"), (False, "cpu")])
def test_the_gpu_is_the_default_if_there_is_one(
    monkeypatch: pytest.MonkeyPatch, available: bool, kind: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert default_device() == torch.device(kind)


@pytest.mark.parametrize("name", ["mps", "xpu", "hpu", "ipu", "vulkan", "meta", "cuda:99", "mtia", "maia"])
def test_a_device_that_cannot_be_used_is_said_in_a_line_with_those_that_can(name: str) -> None:
    with pytest.raises(SettingError, match=r"the device .* cannot be used.*; here, there are cpu") as caught:
        device_named(name)
    assert name in str(caught.value)
    assert str(caught.value).endswith("auto")
    assert len(str(caught.value)) < 230
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["abacus", "", "cpu:x", "cuda:-1"])
def test_a_device_that_there_is_not_is_refused(name: str) -> None:
    with pytest.raises(SettingError, match=f"there is no device '{name}'; here, there are cpu"):
        device_named(name)


def test_a_device_that_there_is_can_be_named() -> None:
    assert device_named("cpu") == CPU
    assert device_named("auto") == default_device()


def test_a_net_is_copied_only_to_another_device() -> None:
    net = nn.BatchNorm2d(3)
    assert moved(net, torch.device("cpu")) is net
    elsewhere = moved(net, torch.device("meta"))
    assert elsewhere is not net
    assert all(tensor.is_meta for tensor in (*elsewhere.parameters(), *elsewhere.buffers()))
    assert not any(tensor.is_meta for tensor in (*net.parameters(), *net.buffers()))


class Failing(nn.Module):
    """Fails, but only in eval mode."""

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        raise ZeroDivisionError


def test_each_module_has_its_own_mode_again_even_after_an_error() -> None:
    frozen = nn.Dropout().eval()
    net = nn.Sequential(frozen, nn.Dropout(), Failing())
    with pytest.raises(ZeroDivisionError):
        forward_in_batches(net, torch.rand(2, 3, 8, 8))
    assert [part.training for part in net.modules()] == [True, False, True, True]
    with evaluating(net), evaluating(net[1]):
        assert not any(part.training for part in net.modules())
    assert [part.training for part in net.modules()] == [True, False, True, True]
