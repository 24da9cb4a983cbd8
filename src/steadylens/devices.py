"""Running a net to measure it: in eval mode, on a device, in the format that is fastest there."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from threading import Lock

import torch
from torch import Tensor, nn

from steadylens.errors import SettingError, reason_of

_MOST_REASON = 100
"""How many characters of another library's reason are passed on."""


def has_fast_bfloat16(device: torch.device) -> bool:
    """Returns whether a device multiplies bfloat16 faster than float32.

    A GPU does from 2020 on. A CPU must have the instructions (AVX512-BF16, AMX), which is not enough: on some
    processors that list AVX512-BF16 they are twice as fast as float32, on others half as fast. So a CPU that
    has them is timed, once in a process, in a few milliseconds.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        has_instructions = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
        return bool(has_instructions) and not _float32_alone and _cpu_is_faster_in_bfloat16()
    return False


_float32_alone = False


def keep_to_float32() -> None:
    """Lets the CPU of this process compute in float32 from now on, as another worker must."""
    global _float32_alone  # noqa: PLW0603 - as what the timing found, it holds for the process
    _float32_alone = True


@cache
def _cpu_is_faster_in_bfloat16() -> bool:
    """Times products of two matrices in both number formats; the best of several, as others may delay one."""
    best = {torch.float32: math.inf, torch.bfloat16: math.inf}
    for _ in range(6):
        for dtype, quickest in best.items():
            matrix = torch.ones(384, 384, dtype=dtype)
            started = time.perf_counter()
            torch.mm(matrix, matrix)
            best[dtype] = min(quickest, time.perf_counter() - started)
    return best[torch.bfloat16] < best[torch.float32]


def fast_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Returns a context in which nets run in bfloat16 if that is faster; otherwise it has no effect."""
    return torch.autocast(device.type, torch.bfloat16, enabled=has_fast_bfloat16(device))


def fast_memory_format(device: torch.device) -> torch.memory_format:
    """Returns the memory layout with the fastest convolutions on `device`.

    On a CPU that is channels last in either number format: grouped convolutions take half as long.
    """
    fast = device.type == "cpu" or has_fast_bfloat16(device)
    return torch.channels_last if fast else torch.contiguous_format


def cache_batch(device: torch.device) -> int:
    """Returns how many 48x48 images to run through a net at once.

    On a CPU the feature maps of ten images fit into the cache: L11 is 1.5 times as fast as with 50 images.
    """
    return 10 if device.type == "cpu" else 1024


def default_device() -> torch.device:
    """Returns the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def moved(module: nn.Module, device: torch.device) -> nn.Module:
    """Returns a net on a device: the net itself if it is there already, else a copy."""
    elsewhere = any(tensor.device != device for tensor in (*module.parameters(), *module.buffers()))
    return copy.deepcopy(module).to(device) if elsewhere else module


_put_into_eval: dict[nn.Module, int] = {}
"""Modules whose train mode `evaluating` will give back, and by how many blocks each is used."""

_lock = Lock()


@contextmanager
def without_gradient(net: nn.Module) -> Iterator[None]:
    """Lets no parameter of a net require a gradient inside the block; afterwards each does as before."""
    before = {parameter: parameter.requires_grad for parameter in net.parameters()}
    net.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, requires_grad in before.items():
            parameter.requires_grad_(requires_grad)


@contextmanager
def evaluating(net: object) -> Iterator[None]:
    """Puts a net into eval mode inside the block; afterwards each submodule has its own mode again.

    All that measures, applies or converts a net does it inside this block. So a net that a training loop left
    in train mode is measured rightly, and its dropout and BatchNorm statistics are left alone. Only the flag
    `training` is set: a net's own `train` may do more, which could not be undone. Several threads can use a
    net in such blocks at the same time.

    Args:
        net: A module; the block has no effect on any other object.
    """
    parts = list(net.modules()) if isinstance(net, nn.Module) else []
    if not _put_into_eval and not any(part.training for part in parts):  # the usual case
        yield
        return
    with _lock:
        changed = [part for part in parts if part.training or part in _put_into_eval]
        for part in changed:
            _put_into_eval[part] = _put_into_eval.get(part, 0) + 1
            part.training = False
    try:
        yield
    finally:
        with _lock:
            for part in changed:
                _put_into_eval[part] -= 1
                if not _put_into_eval[part]:
                    del _put_into_eval[part]
                    part.training = True


def device_named(name: str) -> torch.device:
    """Returns the device with that name, or for auto a GPU if there is one, else the CPU.

    Args:
        name: cpu, cuda, cuda:1, mps and so on, or auto.

    Raises:
        SettingError: If there is no such device, or it cannot be used here.
    """
    if name == "auto":
        return default_device()
    here = ", ".join([*_devices_here(), "auto"])
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SettingError(f"there is no device {name!r}; here, there are {here}") from error
    try:
        torch.zeros(1, device=device).item()  # fails on a device without storage, such as meta
    except NotImplementedError as error:
        raise SettingError(
            f"the device {name!r} cannot be used: the PyTorch that is installed does not support it; here, "
            f"there are {here}"
        ) from error
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = reason_of(error).split(". ")[0].rstrip(".")
        reason = reason if len(reason) <= _MOST_REASON else f"{reason[:_MOST_REASON].rsplit(' ', 1)[0]} ..."
        raise SettingError(
            f"the device {name!r} cannot be used ({reason}); here, there are {here}"
        ) from error
    return device


def _devices_here() -> list[str]:
    """Returns the names of the devices that can be used here."""
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None:
        return ["cpu"]
    numbered = range(1, torch.accelerator.device_count())
    return ["cpu", found.type, *(f"{found.type}:{number}" for number in numbered)]


def forward_in_batches(
    module: Callable[[Tensor], Tensor], images: Tensor, *, batch: int | None = None
) -> Tensor:
    """Returns `module(images)` computed a batch at a time, in float32, in eval mode and without gradients.

    Args:
        module: The net, whose mode is given back afterwards; or a function of images, which sets no mode.
        images: (N, C, H, W), on the net's device.
        batch: Images in a batch, or None for as many as fit into the device's cache. It changes the result
            only by rounding.
    """
    with torch.inference_mode(), evaluating(module):
        return torch.cat([module(some) for some in torch.split(images, batch or cache_batch(images.device))])
