"""A program comes back as it was written, in silence."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from steadylens.programs import read_program


def test_a_program_that_is_read_again_computes_the_same_and_nothing_is_warned_of(tmp_path: Path) -> None:
    net, images = nn.Conv2d(3, 4, 3).eval(), torch.rand(2, 3, 8, 9)
    torch.export.save(torch.export.export(net, (images,)), tmp_path / "net.pt2")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = read_program(tmp_path / "net.pt2").module()(images)
    assert [str(each.message) for each in caught if each.category is UserWarning] == []
    torch.testing.assert_close(found, net(images))


def test_what_is_no_program_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "net.pt2").write_bytes(b"no program")
    with pytest.raises(Exception, match=r"."):
        read_program(tmp_path / "net.pt2")
