"""Settings and fixtures of all tests: Hypothesis, the number format, and images that are easy to learn."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from steadylens.data.datasets import Dataset, ImageSet

# The machine that runs the tests may be busy, so the time of an example has no limit.
settings.register_profile("steadylens", deadline=None)
settings.load_profile("steadylens")

COLOURS = torch.tensor([[200, 60, 60], [60, 200, 60], [60, 60, 200], [180, 180, 60]])


def coloured(count: int, *, seed: int) -> ImageSet:
    """Returns `count` 48x48 images of four classes, each of its own colour under random texture."""
    labels = torch.arange(count) % len(COLOURS)
    generator = torch.Generator().manual_seed(seed)
    texture = torch.randint(-50, 51, (count, 3, 48, 48), generator=generator)
    images = (COLOURS[labels][:, :, None, None] + texture).to(torch.uint8)
    return ImageSet(images=images, labels=labels, tracks=torch.arange(count))


@pytest.fixture(scope="session", autouse=True)
def float32_on_every_cpu() -> Iterator[None]:
    """Hides fast bfloat16, so that nets learn in float32 on every processor, as the oracles compute.

    Its scope is the session, because fixtures of modules train too. Other processes are not affected.
    """
    with pytest.MonkeyPatch.context() as patch:
        if hasattr(torch.cpu, "get_capabilities"):
            capabilities = {**torch.cpu.get_capabilities(), "avx512_bf16": False, "amx_bf16": False}
            patch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
        yield


@pytest.fixture(scope="session")
def tiny_data() -> Dataset:
    """Returns a data set of four classes; it is shared, so do not change its tensors."""
    return coloured_data()


def coloured_data() -> Dataset:
    """Returns a small data set of four classes, the same in every process."""
    return Dataset(
        train=coloured(16, seed=1),
        validation=coloured(8, seed=2),
        test=coloured(8, seed=3),
        class_names=("red", "green", "blue", "yellow"),
        source="coloured",
    )
