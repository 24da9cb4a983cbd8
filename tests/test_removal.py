"""The view of what was removed can be turned back into amounts by its scale."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadylens.removal import removal_view


@given(dtype=st.sampled_from([np.uint8, np.uint16]), channels=st.integers(1, 4), seed=st.integers(0, 99))
def test_the_view_and_its_scale_give_back_what_was_removed(dtype: Any, channels: int, seed: int) -> None:
    top = np.iinfo(dtype).max
    before, after = np.random.default_rng(seed).integers(0, top + 1, (2, 6, 7, channels)).astype(dtype)
    view, scale = removal_view(before, after)
    colours = {2: 1, 4: 3}.get(channels, channels)
    removed = (before[..., :colours].astype(float) - after[..., :colours]) * 255 / top
    assert view.shape == (6, 7, colours)
    assert scale == pytest.approx(abs(removed).max())
    assert abs((view - 128.0) / 127 * scale - removed).max() <= scale / 254 + 1e-9


def test_nothing_removed_is_grey_of_no_scale() -> None:
    levels = np.full((3, 4, 3), 9, np.uint8)
    view, scale = removal_view(levels, levels)
    assert (view == 128).all()
    assert scale == 0
