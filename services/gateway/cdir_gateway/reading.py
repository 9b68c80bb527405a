"""Opening files for reading: what a path names, and a verified reader over its copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cdir.errors import IsDirectory, NotFound
from cdir.v1 import catalog_service_pb2, entry_pb2
from cdir_gateway.ledger import Ledger
from cdir_transfer.reader import OpenContent, VerifiedReader

__all__ = ["FileReader", "OpenFile"]


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file that can be read."""

    entry: entry_pb2.Entry
    content: OpenContent
    replicas: Sequence[entry_pb2.Replica]
    """Its copies when it was opened, best first."""


class FileReader:
    """Opens files for the whole gateway."""

    def __init__(self, ledger: Ledger, reader: VerifiedReader) -> None:
        self._ledger = ledger
        self._reader = reader

    async def open(self, workspace: str, path: str, *, generation: int | None = None, provider: str = "") -> OpenFile:
        """Open a content of the file at ``path``, in normal form.

        ``generation`` ``None`` opens the current one. ``provider`` restricts reading to that provider's copy. Raises
        NotFound (no such file, generation, or copy at that provider) and IsDirectory.
        """
        found = await self._resolve(workspace, path, generation)
        if found.entry.kind != entry_pb2.ENTRY_KIND_FILE:
            raise IsDirectory(f"{path} is a directory; name a file", path=path)
        version = found.version
        replicas = _at(found.replicas, provider)
        if provider and not replicas:
            raise NotFound(f"provider {provider} holds no good copy of {path}", path=path, provider=provider)

        async def resolve_again() -> Sequence[entry_pb2.Replica]:
            now = await self._resolve(workspace, path, version.generation)
            if now.version.version_id != version.version_id:
                raise NotFound(f"{path} was replaced or moved while it was read", path=path)
            return _at(now.replicas, provider)

        return OpenFile(found.entry, self._reader.open(version, replicas, resolve_again, label=path), replicas)

    async def _resolve(self, workspace: str, path: str, generation: int | None) -> catalog_service_pb2.ResolvedEntry:
        return await self._ledger.resolve(
            catalog_service_pb2.PathRef(workspace=workspace, path=path, generation=generation)
        )


def _at(replicas: Sequence[entry_pb2.Replica], provider: str) -> Sequence[entry_pb2.Replica]:
    return [replica for replica in replicas if replica.provider == provider] if provider else replicas
