"""A model of all that surrounds a catalog: providers as dictionaries, a gateway that may die at any step, a worker too.

It does what the contract of the catalog asks of its callers, and nothing clever. After every step the one thing must
hold that matters most: a content that was acknowledged and is current is somewhere a reader is sent to.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from catalogs.driver import Driver
from cdir.errors import CdirError, IsDirectory, NotFound
from cdir.v1 import catalog_service_pb2 as catalog
from cdir.v1 import directory_service_pb2 as directory
from cdir.v1 import entry_pb2, provider_pb2

__all__ = ["World"]

_OK = entry_pb2.REPLICA_STATE_OK
_MISSING = entry_pb2.REPLICA_STATE_MISSING
_CORRUPT = entry_pb2.REPLICA_STATE_CORRUPT
_UNKNOWN = entry_pb2.REPLICA_STATE_UNKNOWN


@dataclass
class World:
    """Providers, by id, each a mapping from key to the version id whose bytes lie there."""

    driver: Driver
    objects: dict[str, dict[str, str]] = field(default_factory=dict)
    down: set[str] = field(default_factory=set)
    modified: dict[str, int] = field(default_factory=dict)
    """The modified time of every content that a writer brought, in seconds, by version id."""
    epoch: int = 0

    async def add_provider(self, name: str) -> None:
        self.objects[await self.driver.add_provider(name)] = {}

    def _move(self, provider: str, source: str, target: str) -> bool:
        """Rename an object, over what is there; False when there is none."""
        there = self.objects[provider]
        if source not in there:
            return False
        there[target] = there.pop(source)
        return True

    async def set_down(self, name: str, *, down: bool) -> None:
        provider = self.driver.providers[name]
        if down:
            self.down.add(provider)
        else:
            self.down.discard(provider)
        state = provider_pb2.PROVIDER_STATE_DOWN if down else provider_pb2.PROVIDER_STATE_UP
        await self.driver.observe(name, state)

    # -- the gateway --------------------------------------------------------------------------------------------------

    async def write(self, path: str, *, dies_at: int = -1, failing: Collection[int] = ()) -> str | None:
        """Write a file; returns the version acknowledged.

        The gateway dies before its step number ``dies_at``, counted over all its calls and provider operations. At the
        targets numbered in ``failing`` the bytes arrive, but not the answer.
        """
        step = iter(range(1_000_000))

        def dies() -> bool:
            return next(step) == dies_at

        owner = f"gateway {self.epoch}"
        try:
            begun = await self.driver.begin_one(path, owner=owner)
        except CdirError:
            return None
        self.modified[begun.version_id] = len(self.modified) + 1
        stored: list[catalog.StoredCopy] = []
        touched: list[str] = []
        for index, target in enumerate(begun.targets):
            if not target.writable or target.provider_id in self.down:
                continue
            if dies():
                return None
            if target.occupant.version_id:
                moved = self._move(target.provider_id, target.key, target.occupant.aside_key)
                if dies():
                    return None
                if moved:
                    await self._report_rename(target.occupant, target.provider_id, target.key)
                if dies():
                    return None
            self.objects[target.provider_id][target.key] = begun.version_id
            if dies():
                return None
            if index in failing:
                touched.append(target.provider_id)
            else:
                stored.append(catalog.StoredCopy(provider_id=target.provider_id))
        if len(stored) < begun.min_copies:
            abort = catalog.AbortedWrite(
                version_id=begun.version_id, touched=[*touched, *(copy.provider_id for copy in stored)]
            )
            await self.driver.call("AbortWrites", catalog.AbortWritesRequest(aborts=[abort]))
            return None
        commitment = catalog.WriteCommitment(
            version_id=begun.version_id, size=1, sha256=b"s" * 32, stored=stored, touched=touched
        )
        commitment.modified.seconds = self.modified[begun.version_id]
        try:
            await self.driver.commit_one(commitment)
        except CdirError:
            return None
        return begun.version_id

    async def _report_rename(self, occupant: catalog.Occupant, provider: str, key: str) -> None:
        await self.driver.record(
            catalog.ReplicaObservation(
                version_id=occupant.version_id,
                provider_id=provider,
                key=occupant.aside_key,
                previous_key=key,
                state=_OK,
            )
        )

    async def recover(self) -> None:
        """A new gateway: everything of the one before lapses and is undone."""
        await self.driver.call("ReleaseOwner", catalog.ReleaseOwnerRequest())
        self.epoch += 1
        claim = catalog.ClaimLapsedWritesRequest(owner=f"gateway {self.epoch}")
        lapsed = (await self.driver.call("ClaimLapsedWrites", claim)).writes
        aborts = [
            catalog.AbortedWrite(version_id=write.version_id, touched=[one.provider_id for one in write.targets])
            for write in lapsed
        ]
        await self.driver.call("AbortWrites", catalog.AbortWritesRequest(aborts=aborts))

    # -- the worker ---------------------------------------------------------------------------------------------------

    async def work(self, *, limit: int = 100, dies_after: int = -1) -> int:
        """Work off what is due, and return how many items that were; the worker may die in the middle of one."""
        owner = f"worker {self.epoch}"
        items = await self.driver.claim(owner=owner, limit=limit)
        for index, item in enumerate(items):
            done = await self._do(item)
            if index == dies_after:
                break
            outcome = catalog.DebtOutcome(debt_id=item.debt_id, owner=owner)
            if done is None:
                outcome.done = True
            elif done == _UNKNOWN:
                outcome.failure.message, outcome.counted = "cannot be done", False
            else:
                outcome.state = done
            await self.driver.call("FinishDebt", catalog.FinishDebtRequest(outcomes=[outcome]))
        return len(items)

    async def _do(self, item: catalog.DebtItem) -> entry_pb2.ReplicaState.ValueType | None:
        """Do one item; ``None`` when done, UNKNOWN when it failed, else what an inspection found."""
        provider, key = item.replica.provider_id, item.replica.key
        there = self.objects[provider]
        if provider in self.down:
            return _UNKNOWN
        if item.occupant.version_id and self._move(provider, item.target_key, item.occupant.aside_key):
            await self._report_rename(item.occupant, provider, item.target_key)
        version = item.version.version_id
        if item.kind == catalog.DEBT_KIND_COPY:
            for source in item.sources:
                for place in [source.key, *source.alternate_keys]:
                    if self.objects[source.provider_id].get(place) == version and source.provider_id not in self.down:
                        there[item.target_key] = version
                        return None
            return _UNKNOWN
        if item.kind == catalog.DEBT_KIND_RELOCATE:
            if self._move(provider, key, item.target_key) or there.get(item.target_key) == version:
                return None
            lost = catalog.ReplicaObservation(version_id=version, provider_id=provider, key=key, state=_MISSING)
            await self.driver.record(lost)
            return _UNKNOWN
        if item.kind == catalog.DEBT_KIND_REMOVE:
            there.pop(key, None)
            return None
        found = there.get(key)
        if found == version:
            return None
        return _MISSING if found is None else _CORRUPT

    async def settle(self, rounds: int = 60) -> None:
        """Bring everything up and work until nothing is owed."""
        for name, provider in self.driver.providers.items():
            if provider in self.down:
                await self.set_down(name, down=False)
        await self.recover()
        await self.driver.place()
        for _ in range(rounds):
            await self.driver.call("MakeDue", catalog.MakeDueRequest(path="/"))
            if not await self.work():
                return
        raise AssertionError(f"debt does not come to an end: {await self.driver.claim(owner='nobody')}")

    # -- what must hold -----------------------------------------------------------------------------------------------

    async def check_readable(self) -> None:
        """Every current content is at some place that a reader is sent to."""
        for path in await self.driver.paths("/", recursive=True, kind=entry_pb2.ENTRY_KIND_FILE):
            resolved = await self.driver.resolve(path)
            version = resolved.version.version_id
            places = [
                (replica.provider_id, key)
                for replica in resolved.replicas
                for key in [replica.key, *replica.alternate_keys]
            ]
            assert any(self.objects[provider].get(key) == version for provider, key in places), (path, places)

    async def check_settled(self) -> None:
        """Every file is where it should be, under its name, and no provider has an object that nothing explains."""
        expected: dict[str, dict[str, str]] = {provider: {} for provider in self.objects}
        for path in await self.driver.paths("/", recursive=True, kind=entry_pb2.ENTRY_KIND_FILE):
            placed = await self.driver.call("ExplainPlacement", directory.ExplainPlacementRequest(path=path))
            entry = await self.driver.entry(path)
            assert entry.owed == 0
            for reason in placed.reasons:
                if reason.chosen:
                    expected[self.driver.providers[reason.provider]][path[1:]] = entry.version_id
        for provider, there in self.objects.items():
            named = {key: version for key, version in there.items() if not key.startswith(".cdir/")}
            assert named == expected[provider]
            aside = {key: version for key, version in there.items() if key.startswith(".cdir/")}
            assert all(key == f".cdir/versions/{version[:2]}/{version}" for key, version in aside.items())

    async def check_aside(self, paths: Collection[str]) -> None:
        """What lies aside at providers is what older versions of these paths are said to have there."""
        known: dict[str, set[str]] = {provider: set() for provider in self.objects}
        for path in paths:
            try:
                versions = await self.driver.versions(path)
            except (NotFound, IsDirectory):
                continue
            for version in versions:
                if not version.current:
                    resolved = await self.driver.resolve(path, generation=version.generation)
                    for replica in resolved.replicas:
                        assert self.objects[replica.provider_id].get(replica.key) == version.version_id
                        known[replica.provider_id].add(replica.key)
        for provider, there in self.objects.items():
            assert {key for key in there if key.startswith(".cdir/")} == known[provider]

    async def check_counters(self, top: str) -> None:
        """The counters of the whole say what a scan of the directory that holds everything says."""
        whole, scanned = await self.driver.status("/"), await self.driver.status(top)
        assert (whole.files, whole.bytes) == (scanned.files, scanned.bytes)
        for one, other in zip(whole.providers, scanned.providers, strict=True):
            assert (one.name, one.files, one.bytes, one.owed) == (other.name, other.files, other.bytes, other.owed)
        assert whole.quarantined == scanned.quarantined
        assert whole.removals >= scanned.removals  # leftovers belong to no directory
