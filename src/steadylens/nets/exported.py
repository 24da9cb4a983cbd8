"""Programs that `torch.export.save` wrote, as classifiers."""

import warnings
import zipfile
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from steadylens.errors import CheckpointError, SettingError
from steadylens.images.preprocessing import Preprocessing, PreprocessingOptions
from steadylens.nets.classification import PreparedClassifier


def read_program(path: Path) -> ExportedProgram:
    """Reads a program that `torch.export.save` wrote. Reading it may run code from the file.

    Not thread-safe: Python's warning filters are changed meanwhile.

    Raises:
        Exception: Whatever PyTorch raises if the file is no such program.
    """
    with warnings.catch_warnings():
        # PyTorch 2.11 warns about tensors that share memory with read-only bytes; it copies them afterwards.
        warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
        return torch.export.load(path)


def exported_classifier(
    path: str | Path,
    options: PreprocessingOptions = PreprocessingOptions(),  # noqa: B008 - frozen
) -> PreparedClassifier:
    """Reads a classifier that `torch.export.save` wrote. It works behind a restorer, but cannot be saved.

    Reading such a file may run code from it: open only files that you trust.

    Args:
        path: The file, conventionally .pt2. The program has one input, images with a dynamic batch dimension.
        options: The input size, by default the one that it was exported with; mean and std, by default 0 and
            1, for a program that normalises by itself; and the fit, by default squashing.

    Raises:
        CheckpointError: If the file is missing or damaged.
        SettingError: If the program's input is not a batch of square RGB images of that size.
    """
    path = Path(path)
    if not zipfile.is_zipfile(path):
        state = "is damaged or no exported program" if path.exists() else "does not exist"
        raise CheckpointError(f"{path} {state}; write it with torch.export.save")
    try:
        program = read_program(path)
    except Exception as error:  # torch.export.load raises many kinds of errors
        raise CheckpointError(
            f"{path} is damaged or no exported program; write it with torch.export.save"
        ) from error
    inputs = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    shape = tuple(inputs[0].meta["val"].shape) if len(inputs) == 1 else ()
    fixed = [side if isinstance(side, int) else None for side in shape]  # None: a dynamic dimension
    side = options.size or (fixed[-1] if fixed else None)
    if len(fixed) != 4 or fixed[0] is not None or side is None or {*fixed[2:]} - {None, side}:
        raise SettingError(
            f"{path} reads inputs of shape {shape}; export it for one input (N, 3, S, S) with a dynamic N, "
            "and give a size that fits"
        )
    body = _ExportedBody(program.module())
    return PreparedClassifier(body, options.over(Preprocessing(size=side))).eval()


class _ExportedBody(nn.Module):
    """An exported program as a module. `train` only sets the flag, as the program raises an error there."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def train(self, mode: bool = True) -> Self:
        self.training = mode
        return self

    def forward(self, images: Tensor) -> Any:
        return self.program(images)
