"""The command `steadylens` for tests of several workers: `python -m tests.cli.launched OPTIONS`.

It tells the process of each worker, saves trainings after every step, times nets on single images only, draws
no figure of the paper, and trains in float32 on every processor. The environment's CHANGE_TO_1 is a folder
into which worker 1 goes.
"""

import os
import sys
from unittest.mock import patch

import torch

from steadylens.cli.main import main
from steadylens.evaluation import experiments
from steadylens.training.run import Run

if __name__ == "__main__":
    rank = os.environ.get("RANK", "0")
    print(f"worker {rank} is process {os.getpid()}", file=sys.stderr, flush=True)  # noqa: T201
    os.chdir(os.environ.get(f"CHANGE_TO_{rank}", "."))
    for function, setting in (
        (Run.__init__, {"checkpoint_seconds": 0.0}),
        (experiments.cost, {"batches": (1,)}),
    ):
        assert function.__kwdefaults__ is not None
        function.__kwdefaults__.update(setting)
    setattr(torch.cpu, "get_capabilities", dict)  # noqa: B010 - mypy
    if "reproduce" in sys.argv:  # else matplotlib is not needed
        patch("steadylens.report.drawing.svg", lambda figure: "<svg/>").start()
    main()
