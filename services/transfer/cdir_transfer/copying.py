"""Storing a content that providers hold already: each copies its own object, and only who cannot is sent the bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import aclosing
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from cdir.errors import CdirError, IntegrityError, NotFound, ProviderUnavailable, Unsupported
from cdir.paths import RESERVED_ROOT_NAME
from cdir.status import translated
from cdir.v1 import adapter_service_pb2, catalog_service_pb2, entry_pb2
from cdir_transfer.digest import BLOCK_SIZE
from cdir_transfer.observer import is_providers_fault
from cdir_transfer.reader import OpenContent, transfer_deadline
from cdir_transfer.writer import Branch, Copies, ProviderWriter, RecordDisplaced

__all__ = ["HeldContent", "copy_held"]

_COPY_SECONDS: Final = 900.0
"""Some providers read and write every byte of an object to copy it."""


class HeldContent:
    """A content and where providers hold good copies of it.

    A provider copies by itself only an object that lies at a key of cdir's own: such a key names one content for ever.
    Under a name of the directory another content may lie by the time it is copied, and nobody would notice.
    """

    def __init__(self, content: OpenContent, replicas: Iterable[entry_pb2.Replica]) -> None:
        self.content = content
        self._aside: Mapping[str, entry_pb2.Replica] = {
            replica.provider_id: replica
            for replica in replicas
            if replica.key.startswith(f"{RESERVED_ROOT_NAME}/")
            and replica.state in {entry_pb2.REPLICA_STATE_OK, entry_pb2.REPLICA_STATE_STALE}
        }
        self._whole: bytes | None = None
        self._reading = asyncio.Lock()

    @property
    def version(self) -> entry_pb2.Version:
        return self.content.version

    def key_at(self, target: catalog_service_pb2.WriteTarget) -> str:
        """Return what the provider of ``target`` can copy, once the occupant was moved aside; empty for nothing."""
        if target.occupant.version_id == self.version.version_id:
            return target.occupant.aside_key
        replica = self._aside.get(target.provider_id)
        return "" if replica is None else replica.key

    def is_copied(self, provider_id: str, info: adapter_service_pb2.ObjectInfo) -> bool:
        """Say whether what a provider says about a copy is what it says about the original."""
        original = self._aside.get(provider_id)
        stated = {info.checksum, original.checksum} - {""} if original is not None else set()
        # a copy may be put together of other parts than the original was
        whole = {one for one in stated if not one.startswith("md5-multipart:")}
        return info.size == self.version.size and len(whole) <= 1

    async def whole(self) -> bytes:
        """Return a content of at most one block; it is read once, whoever asks."""
        async with self._reading:
            if self._whole is None:
                self._whole = await self.content.whole()
            return self._whole


def copy_held(
    writer: ProviderWriter,
    targets: Iterable[catalog_service_pb2.WriteTarget],
    held: HeldContent,
    *,
    modified: Timestamp,
    needed: int,
    record_displaced: RecordDisplaced,
) -> Copies:
    """Begin to store a content that providers hold already at every target; :class:`Copies` says how it goes on."""
    return Copies(writer, [_CopyBranch(writer, target, modified, record_displaced, held) for target in targets], needed)


class _CopyBranch(Branch):
    def __init__(
        self,
        writer: ProviderWriter,
        target: catalog_service_pb2.WriteTarget,
        modified: Timestamp,
        record_displaced: RecordDisplaced,
        held: HeldContent,
    ) -> None:
        super().__init__(writer, target, modified, record_displaced)
        self._held = held
        self._sent = 0
        self._reading_failed: CdirError | None = None

    async def _write(self) -> tuple[adapter_service_pb2.ObjectInfo, int]:
        size = self._held.version.size
        info = await self._copied()
        if info is None:
            info = await (self._put() if size <= BLOCK_SIZE else self._stream())
        return info, size

    async def _copied(self) -> adapter_service_pb2.ObjectInfo | None:
        """Have the provider copy its own object; ``None`` when it has none that is good, or cannot."""
        source = self._held.key_at(self.target)
        if not source:
            return None
        request = adapter_service_pb2.CopyObjectRequest(
            provider=self._ref, source=source, target=self.target.key, acl=self._acl
        )
        try:
            with translated():
                response = await self._writer.adapters.CopyObject(request, timeout=_COPY_SECONDS)
        except (NotFound, Unsupported, IntegrityError):
            return None
        return response.info if self._held.is_copied(self.target.provider_id, response.info) else None

    async def _put(self) -> adapter_service_pb2.ObjectInfo:
        try:
            data = await self._held.whole()
        except CdirError as error:
            raise _blameless(error) from error
        response = await self._writer.adapters.PutObject(
            adapter_service_pb2.PutObjectRequest(header=self._header(None), data=data),
            timeout=transfer_deadline(len(data)),
        )
        return response.info

    async def _stream(self) -> adapter_service_pb2.ObjectInfo:
        try:
            with translated():
                response = await self._writer.adapters.WriteObject(
                    self._steps(), timeout=transfer_deadline(self._held.version.size)
                )
        except CdirError as error:
            if self._reading_failed is not None:
                raise _blameless(self._reading_failed) from error
            raise
        return response.info

    async def _steps(self) -> AsyncIterator[adapter_service_pb2.WriteObjectRequest]:
        yield adapter_service_pb2.WriteObjectRequest(header=self._header(self._held.version.size))
        try:
            async with aclosing(self._held.content.blocks()) as blocks:
                async for block in blocks:
                    self._sent += len(block)
                    yield adapter_service_pb2.WriteObjectRequest(data=block)
        except CdirError as error:
            self._reading_failed = error
            return  # without a commit, nothing is stored
        yield adapter_service_pb2.WriteObjectRequest(commit=adapter_service_pb2.ObjectCommit(size=self._sent))


def _blameless(error: CdirError) -> CdirError:
    """Return the error of reading the content as one that says nothing about the provider that is written to."""
    kind = ProviderUnavailable if is_providers_fault(error) else type(error)
    return kind(error.message)
