"""Opening files for reading: what a path names, and a verified reader over its copies."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

from cdir.errors import CdirError, IsDirectory, NotFound
from cdir.v1 import catalog_service_pb2, entry_pb2
from cdir_gateway.ledger import Ledger
from cdir_transfer.reader import OpenContent, VerifiedReader

__all__ = ["FileReader", "OpenFile", "WantedFile", "copies_at"]


class WantedFile(NamedTuple):
    """A content of the file at ``path``, in normal form."""

    workspace: str
    path: str
    generation: int | None = None
    """``None`` is the current one."""
    provider: str = ""
    """Restricts reading to that provider's copy, unless empty."""

    @property
    def ref(self) -> catalog_service_pb2.PathRef:
        """The path as the catalog is asked for it."""
        return catalog_service_pb2.PathRef(workspace=self.workspace, path=self.path, generation=self.generation)


class OpenFile:
    """A file that can be read."""

    __slots__ = ("_content", "_ledger", "_reader", "_wanted", "entry", "replicas", "version")

    def __init__(
        self, ledger: Ledger, reader: VerifiedReader, wanted: WantedFile, found: catalog_service_pb2.ResolvedEntry
    ) -> None:
        self._ledger = ledger
        self._reader = reader
        self._wanted = wanted
        self._content: OpenContent | None = None
        self.entry = found.entry
        self.version = found.version
        self.replicas = copies_at(found.replicas, wanted.provider)
        """Its copies when it was opened, best first."""

    @property
    def content(self) -> OpenContent:
        """The verified reader of its bytes, the same one each time."""
        if self._content is None:
            self._content = self._reader.open(self.version, self.replicas, self._resolve_again, label=self._wanted.path)
        return self._content

    async def _resolve_again(self) -> Sequence[entry_pb2.Replica]:
        path = self._wanted.path
        now = await self._ledger.resolve(self._wanted._replace(generation=self.version.generation).ref)
        if now.version.version_id != self.version.version_id:
            raise NotFound(f"{path} was replaced or moved while it was read", path=path)
        return copies_at(now.replicas, self._wanted.provider)


class FileReader:
    """Opens files for the whole gateway."""

    def __init__(self, ledger: Ledger, reader: VerifiedReader) -> None:
        self._ledger = ledger
        self._reader = reader

    def reading(self) -> AbstractContextManager[None]:
        """Count a caller who reads, for as long as the context is open."""
        return self._ledger.reading()

    async def open(self, workspace: str, path: str, *, generation: int | None = None, provider: str = "") -> OpenFile:
        """Open one content, as :class:`WantedFile` names it.

        Raises NotFound (no such file, generation, or copy at that provider) and IsDirectory.
        """
        wanted = WantedFile(workspace, path, generation, provider)
        return self._opened(wanted, await self._ledger.resolve(wanted.ref))

    async def open_each(self, wanted: Sequence[WantedFile]) -> list[OpenFile | CdirError]:
        """As :meth:`open`, for several files; what :meth:`open` would raise stands in the place of its file."""
        opened: list[OpenFile | CdirError] = []
        for one, found in zip(wanted, await self._ledger.resolve_each([one.ref for one in wanted]), strict=True):
            try:
                opened.append(found if isinstance(found, CdirError) else self._opened(one, found))
            except CdirError as error:
                opened.append(error)
        return opened

    def _opened(self, wanted: WantedFile, found: catalog_service_pb2.ResolvedEntry) -> OpenFile:
        path, provider = wanted.path, wanted.provider
        if found.entry.kind != entry_pb2.ENTRY_KIND_FILE:
            raise IsDirectory(f"{path} is a directory; name a file", path=path)
        opened = OpenFile(self._ledger, self._reader, wanted, found)
        if provider and not opened.replicas:
            raise NotFound(f"provider {provider} holds no good copy of {path}", path=path, provider=provider)
        return opened


def copies_at(replicas: Sequence[entry_pb2.Replica], provider: str) -> Sequence[entry_pb2.Replica]:
    """Return the copies at the provider of that name; all, if it is empty."""
    return [replica for replica in replicas if replica.provider == provider] if provider else replicas
