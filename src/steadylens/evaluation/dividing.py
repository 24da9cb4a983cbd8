"""Runs nets over many images, in blocks that are divided among the workers of a job."""

from collections.abc import Callable

import torch
from torch import Tensor

from steadylens import workers
from steadylens.devices import cache_batch, forward_in_batches
from steadylens.images.tensors import to_float

BLOCK = 50
"""Images in a block, whose noise comes from one random generator.

So the noise depends neither on the batch size nor on the number of workers.
"""


def forward_divided(module: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Returns what `forward_in_batches` returns, to the last bit; each worker computes a part of it.

    Args:
        module: The net, on the images' device; see `forward_in_batches`.
        images: (N, C, H, W), of which a block at a time is turned into float32 in [0, 1] if they are uint8.
            The same on every worker.
    """
    batch = cache_batch(images.device)
    blocks = torch.split(images, -(-BLOCK // batch) * batch)  # a net gets the same batches as without blocks

    def forward(block: Tensor) -> Tensor:
        floats = to_float(block) if block.dtype == torch.uint8 else block
        return forward_in_batches(module, floats).cpu()

    return torch.cat(list(workers.divided(blocks, forward))).to(images.device)
