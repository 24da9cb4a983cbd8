"""The workers of a job under `torchrun`: how they divide work among them, and how they agree.

`torchrun --nproc-per-node 2 -m steadylens ...` starts the same command twice and tells each process its
number in environment variables. Every worker runs the whole program with the same random numbers; only the
expensive parts are divided. Worker 0 alone decides what depends on files, and writes them. Without `torchrun`
there is one worker, and nothing is exchanged.
"""

import itertools
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from itertools import islice
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from steadylens.errors import SettingError, WorkerLostError, lacks_memory, reason_of

Item = TypeVar("Item")

Result = TypeVar("Result")

_PATIENCE = timedelta(days=7)  # torchrun ends all workers when one fails, so nobody has to give up waiting

_numbers = itertools.count()  # of the times that this process joined, the same on every worker

_store: Store | None = None  # in which workers leave messages that nobody waits for


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
    # The first step of an optimizer imports it. Imported while workers are joined, its default arguments
    # would keep their process group, whose threads may then abort the process as it ends.
    import torch.distributed.nn.functional  # noqa: PLC0415

    global _store  # noqa: PLW0603 - as the process group, it belongs to the process
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with _exchanging():
        found, number, total = _met()
        # The store lasts. What the workers left there must not be found when they join again.
        _store = PrefixStore(f"steadylens {next(_numbers)}", found)
        dist.init_process_group(backend, store=_store, rank=number, world_size=total, timeout=_PATIENCE)
    try:
        yield
    finally:
        _store = None
        dist.destroy_process_group()


@cache
def _met() -> tuple[Store, int, int]:
    """Returns the store that all workers know, the number of this worker, and how many there are."""
    found, number, total = next(rendezvous("env://", timeout=_PATIENCE))
    return found, number, total


@contextmanager
def _exchanging() -> Iterator[None]:
    """Tells what it means if an exchange with other workers fails: one of them has ended."""
    try:
        yield
    except RuntimeError as error:
        if lacks_memory(error):
            raise
        raise WorkerLostError(
            f"another worker has ended, so this one ends too ({reason_of(error)}); look for the message of "
            "the other one, and run the same command again to continue"
        ) from error


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
            outcome = [(None, _sendable(refused))]
    with _exchanging():
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
        gathered = gather([work(item) for item in some[rank() :: count()]])
        yield from (gathered[place % count()][place // count()] for place in range(len(some)))


def gather(own: Result) -> list[Result]:
    """Returns what each worker gives, in the order of their numbers.

    Args:
        own: What this worker gives: picklable, and on the CPU.
    """
    if count() == 1:
        return [own]
    gathered = [own] * count()
    with _exchanging():
        dist.all_gather_object(gathered, own)
    return gathered


def in_turns(work: Callable[[], Result]) -> Result:
    """Returns what `work` returns on this worker; workers that share files do it one after another.

    Worker 0 is the first. The first worker of each other machine comes next, as its folders may be others,
    and then all the rest. So `work` can make files on one worker, which the others find. If it fails on a
    worker, those whose turn has not come do nothing.

    Raises:
        Exception: What `work` raised here; on all workers, if it was raised on worker 0.
        WorkerLostError: If `work` failed on other workers only.
    """
    if count() == 1:
        return work()
    own = 0 if rank() == 0 else 1 if _from_environment("LOCAL_RANK", 0) == 0 else 2
    result: list[Result] = []
    for turn in range(3):
        error: Exception | None = None
        if turn == own:
            try:
                result.append(work())
            except Exception as refused:  # it is raised below
                error = _sendable(refused)
        errors = gather(error)
        if turn == 0 and errors[0] is not None:
            raise errors[0]
        if error is not None:
            raise error
        if failed := [number for number, some in enumerate(errors) if some is not None]:
            raise WorkerLostError(f"worker {failed[0]} has failed, so this one ends too; see its message")
    return result[0]


def check_agreement(what: str, value: str) -> None:
    """Checks that all workers have the same value, which stands for what they are to have in common.

    Args:
        what: What the value stands for, in words.
        value: A text that changes with it, such as a hash.

    Raises:
        SettingError: On every worker, if a worker has another value than worker 0.
    """
    values = gather(value)
    others = [number for number, other in enumerate(values) if other != values[0]]
    if others:
        raise SettingError(
            f"worker {others[0]} has other {what} than worker 0 ({values[others[0]]}, not {values[0]}); give "
            "all machines the same files, libraries and options"
        )


def first_says(text: str, *, seconds: float = 3.0) -> bool:
    """Whether worker 0 ends with the same message, so that it need not be told again.

    It is called by every worker that ends with an error. The others wait for the message of worker 0, and it
    waits until they have read it, since the store may end with its process; both wait only briefly.

    Args:
        text: The message of this worker.
        seconds: How long a worker waits for another.
    """
    if _store is None:
        return False
    with suppress(RuntimeError):  # the store may be gone, or another worker goes on
        if rank() == 0:
            _store.set("last message", text)
            _store.wait([f"read by {number}" for number in range(1, count())], timedelta(seconds=seconds))
            return False
        _store.wait(["last message"], timedelta(seconds=seconds))
        message = _store.get("last message").decode()
        _store.set(f"read by {rank()}", "")
        return message == text
    return False


def add_up(tensors: Sequence[Tensor]) -> None:
    """Replaces each tensor by its sum over all workers, in place; the sums are equal to the last bit.

    Args:
        tensors: At least one, all of the same type and device, and the same shapes on every worker.
    """
    if count() == 1:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    with _exchanging():
        dist.all_reduce(flat)
    sums = torch.split(flat, [tensor.numel() for tensor in tensors])
    for tensor, total in zip(tensors, sums, strict=True):
        tensor.copy_(total.view_as(tensor))


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Overwrites each tensor with that of worker 0."""
    if count() > 1:
        for tensor in tensors:
            with _exchanging():
                dist.broadcast(tensor, src=0)


def _sendable(error: Exception) -> Exception:
    """Returns the error, or one with its message if other processes cannot be given the error itself."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    except Exception:  # whatever its class does
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _from_environment(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    if not text.isdecimal():
        raise SettingError(
            f"the environment variable {name} is {text!r}, it must be a whole number; unset it"
        )
    return int(text)
