"""What the pages say of the U-Net holds in the records of the nets in the package."""

from pathlib import Path

import pytest

from steadylens.records import Contraction, Measurement, Restoring, read_records

RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture(scope="module")
def records() -> list[Measurement]:
    return read_records(RESULTS / "gtsrb-restorers.jsonl")


def restored(records: list[Measurement], name: str) -> dict[float, Restoring]:
    rows = [row for row in records if isinstance(row, Restoring) and row.network == name]
    return {row.sigma_grey: row for row in rows}


def test_the_u_net_restores_better_than_l11_at_every_strength(records: list[Measurement]) -> None:
    unet, paper = restored(records, "unet-gtsrb"), restored(records, "l11-gtsrb")
    gains = {sigma: unet[sigma].restored_db - row.restored_db for sigma, row in paper.items() if sigma > 0}
    assert min(gains) == 0.5
    assert max(gains) == 40
    assert all(gain > 0 for gain in gains.values())
    assert all(gain >= 0.5 for sigma, gain in gains.items() if sigma >= 15)
    assert unet[0].restored_db >= 60


@pytest.mark.parametrize(("name", "lowest"), [("unet-gtsrb", 0.5), ("unet-in-fused-gtsrb", 1)])
def test_the_u_net_leaves_less_noise_than_it_gets(
    name: str, lowest: float, records: list[Measurement]
) -> None:
    rows = restored(records, name).values()
    assert all(row.restored_db > row.noisy_db for row in rows if row.sigma_grey >= lowest)
    (contraction,) = (row for row in records if isinstance(row, Contraction) and row.network == name)
    assert dict(contraction.quantiles)[0.999] < 1
