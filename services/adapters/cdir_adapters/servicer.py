"""AdapterService: every RPC over the live adapters of the pool, and nothing more.

FetchObject and PutObject are called thousands of times a second: they start no task and touch nothing but the adapter.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, TypeAlias

import grpc.aio

from cdir.errors import (
    CdirError,
    IntegrityError,
    InvalidArgument,
    IsDirectory,
    NotFound,
    RangeNotSatisfied,
)
from cdir.status import to_failure
from cdir.v1 import adapter_service_pb2 as pb
from cdir.v1 import adapter_service_pb2_grpc as rpc
from cdir.v1 import entry_pb2, provider_pb2
from cdir_adapters import registry, sentinel
from cdir_adapters.acl import message_of_acl
from cdir_adapters.adapter import (
    Adapter,
    Beginning,
    ByteRange,
    FetchedObject,
    ObjectInfo,
    ObjectKind,
    SmallObject,
    Source,
    WriteMode,
)
from cdir_adapters.controlling import access_to_write, apply_acl, outcome_of_write, outcomes_of_writes
from cdir_adapters.creating import NAMES_KEPT, create, names_in_folder, store_each
from cdir_adapters.layers.ratelimit import OBJECTS_IN_BATCH
from cdir_adapters.layers.wrapper import closing
from cdir_adapters.messages import check_key, check_prefix, info_message, modified_of
from cdir_adapters.pool import AdapterPool, LiveAdapter
from cdir_adapters.probe import probe
from cdir_adapters.shapes import rechunk
from cdir_runtime.vault import Vault

__all__ = ["MAX_FETCH_BYTES", "MAX_KEYS", "AdapterServicer"]

logger = logging.getLogger(__name__)

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

MAX_FETCH_BYTES = 8 << 20
"""Most bytes of one FetchObject or PutObject."""

MAX_KEYS = 1000
"""Most keys of one DeleteObjects."""

_MOST_OF_PIECE = 4 << 20
"""Bytes of one piece of a write: what has more comes in several."""

_DELETES_AT_ONCE = 16

_TYPE_NAMES = {
    registry.OptionType.STR: "string",
    registry.OptionType.INT: "integer",
    registry.OptionType.BOOL: "boolean",
    registry.OptionType.PATH: "path",
}


class AdapterServicer(rpc.AdapterServiceServicer):
    """Serves the providers of one catalog. Errors are raised as :mod:`cdir.errors`; the server's chassis maps them."""

    def __init__(self, pool: AdapterPool, vault: Vault) -> None:
        self._pool = pool
        self._vault = vault

    # --- kinds and providers ------------------------------------------------------------------------------------------

    async def DescribeKinds(self, request: pb.DescribeKindsRequest, context: Context) -> pb.DescribeKindsResponse:
        # finding out whether a library is installed looks at the disk
        return pb.DescribeKindsResponse(kinds=await asyncio.to_thread(_describe_kinds))

    async def ProbeProvider(self, request: pb.ProbeProviderRequest, context: Context) -> pb.ProbeProviderResponse:
        if not (request.provider_id and request.home_id and request.name):
            raise InvalidArgument("a provider is probed with its id, its name and the id of its home")
        async with self._pool.candidate(
            request.provider_id, request.kind, request.name, dict(request.options), request.sealed_secrets
        ) as adapter:
            await adapter.prepare()
            await adapter.check()
            found = await sentinel.read_mark(adapter)
            unmarked = sentinel.claim_root(
                found,
                home_id=request.home_id,
                provider_id=request.provider_id,
                registered=found is not None and await self._pool.is_registered(found.provider_id),
                location=adapter.info.location,
                adopt=request.adopt,
            )
            # the mark comes last: a root that cannot do what cdir needs is left without it
            capability = await probe(adapter)
            if unmarked:
                mark = sentinel.Mark.new(home_id=request.home_id, provider_id=request.provider_id, name=request.name)
                await sentinel.write_mark(adapter, mark)
            response = pb.ProbeProviderResponse(root=adapter.info.location)
            response.capability.update(capability.to_json())
        return response

    async def UnlockAdaptersVault(
        self, request: pb.UnlockAdaptersVaultRequest, context: Context
    ) -> pb.UnlockAdaptersVaultResponse:
        await self._vault.unlock(request.passphrase if request.HasField("passphrase") else None)
        return pb.UnlockAdaptersVaultResponse()

    async def CheckMark(self, request: pb.CheckMarkRequest, context: Context) -> pb.CheckMarkResponse:
        home_id = await self._pool.home_id()
        live = self._pool.find(request.provider) or await self._pool.open(request.provider)
        with live as adapter:

            async def check() -> float:
                begun = time.monotonic()
                found = await sentinel.read_mark(adapter)
                if found is None:
                    # what has no mark may not be there at all
                    await adapter.check()
                seconds = time.monotonic() - begun
                sentinel.check_ours(
                    found,
                    home_id=home_id,
                    provider_id=request.provider.provider_id,
                    name=adapter.info.name,
                    location=adapter.info.location,
                )
                return seconds

            return pb.CheckMarkResponse(seconds=await (live.checks.ask(check) if request.once else check()))

    async def RunConformance(
        self, request: pb.RunConformanceRequest, context: Context
    ) -> AsyncIterator[pb.RunConformanceResponse]:
        # the suite brings unittest with it, which no other start has to wait for
        from cdir_adapters.testing.conformance import run_conformance

        live = self._pool.find(request.provider) or await self._pool.open(request.provider)
        with live as adapter:
            async with aclosing(run_conformance(adapter)) as results:
                async for result in results:
                    yield pb.RunConformanceResponse(
                        result=provider_pb2.ConformanceResult(
                            name=result.name, outcome=result.outcome, message=result.message
                        )
                    )

    async def GetUsage(self, request: pb.GetUsageRequest, context: Context) -> pb.GetUsageResponse:
        live = self._pool.find(request.provider) or await self._pool.open(request.provider)
        with live as adapter:
            usage = await adapter.usage()
        return pb.GetUsageResponse(used=usage.used, free=usage.free)

    async def SweepProvider(self, request: pb.SweepProviderRequest, context: Context) -> pb.SweepProviderResponse:
        if not request.older_than >= 0:
            raise InvalidArgument("older_than must not be negative")
        live = self._pool.find(request.provider) or await self._pool.open(request.provider)
        with live as adapter:
            return pb.SweepProviderResponse(removed=await adapter.sweep(request.older_than))

    # --- looking and reading ------------------------------------------------------------------------------------------

    async def StatObject(self, request: pb.StatObjectRequest, context: Context) -> pb.StatObjectResponse:
        check_key(request.key)
        live = self._pool.find(request.provider) or await self._pool.open(request.provider)
        with live as adapter:
            return pb.StatObjectResponse(info=info_message(await adapter.stat(request.key)))

    async def DigestObject(self, request: pb.DigestObjectRequest, context: Context) -> pb.DigestObjectResponse:
        check_key(request.key)
        live = self._pool.find(request.provider) or await self._pool.open(request.provider)
        with live as adapter:
            return pb.DigestObjectResponse(sha256=await adapter.digest(request.key))

    async def ListObjects(
        self, request: pb.ListObjectsRequest, context: Context
    ) -> AsyncIterator[pb.ListObjectsResponse]:
        check_prefix(request.prefix)
        live = self._pool.find(request.provider) or await self._pool.open(request.provider)
        with live as adapter:
            ordered = adapter.capability.list_ordered
            listing = adapter.list(request.prefix, recursive=request.recursive, start_after=request.start_after or None)
            began = live.folders.clock()
            names: set[str] | None = None if request.start_after else set()
            # a caller who leaves early must not keep a directory or a request at the provider open
            async with closing(listing) as pages:
                async for page in pages:
                    if names is not None:
                        names.update(names_in_folder(request.prefix, (info.key for info in page.objects)))
                        names = names if len(names) <= NAMES_KEPT else None
                    yield pb.ListObjectsResponse(objects=[info_message(info) for info in page.objects], ordered=ordered)
            if names is not None:
                live.folders.listed(adapter, request.prefix, names, began)
            yield pb.ListObjectsResponse(complete=True, ordered=ordered)

    async def ReadObject(
        self, request: pb.ReadObjectRequest, context: Context
    ) -> AsyncGenerator[pb.ReadObjectResponse, None]:
        check_key(request.key)
        if not 0 < request.piece_length <= MAX_FETCH_BYTES:
            raise InvalidArgument(f"pieces have between 1 and {MAX_FETCH_BYTES} bytes, not {request.piece_length}")
        if request.length <= 0:
            raise InvalidArgument("a range that is read in pieces has at least one byte")
        if request.offset < 0:
            raise RangeNotSatisfied(f"{request.key}: the offset {request.offset} is negative", key=request.key)
        live = self._pool.find(request.provider) or await self._pool.open(request.provider)
        with live as adapter:
            async with adapter.read(request.key, range=ByteRange(request.offset, request.length)) as stream:
                info = stream.info
                response = pb.ReadObjectResponse(size=info.size, etag=info.etag or "")
                if not response.etag and info.modified is not None:
                    response.modified.FromDatetime(info.modified)
                pieces = rechunk(stream, request.piece_length, size=None, key=request.key)
                async with aclosing(pieces):
                    async for piece in pieces:
                        response.data = piece
                        yield response
                        response = pb.ReadObjectResponse(size=info.size)
                if not info.size:
                    yield response

    async def FetchObject(self, request: pb.FetchObjectRequest, context: Context) -> pb.FetchObjectResponse:
        check_key(request.key)
        if not 0 <= request.length <= MAX_FETCH_BYTES:
            raise InvalidArgument(f"between 0 and {MAX_FETCH_BYTES} bytes can be fetched at once, not {request.length}")
        if request.offset < 0:
            raise RangeNotSatisfied(f"{request.key}: the offset {request.offset} is negative", key=request.key)
        live = self._pool.find(request.provider) or await self._pool.open(request.provider)
        with live as adapter:
            found = await adapter.fetch(request.key, range=ByteRange(request.offset, request.length))
        response = pb.FetchObjectResponse()
        _fill(response, found)
        return response

    async def FetchObjects(self, request: pb.FetchObjectsRequest, context: Context) -> pb.FetchObjectsResponse:
        wanted = [Beginning(check_key(one.key), one.length) for one in request.objects]
        if len(wanted) > MAX_KEYS:
            raise InvalidArgument(f"at most {MAX_KEYS} objects can be fetched at once, not {len(wanted)}")
        if any(one.length < 0 for one in wanted):
            raise InvalidArgument("no length may be negative")
        if sum(one.length for one in wanted) > MAX_FETCH_BYTES:
            raise InvalidArgument(f"at most {MAX_FETCH_BYTES} bytes can be fetched at once")
        live = self._pool.find(request.provider) or await self._pool.open(request.provider)
        response = pb.FetchObjectsResponse()
        with live as adapter:
            for start in range(0, len(wanted), OBJECTS_IN_BATCH):
                for found in await adapter.fetch_each(wanted[start : start + OBJECTS_IN_BATCH]):
                    # made in its place: copying it there would take several times as long
                    outcome = response.outcomes.add()
                    if isinstance(found, CdirError):
                        outcome.failure.CopyFrom(to_failure(found))
                    else:
                        _fill(outcome.object, found)
        return response

    # --- writing ------------------------------------------------------------------------------------------------------

    async def PutObject(self, request: pb.PutObjectRequest, context: Context) -> pb.PutObjectResponse:
        header = request.header
        check_key(header.key)
        data = request.data
        if len(data) > MAX_FETCH_BYTES:
            raise InvalidArgument(f"{header.key}: {len(data)} bytes are too many for one call; use WriteObject")
        live = self._pool.find(header.provider) or await self._pool.open(header.provider)
        with live as adapter:
            return pb.PutObjectResponse(info=await _store(live, adapter, header, data, len(data)))

    async def PutObjects(self, request: pb.PutObjectsRequest, context: Context) -> pb.PutObjectsResponse:
        objects = [_small(one) for one in request.objects]
        asked = [one.acl if one.HasField("acl") else None for one in request.objects]
        if len(objects) > MAX_KEYS:
            raise InvalidArgument(f"at most {MAX_KEYS} objects can be stored at once, not {len(objects)}")
        if len({one.key for one in objects}) < len(objects):
            raise InvalidArgument("no object may be stored twice at once")
        if sum(len(one.data) for one in objects) > MAX_FETCH_BYTES:
            raise InvalidArgument(f"at most {MAX_FETCH_BYTES} bytes can be stored at once")
        live = self._pool.find(request.provider) or await self._pool.open(request.provider)
        outcomes: list[pb.PutOutcome] = []
        with live as adapter:
            accesses = [access_to_write(adapter, acl) for acl in asked]
            objects = [one._replace(access=access) for one, access in zip(objects, accesses, strict=True)]
            for start in range(0, len(objects), OBJECTS_IN_BATCH):
                end = start + OBJECTS_IN_BATCH
                stored = await store_each(adapter, objects[start:end], live.folders)
                acls = await outcomes_of_writes(adapter, stored, asked[start:end])
                outcomes.extend(map(_put_outcome, stored, acls))
        return pb.PutObjectsResponse(outcomes=outcomes)

    async def WriteObject(
        self, request_iterator: AsyncIterator[pb.WriteObjectRequest], context: Context
    ) -> pb.WriteObjectResponse:
        steps = aiter(request_iterator)
        first = await anext(steps, None)
        if first is None or first.WhichOneof("step") != "header":
            raise InvalidArgument("a write begins with its header; nothing was stored")
        header = first.header
        check_key(header.key)
        size = header.size if header.HasField("size") else None
        live = self._pool.find(header.provider) or await self._pool.open(header.provider)
        with live as adapter:
            async with aclosing(_content(steps, header.key, size)) as pieces:
                source: Source = pieces
                if size is None or size <= _MOST_OF_PIECE:
                    begin = await anext(pieces, b""), await anext(pieces, b"")
                    source = _chained(begin, pieces)
                    if not begin[1]:
                        # content of one piece is given whole: every adapter has a shorter way for that
                        source, size = begin[0], len(begin[0])
                return pb.WriteObjectResponse(info=await _store(live, adapter, header, source, size))

    async def DeleteObjects(self, request: pb.DeleteObjectsRequest, context: Context) -> pb.DeleteObjectsResponse:
        keys = request.keys
        if len(keys) > MAX_KEYS:
            raise InvalidArgument(f"at most {MAX_KEYS} objects can be deleted at once, not {len(keys)}")
        live = self._pool.find(request.provider) or await self._pool.open(request.provider)
        outcomes = [pb.DeleteOutcome() for _ in keys]
        with live as adapter:
            waiting = iter(zip(keys, outcomes, strict=True))
            if len(keys) == 1:
                await _delete_all(adapter, waiting)
            else:
                async with asyncio.TaskGroup() as workers:
                    for _ in range(min(_DELETES_AT_ONCE, len(keys))):
                        workers.create_task(_delete_all(adapter, waiting))
        return pb.DeleteObjectsResponse(outcomes=outcomes)

    async def MoveObject(self, request: pb.MoveObjectRequest, context: Context) -> pb.MoveObjectResponse:
        source, target = check_key(request.source), check_key(request.target)
        live = self._pool.find(request.provider) or await self._pool.open(request.provider)
        with live as adapter, live.folders.storing([target]):
            if source == target:
                info = await adapter.stat(source)
            else:
                try:
                    info = await _move(adapter, source, target)
                except NotFound as error:
                    info = await _moved_before(adapter, target, error)
        return pb.MoveObjectResponse(info=info_message(info))

    async def CopyObject(self, request: pb.CopyObjectRequest, context: Context) -> pb.CopyObjectResponse:
        source, target = check_key(request.source), check_key(request.target)
        if source == target:
            raise InvalidArgument(f"{source}: an object cannot be copied onto itself", key=source)
        live = self._pool.find(request.provider) or await self._pool.open(request.provider)
        with live as adapter, live.folders.storing([target]):
            copied = await adapter.copy(source, target)
            outcome = await outcome_of_write(adapter, copied, request.acl if request.HasField("acl") else None)
            return pb.CopyObjectResponse(info=info_message(copied, outcome))

    async def GetObjectAcl(self, request: pb.GetObjectAclRequest, context: Context) -> pb.GetObjectAclResponse:
        check_key(request.key)
        live = self._pool.find(request.provider) or await self._pool.open(request.provider)
        with live as adapter:
            return pb.GetObjectAclResponse(acl=message_of_acl(await adapter.get_acl(request.key)))

    async def SetObjectAcl(self, request: pb.SetObjectAclRequest, context: Context) -> pb.SetObjectAclResponse:
        check_key(request.key)
        if request.acl.access == entry_pb2.ACL_ACCESS_UNSPECIFIED:
            raise InvalidArgument(f"{request.key}: an ACL says what everyone may", key=request.key)
        live = self._pool.find(request.provider) or await self._pool.open(request.provider)
        with live as adapter:
            return pb.SetObjectAclResponse(outcome=await apply_acl(adapter, request.key, request.acl))


def _describe_kinds() -> list[provider_pb2.KindSpec]:
    described = []
    for spec in registry.kinds().values():
        missing = registry.missing_library(spec.kind)
        described.append(
            provider_pb2.KindSpec(
                kind=spec.kind,
                description=spec.description,
                options=[_describe_option(option) for option in spec.options],
                available=not missing,
                missing=missing,
            )
        )
    return described


def _describe_option(option: registry.OptionSpec) -> provider_pb2.OptionSpec:
    default = option.default
    choices = f" One of: {', '.join(option.choices)}." if option.choices else ""
    return provider_pb2.OptionSpec(
        name=option.name,
        type=_TYPE_NAMES[option.type],
        required=option.required,
        secret=option.secret,
        default_value="" if default is None else str(default).lower() if isinstance(default, bool) else str(default),
        description=option.description + choices,
    )


def _fill(response: pb.FetchObjectResponse, found: FetchedObject) -> None:
    response.data = found.data
    response.size = found.info.size
    if found.info.etag:
        response.etag = found.info.etag
    elif found.info.modified is not None:
        response.modified.FromDatetime(found.info.modified)


def _small(one: pb.SmallObject) -> SmallObject:
    mode = WriteMode.CREATE if one.only_if_absent else WriteMode.OVERWRITE
    return SmallObject(check_key(one.key), one.data, modified_of(one), mode)


def _put_outcome(stored: ObjectInfo | CdirError, acl: entry_pb2.AclOutcome | None) -> pb.PutOutcome:
    if isinstance(stored, CdirError):
        return pb.PutOutcome(failure=to_failure(stored))
    return pb.PutOutcome(info=info_message(stored, acl))


async def _store(
    live: LiveAdapter, adapter: Adapter, header: pb.ObjectHeader, source: Source, size: int | None
) -> pb.ObjectInfo:
    modified = modified_of(header)
    asked = header.acl if header.HasField("acl") else None
    access = access_to_write(adapter, asked)
    if header.only_if_absent:
        vacant = live.folders.is_vacant(header.key)
        with live.folders.storing([header.key]):
            info = await create(
                adapter,
                header.key,
                source,
                size=size,
                modified=modified,
                access=access,
                tried=header.tried,
                vacant=vacant,
            )
    else:
        with live.folders.storing([header.key]):
            info = await adapter.write(header.key, source, size=size, modified=modified, access=access)
    return info_message(info, await outcome_of_write(adapter, info, asked))


async def _content(
    steps: AsyncIterator[pb.WriteObjectRequest], key: str, announced: int | None
) -> AsyncGenerator[bytes, None]:
    """Yield the pieces of a write; end well only when its commit arrived and the size is right.

    Each piece is handed on only after the step behind it has arrived. So the last one is held back until the commit: an
    adapter that announced the size to its provider cannot have sent everything, and the provider cannot have stored it,
    before the commit is known.
    """
    received = 0
    held = b""
    async for step in steps:
        match step.WhichOneof("step"):
            case "data":
                if held:
                    yield held
                held = step.data
                received += len(held)
            case "commit":
                expected = step.commit.size
                if expected != received or (announced is not None and announced != received):
                    raise IntegrityError(
                        f"{key}: {received} bytes arrived, but"
                        f" {announced if announced not in {None, received} else expected} were announced;"
                        " nothing was stored",
                        key=key,
                    )
                if held:
                    yield held
                return
            case _:
                raise InvalidArgument(f"{key}: a header can only come first; nothing was stored", key=key)
    raise InvalidArgument(f"{key}: the stream ended without a commit; nothing was stored", key=key)


async def _chained(begin: Iterable[bytes], rest: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    for piece in begin:
        yield piece
    async for piece in rest:
        yield piece


async def _delete_all(adapter: Adapter, waiting: Iterable[tuple[str, pb.DeleteOutcome]]) -> None:
    """Delete keys until none is waiting; several of these share one iterator."""
    for key, outcome in waiting:
        try:
            await adapter.delete(check_key(key))
        except CdirError as error:
            outcome.reason, outcome.message = error.reason, error.message


async def _move(adapter: Adapter, source: str, target: str) -> ObjectInfo:
    if adapter.capability.move:
        return await adapter.move(source, target)
    if adapter.capability.copy:
        info = await adapter.copy(source, target)
    else:
        async with adapter.read(source) as stream:
            found = stream.info
            info = await adapter.write(
                target, stream, size=found.size, modified=found.modified or datetime.now(UTC), metadata=found.metadata
            )
    await adapter.delete(source)
    return info


async def _moved_before(adapter: Adapter, target: str, error: NotFound) -> ObjectInfo:
    """Return what lies at ``target``: an earlier call whose answer was lost has renamed it. Else raise ``error``."""
    try:
        info = await adapter.stat(target)
    except NotFound:
        raise error from None
    if info.kind is ObjectKind.DIRECTORY:
        raise IsDirectory(f"{target} at provider {adapter.info.name} is a folder", key=target)
    return info
