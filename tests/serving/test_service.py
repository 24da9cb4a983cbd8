"""Metrics are in the text format that Prometheus reads, and add up."""

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from steadylens.serving.service import SECONDS, Monitor


def samples(monitor: Monitor) -> dict[str, float]:
    """Returns the samples of a text as Prometheus reads it, by name and labels."""
    families = text_string_to_metric_families(monitor.text().decode())
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in families
        for sample in family.samples
    }


@given(values=st.lists(st.floats(0, 100), max_size=30))
def test_each_bucket_counts_the_values_up_to_its_bound(values: list[float]) -> None:
    monitor = Monitor()
    for value in values:
        monitor.answered(200, value)
    found = samples(monitor)
    name = "steadylens_request_seconds"
    for bound in SECONDS:
        assert found[f"{name}_bucket {bound}"] == sum(value <= bound for value in values)
    assert found[f"{name}_bucket +Inf"] == found[f"{name}_count"] == len(values)
    assert found[f"{name}_sum"] == pytest.approx(sum(values))


def test_the_text_has_every_metric_with_its_help_and_type() -> None:
    monitor = Monitor()
    for status in (200, 200, 413):
        monitor.answered(status, 0.02)
    monitor.batched(3)
    with monitor.in_flight(), monitor.in_flight():
        text = monitor.text().decode()
        found = samples(monitor)
    assert text.endswith("\n")
    assert found["steadylens_requests_total 200"] == 2
    assert found["steadylens_requests_total 413"] == 1
    assert found["steadylens_queue_requests"] == 2
    assert samples(monitor)["steadylens_queue_requests"] == 0
    assert found["steadylens_batch_images_bucket 4.0"] == 1
    families = list(text_string_to_metric_families(text))
    assert {(family.name, family.type) for family in families} == {
        ("steadylens_requests", "counter"),
        ("steadylens_request_seconds", "histogram"),
        ("steadylens_batch_images", "histogram"),
        ("steadylens_queue_requests", "gauge"),
    }
    assert all(family.documentation for family in families)
    assert "# TYPE steadylens_requests_total counter" in text
    assert "_created" not in text


def test_services_share_no_metrics_and_leave_those_of_the_process_alone() -> None:
    first, second = Monitor(), Monitor()
    first.batched(3)
    assert samples(first)["steadylens_batch_images_count"] == 1
    assert samples(second)["steadylens_batch_images_count"] == 0
    assert "steadylens" not in prometheus_client.generate_latest().decode()
