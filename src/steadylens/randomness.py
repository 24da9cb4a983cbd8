"""Random generators derived from one seed and a path of names: no draw depends on the order of the work."""

import hashlib

import torch


def derived_seed(seed: int, *path: str | int) -> int:
    """Returns a 63-bit seed for the draw that `path` names; different paths give independent seeds."""
    text = "/".join(repr(part) for part in (seed, *path))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def derived_generator(seed: int, *path: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Returns a new generator on `device` for the draw that `path` names.

    Args:
        seed: The seed of the whole run.
        path: Names and numbers of the draw, for example "stability", sigma, block.
        device: The device of the generator.
    """
    return torch.Generator(device).manual_seed(derived_seed(seed, *path))
