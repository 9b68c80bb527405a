"""A provider's listing: to its end, or an error. Nothing may be concluded from one that just stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Final

from cdir.errors import ProviderUnavailable
from cdir.status import translated
from cdir.v1 import adapter_service_pb2, adapter_service_pb2_grpc, provider_pb2

__all__ = ["listed_pages", "provider_ref"]

_PAGE_SECONDS: Final = 300.0
"""Longest wait for a page. Adapters give up on a provider long before; this ends a call of which nothing is heard."""


def provider_ref(provider: provider_pb2.Provider) -> adapter_service_pb2.ProviderRef:
    """Return what names a provider, as it is known here, to the adapters."""
    return adapter_service_pb2.ProviderRef(provider_id=provider.provider_id, revision=provider.revision)


async def listed_pages(
    adapters: adapter_service_pb2_grpc.AdapterServiceAsyncStub,
    request: adapter_service_pb2.ListObjectsRequest,
    *,
    where: str,
) -> AsyncGenerator[Sequence[adapter_service_pb2.ObjectInfo], None]:
    """Yield the objects of a listing, page by page, none of them empty.

    ``where`` names what is listed in errors. Raises :class:`ProviderUnavailable` when nothing is heard for five
    minutes, or when the listing ends without saying that it was complete; the errors of ListObjects as they are. Close
    the generator (``contextlib.aclosing``) when it is left early.
    """
    call = adapters.ListObjects(request)
    pages: AsyncIterator[adapter_service_pb2.ListObjectsResponse] = aiter(call)
    complete = False
    try:
        while True:
            try:
                with translated():
                    async with asyncio.timeout(_PAGE_SECONDS):
                        page = await anext(pages, None)
            except TimeoutError:
                raise ProviderUnavailable(f"the listing of {where} gave nothing for {_PAGE_SECONDS:.0f} s") from None
            if page is None:
                break
            complete = page.complete
            if page.objects:
                yield page.objects
    finally:
        call.cancel()
    if not complete:
        raise ProviderUnavailable(
            f"the listing of {where} ended before it was complete; nothing is concluded from what it left out"
        )
