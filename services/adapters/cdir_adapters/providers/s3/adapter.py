"""The adapter of the ``s3`` kind."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from cdir.errors import (
    AlreadyExists,
    CdirError,
    IntegrityError,
    InvalidPath,
    NotFound,
    PreconditionFailed,
    ProviderUnavailable,
    RangeNotSatisfied,
)
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
    Page,
    ReadStream,
    Source,
    WriteMode,
)
from cdir_adapters.capability import Capability, ChecksumKind
from cdir_adapters.names import NameEncoding
from cdir_adapters.parts import Sending
from cdir_adapters.providers.s3.acl import AclWire
from cdir_adapters.providers.s3.connections import Connections
from cdir_adapters.providers.s3.faults import Fault, Faults, Refused
from cdir_adapters.providers.s3.headers import (
    MTIME,
    checksum_of_etag,
    decode_metadata,
    digest_of_etag,
    encode_metadata,
    md5_of,
    parse_mtime,
)
from cdir_adapters.providers.s3.listing import Listing
from cdir_adapters.providers.s3.multipart import MultipartUpload, Part, first_of, part_sizes, parts_of
from cdir_adapters.providers.s3.settings import S3Settings
from cdir_adapters.providers.s3.single import MOST_WHOLE, PutPace, SourceFailed, put_streamed
from cdir_adapters.providers.s3.unfinished import UnfinishedUploads
from cdir_adapters.providers.s3.wire import Body, BotoWire, Condition, Head, Opened, PlainWire, Wire, cut_short
from cdir_adapters.registry import OptionValue
from cdir_adapters.shapes import (
    BufferedReadStream,
    chained,
    collect,
    exactly,
    first_cause,
    lower_keys,
    require,
    require_write,
    resolve_range,
)
from cdir_runtime.inline_hash import hash_inline

__all__ = ["S3Adapter"]

_COPY_LIMIT = 5 * 1024**3
"""The most that one copy request takes; larger objects are copied in parts of :data:`_COPY_PART`."""
_COPY_PART = 1024**3
_INLINE_DIGEST = 256 * 1024
"""Up to this many bytes a digest takes less time than handing it to a thread is worth."""


class S3Adapter(Adapter):
    """A bucket, or a prefix in one. Without directories: a prefix exists as long as something lies under it.

    Keys that have no normal form (an empty, ``.`` or ``..`` component, the ``folder/`` markers of some tools) can be
    named by nobody here and are left out of listings.
    """

    capability = Capability(
        write_if_absent=True,
        write_if_match=True,
        read_if_match=True,
        write_unknown_size=True,
        write_atomic=True,
        copy=True,
        list_recursive=True,
        list_ordered=True,
        list_current=True,
        metadata=True,
        acl=True,
        acl_grants=True,
        write_access=True,
        modified_settable=True,
        modified_precision=timedelta(microseconds=1),
        etag=True,
        checksums=frozenset({ChecksumKind.MD5, ChecksumKind.MD5_MULTIPART}),
        max_object_size=5 * 1024**4,
        max_path_bytes=1024,
    )

    def __init__(self, name: str, options: Mapping[str, OptionValue]) -> None:
        settings = S3Settings.from_options(options)
        self.info = AdapterInfo("s3", name, settings.location)
        self.capability = settings.profile.narrow(type(self).capability)
        self._settings = settings
        self._profile = settings.profile
        self._bucket = settings.bucket
        forbidden = settings.profile.forbidden_names
        self._names = None if forbidden is None else NameEncoding(forbidden)
        self._faults = Faults(name, settings.bucket, settings.endpoint or "Amazon S3")
        self._connections = Connections(settings)
        self._boto = boto = BotoWire(self._connections, self._faults, settings)
        # it signs in one way only
        self._wire: Wire = boto if settings.signature_v2 else PlainWire(self._connections, self._faults, settings, boto)
        self._pace = PutPace()
        self._acls = AclWire(self._connections, self._faults, settings.bucket)
        self._stated = self.capability.checksums
        self._etags_are_md5: bool | None = None
        """Whether the ETag of an object that was put whole is the MD5 of its content; ``None`` until one showed it."""
        self._etags_stay = True
        """Whether an object has the ETag that its put was answered with."""
        self._listing = Listing(self._wire, self._faults, settings, self._names, self._checksum, self._exists)
        self._unfinished = UnfinishedUploads(self._connections, self._faults, settings.bucket, settings.prefix)

    def __repr__(self) -> str:
        return f"S3Adapter({self.info.name!r}, {self.info.location!r})"

    def _place(self, key: str) -> str:
        """The key in the bucket."""
        return self._settings.prefix + (key if self._names is None else self._names.encode(key))

    # ------------------------------------------------------------------ the root

    async def check(self) -> None:
        try:
            await self._listing.ask_least()
        except Refused as refused:
            if refused.fault.bucket_is_gone:
                raise NotFound(
                    f"provider {self.info.name}: there is no bucket {self._bucket}", provider=self.info.name
                ) from None
            raise self._faults.error(refused.fault, "listing the bucket") from None

    async def prepare(self) -> None:
        with contextlib.suppress(NotFound):
            await self.check()
            return
        arguments: dict[str, Any] = {}
        if self._profile.location_constraint and self._settings.region != "us-east-1":
            arguments["CreateBucketConfiguration"] = {"LocationConstraint": self._settings.region}
        with self._faults.translated("making the bucket"):
            client = await self._connections.client()
            try:
                await client.create_bucket(Bucket=self._bucket, **arguments)
            except (client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
                # made in the meantime; some services say "exists" of one's own bucket, so only trying it tells
                await self.check()

    # ------------------------------------------------------------------ looking

    async def stat(self, key: str) -> ObjectInfo:
        return self._info_of_head(key, await self._head(key))

    async def _head(self, key: str) -> Head:
        async with self._bucket_required():
            return await self._wire.head(self._place(key))

    @asynccontextmanager
    async def _bucket_required(self) -> AsyncIterator[None]:
        """Let NotFound pass only where the bucket is there."""
        try:
            yield
        except NotFound:
            await self._require_bucket()
            raise

    async def _require_bucket(self) -> None:
        """A HEAD does not tell a missing object from a missing bucket, and the latter proves nothing."""
        try:
            if self._profile.bucket_head:
                await self._wire.head_bucket()
            else:
                try:
                    await self._listing.ask_least()
                except Refused as refused:
                    raise self._faults.error(refused.fault, "looking at the bucket") from None
        except NotFound:
            raise self._faults.error(Fault(404, "NoSuchBucket"), "looking at the bucket") from None
        except CdirError as error:
            if error.retry_after is not None or isinstance(error, ProviderUnavailable):
                raise
            # not allowed to look at the bucket as a whole: it is there

    def _info_of_head(self, key: str, head: Head) -> ObjectInfo:
        return ObjectInfo(
            key=key,
            size=head.size,
            modified=self._modified(head.metadata, head.modified),
            etag=head.etag,
            checksum=None if head.etag_is_no_digest else self._checksum(head.etag),
            metadata=decode_metadata(head.metadata),
        )

    def _checksum(self, etag: str | None) -> Checksum | None:
        """What an ETag says about the content, as far as is known of this service."""
        checksum = None if self._etags_are_md5 is False else checksum_of_etag(etag)
        return checksum if checksum is not None and checksum.kind in self._stated else None

    async def _exists(self, key: str) -> bool:
        try:
            await self._head(key)
        except NotFound:
            return False
        return True

    @staticmethod
    def _modified(metadata: Mapping[str, str], stored: datetime | None) -> datetime | None:
        given = metadata.get(MTIME)  # so it is nearly always spelled, and small reads are many
        if given is None:
            given = next((value for name, value in metadata.items() if name.lower() == MTIME), None)
        return parse_mtime(given) or stored

    async def list(
        self, prefix: str, *, recursive: bool = False, start_after: str | None = None
    ) -> AsyncIterator[Page]:
        async for page in self._listing.pages(prefix, recursive=recursive, start_after=start_after):
            yield page

    # ------------------------------------------------------------------ reading

    @asynccontextmanager
    async def read(
        self, key: str, *, range: ByteRange = FULL, if_match: str | None = None
    ) -> AsyncIterator[ReadStream]:
        async with contextlib.AsyncExitStack() as stack:
            opened = await self._open(stack, key, range, if_match)
            if isinstance(opened, ObjectInfo):
                yield BufferedReadStream(opened, b"")
            else:
                yield Body(self._info_of_opened(key, opened), opened)

    async def fetch(self, key: str, *, range: ByteRange = FULL, if_match: str | None = None) -> FetchedObject:
        if if_match is not None:
            require(self, self.capability.read_if_match, "read_if_match")
        if range.length != 0:
            with contextlib.suppress(RangeNotSatisfied):  # which may mean an empty object: told apart below
                whole, data = await self._wire.fetch(self._place(key), range, if_match)
                if len(data) != whole.length:
                    raise cut_short(key, whole.length - len(data))
                return FetchedObject(self._info_of_opened(key, whole), data)
        async with contextlib.AsyncExitStack() as stack:
            opened = await self._open(stack, key, range, if_match)
            if isinstance(opened, ObjectInfo):
                return FetchedObject(opened, b"")
            body = Body(self._info_of_opened(key, opened), opened)
            pieces = [piece async for piece in body]
            return FetchedObject(body.info, pieces[0] if len(pieces) == 1 else b"".join(pieces))

    async def _open(
        self, stack: contextlib.AsyncExitStack, key: str, range: ByteRange, if_match: str | None
    ) -> Opened | ObjectInfo:
        """Ask for a range; the bare info stands for an empty one, which HTTP cannot ask for."""
        if if_match is not None:
            require(self, self.capability.read_if_match, "read_if_match")
        if range.length == 0:
            info = await self._matching(key, if_match)
            resolve_range(range, info.size, key)
            return info
        try:
            return await stack.enter_async_context(self._wire.open(self._place(key), range, if_match))
        except RangeNotSatisfied:
            if range.offset:
                raise
            info = await self._matching(key, if_match)
            if info.size:
                raise
            return info

    async def _matching(self, key: str, if_match: str | None) -> ObjectInfo:
        info = await self.stat(key)
        if if_match is not None and info.etag != if_match:
            raise PreconditionFailed(f"{key} is not the object with the ETag {if_match} any more", key=key)
        return info

    def _info_of_opened(self, key: str, opened: Opened) -> ObjectInfo:
        return ObjectInfo(
            key=key,
            size=opened.size,
            modified=self._modified(opened.metadata, opened.modified),
            etag=opened.etag,
            metadata=decode_metadata(opened.metadata),
        )

    # ------------------------------------------------------------------ writing

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
        limit = self.capability.max_object_size
        if size is not None and limit is not None and size > limit:
            raise InvalidPath(f"{key} has {size} bytes; {limit} are the most that the service takes", key=key)
        condition = Condition(absent=mode is WriteMode.CREATE, etag=if_match)
        kept = self._profile.metadata
        headers = encode_metadata(modified, metadata) if kept else {}
        if isinstance(source, bytes) and len(source) <= MOST_WHOLE:
            stored = await self._put(key, await collect(source, size, key), headers, condition, access)
        else:
            stored = await self._write_stream(key, source, size, headers, condition, access)
        return dataclasses.replace(stored, modified=modified, metadata=lower_keys(metadata)) if kept else stored

    async def _write_stream(
        self,
        key: str,
        source: Source,
        size: int | None,
        headers: Mapping[str, str],
        condition: Condition,
        access: Access | None,
    ) -> ObjectInfo:
        whole = self._pace.whole if self._profile.multipart else MOST_WHOLE
        if size is not None and size <= whole:
            return await self._put(key, await collect(source, size, key), headers, condition, access)
        pieces = exactly(source, size, key)
        async with contextlib.aclosing(pieces):
            if size is not None and not self._profile.multipart:
                return await self._write_single(key, pieces, size, headers, condition)
            if size is not None:
                return await self._write_parts(key, pieces, size, headers, condition, access)
            begun: list[bytes] = []
            length = 0
            async for piece in pieces:
                begun.append(piece)
                length += len(piece)
                if length > whole:
                    return await self._write_parts(key, chained(begun, pieces), None, headers, condition, access)
            return await self._put(key, b"".join(begun), headers, condition, access)

    async def _put(
        self, key: str, data: bytes, headers: Mapping[str, str], condition: Condition, access: Access | None
    ) -> ObjectInfo:
        """Store a small object and compare what the service says it received."""

        async def send(canned: str | None) -> ObjectInfo:
            if canned is None:
                sending = self._wire.put(self._place(key), data, headers, condition)
            else:
                sending = self._boto.put(self._place(key), data, headers, condition, canned)
            async with self._refusals(key, condition):
                if len(data) <= _INLINE_DIGEST:
                    etag = await sending
                    digest = hash_inline(hashlib.md5, data).hexdigest()
                else:
                    with self._pace.measured(len(data)):
                        etag, digest = await asyncio.gather(sending, asyncio.to_thread(md5_of, data))
            return await self._settle(key, len(data), etag, digest, functools.partial(self._prove, key, data))

        stored, taken = await self._acls.send_with(access, send)
        return stored if taken is None else dataclasses.replace(stored, access=taken)

    async def _write_single(
        self,
        key: str,
        pieces: AsyncIterator[bytes],
        size: int,
        headers: Mapping[str, str],
        condition: Condition,
    ) -> ObjectInfo:
        """Store a large object in one request and compare what the service says it received."""
        try:
            async with self._refusals(key, condition):
                etag, digest = await put_streamed(
                    self._connections, self._faults, self._place(key), pieces, size, headers, condition
                )
        except SourceFailed as failed:
            raise failed.cause from None
        return await self._settle(key, size, etag, digest, functools.partial(self._prove_digest, key, digest))

    @asynccontextmanager
    async def _refusals(self, key: str, condition: Condition) -> AsyncIterator[None]:
        """Say what a refusal of a put means."""
        try:
            yield
        except PreconditionFailed as error:
            if condition.absent:
                raise AlreadyExists(f"{key} exists already at provider {self.info.name}", key=key) from error
            raise
        except NotFound as error:
            await self._require_bucket()
            raise PreconditionFailed(f"{key} does not exist any more", key=key) from error

    async def _settle(
        self, key: str, size: int, etag: str | None, digest: str, prove: Callable[[], Awaitable[None]]
    ) -> ObjectInfo:
        """Hold the answer to a put against the MD5 of what was sent."""
        checksum: Checksum | None = None
        if digest_of_etag(etag) == digest:
            checksum = Checksum(ChecksumKind.MD5, digest, compared=True)
        else:
            # the ETag may mean something else here, as for objects encrypted by key
            await prove()
        if self._etags_are_md5 is None or not self._etags_stay:
            # what was stored is proven already; not being able to look again is no failure
            with contextlib.suppress(CdirError):
                kept = (await self._head(key)).etag
                self._etags_are_md5 = digest_of_etag(kept) == digest
                self._etags_stay = kept == etag
                etag = kept
        return ObjectInfo(key=key, size=size, etag=etag, checksum=checksum)

    async def _prove(self, key: str, data: bytes) -> None:
        """Read back what was stored; remove it and raise IntegrityError when it is not what was sent."""
        if (await self.fetch(key)).data != data:
            await self._remove_wrong(key)

    async def _prove_digest(self, key: str, digest: str) -> None:
        """As :meth:`_prove`, for what does not fit in memory."""
        kept = hashlib.md5(usedforsecurity=False)
        async with self.read(key) as stream:
            async for piece in stream:
                await asyncio.to_thread(kept.update, piece)
        if kept.hexdigest() != digest:
            await self._remove_wrong(key)

    async def _remove_wrong(self, key: str) -> None:
        await self.delete(key)
        raise IntegrityError(
            f"provider {self.info.name} stored other bytes for {key} than were sent; they were removed", key=key
        )

    async def _write_parts(
        self,
        key: str,
        pieces: AsyncIterator[bytes],
        size: int | None,
        headers: Mapping[str, str],
        condition: Condition,
        access: Access | None,
    ) -> ObjectInfo:
        parts = parts_of(pieces, part_sizes(size))
        place = self._place(key)
        try:
            async with contextlib.AsyncExitStack() as stack, first_of(parts) as first:
                # nobody's until it has its access: who goes on with this upload may want a narrower one
                upload, _ = await self._acls.send_with(
                    None if access is None else Access.PRIVATE,
                    lambda canned: stack.enter_async_context(self._unfinished.upload(place, headers, first, canned)),
                )
                length = await self._send_parts(upload, chained(await first, parts))
                if condition:
                    await self._require(key, condition)
                checksum = await upload.complete(condition)
        except BaseExceptionGroup as group:
            raise first_cause(group) from None
        # one more look: several services give the finished object another ETag than they answer here
        head = await self._require_size(key, length)
        if upload.resumed and not headers.items() <= lower_keys(head.metadata).items():
            stored = await self._rewrite_metadata(key, head, headers)
        else:
            if checksum is None:
                # Ceph says it only here
                checksum = upload.checksum(head.etag)
            stated = not upload.unproven and ChecksumKind.MD5_MULTIPART in self._stated
            stored = ObjectInfo(key=key, size=length, etag=head.etag, checksum=checksum if stated else None)
        return dataclasses.replace(stored, access=await self._acls.give(place, access))

    async def _rewrite_metadata(self, key: str, head: Head, headers: Mapping[str, str]) -> ObjectInfo:
        """Give the object of which ``head`` tells other metadata, by copying it onto itself."""
        if self._copied_in_parts(head.size):
            await self._copy_parts(key, key, dataclasses.replace(head, metadata=headers))
        else:
            await self._boto.replace_metadata(self._place(key), head.etag or "", headers)
        return await self.stat(key)

    async def _send_parts(self, upload: MultipartUpload, parts: AsyncIterator[Part]) -> int:
        """Send all parts, a few at once; return how many bytes they had."""
        length = number = 0
        async with Sending() as sending, contextlib.aclosing(sending.paced(parts)) as paced:
            async for part in paced:
                size = sum(map(len, part))
                number += 1
                length += size
                sending.start(upload.send(number, part, etags_are_md5=self._etags_are_md5), size)
                del part
        return length

    async def _require(self, key: str, condition: Condition) -> None:
        """Look whether a condition holds, since several services ignore conditions when an upload is completed."""
        try:
            found = await self.stat(key)
        except NotFound:
            if condition.absent:
                return
            raise PreconditionFailed(f"{key} does not exist any more", key=key) from None
        if condition.absent:
            raise AlreadyExists(f"{key} exists already at provider {self.info.name}", key=key)
        if found.etag != condition.etag:
            raise PreconditionFailed(f"{key} is not the object with the ETag {condition.etag} any more", key=key)

    async def _require_size(self, key: str, size: int) -> Head:
        """Hold the size of a finished object against what was sent; return what the service says of it."""
        head = await self._head(key)
        if head.size != size:
            # not removed: another process may have stored it in the meantime
            raise IntegrityError(
                f"provider {self.info.name} has {head.size} bytes at {key}, not the {size} that were sent; try again",
                key=key,
            )
        return head

    # ------------------------------------------------------------------ changing

    async def delete(self, key: str, *, if_match: str | None = None) -> None:
        if if_match is not None:
            require(self, self.capability.write_if_match, "write_if_match")
        if if_match is not None:
            try:
                # few services look at the condition of a DELETE, so it is held against the object here
                await self._matching(key, if_match)
            except NotFound:
                return
        try:
            await self._wire.delete(self._place(key))
        except NotFound:
            await self._require_bucket()

    async def copy(self, source: str, target: str) -> ObjectInfo:
        head = await self._head(source)
        size = head.size
        if self._copied_in_parts(size):
            await self._copy_parts(source, target, head)
        else:
            await self._wire.copy(self._place(source), self._place(target))
        try:
            copied = await self.stat(target)
        except NotFound as error:
            # NotFound is said of the source alone: callers conclude that nothing is there any more
            raise IntegrityError(
                f"provider {self.info.name} said that it copied {source}, and nothing is at {target}", key=target
            ) from error
        if copied.size != size:
            raise IntegrityError(
                f"provider {self.info.name} copied {copied.size} of the {size} bytes of {source}", key=target
            )
        return copied

    def _copied_in_parts(self, size: int) -> bool:
        return size > _COPY_LIMIT and self._profile.multipart and self._profile.copy_in_parts

    async def _copy_parts(self, source: str, target: str, head: Head) -> None:
        async with self._unfinished.upload(self._place(target), head.metadata) as upload:
            await upload.copy_from(self._place(source), head.size, _COPY_PART, head.etag or "")
            await upload.complete(Condition())

    async def get_acl(self, key: str) -> Acl:
        require(self, self.capability.acl, "acl")
        async with self._bucket_required():
            return await self._acls.read(self._place(key))

    async def set_acl(self, key: str, acl: Acl) -> Acl:
        """See :meth:`Adapter.set_acl`. The right to write alone is left out: it is the bucket's, not an object's."""
        require(self, self.capability.acl, "acl")
        async with self._bucket_required():
            return await self._acls.write(self._place(key), acl)

    async def sweep(self, older_than: float) -> int:
        if not self._profile.multipart:
            return 0
        return await self._unfinished.sweep(datetime.now(UTC) - timedelta(seconds=older_than))

    async def aclose(self) -> None:
        await self._connections.aclose()
