"""Reading a content for the first time: one that was found at a provider, and whose digests nobody knows yet.

Such a content can only be held against what the provider says of it: its size, its ETag or modified time, and its
checksum where it states one. All of it is read from one object, which must not change meanwhile. Whoever reads it to
its end learns its digests; from then on it is verified like any other.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from cdir.errors import IntegrityError, PreconditionFailed
from cdir.v1 import adapter_service_pb2, entry_pb2, scan_pb2
from cdir_runtime.crc32c import Crc32c
from cdir_transfer.digest import INLINE_BYTES, ContentDigest

__all__ = ["FirstReading", "Learning", "is_same_etag"]

_CHECKSUMS: Final[Mapping[str, Callable[[], hashlib._Hash | Crc32c]]] = {
    "md5": partial(hashlib.md5, usedforsecurity=False),
    "sha1": partial(hashlib.sha1, usedforsecurity=False),
    "sha256": hashlib.sha256,
    "crc32c": Crc32c,
}
"""Checksums of whole contents that are compared; of multipart and other kinds the bytes alone say nothing."""


def is_same_etag(one: str, other: str) -> bool:
    """Whether two ETags name the same content: providers quote them in one answer and not in the next."""
    return _bare(one) == _bare(other)


def _bare(etag: str) -> str:
    return etag.removeprefix("W/").strip('"')


class FirstReading:
    """Which object a content without digests is read from, and what is learnt on the way.

    :attr:`source` is chosen by the first range that is read; every other has to come from the same object.
    """

    def __init__(self, version: entry_pb2.Version) -> None:
        self.source: entry_pb2.Replica | None = None
        self.choosing = asyncio.Lock()
        """Held while the source is chosen: two ranges must not choose two."""
        self._version = version
        self._key = self._etag = ""
        self._stamp: tuple[str, int, int] = ("", 0, 0)

    def accept(self, replica: entry_pb2.Replica, key: str, found: adapter_service_pb2.FetchObjectResponse) -> None:
        """Take a range read at ``key``. Raises PreconditionFailed when the object is not the one that was found, or
        no longer the one that the ranges before came from."""
        stamp = (_bare(found.etag), found.modified.seconds, found.modified.nanos)
        if self.source is None:
            if replica.etag and found.etag and not is_same_etag(replica.etag, found.etag):
                raise self._changed(replica)
            if found.HasField("modified") and found.modified.seconds != self._version.modified.seconds:
                raise self._changed(replica)
            self.source, self._key, self._etag, self._stamp = replica, key, found.etag, stamp
        elif stamp != self._stamp:
            raise self._changed(replica)

    def of_another_size(self, replica: entry_pb2.Replica) -> PreconditionFailed:
        """The error when the object's size is not the one that was found."""
        return self._changed(replica)

    @staticmethod
    def _changed(replica: entry_pb2.Replica) -> PreconditionFailed:
        return PreconditionFailed(
            f"{replica.key} at provider {replica.provider} was changed by another program since it was found there;"
            " the next scan takes up what it is now",
            provider=replica.provider,
        )

    def begin(self) -> Learning:
        """Begin a pass over the whole content; its bytes come from :attr:`source`, which is chosen by then."""
        return Learning(self)

    def learnt(self, digest: ContentDigest) -> scan_pb2.LearntVersion:
        """Return what a pass has shown."""
        assert self.source is not None
        return scan_pb2.LearntVersion(
            version_id=self._version.version_id,
            provider_id=self.source.provider_id,
            key=self._key,
            etag=self._etag,
            checksum=self.source.checksum,
            modified=self._version.modified,
            size=digest.size,
            sha256=digest.sha256(),
            block_digests=digest.block_digests(),
        )


class Learning:
    """One pass over the whole content: :meth:`take` every piece in order, then :meth:`finish`."""

    def __init__(self, reading: FirstReading) -> None:
        self._reading = reading
        self._digest = ContentDigest()
        self._stated = ""
        self._checksum: hashlib._Hash | Crc32c | None = None

    async def take(self, piece: bytes) -> None:
        """Hash the next piece."""
        if not self._digest.size and self._reading.source is not None:
            kind, _, value = self._reading.source.checksum.partition(":")
            if kind in _CHECKSUMS:
                self._stated = value
                self._checksum = _CHECKSUMS[kind]()
        if len(piece) >= INLINE_BYTES:
            await asyncio.to_thread(self._update, piece)
        else:
            self._update(piece)

    def _update(self, piece: bytes) -> None:
        self._digest.update(piece)
        if self._checksum is not None:
            self._checksum.update(piece)

    def finish(self) -> scan_pb2.LearntVersion:
        """Return what was learnt. Raises IntegrityError when it is not what the provider says it holds."""
        if self._checksum is not None and self._checksum.hexdigest() != self._stated.lower():
            raise IntegrityError(f"the {self._checksum.name} differs from the one that the provider states")
        return self._reading.learnt(self._digest)
