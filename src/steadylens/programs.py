"""Reads programs of torch.export, without what older PyTorch warns of in its own code."""

import warnings
from pathlib import Path

import torch
from torch.export import ExportedProgram


def read_program(path: Path) -> ExportedProgram:
    """Returns a program that `torch.export.save` wrote; reading it may run what it holds.

    It changes Python's warning filters while it runs.

    Raises:
        Exception: Whatever PyTorch raises on a file that is none.
    """
    with warnings.catch_warnings():
        # Older PyTorch (2.11) makes tensors of bytes, which it then copies.
        warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
        return torch.export.load(path)
