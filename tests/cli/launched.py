"""The command `steadylens` for tests of several workers: `python -m tests.cli.launched OPTIONS`.

It tells the process of each worker, saves trainings after every step, times a net once, and trains in float32
on every processor. The environment's variable CHANGE_TO_1 is a folder into which worker 1 goes.
"""

import os
import sys

import torch

from steadylens.cli.main import main
from steadylens.evaluation import experiments
from steadylens.training.run import Run

if __name__ == "__main__":
    rank = os.environ.get("RANK", "0")
    print(f"worker {rank} is process {os.getpid()}", file=sys.stderr, flush=True)  # noqa: T201
    os.chdir(os.environ.get(f"CHANGE_TO_{rank}", "."))
    experiments.LONG_SECONDS = -1.0
    defaults = Run.__init__.__kwdefaults__
    assert defaults is not None
    defaults["checkpoint_seconds"] = 0.0
    setattr(torch.cpu, "get_capabilities", dict)  # noqa: B010 - mypy
    main()
