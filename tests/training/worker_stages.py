"""A program: runs a stage alone or as one of several workers; one of them may be killed on the way."""

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

from steadylens import devices, workers
from steadylens.errors import SettingError, StorageError
from steadylens.progress import Update
from steadylens.training import stages
from steadylens.training.augmentation import Augmentation
from steadylens.training.optimizers import MomentumSgd
from tests.coloured import coloured_data
from tests.tiny_runs import TINY, Notebook, run_of

STEPS = 6

CUT = 3

CLASSIFIER = replace(
    TINY.classifier,
    steps=STEPS,
    batch=5,
    optimization=MomentumSgd(learning_rate=0.01),
    augmentation=Augmentation(),
)


@dataclass
class Killing(Notebook):
    """Kills its own process after some steps, as a machine that fails would."""

    def __call__(self, update: Update) -> None:
        if update.done == CUT and workers.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        super().__call__(update)


def trained(path: Path, *, observe: Notebook, seed: int = 0) -> list[str]:
    """Trains the sign net, saving after each step, and returns what was reported."""
    run = run_of(coloured_data(), observe, seed=seed, recipe=replace(TINY, classifier=CLASSIFIER), seconds=0)
    net = stages.train_classifier(run, path, width=0.2)
    total = sum(value.double().sum().item() for value in net.module.state_dict().values())
    return [*(state for state in observe.states if state != "advanced"), str(total), str(net.info.validation)]


def refused(work: Callable[[], object]) -> str:
    try:
        work()
    except (SettingError, StorageError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def thread_names() -> list[str]:
    """Returns the names of all threads of this process, or none where there is no /proc to tell them."""
    names = []
    for file in Path("/proc/self/task").glob("*/comm"):
        with suppress(OSError):  # the thread has just ended
            names.append(file.read_text(encoding="utf-8").strip())
    return names


def main(path: Path, *, killing: bool) -> None:
    found: dict[str, object] = {}
    with patch.object(devices, "has_fast_bfloat16", lambda device: False), workers.joined():
        found["trained"] = trained(path, observe=Killing() if killing else Notebook())
        found["again"] = trained(path, observe=Notebook())
        found["other seed"] = refused(lambda: trained(path, observe=Notebook(), seed=1))
        other = path.with_stem("other")
        found["seeds of their own"] = refused(lambda: trained(other, observe=Notebook(), seed=workers.rank()))
        with patch.object(stages, "save_state", side_effect=StorageError("the disk is full")):
            found["full disk"] = refused(lambda: trained(other, observe=Notebook()))
    found["threads of the exchange"] = [name for name in thread_names() if "gloo" in name]
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), killing=sys.argv[2:] == ["killing"])
