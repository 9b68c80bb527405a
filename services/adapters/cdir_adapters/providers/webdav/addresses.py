"""Between keys and URLs, in both directions; what a server says about URLs is not trusted."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from yarl import URL

from cdir_adapters.names import NameEncoding
from cdir_adapters.providers.webdav.settings import WebdavSettings

__all__ = ["Addresses", "Elsewhere"]

_AUTHORITY: Final = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*:)?//[^/]*")
_UNNAMEABLE: Final = re.compile(r"[/\x00-\x1f\x7f-\x9f]")


class Elsewhere(Exception):
    """The server lists something that does not lie in the folder that was asked for."""


class Addresses:
    """The URLs of one provider."""

    def __init__(self, settings: WebdavSettings) -> None:
        self._origin = settings.origin
        self._root = settings.segments
        self._uploads = settings.uploads
        self._case_sensitive = settings.profile.case_sensitive
        forbidden = settings.profile.forbidden_names
        self._names = None if forbidden is None else NameEncoding(forbidden)

    def file(self, key: str) -> URL:
        """Where an object lies."""
        return self._url((*self._root, *self._segments(key)))

    def folder(self, key: str) -> URL:
        """Where a folder lies: with a slash at the end, since several servers redirect from the name without it."""
        return self._url((*self._root, *self._segments(key), ""))

    def above(self, levels: int) -> URL:
        """The folder that lies so many levels above the root."""
        return self._url((*self._root[: len(self._root) - levels], ""))

    @property
    def depth(self) -> int:
        """How many folders lie above the root."""
        return len(self._root)

    def upload(self, *names: str) -> URL:
        """Where chunks are put."""
        return self._url((*self._uploads, *names))

    def child_of(self, folder: str, href: str) -> str | None:
        """Return the name right in ``folder`` that ``href`` gives; empty for the folder itself.

        ``None`` for a name that nobody can give here, since it is no text or holds control characters. Raises
        :class:`Elsewhere`. The host that ``href`` may name is left aside: behind a proxy it is often another one.
        """
        return self._relative((*self._root, *self._segments(folder)), href)

    def upload_child(self, href: str) -> str | None:
        """The same for the folder of all uploads."""
        return self._relative(self._uploads, href)

    def _relative(self, folder: Sequence[str], href: str) -> str | None:
        authority = _AUTHORITY.match(href)
        path = href[authority.end() :] if authority else href
        if path and not path.startswith("/"):
            raise Elsewhere
        raw = [unquote_to_bytes(segment) for segment in path.split("/") if segment]
        above, below = raw[: len(folder)], raw[len(folder) :]
        if [self._comparable(name) for name in above] != [self._comparable(name.encode()) for name in folder]:
            raise Elsewhere
        if not below:
            return ""
        if len(below) > 1 or below[0] in {b".", b".."}:
            raise Elsewhere
        try:
            name = below[0].decode()
        except UnicodeDecodeError:
            return None
        if _UNNAMEABLE.search(name):
            return None
        return name if self._names is None else self._names.decode(name)

    def _segments(self, key: str) -> list[str]:
        if not key:
            return []
        return (key if self._names is None else self._names.encode(key)).split("/")

    def _url(self, segments: Sequence[str]) -> URL:
        return URL("/".join((self._origin, *(quote(segment, safe="") for segment in segments))), encoded=True)

    def _comparable(self, name: bytes) -> str:
        text = unicodedata.normalize("NFC", name.decode(errors="surrogateescape"))
        return text if self._case_sensitive else text.casefold()
