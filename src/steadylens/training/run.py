"""The data, the settings and the seed that all stages of a run share."""

import hashlib
import platform
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

from steadylens.data.datasets import Dataset
from steadylens.progress import Observer, ignore_progress
from steadylens.records import Provenance
from steadylens.training.settings import Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """The data, the settings and the seed that all stages of a run share.

    Attributes:
        data: Training, validation and test images.
        recipe: How nets are trained and what is measured.
        seed: Seed from which every random generator of the run is derived.
        device: Device on which the nets are trained and measured.
        observe: Called with each progress message.
        checkpoint_seconds: Seconds between two saves of an unfinished training.
    """

    data: Dataset
    recipe: Recipe
    seed: int
    device: torch.device
    observe: Observer = ignore_progress
    checkpoint_seconds: float = 30.0

    @property
    def provenance(self) -> Provenance:
        """What the records of this run say about their origin: recipe, seed, data, code and device."""
        return Provenance(
            recipe=self.recipe.name,
            seed=self.seed,
            data=f"{self.data.source} ({self.data.fingerprint})",
            commit=commit(),
            versions=versions(),
            device=device_name(self.device),
        )

    def key(self, *parts: object) -> str:
        """Returns a short hash of data, seed and `parts`: of all that a stage's result depends on."""
        text = "\n".join(map(repr, (self.data.fingerprint, self.seed, *parts)))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def commit() -> str:
    """Returns the git commit of the source tree that the package runs from; "unknown" outside of one."""
    try:
        # An installed package may lie inside somebody else's repository, whose commit says nothing about it.
        _git("ls-files", "--error-unmatch", Path(__file__).name)
        return _git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603
    return found.stdout.strip()


@cache
def versions() -> tuple[tuple[str, str], ...]:
    """Returns pairs of library and version, of the libraries that results depend on."""
    names = ("steadylens", "torch", "numpy", "pillow")
    return (("python", platform.python_version()), *((name, version(name)) for name in names))


def device_name(device: torch.device) -> str:
    """Returns the name of the GPU, or the CPU's architecture with the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
