"""The ``memory`` kind: objects in this process, shaped like an object store.

The reference of the interface: every promise an object store can keep, with nothing in between. Like S3 it has no
directories, only prefixes. Everything is gone when the adapter is.
"""

from __future__ import annotations

import asyncio
import bisect
import dataclasses
import hashlib
import itertools
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from cdir.errors import AlreadyExists, NotFound, PreconditionFailed
from cdir_adapters.acl import Access, Acl
from cdir_adapters.adapter import (
    FULL,
    NO_METADATA,
    Adapter,
    AdapterInfo,
    ByteRange,
    Checksum,
    FetchedObject,
    ObjectInfo,
    ObjectKind,
    Page,
    ReadStream,
    Source,
    Usage,
    WriteMode,
)
from cdir_adapters.capability import Capability, ChecksumKind
from cdir_adapters.registry import OptionValue
from cdir_adapters.shapes import (
    BufferedReadStream,
    collect,
    lower_keys,
    pages_of,
    require,
    require_write,
    resolve_range,
)

__all__ = ["MemoryAdapter"]

_INLINE_DIGEST = 1 << 20
"""Up to this many bytes a digest takes less time than handing it to a thread is worth."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Stored:
    info: ObjectInfo
    data: bytes
    acl: Acl


class MemoryAdapter(Adapter):
    """Objects in a dictionary; a write takes effect in one assignment."""

    capability = Capability(
        write_if_absent=True,
        write_if_match=True,
        read_if_match=True,
        write_unknown_size=True,
        write_atomic=True,
        copy=True,
        move=True,
        list_recursive=True,
        list_ordered=True,
        list_current=True,
        metadata=True,
        modified_settable=True,
        modified_listed=True,
        modified_precision=timedelta(microseconds=1),
        acl=True,
        acl_grants=True,
        write_access=True,
        usage=True,
        etag=True,
        checksums=frozenset({ChecksumKind.SHA256}),
    )

    def __init__(self, name: str, options: Mapping[str, OptionValue] | None = None) -> None:
        self.info = AdapterInfo("memory", name, "memory of this process")
        self._objects: dict[str, _Stored] = {}
        self._keys: list[str] = []
        self._versions = itertools.count(1)

    async def check(self) -> None:
        return

    async def prepare(self) -> None:
        return

    async def stat(self, key: str) -> ObjectInfo:
        return self._get(key).info

    def _get(self, key: str) -> _Stored:
        try:
            return self._objects[key]
        except KeyError:
            raise NotFound(f"{key} does not exist at provider {self.info.name}", key=key) from None

    async def list(
        self, prefix: str, *, recursive: bool = False, start_after: str | None = None
    ) -> AsyncIterator[Page]:
        if start_after is not None:
            require(self, self.capability.list_ordered, "list_ordered")
        for page in pages_of(self._walk(f"{prefix}/" if prefix else "", recursive, start_after)):
            yield page

    def _walk(self, prefix: str, recursive: bool, start_after: str | None) -> Iterator[ObjectInfo]:
        """Find each next key anew, so that writes between two pages disturb nothing."""
        last, skip = (prefix, bisect.bisect_left) if start_after is None else (start_after, bisect.bisect_right)
        last = max(last, prefix)
        while (at := skip(self._keys, last)) < len(self._keys) and self._keys[at].startswith(prefix):
            key = self._keys[at]
            name, slash, _ = key[len(prefix) :].partition("/")
            skip = bisect.bisect_right
            if slash and not recursive:
                yield ObjectInfo(key=prefix + name, size=0, kind=ObjectKind.DIRECTORY)
                last, skip = prefix + name + chr(ord("/") + 1), bisect.bisect_left
                continue
            last = key
            yield dataclasses.replace(self._objects[key].info, metadata=NO_METADATA)

    @asynccontextmanager
    async def read(
        self, key: str, *, range: ByteRange = FULL, if_match: str | None = None
    ) -> AsyncIterator[ReadStream]:
        found = await self.fetch(key, range=range, if_match=if_match)
        yield BufferedReadStream(found.info, found.data)

    async def fetch(self, key: str, *, range: ByteRange = FULL, if_match: str | None = None) -> FetchedObject:
        stored = self._get(key)
        if if_match is not None:
            require(self, self.capability.read_if_match, "read_if_match")
            self._match(key, if_match)
        offset, length = resolve_range(range, stored.info.size, key)
        return FetchedObject(stored.info, stored.data[offset : offset + length])

    def _match(self, key: str, etag: str) -> None:
        stored = self._objects.get(key)
        if stored is None or stored.info.etag != etag:
            raise PreconditionFailed(f"{key} is not the object with the ETag {etag} any more", key=key)

    async def write(
        self,
        key: str,
        source: Source,
        *,
        size: int | None,
        modified: datetime,
        mode: WriteMode = WriteMode.OVERWRITE,
        if_match: str | None = None,
        metadata: Mapping[str, str] = NO_METADATA,
        access: Access | None = None,
    ) -> ObjectInfo:
        require_write(self, size, mode, if_match, access)
        data = await collect(source, size, key)
        digest = hashlib.sha256(data) if len(data) <= _INLINE_DIGEST else await asyncio.to_thread(hashlib.sha256, data)
        info = ObjectInfo(
            key=key,
            size=len(data),
            modified=modified,
            etag=f'"{next(self._versions)}"',
            checksum=Checksum(ChecksumKind.SHA256, digest.hexdigest()),
            metadata=lower_keys(metadata),
        )
        # from here on nothing awaits: the conditions and the change are one step
        if mode is WriteMode.CREATE and key in self._objects:
            raise AlreadyExists(f"{key} exists already at provider {self.info.name}", key=key)
        if if_match is not None:
            self._match(key, if_match)
        self._store(_Stored(info, data, Acl(access or Access.PRIVATE)))
        return info if access is None else dataclasses.replace(info, access=access)

    def _store(self, stored: _Stored) -> None:
        key = stored.info.key
        if key not in self._objects:
            bisect.insort(self._keys, key)
        self._objects[key] = stored

    def _remove(self, key: str) -> None:
        if self._objects.pop(key, None) is not None:
            del self._keys[bisect.bisect_left(self._keys, key)]

    async def delete(self, key: str, *, if_match: str | None = None) -> None:
        if if_match is not None:
            require(self, self.capability.write_if_match, "write_if_match")
            if key in self._objects:
                self._match(key, if_match)
        self._remove(key)

    async def copy(self, source: str, target: str) -> ObjectInfo:
        require(self, self.capability.copy, "copy")
        stored = self._get(source)
        info = dataclasses.replace(stored.info, key=target, etag=f'"{next(self._versions)}"')
        self._store(_Stored(info, stored.data, Acl(Access.PRIVATE)))
        return info

    async def move(self, source: str, target: str) -> ObjectInfo:
        require(self, self.capability.move, "move")
        info = dataclasses.replace(self._get(source).info, key=target)
        if source != target:
            self._store(dataclasses.replace(self._objects[source], info=info))
            self._remove(source)
        return info

    async def get_acl(self, key: str) -> Acl:
        require(self, self.capability.acl, "acl")
        return self._get(key).acl

    async def set_acl(self, key: str, acl: Acl) -> Acl:
        require(self, self.capability.acl, "acl")
        if not self.capability.acl_grants:
            acl = Acl(acl.access)
        self._store(dataclasses.replace(self._get(key), acl=acl))
        return acl

    async def usage(self) -> Usage:
        require(self, self.capability.usage, "usage")
        return Usage(used=sum(stored.info.size for stored in self._objects.values()))
