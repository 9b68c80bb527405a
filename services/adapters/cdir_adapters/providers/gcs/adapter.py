"""The adapter of the ``gcs`` kind."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Final

from cdir.errors import (
    AlreadyExists,
    CdirError,
    ConfigInvalid,
    IntegrityError,
    InvalidPath,
    NotFound,
    PreconditionFailed,
)
from cdir_adapters.acl import Access
from cdir_adapters.adapter import (
    FULL,
    NO_METADATA,
    Adapter,
    AdapterInfo,
    ByteRange,
    ObjectInfo,
    Page,
    ReadStream,
    Source,
    WriteMode,
)
from cdir_adapters.capability import Capability, ChecksumKind
from cdir_adapters.providers.gcs.digests import Digests
from cdir_adapters.providers.gcs.faults import Faults
from cdir_adapters.providers.gcs.listing import Lister
from cdir_adapters.providers.gcs.reading import READING, open_range
from cdir_adapters.providers.gcs.resources import (
    FIELDS,
    crc32c_of,
    encode_metadata,
    generation_of,
    info_of_resource,
    is_generation,
)
from cdir_adapters.providers.gcs.settings import MAX_NAME_BYTES, GcsSettings
from cdir_adapters.providers.gcs.signin import SignIn
from cdir_adapters.providers.gcs.upload import CHUNK_SIZE, Upload, chunks_of
from cdir_adapters.providers.gcs.wire import Request, Wire
from cdir_adapters.registry import OptionValue
from cdir_adapters.shapes import (
    BufferedReadStream,
    chained,
    collect,
    exactly,
    first_cause,
    lower_keys,
    require_write,
    resolve_range,
)

__all__ = ["GcsAdapter"]

_RESUMABLE_ABOVE = CHUNK_SIZE
"""Larger objects go to an upload session."""
_LARGEST_OBJECT: Final = 5 * 1024**4
_READ_ATTEMPTS: Final = 5
"""Generations that may be replaced one after the other between looking and reading."""
_STALLED: Final = 20
"""Answers to a copy, none of which tells of progress, after which it is given up."""
_API: Final = "/storage/v1/"
_COPY_FIELDS: Final = f"done,rewriteToken,totalBytesRewritten,resource({FIELDS})"
_LOOKING: Final = "looking at an object"
_COPYING: Final = "copying an object"
_STORING: Final = "storing an object"


class GcsAdapter(Adapter):
    """A bucket, or a prefix in one. Without directories: a prefix exists as long as something lies under it.

    The ETag is the object's generation, which is what the service's conditions are about. Names that are no keys (an
    empty, ``.`` or ``..`` component, a control character, the ``folder/`` marks of some tools) are left out of
    listings.
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
        modified_settable=True,
        modified_listed=True,
        modified_precision=timedelta(microseconds=1),
        etag=True,
        checksums=frozenset({ChecksumKind.MD5, ChecksumKind.CRC32C}),
        max_object_size=_LARGEST_OBJECT,
        max_path_bytes=MAX_NAME_BYTES,
    )

    def __init__(self, name: str, options: Mapping[str, OptionValue]) -> None:
        settings = GcsSettings.from_options(options)
        self.info = AdapterInfo("gcs", name, settings.described)
        self._settings = settings
        self._faults = Faults(name, settings.bucket, settings.endpoint)
        self._sign_in = SignIn(settings, name)
        self._wire = Wire(settings, self._faults, self._sign_in)
        self._lister = Lister(settings, self._wire, self._faults)

    def __repr__(self) -> str:
        return f"GcsAdapter({self.info.name!r}, {self.info.location!r})"

    # ------------------------------------------------------------------ the root

    async def check(self) -> None:
        try:
            await self._wire.look_into_bucket()
        except NotFound:
            raise NotFound(
                f"provider {self.info.name}: there is no bucket {self._settings.bucket}", provider=self.info.name
            ) from None

    async def prepare(self) -> None:
        with contextlib.suppress(NotFound):
            await self.check()
            return
        project = await self._sign_in.project()
        if project is None:
            raise ConfigInvalid(
                f"provider {self.info.name}: there is no bucket {self._settings.bucket}, and none can be made without"
                " knowing the project; give project",
                provider=self.info.name,
                option="project",
            )
        described: dict[str, Any] = {
            "name": self._settings.bucket,
            "iamConfiguration": {
                "uniformBucketLevelAccess": {"enabled": True},
                "publicAccessPrevention": "enforced",
            },
        }
        if self._settings.location:
            described["location"] = self._settings.location
        request = Request(
            "POST",
            "/storage/v1/b",
            "making the bucket",
            query={"project": project, "fields": "name"},
            headers={"Content-Type": "application/json"},
            data=[json.dumps(described).encode()],
        )
        with contextlib.suppress(AlreadyExists):  # it may be somebody else's, which the check finds out
            await self._wire.json(request)
        await self.check()

    # ------------------------------------------------------------------ looking

    async def stat(self, key: str) -> ObjectInfo:
        return (await self._look(key))[0]

    async def _look(self, key: str) -> tuple[ObjectInfo, dict[str, Any]]:
        request = Request("GET", self._settings.path_of(key), _LOOKING, key, {"fields": FIELDS})
        resource = await self._wire.json(request)
        return self._info(key, resource, _LOOKING), resource

    def _info(self, key: str, resource: Mapping[str, Any], doing: str) -> ObjectInfo:
        if resource.get("name") != self._settings.name_of(key):
            raise self._faults.broken(f"the service describes something else than {key}", doing)
        try:
            return info_of_resource(key, resource)
        except ValueError:
            raise self._faults.broken(f"the service describes {key} in a way that makes no sense", doing) from None

    async def list(
        self, prefix: str, *, recursive: bool = False, start_after: str | None = None
    ) -> AsyncIterator[Page]:
        async with aclosing(self._lister.pages(prefix, recursive=recursive, start_after=start_after)) as pages:
            async for page in pages:
                yield Page(tuple(page))

    # ------------------------------------------------------------------ reading

    @asynccontextmanager
    async def read(
        self, key: str, *, range: ByteRange = FULL, if_match: str | None = None
    ) -> AsyncIterator[ReadStream]:
        async with contextlib.AsyncExitStack() as stack:
            yield await self._open(stack, key, range, if_match)

    async def _open(
        self, stack: contextlib.AsyncExitStack, key: str, range: ByteRange, if_match: str | None
    ) -> ReadStream:
        """Look what is there, then ask for exactly that: the bytes alone would come without times and metadata."""
        for _ in [None] * _READ_ATTEMPTS:
            info, resource = await self._look(key)
            if if_match is not None and info.etag != if_match:
                raise _changed(key, if_match)
            offset, length = resolve_range(range, info.size, key)
            if not length:
                return BufferedReadStream(info, b"")
            opening = open_range(self._wire, self._faults, self._settings.path_of(key), info, resource, offset, length)
            # NotFound: replaced since, or removed
            with contextlib.suppress(NotFound):
                return await stack.enter_async_context(opening)
        raise self._faults.broken(f"{key} changes faster than it can be read", READING)

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
        name = self._settings.name_of(key)
        if size is not None and size > _LARGEST_OBJECT:
            raise InvalidPath(f"{key} has {size} bytes; {_LARGEST_OBJECT} are the most that are stored here", key=key)
        condition: dict[str, str] = {}
        if if_match is not None:
            if not is_generation(if_match):
                raise _changed(key, if_match)
            condition["ifGenerationMatch"] = if_match
        if mode is WriteMode.CREATE:
            condition["ifGenerationMatch"] = "0"
        described = {
            "name": name,
            "contentType": "application/octet-stream",
            "metadata": encode_metadata(modified, metadata),
        }
        try:
            stored = await self._write(key, source, size, described, condition)
        except PreconditionFailed as error:
            if mode is WriteMode.CREATE:
                raise AlreadyExists(f"{key} exists already at provider {self.info.name}", key=key) from error
            raise _changed(key, if_match or "") from error
        except NotFound as error:
            # of writing, that is said of the bucket
            raise self._faults.bucket_is_gone() from error
        return dataclasses.replace(stored, modified=modified, metadata=lower_keys(metadata))

    async def _write(
        self, key: str, source: Source, size: int | None, described: dict[str, Any], condition: Mapping[str, str]
    ) -> ObjectInfo:
        if size is not None and size <= _RESUMABLE_ABOVE:
            return await self._put(key, await collect(source, size, key), described, condition)
        async with aclosing(exactly(source, size, key)) as pieces:
            begun: list[bytes] = []
            length = 0
            async for piece in pieces:
                begun.append(piece)
                length += len(piece)
                if length > _RESUMABLE_ABOVE:
                    return await self._put_large(key, _generated(begun, pieces), described, condition)
            return await self._put(key, b"".join(begun), described, condition)

    async def _put(self, key: str, data: bytes, described: dict[str, Any], condition: Mapping[str, str]) -> ObjectInfo:
        """Store a small object in one request, which the service refuses when its bytes have other checksums."""
        digests = Digests()
        await digests.take([data])
        boundary = uuid.uuid4().hex
        head = json.dumps({**described, **digests.stated()})
        request = Request(
            "POST",
            f"/upload/storage/v1/b/{self._settings.bucket}/o",
            _STORING,
            key,
            {"uploadType": "multipart", **condition},
            {"Content-Type": f"multipart/related; boundary={boundary}"},
            [
                (
                    f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{head}\r\n"
                    f"--{boundary}\r\nContent-Type: application/octet-stream\r\n\r\n"
                ).encode(),
                data,
                f"\r\n--{boundary}--\r\n".encode(),
            ],
        )
        return await self._proven(key, len(data), digests, await self._wire.json(request))

    async def _put_large(
        self,
        key: str,
        pieces: AsyncGenerator[bytes, None],
        described: dict[str, Any],
        condition: Mapping[str, str],
    ) -> ObjectInfo:
        upload = Upload(self._settings, self._wire, self._faults, key)
        try:
            await upload.begin(described, condition)
            resource = await upload.fill(chunks_of(pieces))
        except BaseException as error:
            await upload.discard()
            if isinstance(error, BaseExceptionGroup):
                raise first_cause(error) from None
            raise
        return await self._proven(key, upload.size, upload.digests, resource)

    async def _proven(self, key: str, size: int, digests: Digests, resource: Mapping[str, Any]) -> ObjectInfo:
        """Hold what the service says it stored against what was sent.

        Raises IntegrityError when it is something else; it is removed then.
        """
        stored = self._info(key, resource, _STORING)
        stated = stored.checksum
        other_md5 = stated is not None and stated.kind is ChecksumKind.MD5 and stated.value != digests.md5
        if stored.size == size and crc32c_of(resource) == digests.crc32c and not other_md5:
            return stored
        # the condition fails when the answer was no more than words, or another writer came right after
        with contextlib.suppress(PreconditionFailed):
            await self.delete(key, if_match=stored.etag)
        raise IntegrityError(
            f"provider {self.info.name} stored other bytes for {key} than were sent; nothing of them is left", key=key
        )

    # ------------------------------------------------------------------ changing

    async def delete(self, key: str, *, if_match: str | None = None) -> None:
        condition: dict[str, str] = {}
        if if_match is not None:
            if not is_generation(if_match):
                with contextlib.suppress(NotFound):
                    await self.stat(key)
                    raise _changed(key, if_match)
                return
            condition["ifGenerationMatch"] = if_match
        request = Request(
            "DELETE", self._settings.path_of(key), "deleting an object", key, condition, good=frozenset({200, 204})
        )
        with contextlib.suppress(NotFound):
            try:
                await self._wire.done(request)
            except PreconditionFailed:
                await self.stat(key)  # a missing object may fail the condition too
                raise

    async def copy(self, source: str, target: str) -> ObjectInfo:
        before, resource = await self._look(source)
        path = f"{self._settings.path_of(source)}/rewriteTo/{self._settings.path_of(target).removeprefix(_API)}"
        # a copy in many steps is one of one generation
        query = {"sourceGeneration": generation_of(resource), "fields": _COPY_FIELDS}
        written, stalled = -1, 0
        while True:
            request = Request("POST", path, _COPYING, source, query)
            answer = await self._wire.json(request)
            if answer.get("done") is True:
                break
            token, progress = answer.get("rewriteToken"), str(answer.get("totalBytesRewritten"))
            if not isinstance(token, str) or not progress.isdecimal():
                raise self._faults.broken("the service does not say how to go on", _COPYING)
            stalled = 0 if int(progress) > written else stalled + 1
            written = max(written, int(progress))
            if stalled > _STALLED:
                raise self._faults.broken(f"the copy of {source} does not go on", _COPYING)
            query["rewriteToken"] = token
        made = answer.get("resource")
        if not isinstance(made, dict):
            raise self._faults.broken("the service does not say what it copied", _COPYING)
        copied = self._info(target, made, _COPYING)
        if (copied.size, crc32c_of(made)) != (before.size, crc32c_of(resource)):
            raise IntegrityError(
                f"provider {self.info.name} copied {copied.size} of the {before.size} bytes of {source}, or other ones",
                key=target,
            )
        return copied

    async def aclose(self) -> None:
        await self._wire.aclose()


async def _generated(begun: list[bytes], pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    async for piece in chained(begun, pieces):
        yield piece


def _changed(key: str, etag: str) -> CdirError:
    return PreconditionFailed(f"{key} is not the object with the ETag {etag} any more", key=key)
