"""Snapshots of a catalog taken and used through its stub, as the gateway does it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import NamedTuple

from catalogs.driver import Driver
from catalogs.world import World
from cdir.status import translated
from cdir.v1 import catalog_recovery_pb2 as pb

__all__ = ["File", "rebuild", "see", "see_world", "take"]


class File(NamedTuple):
    """A snapshot file."""

    name: str
    data: bytes


async def take(driver: Driver, *, owner: str = "taker", **fields: float) -> File | None:
    """Take the snapshot that is due after any change, ``None`` when none is."""
    claim = pb.ClaimSnapshotRequest(owner=owner, at_once=True, **fields)
    name = (await driver.call("ClaimSnapshot", claim)).name
    if not name:
        return None
    with translated():
        pieces = [piece.data async for piece in driver.stub.DumpCatalog(pb.DumpCatalogRequest(name=name))]
    data = b"".join(pieces)
    finish = pb.FinishSnapshotRequest(name=name, owner=owner, stored=True)
    await driver.call("FinishSnapshot", finish)
    return File(name, data)


async def see(driver: Driver, provider: str, sightings: Iterable[pb.Sighting]) -> None:
    """Tell all that lies at a provider, by its name."""
    request = pb.RecordSightingsRequest(provider_id=driver.providers[provider], first=True, sightings=sightings)
    await driver.call("RecordSightings", request)


async def see_world(driver: Driver, world: World, names: Iterable[str]) -> None:
    """Tell what lies at providers of a world; ``driver`` knows these under the same names."""
    for name in names:
        sightings = []
        for key, version in world.objects[world.driver.providers[name]].items():
            one = pb.Sighting(key=key, size=1, exact=True)
            one.modified.seconds = world.modified[version]
            sightings.append(one)
        await see(driver, name, sightings)


async def rebuild(
    driver: Driver,
    files: Iterable[File] = (),
    *,
    listed: Iterable[str] = (),
    dry_run: bool = False,
    commit: bool = True,
) -> pb.RebuildReport:
    """Rebuild an empty catalog; ``listed`` are names of providers."""
    ids: Mapping[str, str] = driver.providers

    async def steps() -> AsyncIterator[pb.RebuildCatalogRequest]:
        start = pb.RebuildStart(listed=[ids[name] for name in listed], dry_run=dry_run)
        yield pb.RebuildCatalogRequest(start=start)
        for file in files:
            yield pb.RebuildCatalogRequest(file=file.name)
            for begin in range(0, len(file.data), 1000):
                yield pb.RebuildCatalogRequest(data=file.data[begin : begin + 1000])
        if commit:
            yield pb.RebuildCatalogRequest(commit=pb.RebuildCommit())

    with translated():
        response = await driver.stub.RebuildCatalog(steps())
    report: pb.RebuildReport = response.report
    return report
