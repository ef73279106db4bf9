"""The Content-Disposition of a multipart form's parts, read as the form's body arrives."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from python_multipart.multipart import parse_options_header

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks


class PartHeaders:
    """Reads the headers of each part for a MultipartParser."""

    def __init__(self) -> None:
        self._header = (bytearray(), bytearray())
        self._disposition = b""

    def callbacks(self, on_part: Callable[[], None]) -> MultipartCallbacks:
        """The parser's callbacks; `on_part` is called when the headers of a part are complete."""
        return {
            "on_part_begin": self._begin_part,
            "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": on_part,
        }

    def options(self) -> dict[bytes, bytes]:
        """The options of the present part's Content-Disposition, such as b"name" and b"filename"."""
        return parse_options_header(self._disposition)[1]

    def _begin_part(self) -> None:
        self._disposition = b""

    def _end_header(self) -> None:
        name, value = (bytes(part) for part in self._header)
        self._header = (bytearray(), bytearray())
        if name.lower() == b"content-disposition":
            self._disposition = value
