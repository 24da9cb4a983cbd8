"""Figures are in the text format that Prometheus reads, and add up."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadylens.serving.service import SECONDS, Histogram, Monitor

SAMPLE = re.compile(r'[a-z_]+(\{[a-z]+="[^"\n]*"\})? -?[0-9.]+(e-?[0-9]+)?')


@given(values=st.lists(st.floats(0, 100), max_size=30))
def test_each_bucket_counts_the_values_up_to_its_bound(values: list[float]) -> None:
    histogram = Histogram(SECONDS)
    for value in values:
        histogram.observe(value)
    lines = dict(line.rsplit(" ", 1) for line in histogram.lines("x"))
    for bound in SECONDS:
        assert int(lines[f'x_bucket{{le="{bound}"}}']) == sum(value <= bound for value in values)
    assert int(lines['x_bucket{le="+Inf"}']) == int(lines["x_count"]) == len(values)
    assert float(lines["x_sum"]) == pytest.approx(sum(values))


def test_the_text_has_every_figure_with_its_help_and_type() -> None:
    monitor = Monitor(lambda: 7)
    for status in (200, 200, 413):
        monitor.answered(status, 0.02)
    monitor.batched(3)
    text = monitor.text()
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    assert text.endswith("\n")
    assert all(SAMPLE.fullmatch(line) for line in samples)
    assert 'steadylens_requests_total{status="200"} 2' in samples
    assert 'steadylens_requests_total{status="413"} 1' in samples
    assert "steadylens_queue_requests 7" in samples
    assert 'steadylens_batch_images_bucket{le="4.0"} 1' in samples
    names = {re.sub(r"(_bucket|_sum|_count)?(\{.*)? .*", "", line) for line in samples}
    for name in names:
        assert f"# TYPE {name} " in text
        assert f"# HELP {name} " in text
