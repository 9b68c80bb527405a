"""Which adapter a call gets: opened when first needed, replaced when the provider has changed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cdir.errors import NotFound
from cdir.status import translated
from cdir.v1 import adapter_service_pb2 as pb
from cdir.v1 import catalog_service_pb2


async def change(bench: Any, ref: pb.ProviderRef, *, root: str = "", **fields: Any) -> pb.ProviderRef:
    """Change a registered provider; return how callers name it from then on."""
    found = await bench.catalog.ReadProviders(catalog_service_pb2.ReadProvidersRequest(provider_id=ref.provider_id))
    stored = found.providers[0]
    if root:
        stored.provider.options["root"] = root
    for field, value in fields.items():
        setattr(stored.provider, field, value)
    with translated():
        changed = await bench.catalog.ChangeProvider(
            catalog_service_pb2.ChangeProviderRequest(
                provider=stored, expected_revision=stored.provider.revision, keep_secrets=True
            )
        )
    return pb.ProviderRef(provider_id=ref.provider_id, revision=changed.provider.revision)


async def test_an_unknown_provider_is_not_found_until_it_is_registered(bench: Any) -> None:
    request = bench.probe_request("disk")
    capability = (await bench.probe(request)).capability
    ref = pb.ProviderRef(provider_id=request.provider_id)
    with pytest.raises(NotFound, match=request.provider_id):
        await bench.put(ref, "a", b"content")
    await bench.register(request, capability)

    async def stored() -> bool:
        try:
            await bench.put(ref, "a", b"content")
        except NotFound:
            return False
        return True

    await bench.until(stored)
    assert (bench.folder / "disk/a").read_bytes() == b"content"


async def test_a_newer_revision_replaces_the_adapter(bench: Any) -> None:
    ref = await bench.add("disk")
    await bench.put(ref, "a", b"old place")
    request = bench.probe_request("elsewhere", provider_id=ref.provider_id)
    await bench.probe(request)
    newer = await change(bench, ref, root=request.options["root"])
    assert newer.revision > ref.revision
    await bench.put(newer, "a", b"new place")
    assert (bench.folder / "disk/a").read_bytes() == b"old place"
    assert (bench.folder / "elsewhere/a").read_bytes() == b"new place"
    # whoever still names the old revision is served by what is there now
    assert await bench.get(ref, "a") == b"new place"


async def test_a_call_under_way_ends_on_the_adapter_it_began_with(bench: Any) -> None:
    ref = await bench.add("disk")
    go_on = asyncio.Event()

    async def steps() -> Any:
        yield pb.WriteObjectRequest(header=pb.ObjectHeader(provider=ref, key="large"))
        yield pb.WriteObjectRequest(data=b"first ")
        yield pb.WriteObjectRequest(data=b"second ")
        await go_on.wait()
        yield pb.WriteObjectRequest(data=b"third")
        yield pb.WriteObjectRequest(commit=pb.ObjectCommit(size=18))

    async with asyncio.TaskGroup() as group:
        writing = group.create_task(_awaited(bench.adapters.WriteObject(steps())))
        request = bench.probe_request("elsewhere", provider_id=ref.provider_id)
        await bench.probe(request)
        newer = await change(bench, ref, root=request.options["root"])
        await bench.put(newer, "b", b"new place")
        go_on.set()
    assert writing.result().info.size == 18
    assert (bench.folder / "disk/large").read_bytes() == b"first second third"


async def test_a_new_bandwidth_holds_at_once(bench: Any) -> None:
    ref = await bench.add("disk")
    await bench.put(ref, "a", bytes(5_000))
    limited = await change(bench, ref, bandwidth=5_000)
    began = asyncio.get_running_loop().time()
    await asyncio.gather(*(bench.put(limited, f"{number}", bytes(4_000)) for number in range(3)))
    # a second's worth is saved up
    assert asyncio.get_running_loop().time() - began > (12_000 - 5_000) / 5_000


async def test_without_its_limit_a_call_under_way_goes_on_at_full_speed(bench: Any) -> None:
    ref = await bench.add("disk")
    limited = await change(bench, ref, bandwidth=1_000)
    async with asyncio.TaskGroup() as group:
        writing = group.create_task(bench.put(limited, "a", bytes(1_000_000)))
        await asyncio.wait([writing], timeout=0.2)
        assert not writing.done()
        await bench.put(await change(bench, limited, bandwidth=0), "b", b"content")
        await asyncio.wait_for(writing, 30)


async def test_errors_name_a_provider_as_it_is_called_now(bench: Any) -> None:
    ref = await bench.add("disk")
    await bench.put(ref, "a", b"content")
    renamed = await change(bench, ref, name="archive")
    with pytest.raises(NotFound, match="archive"):
        await bench.get(renamed, "b")


async def _awaited(call: Any) -> Any:
    return await call


async def test_many_first_calls_at_once_open_one_adapter(bench: Any) -> None:
    # the objects of the memory kind live in its adapter: with two of them, some would be lost
    ref = await bench.add("memory", "memory")
    await asyncio.gather(*(bench.put(ref, f"{number}", b"x") for number in range(50)))
    found = [page async for page in bench.adapters.ListObjects(pb.ListObjectsRequest(provider=ref))]
    names = {info.key for page in found for info in page.objects}
    assert {str(number) for number in range(50)} <= names
