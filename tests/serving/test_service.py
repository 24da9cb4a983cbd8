"""Metrics are in the text format that Prometheus reads, and add up.

The only file of a form comes through unchanged; any other form is refused with a reason, and quickly.
"""

import httpx
import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from steadylens.serving.payloads import FORM_TYPE, HttpError, checked_type
from steadylens.serving.service import MOST_PARTS, SECONDS, Monitor, file_of_form


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
    monitor = Monitor(lambda: 0)
    for value in values:
        monitor.answered(200, value)
    found = samples(monitor)
    name = "steadylens_request_seconds"
    for bound in SECONDS:
        assert found[f"{name}_bucket {bound}"] == sum(value <= bound for value in values)
    assert found[f"{name}_bucket +Inf"] == found[f"{name}_count"] == len(values)
    assert found[f"{name}_sum"] == pytest.approx(sum(values))


def test_the_text_has_every_metric_with_its_help_and_type() -> None:
    monitor = Monitor(lambda: 7)
    for status in (200, 200, 413):
        monitor.answered(status, 0.02)
    monitor.batched(3)
    text = monitor.text().decode()
    assert text.endswith("\n")
    found = samples(monitor)
    assert found["steadylens_requests_total 200"] == 2
    assert found["steadylens_requests_total 413"] == 1
    assert found["steadylens_queue_requests"] == 7
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
    first, second = Monitor(lambda: 1), Monitor(lambda: 2)
    first.batched(3)
    assert samples(first)["steadylens_batch_images_count"] == 1
    assert samples(second)["steadylens_batch_images_count"] == 0
    assert "steadylens" not in prometheus_client.generate_latest().decode()


def refused(body: bytes, headers: dict[str, str]) -> HttpError:
    with pytest.raises(HttpError) as caught:
        file_of_form(body, checked_type(headers))
    return caught.value


def status_or_length(body: bytes) -> int:
    try:
        return len(file_of_form(body, checked_type(OF_X)))
    except HttpError as refusal:
        return refusal.status


@given(declared=st.text(max_size=80), encoding=st.text(max_size=10))
def test_any_headers_are_accepted_or_refused_and_nothing_else(declared: str, encoding: str) -> None:
    for kind in (declared, f"{FORM_TYPE}; {declared}"):
        assert refused(b"", {"content-type": kind, "content-encoding": encoding}).status in (400, 415)


def form(files: list[tuple[str, tuple[str, bytes]]], data: dict[str, str]) -> tuple[bytes, str]:
    """Returns a form as a common client writes it, and its content type."""
    request = httpx.Request("POST", "http://localhost", files=files, data=data)
    return request.read(), checked_type(request.headers)


@given(content=st.binary(max_size=300), name=st.text("abcdé \"'/;", min_size=1, max_size=20))
def test_the_file_of_a_form_comes_through_unchanged(content: bytes, name: str) -> None:
    body, declared = form([("image", (name, content))], {"note": "filename", "other": "x\r\n\r\ny"})
    assert file_of_form(body, declared) == content


@pytest.mark.parametrize("count", [0, 2])
def test_a_form_with_another_number_of_files_is_refused(count: int) -> None:
    boundary = "b" * 10
    part = f'--{boundary}\r\nContent-Disposition: form-data; name="i"; filename="i"\r\n\r\nx\r\n'
    body = f"{part * count}--{boundary}\r\nContent-Disposition: form-data\r\n\r\n\r\n--{boundary}--\r\n"
    with pytest.raises(HttpError, match=f"holds {count} files") as caught:
        file_of_form(body.encode(), checked_type({"content-type": f"{FORM_TYPE}; boundary={boundary}"}))
    assert caught.value.status == 400


@given(length=st.integers(0, 2**31))
def test_a_form_that_is_cut_off_is_refused(length: int) -> None:
    body, declared = form([("image", ("a.png", bytes(range(256))))], {})
    with pytest.raises(HttpError, match="cut off"):
        file_of_form(body[: length % (len(body) - 4)], declared)


@pytest.mark.parametrize(
    "boundary", ["boundary=x", 'Boundary="x"', "charset=utf-8; boundary=x; a=b", 'boundary="x" ']
)
def test_a_boundary_is_found_however_it_is_written(boundary: str) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="i"; filename="i"\r\n\r\ncontent\r\n--x--\r\n'
    assert file_of_form(body, checked_type({"content-type": f"{FORM_TYPE}; {boundary}"})) == b"content"


@pytest.mark.parametrize(
    "boundary",
    [
        "",
        "boundary=",
        f"boundary={'x' * 71}",
        "boundary*=x; boundary*0=y",
        f"boundary*{'9' * 5000}=x",
        "boundary*=\0''x",
        "boundary=\u00e9",
        ";" * 60_000,
    ],
    ids=lambda boundary: boundary[:20],
)
def test_a_form_without_a_proper_boundary_is_refused(boundary: str) -> None:
    with pytest.raises(HttpError, match="boundary"):
        file_of_form(b"--x--", checked_type({"content-type": f"{FORM_TYPE}; {boundary}"}))


HEAD = b'Content-Disposition: form-data; name="i"; filename="i"'
WHOLE = b"--x\r\n" + HEAD + b"\r\n\r\ncontent\r\n--x--\r\n"
OF_X = {"content-type": f"{FORM_TYPE}; boundary=x"}


@pytest.mark.parametrize(
    ("disposition", "files"),
    [
        (b'form-data; name="a; filename=b"', 0),
        (b"form-data; name=i; FileName=i", 1),
        (b"form-data; name=i; filename*=UTF-8''%C3%A9.png", 1),
        (b'form-data; name="filename*=i"', 0),
    ],
)
def test_a_part_is_a_file_if_its_header_names_one(disposition: bytes, files: int) -> None:
    body = WHOLE.replace(HEAD, b"content-disposition: " + disposition)
    if files:
        assert file_of_form(body, checked_type(OF_X)) == b"content"
    else:
        assert "holds 0 files" in refused(body, OF_X).reason


def test_a_large_file_between_fields_comes_through_unchanged() -> None:
    content = bytes(range(256)) * 2**13
    field = b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n" + bytes(10**5) + b"\r\n"
    body = field + WHOLE.replace(b"content\r\n", content + b"\r\n" + field)
    assert file_of_form(body, checked_type(OF_X)) == content


def test_a_form_may_have_fields_beside_the_image_but_not_without_end() -> None:
    field = b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n"
    assert file_of_form(field * (MOST_PARTS - 1) + WHOLE, checked_type(OF_X)) == b"content"
    refusal = refused(field * (MOST_PARTS + 1) + WHOLE, OF_X)
    assert (refusal.status, "more than 32 parts" in refusal.reason) == (400, True)


@pytest.mark.parametrize(
    "damage",
    [
        b"--x--",
        b"--x\r\n\r\n",
        WHOLE.replace(b"content", b"\r\n--xyz"),
        WHOLE.replace(b"content", b"\r\n--x" + b" " * 2**20),
        WHOLE.replace(b"content", b"\r\n--xy" * 2**17),
        WHOLE.replace(b"content", b"\r\n\r\n--x\r\n" * 2**17),
        WHOLE.replace(HEAD, b"a:" + b" " * 2**20),
        WHOLE.replace(HEAD, b"a: b\r\n" * 2**17 + HEAD),
        WHOLE.replace(b"Disposition: ", b"Disposition "),
        WHOLE.replace(b"\r\n", b"\n"),
        WHOLE.replace(b"--x", b"--y"),
        b"a preamble" + WHOLE,
    ],
    ids=lambda damage: repr(damage[:20]),
)
def test_a_damaged_form_is_refused(damage: bytes) -> None:
    assert refused(damage, OF_X).status == 400


@given(
    changes=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), min_size=1, max_size=8),
    length=st.integers(0, 200),
)
def test_a_changed_form_is_read_or_refused_and_nothing_else(
    changes: list[tuple[int, int]], length: int
) -> None:
    content = bytearray(WHOLE)
    for place, value in changes:
        content[place % len(content)] = value
    body = bytes(content[: 1 + length % len(content)])
    found = status_or_length(body)
    assert found == 400 or found < len(body)
