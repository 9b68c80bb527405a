"""Reading multi-status answers (RFC 4918, section 13) piece by piece, as if an enemy had written them."""

from __future__ import annotations

import dataclasses
import re
from typing import Final
from xml.parsers import expat

__all__ = ["MultistatusError", "MultistatusParser", "Response", "number_in"]

_MAX_DEPTH: Final = 64
_MAX_TEXT: Final = 128 * 1024
"""Characters kept of one response: names and properties of one object."""
_MAX_TOKEN: Final = 1024 * 1024
"""Bytes without an element or text, which the parser has to hold until they end."""
_STATUS: Final = re.compile(r"HTTP/\S+\s+(\d{3})")

_MULTISTATUS: Final = "DAV: multistatus"
_RESPONSE: Final = "DAV: response"
_PROPSTAT: Final = "DAV: propstat"


class MultistatusError(Exception):
    """The answer is no multi-status, is not whole, or is not what an honest server sends."""


def number_in(text: str | None) -> int | None:
    """The whole number that a server has written; ``None`` when it is none, negative, or larger than any file."""
    return int(text) if text and len(text) < 20 and text.isascii() and text.isdigit() else None


@dataclasses.dataclass(slots=True)
class Response:
    """What is said about one URL."""

    href: str = ""
    status: int | None = None
    """Of the URL as a whole, where that is given."""
    properties: dict[str, str] = dataclasses.field(default_factory=dict)
    """Text of the properties that were found, by the local name; those of cdir's requests have different ones."""
    refused: dict[str, int] = dataclasses.field(default_factory=dict)
    """Status of the others."""
    collection: bool = False


class MultistatusParser:
    """Takes pieces of an answer and gives the responses that are whole.

    Document types, and with them entities that grow, are refused; depth and text are bounded. Unknown elements are
    passed over, as the standard asks.
    """

    def __init__(self) -> None:
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.buffer_text = True
        self._parser.StartDoctypeDeclHandler = self._doctype
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text
        self._path: list[str] = []
        self._done: list[Response] = []
        self._response = Response()
        self._found: dict[str, str] = {}
        self._status: int | None = None
        self._is_collection = False
        self._collected: list[str] | None = None
        self._characters = 0
        self._silent = 0

    def feed(self, piece: bytes) -> list[Response]:
        """Return the responses that end in ``piece``. Raises MultistatusError."""
        return self._parse(piece, last=False)

    def close(self) -> None:
        """Say that nothing follows. Raises MultistatusError when the document is not whole."""
        self._parse(b"", last=True)

    def _parse(self, piece: bytes, *, last: bool) -> list[Response]:
        self._silent += len(piece)
        try:
            self._parser.Parse(piece, last)
        except expat.ExpatError as error:
            raise MultistatusError(f"it is not whole or no XML: {expat.ErrorString(error.code)}") from None
        except (LookupError, ValueError):
            raise MultistatusError("it has an unknown encoding") from None
        if self._silent > _MAX_TOKEN:
            raise MultistatusError("it has a word without end")
        done, self._done = self._done, []
        return done

    def _doctype(self, *_: object) -> None:
        raise MultistatusError("it declares a document type, which no server needs")

    def _start(self, name: str, _: dict[str, str]) -> None:
        path = self._path
        self._silent = 0
        if not path and name != _MULTISTATUS:
            raise MultistatusError("it is another document")
        if len(path) >= _MAX_DEPTH:
            raise MultistatusError("its elements lie too deep")
        path.append(name)
        depth = len(path)
        if depth == 2 and name == _RESPONSE:
            self._response = Response()
            self._characters = 0
        elif depth == 3 and name == _PROPSTAT:
            self._found, self._status, self._is_collection = {}, None, False
        elif self._keeps_text(depth, name):
            self._collected = []
        elif depth == 6 and name == "DAV: collection" and path[4] == "DAV: resourcetype":
            self._is_collection = True

    def _keeps_text(self, depth: int, name: str) -> bool:
        if len(self._path) < 3 or self._path[1] != _RESPONSE:
            return False
        if depth == 3:
            return name in {"DAV: href", "DAV: status"}
        if self._path[2] != _PROPSTAT:
            return False
        if depth == 4:
            return name == "DAV: status"
        # oc:checksums wraps its text in one more element
        return depth == 5 and self._path[3] == "DAV: prop"

    def _text(self, text: str) -> None:
        self._silent = 0
        if self._collected is not None:
            self._count(len(text))
            self._collected.append(text)

    def _count(self, characters: int) -> None:
        self._characters += characters
        if self._characters > _MAX_TEXT:
            raise MultistatusError("it says too much about one file")

    def _end(self, name: str) -> None:
        depth = len(self._path)
        if self._collected is not None and depth in {3, 4, 5} and self._keeps_text(depth, name):
            text = "".join(self._collected).strip()
            self._collected = None
            self._take(depth, name, text)
        elif depth == 3 and name == _PROPSTAT:
            self._end_propstat()
        elif depth == 2 and name == _RESPONSE:
            self._done.append(self._response)
        self._path.pop()

    def _take(self, depth: int, name: str, text: str) -> None:
        if depth == 5:
            self._count(len(name))
            self._found[name.rpartition(" ")[2]] = text
        elif name == "DAV: href":
            self._response.href = self._response.href or text
        elif (status := _STATUS.match(text)) is None:
            raise MultistatusError("it has a status that is none")
        elif depth == 3:
            self._response.status = int(status[1])
        else:
            self._status = int(status[1])

    def _end_propstat(self) -> None:
        # some servers leave the status away where all is well
        status = 200 if self._status is None else self._status
        if 200 <= status < 300:
            self._response.properties.update(self._found)
            self._response.collection |= self._is_collection
        else:
            self._response.refused.update(dict.fromkeys(self._found, status))
