"""The end of a scenario: once nothing goes wrong any more, everything has to become right, and soon."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from cdir.errors import CdirError, NotFound
from cdir.status import translated
from cdir.v1 import directory_service_pb2 as pb
from cdir.v1 import directory_service_pb2_grpc, entry_pb2, provider_pb2
from cdir_adapters.sentinel import MARK_KEY
from cdir_catalog.keys import aside_key
from cdir_runtime.loopback import LoopbackChannel
from simulation.clock import clock
from simulation.oracle import Content, Oracle
from simulation.provider import SimulatedStore
from simulation.scenario import DIRECTORIES, MEDDLER, OTHERS, Scenario
from simulation.users import describe, read_file
from simulation.world import World

__all__ = ["check_all", "come_to_rest"]

REST_SECONDS = 360.0
"""How soon all debt has to be gone after the last fault."""

_LOOK_SECONDS = 0.25
_QUIET_SECONDS = 0.5
"""How long nothing must be owed until that counts as rest."""

_LONG_QUIET_SECONDS = 40.0
"""The same in one of :data:`_LONG_QUIET_SHARE` scenarios: long enough for the busy directories to be looked at anew."""

_LONG_QUIET_SHARE = 50

_SCAN_SECONDS = 0.5
"""Pause between two looks at a scan that was asked for."""

_PROOFS = 4
"""How often every copy is read and every provider scanned until all were right."""

_ANSWERING = (provider_pb2.PROVIDER_STATE_UP, provider_pb2.PROVIDER_STATE_SLOW)
_VERSIONS = ".cdir/versions/"
_SNAPSHOTS = ".cdir/catalog/"


async def check_all(world: World, scenario: Scenario, oracle: Oracle, door: LoopbackChannel) -> None:
    """Wait until the world has come to rest, and report to the oracle what is not as promised."""
    verdict = _Verdict(world, scenario, oracle, door)
    unsure = scenario.liar >= 0 or any(step.actor in {OTHERS, MEDDLER} for step in scenario.steps)
    if await verdict.rest() and (not unsure or await verdict.prove()):
        await verdict.compare()


async def come_to_rest(world: World, scenario: Scenario, oracle: Oracle, door: LoopbackChannel) -> bool:
    """Wait until nothing is left to be done; report and return False when that never comes."""
    return await _Verdict(world, scenario, oracle, door).rest()


class _Verdict:
    def __init__(self, world: World, scenario: Scenario, oracle: Oracle, door: LoopbackChannel) -> None:
        self._world = world
        self._scenario = scenario
        self._oracle = oracle
        self._stub = directory_service_pb2_grpc.DirectoryServiceStub(door)
        self._quiet = _QUIET_SECONDS if scenario.seed % _LONG_QUIET_SHARE else _LONG_QUIET_SECONDS

    # --- coming to rest -----------------------------------------------------------------------------------------------

    async def rest(self) -> bool:
        """Wait until every provider is up and no debt is left; report and return False when that never comes."""
        with translated():
            await self._stub.RepairEntry(pb.RepairEntryRequest(path="/"))
        quiet_since = clock.seconds
        gives_up = clock.seconds + REST_SECONDS
        while clock.seconds < gives_up:
            await asyncio.sleep(_LOOK_SECONDS)
            if self._world.is_busy():
                quiet_since = clock.seconds
            elif clock.seconds - quiet_since >= self._quiet:
                status = await self._status()
                if not (status.owed or status.removals or status.unplaced) and all(
                    provider.state in _ANSWERING for provider in status.providers
                ):
                    return True
        status = await self._status()
        owing = ", ".join(
            f"{provider.name} {provider_pb2.ProviderState.Name(provider.state)} owes {provider.owed}"
            f" {provider.state_reason}"
            for provider in status.providers
        )
        self._oracle.violated(
            f"no rest: {status.owed} owed, {status.removals} to remove, unplaced {status.unplaced},"
            f" {self._world.writes_under_way()} writes,"
            f" quarantined {status.quarantined}; {owing}"
        )
        return False

    async def prove(self) -> bool:
        """Read every copy and list every provider, so that silent losses are found; again until nothing was found."""
        for _ in range(_PROOFS):
            bad = await self._read_all_copies()
            await self._scan()
            if not await self.rest():
                return False
            if not bad:
                return True
        self._oracle.violated(f"copies stay bad: {', '.join(bad)}")
        return False

    async def _status(self) -> pb.GetTreeStatusResponse:
        with translated():
            return await self._stub.GetTreeStatus(pb.GetTreeStatusRequest(path="/"))

    async def _read_all_copies(self) -> list[str]:
        """Read each version at each provider; return which current copies are not right."""
        copies = [
            (entry.path, version, store.name)
            async for entry in self._files()
            for version in await self._versions(entry.path)
            for store in self._world.stores
        ]
        errors = await asyncio.gather(*(self._error_of(path, version, name) for path, version, name in copies))
        return [
            f"{path} generation {version.generation} at {name}: {error}"
            for (path, version, name), error in zip(copies, errors, strict=True)
            if error and version.current
        ]

    async def _error_of(self, path: str, version: entry_pb2.Version, provider: str) -> str:
        try:
            await read_file(self._stub, path, provider=provider, generation=version.generation)
        except CdirError as error:
            return error.message
        return ""

    async def _scan(self) -> None:
        with translated():
            started = await self._stub.ScanEntry(pb.ScanEntryRequest(path="/"))
        passes = {scan.scan_id: scan.passes for scan in started.scans}
        gives_up = clock.seconds + REST_SECONDS
        while clock.seconds < gives_up:
            await asyncio.sleep(_SCAN_SECONDS)
            with translated():
                now = await self._stub.GetScans(pb.GetScansRequest(scan_ids=sorted(passes)))
            if all(scan.passes > passes[scan.scan_id] for scan in now.scans):
                return
        self._oracle.violated("a scan of everything does not end")

    # --- what is there ------------------------------------------------------------------------------------------------

    async def _files(self) -> AsyncIterator[entry_pb2.Entry]:
        token = ""
        while True:
            request = pb.ListEntriesRequest(path="/", recursive=True, kind=entry_pb2.ENTRY_KIND_FILE, page_token=token)
            with translated():
                page = await self._stub.ListEntries(request)
            for entry in page.entries:
                yield entry
            token = page.next_page_token
            if not token:
                return

    async def _versions(self, path: str) -> list[entry_pb2.Version]:
        try:
            with translated():
                return list((await self._stub.ListVersions(pb.ListVersionsRequest(path=path))).versions)
        except NotFound:
            return []

    async def compare(self) -> None:
        """Hold what can be read, what the providers hold and what was promised against one another."""
        paths = [entry.path async for entry in self._files()]
        contents = await asyncio.gather(*map(self._content, paths))
        current = dict(zip(paths, contents, strict=True))
        for path in self._oracle.paths:
            found = current.get(path)
            possible = self._oracle.possible(path)
            if found not in possible:
                allowed = ", ".join(sorted(map(describe, possible)))
                self._oracle.violated(f"{path} is {describe(found)} in the end; possible: {allowed}")
        for path in sorted(current.keys() - set(self._oracle.paths)):
            if self._oracle.is_conflicting_copy(path, current[path]):
                continue
            self._oracle.violated(f"{path} is there and nobody wrote it: {describe(current[path])}")
        kept = await self._kept(current)
        for content, path in self._oracle.acknowledged.items():
            if content not in kept:
                self._oracle.violated(f"{describe(content)} was acknowledged at {path} and is lost")
        for number, store in enumerate(self._world.stores):
            self._compare_store(store, current, kept, honest=number != self._scenario.liar)

    async def _content(self, path: str, generation: int | None = None) -> Content:
        try:
            return (await read_file(self._stub, path, generation=generation))[0]
        except CdirError as error:
            self._oracle.violated(f"{path} generation {generation} cannot be read: {error.message}")
            return None

    async def _kept(self, current: dict[str, Content]) -> set[Content]:
        """Return every content that a user can still get: current ones, versions, and those of removed files."""
        older = [
            (path, version.generation)
            for path in sorted({*self._oracle.paths, *current, *self._beside()})
            for version in await self._versions(path)
            if not version.current and not self._is_hearsay(version)
        ]
        return {*current.values(), *await asyncio.gather(*(self._content(*which) for which in older))}

    def _beside(self) -> set[str]:
        """Return where conflicting copies may have been taken by the directories that they were kept in."""
        names = {path.rpartition("/")[2] for path in self._oracle.beside}
        return {f"{directory}/{name}" for name in names for directory in ("", *DIRECTORIES)}

    def _is_hearsay(self, version: entry_pb2.Version) -> bool:
        """Say whether only the provider that loses data ever showed this content, which nobody has read to its end.

        Its bytes may have been changed there before cdir saw them; then no right copy is anywhere, and that it
        cannot be read is the truth. A content that was acknowledged has to be readable as another version all the same.
        """
        if version.sha256:
            return False
        key = aside_key(version.version_id)
        return not any(
            key in store.objects for number, store in enumerate(self._world.stores) if number != self._scenario.liar
        )

    def _compare_store(
        self, store: SimulatedStore, current: dict[str, Content], kept: set[Content], *, honest: bool
    ) -> None:
        natural = {path.removeprefix("/"): content for path, content in current.items()}
        for key, content in natural.items():
            stored = store.objects.get(key)
            if stored is None or stored.data != content:
                self._oracle.violated(
                    f"{store.name} holds {describe(stored.data) if stored else 'nothing'} at {key} instead of"
                    f" {describe(content)}"
                )
        if not honest:
            return
        for key, stored in sorted(store.objects.items()):
            if key in natural or key == MARK_KEY or key.startswith(_SNAPSHOTS):
                continue
            if not key.startswith(_VERSIONS):
                self._oracle.violated(f"{store.name} holds {key}, which nothing explains")
            elif stored.data not in kept:
                self._oracle.violated(f"{store.name} holds {describe(stored.data)} at {key}, which is no version")
