"""What all stages of a run share."""

import hashlib
import platform
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

from steadylens.data.datasets import Dataset
from steadylens.progress import Observer, unobserved
from steadylens.records import Provenance
from steadylens.training.settings import Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What all stages of a run share.

    Attributes:
        data: The images.
        recipe: The settings.
        seed: The seed that every generator is derived from.
        device: Where the nets are.
        observe: Receives progress messages.
        checkpoint_seconds: How often an unfinished training is saved.
    """

    data: Dataset
    recipe: Recipe
    seed: int
    device: torch.device
    observe: Observer = unobserved
    checkpoint_seconds: float = 30.0

    @property
    def provenance(self) -> Provenance:
        """Where the numbers of this run come from."""
        return Provenance(
            recipe=self.recipe.name,
            seed=self.seed,
            data=f"{self.data.source} ({self.data.fingerprint})",
            commit=commit(),
            versions=versions(),
            device=device_name(self.device),
        )

    def key(self, *parts: object) -> str:
        """Returns a short key of the data, the seed and `parts`: what a stage's result depends on."""
        text = "\n".join(map(repr, (self.data.fingerprint, self.seed, *parts)))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def commit() -> str:
    """Returns the version-control commit that the package runs from, or "unknown" if it is installed."""
    try:
        # A package that is installed inside somebody's repository has nothing to do with its commits.
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
    """Returns the versions of what the numbers depend on."""
    names = ("steadylens", "torch", "numpy", "pillow")
    return (("python", platform.python_version()), *((name, version(name)) for name in names))


def device_name(device: torch.device) -> str:
    """Returns what the numbers are computed on, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
