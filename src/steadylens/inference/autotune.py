"""Finds the engine that runs a net fastest on this machine, by timing all that are installed."""

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from steadylens.errors import ExportError, MissingExtraError, reason_of
from steadylens.inference.engines import (
    Engine,
    OnnxEngine,
    OpenVinoEngine,
    TorchEngine,
    openvino_name,
    to_onnx,
    to_openvino,
    to_program,
)
from steadylens.inference.parity import check_parity
from steadylens.inference.signature import Signature, Size, signature_of

if TYPE_CHECKING:
    import onnx


TIMED_SIZE: Size = (160, 160)
"""Height and width in pixels of the image that a restorer is timed on: small, so that timing is short."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineTiming:
    """How fast each engine runs a net on this machine.

    Attributes:
        engine: The fastest engine, ready to use.
        milliseconds: Time per image of each engine that was timed, by the engine's name.
        left_out: Why an engine was not timed, by the engine's name.
        size: Height and width in pixels of the image that was used.
    """

    engine: Engine
    milliseconds: Mapping[str, float]
    left_out: Mapping[str, str]
    size: Size

    def __str__(self) -> str:
        """Returns the result in one line."""
        ranked = sorted(self.milliseconds.items(), key=lambda pair: pair[1])
        times = ", ".join(f"{name} {value:.1f} ms" for name, value in ranked)
        others = "".join(f"; without {name}: {reason}" for name, reason in self.left_out.items())
        return f"{self.engine.name} is the fastest on {self.size[0]}x{self.size[1]} pixels ({times}){others}"


def fastest_engine(net: nn.Module, *, seconds: float = 0.5) -> EngineTiming:
    """Returns the engine that runs a net fastest on this machine, with the times of all engines.

    The engines run the net on one image in float32. They take turns, and the quickest turn of each counts.
    If PyTorch uses several threads, OpenVINO is also timed on as many images at a time, since `restore` can
    feed it that many tiles. An engine is left out if it is not installed, cannot run the net, or gives
    another result than the net itself. A net on a GPU stays in PyTorch, untimed. Converting the net takes
    some seconds, so keep the engine that you get.

    Args:
        net: A restorer or a classifier in eval mode.
        seconds: How long each engine runs, about; every engine has at least three turns.

    Raises:
        SettingError: If the net is neither a restorer nor a classifier, or is in training mode.
    """
    if any(parameter.device.type != "cpu" for parameter in net.parameters()):
        reason = "the net is not on the CPU"
        left_out = dict.fromkeys((OnnxEngine.name, openvino_name(1)), reason)
        return EngineTiming(engine=TorchEngine(net), milliseconds={}, left_out=left_out, size=TIMED_SIZE)
    signature = signature_of(net)
    least = signature.minimum_size
    height, width = size = signature.size or (max(TIMED_SIZE[0], least), max(TIMED_SIZE[1], least))
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, signature.channels, height, width, generator=generator)
    engines, left_out = _usable_engines(net, signature, image)
    milliseconds = _time_in_turns(engines, image, seconds)
    fastest = min(engines, key=lambda engine: milliseconds[engine.name])
    return EngineTiming(engine=fastest, milliseconds=milliseconds, left_out=left_out, size=size)


def _usable_engines(
    net: nn.Module, signature: Signature, image: Tensor
) -> tuple[list[Engine], dict[str, str]]:
    """Returns the engines whose results agree with the net, and why each other engine is left out."""
    engines: list[Engine] = [TorchEngine(net)]
    left_out: dict[str, str] = {}
    others: dict[str, Callable[[onnx.ModelProto], Engine]] = {
        OnnxEngine.name: lambda model: OnnxEngine(model, signature),
        openvino_name(1): lambda model: OpenVinoEngine(to_openvino(model, signature), signature),
    }
    if signature.classes is None and (threads := torch.get_num_threads()) > 1:
        others[openvino_name(threads)] = lambda model: OpenVinoEngine(
            to_openvino(model, signature), signature, streams=threads
        )
    try:
        model = to_onnx(to_program(net, signature), signature)
    except (ExportError, MissingExtraError) as error:
        return engines, dict.fromkeys(others, str(error))
    for name, make in others.items():
        try:
            engine = make(model)
            check_parity(net, engine, [image])
        except Exception as error:  # a runtime may raise anything if it cannot run the net
            left_out[name] = reason_of(error)
        else:
            engines.append(engine)
    return engines, left_out


def _time_in_turns(engines: list[Engine], image: Tensor, seconds: float) -> dict[str, float]:
    """Returns the milliseconds per image of the quickest turn of each engine."""
    best = {engine.name: math.inf for engine in engines}
    spent, turns = 0.0, 0
    while turns < 3 or spent < seconds * len(engines):
        for engine in engines:
            begin = time.perf_counter()
            with ThreadPoolExecutor(engine.streams) as pool:
                list(pool.map(engine, [image] * engine.streams))
            taken = time.perf_counter() - begin
            spent += taken
            best[engine.name] = min(best[engine.name], 1000 * taken / engine.streams)
        turns += 1
    return best
