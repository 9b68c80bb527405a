"""Doing a piece of debt: copy, rename, remove, inspect, or set an access control list.

Each returns what became of it and raises nothing.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence

from cdir.errors import (
    CdirError,
    Conflict,
    IntegrityError,
    InternalError,
    IsDirectory,
    NotFound,
    PreconditionFailed,
    ProviderUnavailable,
    Unsupported,
)
from cdir.paths import RESERVED_ROOT_NAME
from cdir.status import from_failure, to_failure, translated
from cdir.v1 import (
    adapter_service_pb2,
    adapter_service_pb2_grpc,
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    entry_pb2,
)
from cdir_replicator.absence import Absence
from cdir_replicator.lookout import Lookout
from cdir_replicator.notes import Notes
from cdir_replicator.planner import SOON, UNREACHABLE, UNREADABLE_AFTER, Verdict, back_off, judge
from cdir_replicator.progress import Progress
from cdir_runtime.crash import crash_point
from cdir_transfer.digest import BLOCK_SIZE
from cdir_transfer.observer import is_unread
from cdir_transfer.reader import OpenContent, VerifiedReader
from cdir_transfer.shared_calls import SMALL_CONTENT
from cdir_transfer.small_reads import SmallReads
from cdir_transfer.small_writes import SmallContent, SmallWrites
from cdir_transfer.writer import Copies, ProviderWriter

__all__ = ["Repairer", "shares_calls"]

logger = logging.getLogger(__name__)

_CALL_SECONDS = 60.0
_MOVE_SECONDS = 300.0
_REMOVE_SECONDS = 120.0
_CATALOG_SECONDS = 30.0

_INSPECTED_AT_ONCE = 16
"""Most copies of one piece of work that are read at the same time."""


class Repairer:
    """Works off debt that is leased to ``owner``, for as long as it takes: its caller keeps the leases alive."""

    def __init__(
        self,
        catalog: catalog_service_pb2_grpc.CatalogServiceAsyncStub,
        adapters: adapter_service_pb2_grpc.AdapterServiceAsyncStub,
        reader: VerifiedReader,
        writer: ProviderWriter,
        small_reads: SmallReads,
        small_writes: SmallWrites,
        notes: Notes,
        progress: Progress,
        lookout: Lookout,
        *,
        owner: str,
    ) -> None:
        self._catalog = catalog
        self._adapters = adapters
        self._reader = reader
        self._writer = writer
        self._small_reads = small_reads
        self._small_writes = small_writes
        self._absence = Absence(catalog, adapters)
        self._notes = notes
        self._progress = progress
        self._lookout = lookout
        self._owner = owner

    async def work(self, items: Sequence[catalog_service_pb2.DebtItem]) -> list[catalog_service_pb2.DebtOutcome]:
        """Do one item, or several removals, inspections or copies that share calls (:func:`shares_calls`) at one
        provider; return one outcome for each.

        Whatever goes wrong with an item becomes its outcome: a bad object never stops the run.
        """
        first = items[0]
        try:
            match first.kind:
                case catalog_service_pb2.DEBT_KIND_COPY:
                    crash_point("repair.before_copy")
                    made = [await self._copy(first)] if len(items) == 1 else await self._copy_together(items)
                    crash_point("repair.after_copy")
                    return made
                case catalog_service_pb2.DEBT_KIND_RELOCATE:
                    return [await self._relocate(first)]
                case catalog_service_pb2.DEBT_KIND_INSPECT:
                    return [await self._inspect(first)] if len(items) == 1 else await self._inspect_together(items)
                case catalog_service_pb2.DEBT_KIND_REMOVE:
                    return await self._remove(items)
                case catalog_service_pb2.DEBT_KIND_ACL:
                    return [await self._set_acl(first)]
                case other:
                    unknown = Unsupported(f"this replicator does not know the debt kind {other}; update it")
                    return [self._failed(item, unknown) for item in items]
        except CdirError as error:
            return [self._failed(item, error) for item in items]
        except Exception:
            logger.exception("repairing %s failed unexpectedly", _label(first))
            defect = InternalError(f"repairing {_label(first)} failed inside cdir; the replicator's log says more")
            return [self._failed(item, defect) for item in items]

    async def _work_apart(self, items: Sequence[catalog_service_pb2.DebtItem]) -> list[catalog_service_pb2.DebtOutcome]:
        """Do items one by one, side by side; the callers bound their number."""
        async with asyncio.TaskGroup() as tasks:
            working = [tasks.create_task(self.work([item])) for item in items]
        return [outcome for task in working for outcome in task.result()]

    def hand_back(self, item: catalog_service_pb2.DebtItem, reason: str) -> catalog_service_pb2.DebtOutcome:
        """Return the outcome of an item that was claimed and not worked on."""
        return catalog_service_pb2.DebtOutcome(
            debt_id=item.debt_id,
            owner=self._owner,
            failure=to_failure(Conflict(reason)),
            retry_seconds=random.uniform(*SOON),
        )

    def _done(
        self,
        item: catalog_service_pb2.DebtItem,
        etag: str = "",
        checksum: str = "",
        acl: entry_pb2.AclOutcome | None = None,
    ) -> catalog_service_pb2.DebtOutcome:
        return catalog_service_pb2.DebtOutcome(
            debt_id=item.debt_id, owner=self._owner, done=True, etag=etag, checksum=checksum, acl=acl
        )

    def _failed(
        self,
        item: catalog_service_pb2.DebtItem,
        error: CdirError,
        verdict: Verdict | None = None,
    ) -> catalog_service_pb2.DebtOutcome:
        verdict = verdict or judge(error, item.replica.attempts)
        self._progress.failed += 1
        if verdict.counted:
            logger.warning("%s: %s", _label(item), error.message)
        else:
            logger.debug("%s: put off: %s", _label(item), error.message)
        return catalog_service_pb2.DebtOutcome(
            debt_id=item.debt_id,
            owner=self._owner,
            failure=to_failure(error),
            retry_seconds=random.uniform(*verdict.retry),
            counted=verdict.counted,
        )

    def _found(
        self, item: catalog_service_pb2.DebtItem, state: entry_pb2.ReplicaState.ValueType, error: CdirError
    ) -> catalog_service_pb2.DebtOutcome:
        """Return the outcome of work that found something else than the right content: it is owed at once."""
        logger.info("%s: %s", _label(item), error.message)
        return catalog_service_pb2.DebtOutcome(
            debt_id=item.debt_id, owner=self._owner, state=state, failure=to_failure(error)
        )

    # --- copy ---------------------------------------------------------------------------------------------------------

    async def _copy(self, item: catalog_service_pb2.DebtItem) -> catalog_service_pb2.DebtOutcome:
        """Write the content at its target from one of the good copies, verified on its way."""
        version = item.version
        target = _target(item, free=await self._lookout.find_free(item))
        content = self._reader.open(version, item.sources, self._resolver(item), label=_label(item))
        try:
            if version.size <= BLOCK_SIZE:
                data = await content.whole()
                copies = self._writer.put(
                    [target],
                    data,
                    modified=version.modified,
                    needed=1,
                    record_displaced=self._record_displaced,
                )
                stored = await _settled(copies, copies.settled)
            else:
                stored = await self._copy_stream(item, target, content)
        except ProviderUnavailable:
            for provider in content.changed:
                await self._lookout.ask_for_scan(item, provider)
            raise
        self._progress.copied += 1
        self._progress.copied_bytes += version.size
        return self._done(item, stored.etag, stored.checksum, stored.acl if stored.HasField("acl") else None)

    async def _copy_together(
        self, items: Sequence[catalog_service_pb2.DebtItem]
    ) -> list[catalog_service_pb2.DebtOutcome]:
        """Copy small contents by few calls. Nothing that lies at a target is replaced: that, and whatever else stands
        in the way of an item, is left to :meth:`_copy`."""
        contents = await self._small_reads.read_each([(item.version, item.sources) for item in items])
        ready = [(item, data) for item, data in zip(items, contents, strict=True) if data is not None]
        wanted = [
            SmallContent(
                key=item.target_key,
                modified=item.version.modified,
                only_if_absent=True,
                data=data,
                acl=item.acl if item.HasField("acl") else None,
            )
            for item, data in ready
        ]
        outcomes: list[catalog_service_pb2.DebtOutcome] = []
        stored = await self._small_writes.write_each(_ref(items[0].replica), wanted)
        for (item, data), info in zip(ready, stored, strict=True):
            if isinstance(info, adapter_service_pb2.ObjectInfo) and info.size == len(data):
                self._progress.copied += 1
                self._progress.copied_bytes += len(data)
                outcomes.append(self._done(item, info.etag, info.checksum, info.acl if info.HasField("acl") else None))
        done = {outcome.debt_id for outcome in outcomes}
        return [*outcomes, *await self._work_apart([item for item in items if item.debt_id not in done])]

    async def _copy_stream(
        self, item: catalog_service_pb2.DebtItem, target: catalog_service_pb2.WriteTarget, content: OpenContent
    ) -> catalog_service_pb2.StoredCopy:
        fan_out = self._writer.stream(
            [target],
            modified=item.version.modified,
            size=item.version.size,
            needed=1,
            record_displaced=self._record_displaced,
        )

        async def send_all() -> bool:
            blocks = content.blocks()
            try:
                async for block in blocks:
                    await fan_out.send(block)
            finally:
                await blocks.aclose()
            fan_out.commit()
            return await fan_out.settled()

        return await _settled(fan_out, send_all)

    async def _record_displaced(self, observation: catalog_service_pb2.ReplicaObservation) -> None:
        await self._notes.record([observation])

    def _resolver(self, item: catalog_service_pb2.DebtItem) -> Callable[[], Awaitable[Sequence[entry_pb2.Replica]]]:
        """Return what asks the catalog where the copies of an item's version are now."""

        async def resolve() -> Sequence[entry_pb2.Replica]:
            if item.path:
                ref = catalog_service_pb2.PathRef(
                    workspace=item.workspace, path=item.path, generation=item.version.generation
                )
                with translated():
                    response = await self._catalog.ResolveEntries(
                        catalog_service_pb2.ResolveEntriesRequest(refs=[ref], with_replicas=True),
                        timeout=_CATALOG_SECONDS,
                    )
                found = response.results[0]
                if not found.HasField("failure") and found.version.version_id == item.version.version_id:
                    return found.replicas
            raise NotFound(f"{_label(item)} no longer has this content")

        return resolve

    # --- rename -------------------------------------------------------------------------------------------------------

    async def _relocate(self, item: catalog_service_pb2.DebtItem) -> catalog_service_pb2.DebtOutcome:
        """Rename the object to where it belongs, after what occupies that name."""
        replica = item.replica
        if item.HasField("occupant") and item.occupant.version_id:
            await self._move_occupant(item)
        crash_point("repair.before_relocate")
        try:
            info = await self._move(replica, replica.key, item.target_key)
        except NotFound as error:
            return await self._copy_instead(item, error.message)
        crash_point("repair.after_relocate")
        if info.directory or info.size != item.version.size:
            if item.target_key.startswith(f"{RESERVED_ROOT_NAME}/") and not info.directory:
                # nobody else puts anything there: others had put theirs at the old name, where a scan takes it up
                await self._move(replica, item.target_key, replica.key)
                await self._lookout.ask_for_scan(item, replica.provider)
                anothers = IntegrityError(
                    f"{replica.key} at provider {replica.provider} has {info.size} bytes instead of"
                    f" {item.version.size}: another program's"
                )
                return self._found(item, entry_pb2.REPLICA_STATE_CORRUPT, anothers)
            # nothing was at the old name, and the new one has something else: trying again is vain
            found = "a folder" if info.directory else f"{info.size} bytes instead of {item.version.size}"
            return await self._copy_instead(item, f"{item.target_key} has {found} after it was renamed")
        self._progress.relocated += 1
        return self._done(item, info.etag, info.checksum)

    async def _copy_instead(self, item: catalog_service_pb2.DebtItem, reason: str) -> catalog_service_pb2.DebtOutcome:
        """Record that the content is not where it was recorded: from now on it is a copy that is owed."""
        missing = catalog_service_pb2.ReplicaObservation(
            version_id=item.version.version_id,
            provider_id=item.replica.provider_id,
            key=item.replica.key,
            state=entry_pb2.REPLICA_STATE_MISSING,
            error=reason,
        )
        await self._notes.record([missing])
        return self.hand_back(item, f"{reason}: it is copied instead")

    async def _move_occupant(self, item: catalog_service_pb2.DebtItem) -> None:
        occupant = item.occupant
        seen = catalog_service_pb2.ReplicaObservation(
            version_id=occupant.version_id, provider_id=item.replica.provider_id
        )
        try:
            info = await self._move(item.replica, item.target_key, occupant.aside_key)
        except NotFound as error:
            seen.key, seen.state, seen.error = item.target_key, entry_pb2.REPLICA_STATE_MISSING, error.message
        else:
            if occupant.HasField("size") and info.size != occupant.size:
                await self._move(item.replica, occupant.aside_key, item.target_key)
                await self._lookout.ask_for_scan(item, item.replica.provider)
                raise PreconditionFailed(
                    f"{item.target_key} at provider {item.replica.provider} was changed by another program; a scan"
                    " takes it up before it is replaced",
                    provider=item.replica.provider,
                )
            seen.key, seen.previous_key = occupant.aside_key, item.target_key
            seen.state = entry_pb2.REPLICA_STATE_OK
            seen.etag, seen.checksum = info.etag, info.checksum
        # the name may be used again only once the catalog knows where its occupant went
        await self._notes.record([seen])

    async def _move(self, replica: entry_pb2.Replica, source: str, target: str) -> adapter_service_pb2.ObjectInfo:
        with translated():
            response = await self._adapters.MoveObject(
                adapter_service_pb2.MoveObjectRequest(provider=_ref(replica), source=source, target=target),
                timeout=_MOVE_SECONDS,
            )
        return response.info

    # --- access control list ------------------------------------------------------------------------------------------

    async def _set_acl(self, item: catalog_service_pb2.DebtItem) -> catalog_service_pb2.DebtOutcome:
        """Set the ACL of the object where it is. What its provider cannot express is an outcome too."""
        replica = item.replica
        try:
            with translated():
                response = await self._adapters.SetObjectAcl(
                    adapter_service_pb2.SetObjectAclRequest(provider=_ref(replica), key=replica.key, acl=item.acl),
                    timeout=_CALL_SECONDS,
                )
        except NotFound as error:
            return await self._copy_instead(item, error.message)
        return self._done(item, acl=response.outcome)

    # --- remove -------------------------------------------------------------------------------------------------------

    async def _remove(self, items: Sequence[catalog_service_pb2.DebtItem]) -> list[catalog_service_pb2.DebtOutcome]:
        """Remove objects that no version explains any more, all at one provider.

        What another program has put in the place of a bad copy stays, and is this copy no more.
        """
        others = {item.debt_id for item in items if await self._lookout.is_anothers(item)}
        removed = await self._delete([item for item in items if item.debt_id not in others])
        return [*removed, *(self._done(item) for item in items if item.debt_id in others)]

    async def _delete(self, items: Sequence[catalog_service_pb2.DebtItem]) -> list[catalog_service_pb2.DebtOutcome]:
        if not items:
            return []
        crash_point("repair.before_delete")
        with translated():
            response = await self._adapters.DeleteObjects(
                adapter_service_pb2.DeleteObjectsRequest(
                    provider=_ref(items[0].replica), keys=[item.replica.key for item in items]
                ),
                timeout=_REMOVE_SECONDS,
            )
        crash_point("repair.after_delete")
        outcomes = []
        for item, deleted in zip(items, response.outcomes, strict=True):
            # where a directory is now, the object is gone as well
            if deleted.reason and deleted.reason != IsDirectory.reason:
                failure = entry_pb2.Failure(reason=deleted.reason, message=deleted.message)
                outcomes.append(self._failed(item, from_failure(failure)))
            else:
                self._progress.removed += 1
                outcomes.append(self._done(item))
        return outcomes

    # --- inspect ------------------------------------------------------------------------------------------------------

    async def _inspect_together(
        self, items: Sequence[catalog_service_pb2.DebtItem]
    ) -> list[catalog_service_pb2.DebtOutcome]:
        """Inspect what is there, after what is not there was told by its folder's listing."""
        gone = await self._absence.gone(_ref(items[0].replica), [item.replica.key for item in items])
        outcomes: list[catalog_service_pb2.DebtOutcome] = []
        there: list[catalog_service_pb2.DebtItem] = []
        for item in items:
            key, provider = item.replica.key, item.replica.provider
            if key in gone:
                missing = NotFound(f"nothing is at {key} at provider {provider}")
                outcomes.append(self._found(item, entry_pb2.REPLICA_STATE_MISSING, missing))
            else:
                there.append(item)
        for start in range(0, len(there), _INSPECTED_AT_ONCE):
            outcomes += await self._work_apart(there[start : start + _INSPECTED_AT_ONCE])
        return outcomes

    async def _inspect(self, item: catalog_service_pb2.DebtItem) -> catalog_service_pb2.DebtOutcome:
        """Look at the object and read it whole: only then is it known to be right."""
        replica, version = item.replica, item.version
        try:
            with translated():
                response = await self._adapters.StatObject(
                    adapter_service_pb2.StatObjectRequest(provider=_ref(replica), key=replica.key),
                    timeout=_CALL_SECONDS,
                )
        except NotFound as error:
            return self._found(item, entry_pb2.REPLICA_STATE_MISSING, error)
        info = response.info
        if info.directory:
            folder = NotFound(f"{replica.key} at provider {replica.provider} is a folder")
            return self._found(item, entry_pb2.REPLICA_STATE_MISSING, folder)
        if info.size != version.size:
            wrong = IntegrityError(
                f"{replica.key} at provider {replica.provider} has {info.size} bytes instead of {version.size}"
            )
            return self._found(item, entry_pb2.REPLICA_STATE_CORRUPT, wrong)
        content = self._reader.open(version, [replica], _nowhere_else, label=_label(item))
        try:
            pieces = content.pieces()
            try:
                async for _ in pieces:
                    pass
            finally:
                await pieces.aclose()
        except IntegrityError as damage:
            return self._found(item, entry_pb2.REPLICA_STATE_CORRUPT, damage)
        except CdirError as error:
            if is_unread(error):
                return await self._not_read(item, error)
            raise
        return self._done(item, info.etag, info.checksum)

    async def _not_read(self, item: catalog_service_pb2.DebtItem, error: CdirError) -> catalog_service_pb2.DebtOutcome:
        """Tell an object that cannot be read from a provider that does not answer; raises the error of that."""
        with translated():
            await self._adapters.CheckMark(
                adapter_service_pb2.CheckMarkRequest(provider=_ref(item.replica), once=True), timeout=_CALL_SECONDS
            )
        attempts = item.replica.attempts
        if attempts < UNREADABLE_AFTER:
            return self._failed(item, error, Verdict(True, back_off(attempts)))
        outcome = self._found(item, entry_pb2.REPLICA_STATE_CORRUPT, error)
        outcome.retry_seconds = random.uniform(*UNREACHABLE)
        return outcome


def shares_calls(item: catalog_service_pb2.DebtItem) -> bool:
    """Whether an item may be done together with others of its kind at the same provider.

    A copy only where it is small, its target is free as far as is known, and nothing has gone wrong with it before.
    """
    match item.kind:
        case catalog_service_pb2.DEBT_KIND_REMOVE:
            return True
        case catalog_service_pb2.DEBT_KIND_INSPECT:
            return item.version.size <= BLOCK_SIZE
        case catalog_service_pb2.DEBT_KIND_COPY:
            fresh = not item.replica.attempts and item.replica.state != entry_pb2.REPLICA_STATE_CORRUPT
            return fresh and not item.HasField("occupant") and item.version.size <= SMALL_CONTENT
        case _:
            return False


async def _nowhere_else() -> Sequence[entry_pb2.Replica]:
    raise NotFound("only this one copy is inspected")


async def _settled(copies: Copies, finish: Callable[[], Awaitable[bool]]) -> catalog_service_pb2.StoredCopy:
    """Run ``finish`` and return the one copy it stored; raise why there is none. Nothing stays under way behind it."""
    (branch,) = copies.branches
    try:
        await finish()
    except CdirError:
        # the target's own error says more than that nothing more can be sent
        if branch.error is None:
            raise
    finally:
        await copies.abandon()
    if branch.stored is None:
        raise branch.error or copies.failure()
    return branch.stored


def _label(item: catalog_service_pb2.DebtItem) -> str:
    path = f"@{item.workspace}{item.path}" if item.workspace else item.path
    return path or f"{item.replica.provider}:{item.replica.key}"


def _ref(replica: entry_pb2.Replica) -> adapter_service_pb2.ProviderRef:
    return adapter_service_pb2.ProviderRef(provider_id=replica.provider_id, revision=replica.provider_revision)


def _target(item: catalog_service_pb2.DebtItem, *, free: bool) -> catalog_service_pb2.WriteTarget:
    target = catalog_service_pb2.WriteTarget(
        provider_id=item.replica.provider_id,
        provider=item.replica.provider,
        provider_revision=item.replica.provider_revision,
        writable=True,
        key=item.target_key,
    )
    if not free:
        # one without an id is overwritten where it lies
        target.occupant.CopyFrom(item.occupant)
    if item.HasField("acl"):
        target.acl.CopyFrom(item.acl)
    return target
