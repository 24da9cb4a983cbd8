"""Finds the image in a form (multipart/form-data, RFC 7578), in memory.

python-multipart reads the form. Its parser is a loop in Python: quick on ordinary forms, but some forms would
keep it busy for seconds. Those are refused before it starts.
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
"""How many parts a form may have: the image, and fields that are ignored."""

_BOUNDARY = re.compile(rb"[ -~]{1,70}")

_DAMAGED = "the form is cut off or does not fit its boundary; send it again"

# The parser logs a warning for each damaged form; without this handler, Python would print them all.
logging.getLogger("python_multipart").addHandler(logging.NullHandler())


def file_of_form(body: bytes, declared: str) -> bytes:
    """Returns the content of the only file in a form.

    Args:
        body: The body of the request.
        declared: The content type of the request, which names the boundary between the parts.

    Raises:
        HttpError: 400 if the form is cut off or damaged, has too many parts, or has no file or several.
    """
    boundary = parse_options_header(declared.encode())[1].get(b"boundary", b"")
    if not _BOUNDARY.fullmatch(boundary):
        raise HttpError(400, "the form has no boundary of 1 to 70 ASCII characters; send an ordinary form")
    _check_delimiters(body, b"\r\n--" + boundary)
    form = _Form()
    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": form.begin_part,
            "on_header_begin": form.begin_header,
            "on_header_field": form.add_to_name,
            "on_header_value": form.add_to_value,
            "on_header_end": form.end_header,
            "on_headers_finished": form.end_headers,
            "on_part_data": form.add_content,
            "on_end": form.end,
        },
    )
    try:
        parser.write(body)
    except MultipartParseError as error:
        raise HttpError(400, _DAMAGED) from error
    if not form.ended:
        raise HttpError(400, _DAMAGED)
    if form.files != 1:
        raise HttpError(400, f"the form holds {form.files} files; send exactly one image")
    return b"".join(form.content)


def _check_delimiters(body: bytes, delimiter: bytes) -> None:
    """Refuses a form with many lines that begin like a boundary: the parser is slow at each of them."""
    count = body.count(delimiter)
    if count > MOST_PARTS:
        raise HttpError(400, f"the form has more than {MOST_PARTS} parts; send the image alone")
    if count != body.count(delimiter + b"\r\n") + body.count(delimiter + b"--"):
        raise HttpError(400, _DAMAGED)


class _Form:
    """What the parser reports about a form. Of the files, only the first one's content is kept."""

    def __init__(self) -> None:
        self.files = 0
        self.content: list[bytes] = []
        self.ended = False
        self._is_file = False
        self._name = self._value = b""

    def begin_part(self) -> None:
        self._is_file = False

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

    def end_headers(self) -> None:
        self.files += self._is_file

    def add_content(self, data: bytes, start: int, end: int) -> None:
        if self._is_file and self.files == 1:
            self.content.append(data[start:end])

    def end(self) -> None:
        self.ended = True
