"""Which engine runs a net fastest here: a short race, whose result can be told."""

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


TILE: Size = (160, 160)
"""Height and width in pixels of the image that a restorer is timed on: small, so that the race is short."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineTiming:
    """What a race of engines found.

    Attributes:
        engine: The fastest one.
        milliseconds: Time of each engine that took part, for each image.
        left_out: Why the others did not take part, by their names.
        size: Height and width of the image in pixels.
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
    """Returns the engine that runs a net fastest on this machine, of those that are installed.

    Each runs the net on one image, in turns, in float32, and its quickest turn counts. Where there are
    several threads, OpenVINO also runs a restorer on as many images at a time, as `restore` then does with
    tiles. An engine that is not installed, cannot run the net, or answers otherwise than the net does, is
    left out, and the result says why. A net on a GPU stays in PyTorch. To convert the net takes some seconds:
    keep the engine.

    Args:
        net: A restorer or a classifier in eval mode.
        seconds: How long each engine runs, about; three turns at least.

    Raises:
        SettingError: If the net is neither restorer nor classifier, or in training mode.
    """
    if any(parameter.device.type != "cpu" for parameter in net.parameters()):
        reason = "the net is not on the CPU"
        left_out = dict.fromkeys((OnnxEngine.name, openvino_name(1)), reason)
        return EngineTiming(engine=TorchEngine(net), milliseconds={}, left_out=left_out, size=TILE)
    form = signature_of(net)
    height, width = size = form.size or (max(TILE[0], form.minimum_size), max(TILE[1], form.minimum_size))
    tile = torch.rand(1, form.channels, height, width, generator=torch.Generator().manual_seed(0))
    engines, left_out = _running(net, form, tile)
    taken = _race(engines, tile, seconds)
    fastest = min(engines, key=lambda engine: taken[engine.name])
    return EngineTiming(engine=fastest, milliseconds=taken, left_out=left_out, size=size)


def _running(net: nn.Module, form: Signature, tile: Tensor) -> tuple[list[Engine], dict[str, str]]:
    """Returns the engines that answer as the net does, and why others do not run."""
    engines: list[Engine] = [TorchEngine(net)]
    left_out: dict[str, str] = {}
    others: dict[str, Callable[[onnx.ModelProto], Engine]] = {
        OnnxEngine.name: lambda model: OnnxEngine(model, form),
        openvino_name(1): lambda model: OpenVinoEngine(to_openvino(model, form), form),
    }
    if form.classes is None and (threads := torch.get_num_threads()) > 1:
        others[openvino_name(threads)] = lambda model: OpenVinoEngine(
            to_openvino(model, form), form, streams=threads
        )
    try:
        model = to_onnx(to_program(net, form), form)
    except (ExportError, MissingExtraError) as error:
        return engines, dict.fromkeys(others, str(error))
    for name, make in others.items():
        try:
            engine = make(model)
            check_parity(net, engine, [tile])
        except Exception as error:  # whatever a runtime raises at a net that it cannot run
            left_out[name] = reason_of(error)
        else:
            engines.append(engine)
    return engines, left_out


def _race(engines: list[Engine], tile: Tensor, seconds: float) -> dict[str, float]:
    """Returns the milliseconds of the quickest turn of each."""
    best = {engine.name: math.inf for engine in engines}
    spent, turns = 0.0, 0
    while turns < 3 or spent < seconds * len(engines):
        for engine in engines:
            begin = time.perf_counter()
            with ThreadPoolExecutor(engine.streams) as pool:
                list(pool.map(engine, [tile] * engine.streams))
            taken = time.perf_counter() - begin
            spent += taken
            best[engine.name] = min(best[engine.name], 1000 * taken / engine.streams)
        turns += 1
    return best
