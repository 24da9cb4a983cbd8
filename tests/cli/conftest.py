"""Folders of images and nets to restore them with."""

from pathlib import Path

import numpy as np
import platformdirs
import pytest
from PIL import Image
from torch import nn

from steadylens.checkpoints.checkpoint import save_model
from steadylens.nets.restoration import GaussianSmoothing

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps what is noted of files restored in place out of the folder of whoever runs the tests."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(platformdirs, "user_state_path", lambda name: tmp_path / "state" / name)


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    save_model(tmp_path / "identity.safetensors", nn.Identity(), about={})
    return tmp_path / "identity.safetensors"


@pytest.fixture
def smoothing(tmp_path: Path) -> Path:
    save_model(tmp_path / "smoothing.safetensors", GaussianSmoothing(sigma_pixels=1.0), about={})
    return tmp_path / "smoothing.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Returns a folder of images of many kinds."""
    root = tmp_path / "in"
    (root / "deep").mkdir(parents=True)
    Image.fromarray(PIXELS[..., :3]).save(root / "a.png")
    Image.fromarray(PIXELS).save(root / "deep" / "b.webp", lossless=True, exact=True)
    Image.fromarray(PIXELS.view(np.uint16)[..., 0]).save(root / "deep" / "c.tif")
    Image.fromarray(PIXELS[..., 0]).save(root / "d.bmp")
    return root
