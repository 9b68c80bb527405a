"""The answer to a listing, read without building a tree: a page has a thousand entries, a scan thousands of pages."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import datetime
from typing import Final, NamedTuple
from urllib.parse import unquote
from xml.parsers import expat

from cdir_adapters.providers.s3.headers import parse_time

__all__ = ["Listed", "ListedObject", "NoListing", "read_listing"]

_DEEPEST: Final = 16
_COUNTED: Final = {"IsTruncated", "Name"}
"""One of these is in every listing; a document without is another one."""


class NoListing(Exception):
    """The answer is something else than a listing, or is not whole."""


class ListedObject(NamedTuple):
    """An entry."""

    key: str
    size: int | None
    """``None`` where none is stated, as of entries that stand for no object."""
    modified: datetime | None
    etag: str | None


@dataclasses.dataclass(slots=True)
class Listed:
    """One page."""

    truncated: bool = False
    following: str | None = None
    """Where the next page begins, if the service says so."""
    objects: list[ListedObject] = dataclasses.field(default_factory=list)
    prefixes: list[str] = dataclasses.field(default_factory=list)


def read_listing(document: bytes) -> Listed:
    """Read an answer of either version. Raises NoListing."""
    return _Reader().read(document)


class _Reader:
    """Takes what the parser finds. Other elements are passed over."""

    def __init__(self) -> None:
        self._path: list[str] = []
        self._text: list[str] = []
        self._seen: set[str] = set()
        self._entry: dict[str, str] = {}
        self._tops: dict[str, str] = {}
        self._entries: list[dict[str, str]] = []
        self._prefixes: list[str] = []

    def read(self, document: bytes) -> Listed:
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._refuse
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text.append
        try:
            parser.Parse(document, True)
            return self._listed()
        except (expat.ExpatError, LookupError, ValueError):
            raise NoListing from None

    def _refuse(self, *_: object) -> None:
        raise NoListing  # with document types come entities that grow

    def _start(self, name: str, _: dict[str, str]) -> None:
        name = name.rpartition(":")[2]
        self._path.append(name)
        if len(self._path) > _DEEPEST:
            raise NoListing
        if len(self._path) == 2 and name == "Contents":
            self._entry = {}
        self._text.clear()

    def _end(self, _: str) -> None:
        name = self._path.pop()
        depth = len(self._path)
        if depth == 1:
            if name == "Contents":
                self._entries.append(self._entry)
            elif name != "CommonPrefixes":
                self._tops[name] = "".join(self._text)
        elif depth == 2:
            parent = self._path[1]
            if parent == "Contents":
                self._entry[name] = "".join(self._text)
            elif parent == "CommonPrefixes" and name == "Prefix":
                self._prefixes.append("".join(self._text))
        self._text.clear()

    def _listed(self) -> Listed:
        tops = self._tops
        if not _COUNTED & tops.keys():
            raise NoListing
        name_of: Callable[[str], str] = _decoded if tops.get("EncodingType") == "url" else str
        marker = tops.get("NextMarker")
        return Listed(
            truncated=tops.get("IsTruncated", "").strip().lower() == "true",
            following=tops.get("NextContinuationToken") or (name_of(marker) if marker else None),
            objects=[
                ListedObject(
                    name_of(entry.get("Key", "")),
                    int(entry["Size"]),
                    parse_time(entry.get("LastModified")),
                    entry.get("ETag"),
                )
                for entry in self._entries
            ],
            prefixes=[name_of(prefix) for prefix in self._prefixes],
        )


def _decoded(name: str) -> str:
    return unquote(name.replace("+", " "))
