"""Each worker draws only blocks that it has places of, and gets its rows of what one process draws."""

import pytest
import torch
from torch import Tensor

from steadylens import workers
from steadylens.training.places import BLOCK, OwnPlaces, block_generator, own_places, step_seed


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draws a number for each of three versions of each image, and one for each image."""
    return torch.rand(3 * count, 2, generator=generator), torch.rand(count, generator=generator)


def of_worker(monkeypatch: pytest.MonkeyPatch, rank: int, count: int, batch: int) -> OwnPlaces:
    monkeypatch.setattr(workers, "rank", lambda: rank)
    monkeypatch.setattr(workers, "count", lambda: count)
    return own_places(batch, draw, generator=seeded(3))


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("batch", [1, 5, BLOCK, BLOCK + 1, 3 * BLOCK - 7])
def test_shares_side_by_side_are_the_batch_of_one_process(
    monkeypatch: pytest.MonkeyPatch, batch: int, count: int
) -> None:
    whole = own_places(batch, draw, generator=seeded(3))
    blocks: list[tuple[Tensor, Tensor]] = []
    seed, left = step_seed(seeded(3)), batch
    while left:
        blocks.append(draw(min(BLOCK, left), block_generator(seed, len(blocks))))
        left -= min(BLOCK, left)
    for place, found in enumerate(whole.drawn):
        assert torch.equal(found, torch.cat([block[place] for block in blocks]))
    shares = [of_worker(monkeypatch, rank, count, batch) for rank in range(count)]
    assert {share.seed for share in shares} == {whole.seed}
    own = [share.drawn for share in shares if share.drawn]
    for place, wanted in enumerate(whole.drawn):
        assert torch.equal(torch.cat([drawn[place] for drawn in own]), wanted)
    parts = [part for share in shares for part in share.parts(*share.drawn[:1])]
    assert torch.equal(torch.cat([part.tensors[0] for part in parts]), whole.drawn[0])
    assert {part.total for part in parts} == {3 * batch}
    firsts = [part.first for part in parts]
    assert firsts == [sum(len(part.tensors[0]) for part in parts[:number]) for number in range(len(parts))]


def test_a_worker_without_a_place_draws_nothing_but_keeps_step(monkeypatch: pytest.MonkeyPatch) -> None:
    generators = [seeded(3), seeded(3)]
    monkeypatch.setattr(workers, "count", lambda: 4)
    for rank, generator in enumerate(generators):  # worker 0 of 4 has none of 3 images
        monkeypatch.setattr(workers, "rank", lambda rank=rank: rank)
        own = own_places(3, draw, generator=generator)
        assert len(own.drawn) == 2 * rank
        assert len(list(own.parts(*own.drawn[:1]))) == rank
    assert torch.equal(generators[0].get_state(), generators[1].get_state())
