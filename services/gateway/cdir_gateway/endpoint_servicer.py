"""EndpointService: each call handed to its use case."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, Final, TypeAlias

import grpc.aio

from cdir.errors import CdirError, IntegrityError, InvalidArgument, IsDirectory
from cdir.status import to_failure
from cdir.v1 import endpoint_service_pb2 as pb
from cdir.v1 import endpoint_service_pb2_grpc as rpc
from cdir_gateway.copying_trees import TreeCopier
from cdir_gateway.endpoints import Endpoints
from cdir_runtime.interceptors import user_of
from cdir_transfer.digest import BLOCK_SIZE, INLINE_BYTES

__all__ = ["EndpointServicer"]

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_MAX_PIECE: Final = BLOCK_SIZE


class EndpointServicer(rpc.EndpointServiceServicer):
    """Serves objects at their providers."""

    def __init__(self, endpoints: Endpoints, copier: TreeCopier) -> None:
        self._endpoints = endpoints
        self._copier = copier

    async def StatEndpoint(self, request: pb.StatEndpointRequest, context: Context) -> pb.StatEndpointResponse:
        info = await self._endpoints.stat(await self._endpoints.locate(request.place))
        return pb.StatEndpointResponse(object=info)

    async def ListEndpoint(
        self, request: pb.ListEndpointRequest, context: Context
    ) -> AsyncGenerator[pb.ListEndpointResponse, None]:
        endpoint = await self._endpoints.locate(request.place)
        info = await self._endpoints.stat(endpoint)
        if not info.directory:
            yield pb.ListEndpointResponse(objects=[info])
            return
        async with aclosing(self._endpoints.pages(endpoint, recursive=request.recursive)) as pages:
            async for page in pages:
                yield pb.ListEndpointResponse(objects=page)

    async def ReadEndpoint(
        self, request: pb.ReadEndpointRequest, context: Context
    ) -> AsyncGenerator[pb.ReadEndpointResponse, None]:
        endpoint = await self._endpoints.locate(request.place)
        info = await self._endpoints.stat(endpoint)
        if info.directory or info.special:
            raise IsDirectory(f"{endpoint.shown} is a folder; name an object", path=endpoint.key)
        yield pb.ReadEndpointResponse(object=info)
        async with aclosing(self._endpoints.open(endpoint, info).pieces()) as pieces:
            async for piece in pieces:
                yield pb.ReadEndpointResponse(data=piece)

    async def WriteEndpoint(
        self, request_iterator: AsyncIterator[pb.WriteEndpointRequest], context: Context
    ) -> AsyncGenerator[pb.WriteEndpointResponse, None]:
        steps = aiter(request_iterator)
        first = await anext(steps, None)
        if first is None or first.WhichOneof("step") != "open":
            raise InvalidArgument("a write begins by being opened; nothing was stored")
        incoming = _Incoming()
        # a stream that ends while its caller still sends loses its answer: what comes later is taken in all the same
        taking_in = asyncio.create_task(incoming.take_in(steps))
        try:
            try:
                written = await self._copier.write(first.open, _sent(incoming), user_of(context) or "")
            except CdirError as error:
                written = pb.PlacedFile(target=first.open.place.path, failure=to_failure(error))
            incoming.end()
            yield pb.WriteEndpointResponse(written=written)
            await taking_in
        finally:
            taking_in.cancel()
            await asyncio.wait([taking_in])

    async def CopyTree(
        self, request: pb.CopyTreeRequest, context: Context
    ) -> AsyncGenerator[pb.CopyTreeResponse, None]:
        async with aclosing(self._copier.copy(request, user_of(context) or "")) as outcomes:
            async for outcome in outcomes:
                yield outcome

    async def RemoveEndpoint(
        self, request: pb.RemoveEndpointRequest, context: Context
    ) -> AsyncGenerator[pb.RemoveEndpointResponse, None]:
        endpoint = await self._endpoints.locate(request.place, writing=True)
        removing = self._endpoints.remove(endpoint, recursive=request.recursive, dry_run=request.dry_run)
        async with aclosing(removing) as outcomes:
            async for outcome in outcomes:
                yield outcome


class _Incoming:
    """The steps of a write: one is held until it is asked for, and none once nobody asks any more."""

    def __init__(self) -> None:
        self._steps: asyncio.Queue[pb.WriteEndpointRequest | None] = asyncio.Queue(1)
        self._ended = False

    async def take_in(self, steps: AsyncIterator[pb.WriteEndpointRequest]) -> None:
        """Take steps in until the caller sends no more."""
        async for step in steps:
            if not self._ended:
                await self._steps.put(step)
        if not self._ended:
            await self._steps.put(None)

    def end(self) -> None:
        """Say that nobody asks for steps any more."""
        self._ended = True
        while not self._steps.empty():
            self._steps.get_nowait()

    async def all(self) -> AsyncGenerator[pb.WriteEndpointRequest, None]:
        """Yield the steps as they come."""
        while (step := await self._steps.get()) is not None:
            yield step


async def _sent(incoming: _Incoming) -> AsyncGenerator[bytes, None]:
    """Yield the bytes of a write; end well only when its commit came and is right."""
    digest = hashlib.sha256()
    size = 0
    async for step in incoming.all():
        match step.WhichOneof("step"):
            case "data":
                if len(step.data) > _MAX_PIECE:
                    raise InvalidArgument(f"a piece of {len(step.data)} bytes was sent; {_MAX_PIECE} are the most")
                if len(step.data) < INLINE_BYTES:
                    digest.update(step.data)
                else:
                    await asyncio.to_thread(digest.update, step.data)
                size += len(step.data)
                if step.data:
                    yield step.data
            case "commit":
                if (step.commit.size, step.commit.sha256) != (size, digest.digest()):
                    raise IntegrityError("size or digest differ from what arrived; nothing was stored")
                return
            case _:
                raise InvalidArgument("a write is opened once; nothing was stored")
    raise InvalidArgument("the stream ended without a commit; nothing was stored")
