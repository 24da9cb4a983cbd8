"""The workers of a job under `torchrun`: how they divide work among them, and how they agree.

`torchrun --nproc-per-node 2 -m steadylens ...` starts the same command twice and tells each process its
number in environment variables. Every worker runs the whole program with the same random numbers; only the
expensive parts are divided. Worker 0 alone decides what depends on files, and writes them. Without `torchrun`
there is one worker, and nothing is exchanged.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from steadylens.errors import SettingError

Item = TypeVar("Item")

Result = TypeVar("Result")

_PATIENCE = timedelta(days=7)  # torchrun ends all workers when one fails, so nobody has to give up waiting


def rank() -> int:
    """Returns this worker's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """Returns the number of workers: 1 outside of `joined`."""
    return dist.get_world_size() if dist.is_initialized() else 1


def started() -> bool:
    """Whether `torchrun` started this process as one of several workers."""
    return _from_environment("WORLD_SIZE", 1) > 1


def local_device(device: torch.device) -> torch.device:
    """Returns the device of this worker: each on a machine has a GPU of its own, if GPUs are asked for.

    Raises:
        SettingError: If the machine has fewer GPUs than workers, or one GPU is asked for by its number.
    """
    if not started() or device.type != "cuda":
        return device
    number, gpus = _from_environment("LOCAL_RANK", 0), torch.cuda.device_count()
    index: int | None = device.index  # typed as int by PyTorch
    if index is not None:
        raise SettingError(f"the device is {device}, but each worker takes a GPU of its own; give cuda")
    if number >= gpus:
        raise SettingError(
            f"this is worker {number} of the machine, which has {gpus} GPUs; start at most one worker for "
            f"each GPU with torchrun --nproc-per-node {gpus}, or give the device cpu"
        )
    return torch.device("cuda", number)


@contextmanager
def joined() -> Iterator[None]:
    """Joins the workers that `torchrun` started, if there are several, and leaves them after the block.

    Tensors on CPUs are exchanged by gloo, those on GPUs by NCCL.

    Raises:
        SettingError: If the environment says how many workers there are, but not how to reach them.
    """
    if dist.is_initialized() or not started():
        yield
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise SettingError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {', '.join(missing)} is not set; start the "
            "workers with torchrun, or unset WORLD_SIZE"
        )
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def share(total: int) -> slice:
    """Returns which of `total` places are this worker's: adjacent ones, one more or less than another's."""
    return slice(rank() * total // count(), (rank() + 1) * total // count())


def by_first(work: Callable[[], Result]) -> Result:
    """Lets worker 0 do something, and returns its result on every worker.

    All that reads or writes files whose presence decides what happens next goes through here: so no worker
    sees a file that another does not see yet.

    Args:
        work: Called on worker 0 alone. Its result must be picklable and on the CPU.

    Raises:
        Exception: On every worker, what `work` raised.
    """
    if count() == 1:
        return work()
    outcome: list[tuple[Result | None, Exception | None]] = [(None, None)]
    if rank() == 0:
        try:
            outcome = [(work(), None)]
        except Exception as refused:  # it is raised below, on every worker
            outcome = [(None, refused)]
    dist.broadcast_object_list(outcome, src=0)
    result, error = outcome[0]
    if error is not None:
        raise error
    return result  # type: ignore[return-value]  # None only if `work` returned it


def divided(items: Iterable[Item], work: Callable[[Item], Result], *, at_once: int = 4) -> Iterator[Result]:
    """Yields `work(item)` of each item, in order, on every worker; each worker does a part of the work.

    All workers must take the same number of results; they may stop early, where all stop after the same one.

    Args:
        items: The same on every worker.
        work: Must give the same result on every worker, picklable and on the CPU.
        at_once: Items that a worker does before results are exchanged.
    """
    if count() == 1:
        yield from map(work, items)
        return
    left = iter(items)
    while some := list(islice(left, at_once * count())):
        own = [work(item) for item in some[rank() :: count()]]
        gathered: list[list[Result]] = [[] for _ in range(count())]
        dist.all_gather_object(gathered, own)
        yield from (gathered[place % count()][place // count()] for place in range(len(some)))


def add_up(tensors: Sequence[Tensor]) -> None:
    """Replaces each tensor by its sum over all workers, in place; the sums are equal to the last bit.

    Args:
        tensors: At least one, all of the same type and device, and the same shapes on every worker.
    """
    if count() == 1:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    sums = torch.split(flat, [tensor.numel() for tensor in tensors])
    for tensor, total in zip(tensors, sums, strict=True):
        tensor.copy_(total.view_as(tensor))


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Overwrites each tensor with that of worker 0."""
    if count() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def _from_environment(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    if not text.isdecimal():
        raise SettingError(
            f"the environment variable {name} is {text!r}, it must be a whole number; unset it"
        )
    return int(text)
