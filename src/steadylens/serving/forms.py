"""Reads the files of a form, multipart/form-data as in RFC 7578, in memory.

The parser, python-multipart, is a loop in Python: quick on ordinary forms, but some forms would keep it busy
for seconds. Those are refused before. What the parser does not know is taken away before: a preamble, and
spaces behind a boundary, both of which RFC 2046 allows.
"""

import logging
import re

from steadylens.errors import MissingExtraError
from steadylens.serving.payloads import HttpError

try:
    from python_multipart import MultipartParser
    from python_multipart.exceptions import MultipartParseError
    from python_multipart.multipart import parse_options_header
except ImportError as error:
    raise MissingExtraError("python-multipart", "serve") from error

MOST_PARTS = 32
"""How many parts a form may have: images, and fields that are ignored."""

_BOUNDARY = re.compile(rb"[ -~]{1,70}")

_DAMAGED = "the form is cut off or does not fit its boundary; send it again"

# The parser logs a warning for each damaged form; without this handler, Python would print them all.
logging.getLogger("python_multipart").addHandler(logging.NullHandler())


def files_of_form(body: bytes, declared: str) -> list[bytes]:
    """Returns the contents of the files in a form, at least one.

    A file field that was left empty, without a name and content, is no file.

    Args:
        body: The body of the request.
        declared: The content type of the request, which names the boundary between the parts.

    Raises:
        HttpError: 400 if the form is cut off or damaged, has too many parts, or has no file.
    """
    boundary = parse_options_header(declared.encode())[1].get(b"boundary", b"")
    if not _BOUNDARY.fullmatch(boundary):
        raise HttpError(400, "the form has no boundary of 1 to 70 ASCII characters; send an ordinary form")
    form = _Form()
    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": form.begin_part,
            "on_header_begin": form.begin_header,
            "on_header_field": form.add_to_name,
            "on_header_value": form.add_to_value,
            "on_header_end": form.end_header,
            "on_part_data": form.add_content,
            "on_part_end": form.end_part,
            "on_end": form.end,
        },
    )
    try:
        parser.write(_plain(body, b"--" + boundary))
    except MultipartParseError as error:
        raise HttpError(400, _DAMAGED) from error
    if not form.ended:
        raise HttpError(400, _DAMAGED)
    if not form.files:
        raise HttpError(400, "the form holds no file; send an image as a file")
    return form.files


def _plain(body: bytes, delimiter: bytes) -> bytes:
    """Returns a form without its preamble and without spaces behind its boundaries.

    A form with many lines that begin like a boundary is refused: the parser is slow at each of them.
    """
    count = body.count(b"\r\n" + delimiter) + body.startswith(delimiter)
    if count > MOST_PARTS + 1:
        raise HttpError(400, f"the form has more than {MOST_PARTS} parts; send fewer images or fields")
    whole = re.compile(rb"(\A|\r\n)" + re.escape(delimiter) + rb"(--)?[ \t]*(?=\r\n|\Z)")
    body, lines = whole.subn(rb"\1" + delimiter.replace(b"\\", rb"\\") + rb"\2", body)
    if not count or lines != count:
        raise HttpError(400, _DAMAGED)
    start = 0 if body.startswith(delimiter) else body.find(b"\r\n" + delimiter) + 2
    return body[start:] if start else body


class _Form:
    """What the parser reports about a form."""

    def __init__(self) -> None:
        self.files: list[bytes] = []
        self.ended = False
        self._content: list[bytes] = []
        self._is_file = self._is_named = False
        self._name = self._value = b""

    def begin_part(self) -> None:
        self._is_file = self._is_named = False
        self._content = []

    def begin_header(self) -> None:
        self._name = self._value = b""

    def add_to_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def add_to_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def end_header(self) -> None:
        if self._name.lower() == b"content-disposition":
            # Old clients write a name beyond ASCII as filename*=, which the parser ignores as RFC 7578 says.
            options = parse_options_header(self._value.replace(b"filename*=", b"filename="))[1]
            self._is_file = b"filename" in options
            self._is_named = bool(options.get(b"filename"))

    def add_content(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._content.append(data[start:end])

    def end_part(self) -> None:
        content = b"".join(self._content)
        if self._is_file and (self._is_named or content):
            self.files.append(content)

    def end(self) -> None:
        self.ended = True
