"""The layer that believes no adapter: sizes are counted, and checksums compared where that costs next to nothing.

Innermost, so that every other layer sees only what holds. The digest recorded at commit is checked elsewhere, over
every byte; this finds a provider that lies about sizes before anything else is built on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final

from cdir.errors import CdirError, IntegrityError
from cdir_adapters.acl import Access
from cdir_adapters.adapter import (
    FULL,
    NO_METADATA,
    Beginning,
    ByteRange,
    FetchedObject,
    ObjectInfo,
    ReadStream,
    SmallObject,
    Source,
    WriteMode,
)
from cdir_adapters.capability import ChecksumKind
from cdir_adapters.layers.wrapper import WatchedSource, WrapperAdapter
from cdir_runtime.crc32c import Crc32c
from cdir_runtime.inline_hash import hash_inline

__all__ = ["VerifyAdapter"]

_CHEAP = 64 * 1024
"""Bytes up to which a digest takes a small part of the time of a call."""

_CHEAP_CRC: Final = 4 * 1024 * 1024
"""The same for a CRC32C, which a processor has an instruction for."""


def _crc32c(data: bytes) -> str:
    crc = Crc32c()
    crc.update(data)
    return crc.hexdigest()


_CHECKSUMS: Final[Mapping[ChecksumKind, tuple[int, Callable[[bytes], str]]]] = {
    ChecksumKind.MD5: (_CHEAP, lambda data: hash_inline(hashlib.md5, data).hexdigest()),
    ChecksumKind.SHA1: (_CHEAP, lambda data: hash_inline(hashlib.sha1, data).hexdigest()),
    ChecksumKind.SHA256: (_CHEAP, lambda data: hash_inline(hashlib.sha256, data).hexdigest()),
    ChecksumKind.CRC32C: (_CHEAP_CRC, _crc32c),
}
"""How large a content may be to be held against a checksum of each kind, and its checksum as hex."""


_OTHER_CHECKSUM: Final = "the content does not have the checksum that the provider states"


def _expected(info: ObjectInfo, range: ByteRange) -> int:
    rest = max(info.size - range.offset, 0)
    return rest if range.length is None else min(range.length, rest)


class _CountedReadStream(ReadStream):
    def __init__(self, layer: VerifyAdapter, inner: ReadStream, range: ByteRange) -> None:
        self.info = inner.info
        self._layer = layer
        self._inner = inner
        self._left = _expected(inner.info, range)
        stated = inner.info.checksum
        whole = self._left == inner.info.size
        self._crc = Crc32c() if whole and stated is not None and stated.kind is ChecksumKind.CRC32C else None

    async def __anext__(self) -> bytes:
        try:
            piece = await self._inner.__anext__()
        except StopAsyncIteration:
            if self._left:
                raise self._layer.broken(self.info.key, f"{self._left} bytes fewer than announced came") from None
            stated = self.info.checksum
            if self._crc is not None and stated is not None and self._crc.hexdigest() != stated.value:
                raise self._layer.broken(self.info.key, _OTHER_CHECKSUM) from None
            raise
        self._left -= len(piece)
        if self._left < 0:
            raise self._layer.broken(self.info.key, f"{-self._left} bytes more than announced came")
        if self._crc is not None:
            self._crc.update(piece)
        return piece


class VerifyAdapter(WrapperAdapter):
    """Raises IntegrityError for what does not fit together. An object written wrongly is removed."""

    def broken(self, key: str, what: str) -> IntegrityError:
        return IntegrityError(f"{key} at provider {self.info.name}: {what}", key=key, provider=self.info.name)

    def _differs(self, info: ObjectInfo, data: bytes) -> bool:
        checksum = info.checksum
        if checksum is None or checksum.compared or checksum.kind not in _CHECKSUMS:
            return False
        most, checksum_of = _CHECKSUMS[checksum.kind]
        return len(data) <= most and checksum_of(data) != checksum.value

    @asynccontextmanager
    async def read(
        self, key: str, *, range: ByteRange = FULL, if_match: str | None = None
    ) -> AsyncIterator[ReadStream]:
        async with self.inner.read(key, range=range, if_match=if_match) as stream:
            yield _CountedReadStream(self, stream, range)

    async def fetch(self, key: str, *, range: ByteRange = FULL, if_match: str | None = None) -> FetchedObject:
        found = await self.inner.fetch(key, range=range, if_match=if_match)
        error = self._fault(found, key, range)
        if error is not None:
            raise error
        return found

    async def fetch_each(self, beginnings: Sequence[Beginning]) -> Sequence[FetchedObject | CdirError]:
        found = await self.inner.fetch_each(beginnings)
        return [
            one if isinstance(one, CdirError) else self._fault(one, key, ByteRange(0, length)) or one
            for one, (key, length) in zip(found, beginnings, strict=True)
        ]

    def _fault(self, found: FetchedObject, key: str, range: ByteRange) -> IntegrityError | None:
        expected = _expected(found.info, range)
        if len(found.data) != expected:
            return self.broken(key, f"{len(found.data)} bytes came instead of {expected}")
        if len(found.data) == found.info.size and self._differs(found.info, found.data):
            return self.broken(key, _OTHER_CHECKSUM)
        return None

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
        watched = None if isinstance(source, bytes) else WatchedSource(source)
        info = await self.inner.write(
            key,
            watched or source,
            size=size,
            modified=modified,
            mode=mode,
            if_match=if_match,
            metadata=metadata,
            access=access,
        )
        sent = watched.size if watched is not None else len(source) if isinstance(source, bytes) else 0
        wrong = self._wrong(info, sent, source if isinstance(source, bytes) else None)
        if wrong is not None:
            await self.inner.delete(key)
            raise wrong
        return info

    async def write_each(self, objects: Sequence[SmallObject]) -> Sequence[ObjectInfo | CdirError]:
        outcomes: list[ObjectInfo | CdirError] = []
        for one, info in zip(objects, await self.inner.write_each(objects), strict=True):
            outcome = info
            if not isinstance(info, CdirError):
                outcome = self._wrong(info, len(one.data), one.data) or info
            if outcome is not info:
                await self.inner.delete(one.key)
            outcomes.append(outcome)
        return outcomes

    def _wrong(self, info: ObjectInfo, sent: int, data: bytes | None) -> IntegrityError | None:
        if info.size != sent:
            what = f"{sent} bytes were sent, but it holds {info.size}"
        elif data is not None and self._differs(info, data):
            what = "what it holds has another checksum than what was sent"
        else:
            return None
        return self.broken(info.key, f"{what}; it was removed")
