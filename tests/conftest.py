"""Settings and fixtures of all tests: Hypothesis, the number format, images, and which process tests what.

PyTorch is imported where it is needed, because the process that hands out the tests does not need it.
"""

from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from steadylens.data.datasets import Dataset

# The machine that runs the tests may be busy, so the time of an example has no limit.
settings.register_profile("steadylens", deadline=None)
settings.load_profile("steadylens")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Keeps tests that share a server in one process; other ways to divide them are those of xdist."""
    from tests.scheduling import ServerScheduling  # noqa: PLC0415

    return ServerScheduling(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="session", autouse=True)
def float32_on_every_cpu() -> Iterator[None]:
    """Hides fast bfloat16, so that nets learn in float32 on every processor, as the oracles compute.

    Its scope is the session, because fixtures of modules train too. Other processes are not affected.
    """
    import torch  # noqa: PLC0415

    with pytest.MonkeyPatch.context() as patch:
        if hasattr(torch.cpu, "get_capabilities"):
            capabilities = {**torch.cpu.get_capabilities(), "avx512_bf16": False, "amx_bf16": False}
            patch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
        yield


@pytest.fixture(scope="session", autouse=True)
def operators_read_once() -> Iterator[None]:
    """Lets PyTorch parse the 500 operators that it can write as ONNX once, not anew for each net.

    Where a version of PyTorch has no such function, the tests only take longer.
    """
    with pytest.MonkeyPatch.context() as patch:
        with suppress(ImportError, AttributeError):
            from torch.onnx._internal.exporter._registration import ONNXRegistry  # noqa: PLC0415

            patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the figures of reports blank: to draw them takes longer than all else that small runs do."""
    monkeypatch.setattr("steadylens.report.drawing.svg", lambda figure: "<svg/>")


@pytest.fixture(scope="session")
def tiny_data() -> "Dataset":
    """Returns a data set of four classes; it is shared, so do not change its tensors."""
    from tests.coloured import coloured_data  # noqa: PLC0415

    return coloured_data()
