"""Small nets of timm and transformers, whose weights are the same each time, and images for them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import transformers
from torch import Tensor

NAMES = {0: "stop", 1: "yield", 2: "no entry"}


def seeded(make: Callable[[], Any]) -> Any:
    """Makes a net whose random weights are the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return make().eval()


def pixels(size: int, *, count: int = 2, seed: int = 1) -> Tensor:
    """Returns images as they are stored, uint8 (N, 3, S, S)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def timm_net() -> Any:
    """Returns a small timm model whose mean and deviation are not the usual ones of ImageNet."""
    return seeded(lambda: timm.create_model("test_resnet", num_classes=5))


def vit() -> Any:
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        image_size=32, patch_size=8, id2label=NAMES, label2id={v: k for k, v in NAMES.items()},
    )  # fmt: skip
    return seeded(lambda: transformers.ViTForImageClassification(config))


def write_folder(folder: Path, net: Any, processor: Any) -> Path:
    """Writes a net and its image processor as users of transformers have them."""
    net.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def vit_folder(folder: Path) -> Path:
    processor = transformers.ViTImageProcessor(
        size={"height": 32, "width": 32}, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.25, 0.3]
    )
    return write_folder(folder, vit(), processor)
