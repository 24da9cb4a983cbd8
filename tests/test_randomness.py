"""A seed depends on its path of names and on nothing else."""

import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steadylens.randomness import derived_generator, derived_seed

paths = st.lists(st.text(max_size=4) | st.integers(), max_size=3).map(tuple)


def test_a_seed_is_the_first_63_bits_of_the_hash_of_its_path() -> None:
    digest = hashlib.sha256(b"7/'stability'/3").hexdigest()
    assert derived_seed(7, "stability", 3) == int(digest[:16], 16) // 2


def test_seeds_stay_the_same_from_release_to_release() -> None:
    assert derived_seed(0) == 3_456_079_177_858_693_020
    assert derived_seed(1, "stability", "10.0", 4) == 2_418_599_926_514_851_618


@given(seed=st.integers(), path=paths)
def test_a_seed_fits_63_bits(seed: int, path: tuple[str | int, ...]) -> None:
    assert 0 <= derived_seed(seed, *path) < 2**63


@given(first=paths, second=paths)
def test_distinct_paths_have_distinct_seeds(
    first: tuple[str | int, ...], second: tuple[str | int, ...]
) -> None:
    assert (derived_seed(0, *first) == derived_seed(0, *second)) == (first == second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("ab", "c"), ("a", "bc")),
        (("a/b",), ("a", "b")),
        (("a'/'b",), ("a", "b")),
        (("1",), (1,)),
        (("a", "b"), ("b", "a")),
        ((), ("",)),
    ],
)
def test_similar_paths_have_different_seeds(
    first: tuple[str | int, ...], second: tuple[str | int, ...]
) -> None:
    assert derived_seed(0, *first) != derived_seed(0, *second)


def test_distinct_seeds_of_the_run_have_distinct_draws() -> None:
    assert len({derived_seed(seed, "weights") for seed in range(1000)}) == 1000


def test_a_draw_does_not_depend_on_the_work_done_before() -> None:
    alone = torch.rand(5, generator=derived_generator(3, "noise", 2))
    torch.rand(7)
    torch.rand(11, generator=derived_generator(3, "noise", 1))
    assert torch.equal(torch.rand(5, generator=derived_generator(3, "noise", 2)), alone)


def test_the_draws_of_neighbouring_paths_do_not_correlate() -> None:
    draws = torch.stack(
        [torch.randn(20_000, generator=derived_generator(0, "block", block)) for block in range(4)]
    )
    correlation = torch.corrcoef(draws) - torch.eye(4)
    assert correlation.abs().max() < 0.03


def test_the_global_generator_does_not_change() -> None:
    state = torch.get_rng_state()
    torch.rand(3, generator=derived_generator(0, "noise"))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_generator_draws_where_it_is_asked_to() -> None:
    assert derived_generator(0, "noise", device=torch.device("cpu")).device.type == "cpu"
    assert derived_generator(0, "noise").initial_seed() == derived_seed(0, "noise")
