"""The files of a form come through unchanged; what is no form is refused with a reason, and quickly."""

import time

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadylens.serving.forms import MOST_PARTS, files_of_form
from steadylens.serving.payloads import FORM_TYPE, HttpError, checked_type


def refused(body: bytes, headers: dict[str, str]) -> HttpError:
    with pytest.raises(HttpError) as caught:
        files_of_form(body, checked_type(headers))
    return caught.value


def status_or_length(body: bytes) -> int:
    try:
        return sum(map(len, files_of_form(body, checked_type(OF_X))))
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
    assert files_of_form(body, declared) == [content]


@pytest.mark.parametrize("count", [1, 2, 31])
def test_the_files_of_a_form_come_through_in_their_order(count: int) -> None:
    contents = [bytes([number]) * number for number in range(count)]
    body, declared = form([("image", (f"{number}.png", each)) for number, each in enumerate(contents)], {})
    assert files_of_form(body, declared) == contents


def test_a_form_without_a_file_is_refused() -> None:
    body = b"--x\r\nContent-Disposition: form-data; name=i\r\n\r\nx\r\n--x--\r\n"
    refusal = refused(body, OF_X)
    assert (refusal.status, "holds no file" in refusal.reason) == (400, True)


@given(length=st.integers(0, 2**31))
def test_a_form_that_is_cut_off_is_refused(length: int) -> None:
    body, declared = form([("image", ("a.png", bytes(range(256))))], {})
    with pytest.raises(HttpError, match="cut off"):
        files_of_form(body[: length % (len(body) - 4)], declared)


@pytest.mark.parametrize(
    "boundary", ["boundary=x", 'Boundary="x"', "charset=utf-8; boundary=x; a=b", 'boundary="x" ']
)
def test_a_boundary_is_found_however_it_is_written(boundary: str) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="i"; filename="i"\r\n\r\ncontent\r\n--x--\r\n'
    assert files_of_form(body, checked_type({"content-type": f"{FORM_TYPE}; {boundary}"})) == [b"content"]


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
        files_of_form(b"--x--", checked_type({"content-type": f"{FORM_TYPE}; {boundary}"}))


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
        assert files_of_form(body, checked_type(OF_X)) == [b"content"]
    else:
        assert "holds no file" in refused(body, OF_X).reason


def test_a_large_file_between_fields_comes_through_unchanged() -> None:
    content = bytes(range(256)) * 2**13
    field = b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n" + bytes(10**5) + b"\r\n"
    body = field + WHOLE.replace(b"content\r\n", content + b"\r\n" + field)
    assert files_of_form(body, checked_type(OF_X)) == [content]


def test_a_form_may_have_fields_beside_the_image_but_not_without_end() -> None:
    field = b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n"
    assert files_of_form(field * (MOST_PARTS - 1) + WHOLE, checked_type(OF_X)) == [b"content"]
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
        b"a preamble",
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


EMPTY_FIELD = b'--x\r\nContent-Disposition: form-data; name="j"; filename=""\r\nContent-Type: a/b\r\n\r\n\r\n'


@pytest.mark.parametrize(
    "body",
    [
        b"a preamble\r\n" + WHOLE,
        b"\r\n" + WHOLE,
        b"a preamble\r\nof --x lines\r\n\r\n" + WHOLE,
        WHOLE + b"an epilogue",
        WHOLE[:-2],
        WHOLE.replace(b"--x\r\n", b"--x \t \r\n"),
        WHOLE.replace(b"--x--", b"--x--  "),
        WHOLE.replace(HEAD, b"Content-Disposition:form-data;name=i;filename=i"),
        WHOLE.replace(HEAD, b"content-disposition:\tform-data ; name = i;filename = i"),
        WHOLE.replace(HEAD, b'Content-Disposition:form-data;filename="i";name="i"\r\nContent-Type:image/png'),
        EMPTY_FIELD + WHOLE,
        WHOLE.replace(b"--x--", EMPTY_FIELD + b"--x--"),
        WHOLE.replace(b'"i"\r', b'""\r'),
    ],
    ids=range(13),
)
def test_what_is_legal_is_read(body: bytes) -> None:
    for declared in ("multipart/form-data;boundary=x", 'multipart/form-data ; boundary="x"'):
        assert files_of_form(body, checked_type({"content-type": declared})) == [b"content"]


def test_a_named_file_without_content_is_a_file() -> None:
    assert files_of_form(WHOLE.replace(b"content", b""), checked_type(OF_X)) == [b""]


def test_a_boundary_of_any_characters_is_taken_as_it_is() -> None:
    boundary = b"a.b*c\\1(d)+?"
    body = b"a preamble\r\n" + WHOLE.replace(b"--x", b"--" + boundary)
    declared = {"content-type": f'{FORM_TYPE}; boundary="{boundary.decode()}"'}
    assert files_of_form(body, checked_type(declared)) == [b"content"]


@pytest.mark.parametrize(
    "content",
    [
        b"\r\n--x" + b" " * 2**23,
        (b"\r\n--x" + b" " * 1000) * 8000,
        (b"\r\n--x" + b" " * 2**18 + b"z") * 31,
        b"\r\n--x" * 2 + b" \t" * 2**22 + b"y",
        b"\r" * 2**23,
        b"\r\n-" * 2**21,
    ],
    ids=range(6),
)
def test_a_form_that_would_keep_the_parser_busy_is_done_with_soon(content: bytes) -> None:
    began = time.process_time()
    status_or_length(WHOLE.replace(b"content", content))
    assert time.process_time() - began < 2
