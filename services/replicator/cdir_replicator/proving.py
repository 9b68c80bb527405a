"""Proving the copies at one provider: by what it says of them itself, or by reading them.

A copy that does not prove right is either damaged or was written by others. The catalog's comparison of listings is
what tells the two apart: an object that looks as recorded and has other bytes is damaged, and owed from now on; any
other is treated as a scan treats it, so that nobody's edit is taken for damage.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from cdir.errors import CdirError, IntegrityError, NotFound, Unsupported
from cdir.status import translated
from cdir.v1 import (
    adapter_service_pb2,
    adapter_service_pb2_grpc,
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    check_pb2,
    entry_pb2,
    provider_pb2,
    scan_pb2,
    scrub_pb2,
)
from cdir_replicator.allowance import Allowance
from cdir_replicator.notes import Notes
from cdir_replicator.planner import LARGE_BYTES
from cdir_transfer.digest import block_count
from cdir_transfer.leases import kept_alive
from cdir_transfer.listing import listed_pages, provider_ref
from cdir_transfer.observer import is_providers_fault, is_unread
from cdir_transfer.reader import VerifiedReader

__all__ = ["Prover"]

logger = logging.getLogger(__name__)

_CALL_SECONDS: Final = 60.0
_CATALOG_SECONDS: Final = 60.0
_DIGEST_SECONDS: Final = 600.0
"""A copy whose digest takes its provider longer is looked at again later."""
_WORTH_ASKING: Final = 64 * 1024
"""From this many bytes on it costs less to have the provider compute a digest than to read."""
_BATCH: Final = 64
_OBJECTS: Final = 1000
_MOST_UNPROVEN: Final = 500
"""So many copies of which nothing can be found out end the work at a provider: something else is wrong there."""

_OTHER_BYTES: Final = "what was read there does not have the recorded digest"
_OTHER_CHECKSUM: Final = "the checksum that the provider states is not the recorded one"

_OK_LIKE: Final = ("same", "ignored")
"""What a comparison counts when an object looks as recorded, or lies where only cdir itself writes."""


@dataclasses.dataclass(slots=True)
class _Reading:
    """What came of reading some copies."""

    right: list[int] = dataclasses.field(default_factory=list)
    """Found right and not recorded as proven yet."""
    damaged: list[scrub_pb2.ProofItem] = dataclasses.field(default_factory=list)
    unread: list[tuple[scrub_pb2.ProofItem, CdirError]] = dataclasses.field(default_factory=list)
    """Nothing came of them, or not all, although their provider answers."""
    unproven: set[int] = dataclasses.field(default_factory=set)
    left_out: int = 0
    """Copies that were not begun, since the allowance was spent."""


class _LeaseLost(Exception):
    """A copy is not ours to prove any more."""


class _Leases:
    """The leases of some copies: which are held, as far as is known, and which are used right now."""

    def __init__(self, proof_ids: Iterable[int]) -> None:
        self.held = set(proof_ids)
        self._used: dict[int, asyncio.Timeout] = {}

    @asynccontextmanager
    async def using(self, proof_id: int) -> AsyncGenerator[None, None]:
        """Read a copy in the block. A lease that is lost ends the block with _LeaseLost."""
        scope = asyncio.timeout(None)
        try:
            async with scope:
                self._used[proof_id] = scope
                yield
        except TimeoutError:
            if scope.expired():
                raise _LeaseLost from None
            raise
        finally:
            self._used.pop(proof_id, None)

    def lose(self, proof_ids: Iterable[int]) -> None:
        """Give up copies that are read, or were to be read."""
        for proof_id in proof_ids:
            self.held.discard(proof_id)
            scope = self._used.get(proof_id)
            if scope is not None and not scope.expired():
                scope.reschedule(asyncio.get_running_loop().time())


class Prover:
    """Proves copies, each under a lease of ``owner`` for ``lease_seconds`` that is renewed as long as they are read."""

    def __init__(
        self,
        catalog: catalog_service_pb2_grpc.CatalogServiceAsyncStub,
        adapters: adapter_service_pb2_grpc.AdapterServiceAsyncStub,
        reader: VerifiedReader,
        notes: Notes,
        *,
        owner: str,
        lease_seconds: float,
    ) -> None:
        self._catalog = catalog
        self._adapters = adapters
        self._reader = reader
        self._notes = notes
        self._owner = owner
        self._lease_seconds = lease_seconds

    # --- by the provider's own word -----------------------------------------------------------------------------------

    async def by_checksum(
        self, provider: provider_pb2.Provider, top: str, allowance: Allowance, progress: scrub_pb2.ScrubProgress
    ) -> bool:
        """List what lies at or below ``top`` (``""`` is everything) and compare the checksums stated.

        Returns false when the allowance ended it before its end. Raises when the provider cannot be listed.
        """
        ref = provider_ref(provider)
        as_of = await self._clock()
        with translated():
            await self._adapters.CheckMark(adapter_service_pb2.CheckMarkRequest(provider=ref), timeout=_CALL_SECONDS)
        async with aclosing(self._listed(ref, top)) as pages:
            async for page in pages:
                allowance.spend(calls=1)
                progress.calls += 1
                for start in range(0, len(page), _OBJECTS):
                    await self._prove_objects(provider, page[start : start + _OBJECTS], as_of, progress)
                if not allowance.left:
                    return False
        return True

    async def _listed(
        self, ref: adapter_service_pb2.ProviderRef, top: str
    ) -> AsyncGenerator[Sequence[adapter_service_pb2.ObjectInfo], None]:
        info = await self._stat(ref, top) if top else None
        if info is not None:
            yield [info]
            return
        request = adapter_service_pb2.ListObjectsRequest(provider=ref, prefix=top, recursive=True)
        async with aclosing(listed_pages(self._adapters, request, where=top or "the root")) as pages:
            async for page in pages:
                yield page

    async def _prove_objects(
        self,
        provider: provider_pb2.Provider,
        objects: Sequence[adapter_service_pb2.ObjectInfo],
        as_of: Timestamp,
        progress: scrub_pb2.ScrubProgress,
    ) -> None:
        with translated():
            response = await self._catalog.ProveObjects(
                scrub_pb2.ProveObjectsRequest(provider_id=provider.provider_id, objects=objects, as_of=as_of),
                timeout=_CATALOG_SECONDS,
            )
        progress.proven += response.proven
        progress.by_checksum += response.proven
        if not response.doubtful:
            return
        with translated():
            explained = await self._catalog.ExplainObjects(
                check_pb2.ExplainObjectsRequest(provider_id=provider.provider_id, keys=response.doubtful),
                timeout=_CATALOG_SECONDS,
            )
        for found in explained.objects:
            for copy in found.copies:
                if copy.settled:
                    await self._judge(
                        provider_ref(provider), copy.version.version_id, copy.replica, _OTHER_CHECKSUM, progress
                    )

    # --- by reading ---------------------------------------------------------------------------------------------------

    async def by_reading(
        self,
        provider: provider_pb2.Provider,
        top: str,
        before: Timestamp,
        allowance: Allowance,
        progress: scrub_pb2.ScrubProgress,
        *,
        most: int | None = None,
        at_once: int = 4,
    ) -> bool:
        """Read copies that were not proven since ``before``, oldest proof first, at most ``most``.

        Returns false when the allowance or ``most`` ended it. Raises when the provider cannot be read.
        """
        unproven: set[int] = set()
        begun = 0
        while allowance.left and (most is None or begun < most) and len(unproven) < _MOST_UNPROVEN:
            wanted = _BATCH if most is None else min(_BATCH, most - begun)
            claimed = await self._claim(provider, top, before, wanted + len(unproven))
            items = [item for item in claimed if item.proof_id not in unproven]
            leased = [item.proof_id for item in claimed]
            try:
                reading = await self._read_all(provider, items, allowance, progress, at_once)
            except CdirError:
                await self._release(leased)
                raise
            await self._release(leased)
            for item in reading.damaged:
                await self._judge(provider_ref(provider), item.version.version_id, item.replica, _OTHER_BYTES, progress)
            if reading.unread:
                await self._notes.record([_doubtful(item, error) for item, error in reading.unread])
            if reading.left_out:
                return False
            if len(items) < wanted:
                return True
            begun += len(items)
            unproven |= reading.unproven
        return False

    async def _claim(
        self, provider: provider_pb2.Provider, top: str, before: Timestamp, limit: int
    ) -> list[scrub_pb2.ProofItem]:
        request = scrub_pb2.ClaimProofsRequest(
            owner=self._owner,
            provider_id=provider.provider_id,
            top=top,
            before=before,
            limit=limit,
            lease_seconds=self._lease_seconds,
        )
        with translated():
            response = await self._catalog.ClaimProofs(request, timeout=_CATALOG_SECONDS)
        return list(response.items)

    async def _read_all(
        self,
        provider: provider_pb2.Provider,
        items: Sequence[scrub_pb2.ProofItem],
        allowance: Allowance,
        progress: scrub_pb2.ScrubProgress,
        at_once: int,
    ) -> _Reading:
        """Read copies as long as the allowance lasts and record those that are right.

        A copy whose lease is lost meanwhile, as when its file is replaced, is read no further.
        """
        reading = _Reading()
        leases = _Leases(item.proof_id for item in items)
        waiting = iter(items)

        async def work() -> None:
            for item in waiting:
                if item.proof_id not in leases.held:
                    continue
                if not allowance.left:
                    reading.left_out += 1
                    continue
                size = item.version.size
                try:
                    async with leases.using(item.proof_id):
                        if size < _WORTH_ASKING or not await self._digested(provider, item, allowance, progress):
                            allowance.spend(bytes=size, calls=block_count(size))
                            progress.calls += block_count(size)
                            await self._read(item, progress)
                except _LeaseLost:
                    logger.info(
                        "%s at provider %s is not proven now: it was changed meanwhile", item.path, provider.name
                    )
                except IntegrityError:
                    reading.unproven.add(item.proof_id)
                    reading.damaged.append(item)
                except CdirError as error:
                    await self._require_reachable(provider, error)
                    logger.info("%s at provider %s cannot be proven: %s", item.path, provider.name, error)
                    reading.unproven.add(item.proof_id)
                    if is_unread(error):
                        reading.unread.append((item, error))
                    progress.failed += 1
                else:
                    reading.right.append(item.proof_id)
                    if size >= LARGE_BYTES:
                        await self._prove(reading.right, progress)

        try:
            async with (
                kept_alive(lambda: self._renew(leases), seconds=self._lease_seconds),
                asyncio.TaskGroup() as workers,
            ):
                for _ in range(min(at_once, len(items))):
                    workers.create_task(work())
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        await self._prove(reading.right, progress)
        return reading

    async def _renew(self, leases: _Leases) -> None:
        """Renew the leases of a batch, and stop the reading of what is ours no longer."""
        if not leases.held:
            return
        request = scrub_pb2.RenewProofsRequest(
            owner=self._owner, proof_ids=sorted(leases.held), lease_seconds=self._lease_seconds
        )
        with translated():
            response = await self._catalog.RenewProofs(request, timeout=_CATALOG_SECONDS)
        leases.lose(response.lost)
        await self._release(response.lost)

    async def _require_reachable(self, provider: provider_pb2.Provider, error: CdirError) -> None:
        """Raise when a copy could not be read because its provider cannot be reached at all."""
        if is_providers_fault(error):
            raise error
        with translated():
            await self._adapters.CheckMark(
                adapter_service_pb2.CheckMarkRequest(provider=provider_ref(provider)), timeout=_CALL_SECONDS
            )

    async def _digested(
        self,
        provider: provider_pb2.Provider,
        item: scrub_pb2.ProofItem,
        allowance: Allowance,
        progress: scrub_pb2.ScrubProgress,
    ) -> bool:
        """Have the provider compute the digest of a copy; false when it does not do that.

        Raises IntegrityError when the copy is damaged or gone.
        """
        computes = provider.capability.fields.get("digest")
        if computes is None or not computes.bool_value:
            return False
        allowance.spend(calls=1)
        progress.calls += 1
        request = adapter_service_pb2.DigestObjectRequest(provider=provider_ref(provider), key=item.replica.key)
        try:
            with translated():
                response = await self._adapters.DigestObject(request, timeout=_DIGEST_SECONDS)
        except Unsupported:
            return False
        except NotFound as error:
            raise IntegrityError(f"nothing is at {item.replica.key}") from error
        if response.sha256 != item.version.sha256:
            raise IntegrityError(f"{item.replica.key} has another digest than recorded")
        progress.by_checksum += 1
        return True

    async def _read(self, item: scrub_pb2.ProofItem, progress: scrub_pb2.ScrubProgress) -> None:
        """Read a copy to its end. Raises IntegrityError when it is damaged or gone."""
        content = self._reader.open(item.version, [item.replica], _nowhere_else, label=item.path)
        async with aclosing(content.pieces()) as pieces:
            async for piece in pieces:
                progress.bytes += len(piece)

    async def _prove(self, right: list[int], progress: scrub_pb2.ScrubProgress) -> None:
        """Record copies as proven, and take them off the list."""
        if not right:
            return
        proven = right[:]
        right.clear()
        with translated():
            response = await self._catalog.FinishProofs(
                scrub_pb2.FinishProofsRequest(owner=self._owner, proven=proven), timeout=_CATALOG_SECONDS
            )
        progress.proven += response.proven

    async def _release(self, proof_ids: Sequence[int]) -> None:
        """Give leases back; those of copies that were proven have ended already."""
        if not proof_ids:
            return
        with translated():
            await self._catalog.FinishProofs(
                scrub_pb2.FinishProofsRequest(owner=self._owner, released=proof_ids), timeout=_CATALOG_SECONDS
            )

    # --- what did not prove right -------------------------------------------------------------------------------------

    async def _judge(
        self,
        ref: adapter_service_pb2.ProviderRef,
        version_id: str,
        replica: entry_pb2.Replica,
        reason: str,
        progress: scrub_pb2.ScrubProgress,
    ) -> None:
        """Find out what became of a copy that is not right, and tell the catalog."""
        as_of = await self._clock()
        info = await self._stat(ref, replica.key)
        progress.calls += 1
        seen = catalog_service_pb2.ReplicaObservation(
            version_id=version_id, provider_id=replica.provider_id, key=replica.key
        )
        where = f"{replica.key} at provider {replica.provider}"
        if info is None:
            seen.state, seen.error = entry_pb2.REPLICA_STATE_MISSING, f"nothing is at {replica.key}"
            progress.missing += 1
        elif await self._looks_as_recorded(replica, info, as_of):
            seen.state, seen.error = entry_pb2.REPLICA_STATE_CORRUPT, reason
            progress.corrupt += 1
        else:
            logger.info("%s was written by others", where)
            progress.changed += 1
            return
        logger.warning("%s: %s", where, seen.error)
        await self._notes.record([seen])

    async def _looks_as_recorded(
        self, replica: entry_pb2.Replica, info: adapter_service_pb2.ObjectInfo, as_of: Timestamp
    ) -> bool:
        """Have the catalog compare an object with its record; whatever follows from a difference, it has done then."""
        listed = scan_pb2.ListedRange(prefix=replica.key.rpartition("/")[0], objects=[info])
        request = scan_pb2.CompareListingRequest(provider_id=replica.provider_id, as_of=as_of, ranges=[listed])
        with translated():
            response = await self._catalog.CompareListing(request, timeout=_CATALOG_SECONDS)
        return any(getattr(response.counts, name) for name in _OK_LIKE)

    async def _stat(self, ref: adapter_service_pb2.ProviderRef, key: str) -> adapter_service_pb2.ObjectInfo | None:
        """Return the file at a key; ``None`` when there is none."""
        try:
            with translated():
                response = await self._adapters.StatObject(
                    adapter_service_pb2.StatObjectRequest(provider=ref, key=key), timeout=_CALL_SECONDS
                )
        except NotFound:
            return None
        return None if response.info.directory or response.info.special else response.info

    async def _clock(self) -> Timestamp:
        with translated():
            response = await self._catalog.ReadProofs(scrub_pb2.ReadProofsRequest(), timeout=_CATALOG_SECONDS)
        return response.now


def _doubtful(item: scrub_pb2.ProofItem, error: CdirError) -> catalog_service_pb2.ReplicaObservation:
    """Return the note that has a copy inspected: whether it can be read at all, several attempts tell."""
    return catalog_service_pb2.ReplicaObservation(
        version_id=item.version.version_id,
        provider_id=item.replica.provider_id,
        key=item.replica.key,
        state=entry_pb2.REPLICA_STATE_UNKNOWN,
        error=error.message,
    )


async def _nowhere_else() -> Sequence[entry_pb2.Replica]:
    raise NotFound("only this one copy is read")
