"""Writing one file: intent, copies, commit.

The intent is recorded first, so that a crash leaves nothing unexplained. The bytes go to every provider that can be
reached. Only when enough copies are durable and the digest is right does the catalog make the file current. Whatever
ends a write before that, the intent is given up, and the catalog is told which providers may have been left with bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Container, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

from cdir.errors import (
    AlreadyExists,
    CdirError,
    Conflict,
    DeadlineExceeded,
    InternalError,
    IsDirectory,
    NotFound,
    ProviderUnavailable,
    Retry,
)
from cdir.v1 import catalog_service_pb2, directory_service_pb2, entry_pb2, provider_pb2
from cdir_gateway.background import Background
from cdir_gateway.budget import ByteBudget
from cdir_gateway.ledger import Ledger
from cdir_gateway.orders import IN_THE_WAY, WriteOrder
from cdir_gateway.strangers import Strangers
from cdir_transfer.copying import HeldContent, copy_held
from cdir_transfer.digest import INLINE_BYTES, ContentDigest
from cdir_transfer.strangers import ContentIdentity
from cdir_transfer.writer import Branch, Copies, FanOut, ProviderWriter

__all__ = ["FileWriter", "LateCopies", "StoredFile", "Upload"]

logger = logging.getLogger(__name__)

_BEGIN_ATTEMPTS: Final = 6
"""How often a write is begun while the path is busy for a moment."""

_FREE_FIRST_PAUSE: Final = 0.25
_FREE_LONGEST_PAUSE: Final = 2.0
_FREE_SECONDS: Final = 90.0
"""It is looked again and again, after longer and longer pauses, whether another write to the path has ended. Nobody
waits longer than this: a writer that died is found out by its lease, which lasts a minute."""

_COPY_NAMES: Final = 100
"""How many names are tried for a conflicting copy."""

_LOOKS: Final = 3
"""How often strangers are taken up before a write goes ahead; one put there after that is in its way."""

_HELD_BYTES: Final = 16 << 20
"""Bytes of a large content that the write to one provider holds: parts on their way, and one that is being filled."""

_SMALL_BYTES: Final = 48 << 20
"""Bytes of memory that the writes of whole contents to their providers may hold together, in the process."""
_HELD_TIMES: Final = 3
"""How often a provider's write holds a whole content: the message, the bytes taken from it, and what the provider's
library makes of them."""
_ROOM_SECONDS: Final = 1.0
"""How long a write waits for room before a late copy of another file has to make some."""

_ABORT_SECONDS: Final = 30.0
_ABORT_FIRST_PAUSE: Final = 1.0
_ABORT_LONGEST_PAUSE: Final = 30.0
_COMMIT_TRIES: Final = 3
_COMMIT_PAUSE: Final = 0.2


class StoredFile:
    """A committed file: its entry, who holds it, who is owed, and the path it was meant for when it is a conflict's."""

    def __init__(
        self,
        entry: entry_pb2.Entry,
        stored: Sequence[str],
        owed: Sequence[str],
        late: LateCopies | None,
        conflict_of: str = "",
    ) -> None:
        self.entry = entry
        self.stored = stored
        self.owed = owed
        self.late = late
        """The copies that are still under way; ``None`` when there are none."""
        self.conflict_of = conflict_of

    def message(self) -> directory_service_pb2.WriteStored:
        """As the caller is told."""
        return directory_service_pb2.WriteStored(
            entry=self.entry, stored=self.stored, owed=self.owed, conflict_of=self.conflict_of
        )


class LateCopies:
    """Copies that go on after their file was committed. They belong to the gateway, not to the caller's stream."""

    def __init__(self, upload: Upload, entry: entry_pb2.Entry, recorded: set[str]) -> None:
        self._upload = upload
        self._entry = entry
        self._recorded = recorded
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """See every copy end, and record those that land."""
        try:
            while True:
                pending = self._upload.pending
                for branch in self._upload.branches:
                    if not branch.pending and branch.target.provider_id not in self._recorded:
                        self._recorded.add(branch.target.provider_id)
                        await self._record(branch)
                        self._changed.set()
                if not pending:
                    return
                await asyncio.wait([branch.task for branch in pending], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._ended.set()
            self._changed.set()

    async def _record(self, branch: Branch) -> None:
        try:
            await self._upload.record_ended(branch)
        except CdirError as error:
            path, provider = self._entry.path, branch.target.provider
            logger.warning("cannot record the copy of %s at %s; the replicator will find it: %s", path, provider, error)

    @property
    def version_id(self) -> str:
        """The version they are copies of."""
        return self._upload.version_id

    async def ended(self) -> None:
        """Wait until no copy is under way any more."""
        await self._ended.wait()

    async def end(self) -> None:
        """Stop them: the path is to be written anew, or the gateway ends. The copies stay owed."""
        await self._upload.abandon()

    async def news(self) -> AsyncGenerator[StoredFile, None]:
        """Yield how the file stands whenever a copy has landed, the last time without ``late``. For one listener."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            entry = entry_pb2.Entry()
            entry.CopyFrom(self._entry)
            entry.owed = len(self._upload.owed_names)
            late = None if self._ended.is_set() else self
            upload = self._upload
            yield StoredFile(entry, upload.stored_names, upload.owed_names, late, upload.order.conflict_of)
            if late is None:
                return


class FileWriter:
    """Writes files for the whole gateway. ``background`` runs what must outlive a caller: aborts and late copies."""

    def __init__(self, ledger: Ledger, providers: ProviderWriter, strangers: Strangers, background: Background) -> None:
        self._ledger = ledger
        self._providers = providers
        self._strangers = strangers
        self._background = background
        self._late: dict[tuple[str, str], LateCopies] = {}
        self._given_up: Counter[tuple[str, str]] = Counter()
        """Paths of writes that are being given up, which may take as long as a slow provider does."""
        self._room = ByteBudget(_SMALL_BYTES)

    async def store(self, order: WriteOrder, data: bytes, sha256: bytes) -> StoredFile:
        """Store a whole content of at most 4 MiB whose digest the caller has checked.

        Raises the errors of WriteFiles.
        """
        try:
            return await self._store(order, data, sha256, look=False)
        except Conflict as error:
            if not order.may_begin_anew(error):
                raise
        return await self._store(order, data, sha256, look=True)

    async def _store(self, order: WriteOrder, data: bytes, sha256: bytes, *, look: bool) -> StoredFile:
        async with self._begun(order, len(data), sha256, look=look) as upload:
            # given back by what holds it, which may be copies that land after the commit
            held = await self._take_room(_HELD_TIMES * len(data) * len(upload.reachable))
            try:
                upload.put(data)
            finally:
                upload.when_ended(lambda: self._room.give(held))
            return await upload.finish(len(data), sha256, b"")

    async def _take_room(self, size: int) -> int:
        """Take room for the copies of a content. Late copies give way to it, the one first that has got least far:
        their provider is slower than what comes, and what it is owed the replicator brings."""
        while True:
            try:
                async with asyncio.timeout(_ROOM_SECONDS):
                    return await self._room.take(size)
            except TimeoutError:
                youngest = next(reversed(self._late.values()), None)
                if youngest is not None:
                    await youngest.end()

    async def copy(self, order: WriteOrder, held: HeldContent) -> StoredFile:
        """Store a content that providers hold already and whose digests are known. Raises the errors of WriteFiles."""
        version = held.version
        # a copy made at a provider replaces whatever lies at its target
        async with self._begun(order, version.size, version.sha256, look=True) as upload:
            upload.copy(held)
            return await upload.finish(version.size, version.sha256, version.block_digests)

    @asynccontextmanager
    async def upload(
        self, order: WriteOrder, size: int | None, room: ByteBudget | None = None
    ) -> AsyncIterator[Upload]:
        """Store a content whose pieces follow; it is given up unless :meth:`Upload.finish` succeeds inside.

        ``size`` is in bytes when known beforehand. With ``room`` it is not begun at any provider before there is room
        in memory for what all of them will hold of it, which they give back as each write to one ends.
        """
        # pieces cannot be had twice: what is in the way has to be known before the first one is taken
        async with self._begun(order, size or 0, b"", look=True) as upload:
            if room is None:
                upload.stream(size)
                yield upload
                return
            each = _HELD_BYTES if size is None else min(size, _HELD_BYTES)
            held = await room.take(each * len(upload.reachable))
            try:
                upload.stream(size)
                yield upload
            finally:
                upload.when_ended(lambda: room.give(held))

    async def end_late_copies(self) -> None:
        """Stop what goes on after commits; the copies stay owed."""
        await asyncio.gather(*(late.end() for late in list(self._late.values())))

    async def wait_for_late_copies(self, seconds: float) -> None:
        """Give late copies that long to land."""
        try:
            async with asyncio.timeout(seconds):
                await asyncio.gather(*(late.ended() for late in list(self._late.values())))
        except TimeoutError:
            return

    @asynccontextmanager
    async def _begun(self, order: WriteOrder, size: int, sha256: bytes, *, look: bool) -> AsyncIterator[Upload]:
        """Begin a write and see its end. With ``look``, what other programs put in its way is taken up before."""
        replaceable: set[str] = set()
        for looks_left in reversed(range(_LOOKS + 1 if look else 1)):
            order, begun = await self._begin_or_beside(order, size, sha256)
            upload = Upload(self._ledger, self._providers, order, begun, replaceable)
            try:
                met = await self._strangers.find(upload.reachable) if looks_left else []
                if not met:
                    late = self._late.get((order.workspace, order.path))
                    if late is not None:
                        # a copy of the version before that lands after the new one would take its place
                        await late.end()
                    yield upload
                    return
            finally:
                if upload.commit is None:
                    await self._give_up(upload)
                elif upload.late is not None:
                    self._start_late(order, upload.late)
                elif not upload.committed:
                    self._background.start("a commit", self._see_committed(order, upload, upload.commit))
            taken = await self._strangers.take_up(met)
            replaceable |= taken.replaceable
            if taken.contents:
                order = order.after(begun.generation + taken.contents - 1)

    async def _begin_or_beside(
        self, order: WriteOrder, size: int, sha256: bytes
    ) -> tuple[WriteOrder, catalog_service_pb2.BegunWrite]:
        """Begin a write, at its path or as a conflicting copy; returns what is being written."""
        try:
            return order, await self._begin(order, size, sha256)
        except Conflict as error:
            if not order.may_keep_copy(error):
                raise
            conflict = error
        begun, conflict = await self._begin_after(order, size, sha256, conflict)
        if begun is not None:
            return begun
        now = datetime.now(UTC)
        for number in range(1, _COPY_NAMES + 1):
            beside = order.beside(now, number)
            try:
                return beside, await self._begin(beside, size, sha256)
            except (Conflict, IsDirectory):
                continue  # the name is taken
        raise conflict

    async def _begin_after(
        self, order: WriteOrder, size: int, sha256: bytes, conflict: Conflict
    ) -> tuple[tuple[WriteOrder, catalog_service_pb2.BegunWrite] | None, Conflict]:
        """Begin a write once another one to its path was given up; else return why there is reason to keep it apart.

        Another write is left alone while it is alive, which it shows by renewing its lease. One whose writer died is
        waited for: it comes to nothing, or the replicator finishes it. A path that has this very content by now is no
        reason to keep it twice.
        """
        stop = time.monotonic() + _FREE_SECONDS
        pause = _FREE_FIRST_PAUSE
        lease, writer = conflict.context.get("lease"), conflict.context.get("writer")
        key, given_up = (order.workspace, order.path), False
        while "writer" in conflict.context and time.monotonic() < stop:
            if conflict.context["writer"] != writer or given_up:
                # what is renewed for a write that ends is no sign of life
                lease, writer = conflict.context["lease"], conflict.context["writer"]
            elif conflict.context["lease"] != lease:
                break
            await asyncio.sleep(pause)
            given_up = key in self._given_up
            pause = min(2 * pause, _FREE_LONGEST_PAUSE)
            alone = dataclasses.replace(order, base_generation=int(conflict.context["generation"]))
            try:
                return (alone, await self._begin(alone, size, sha256)), conflict
            except Conflict as error:
                conflict = error
        if sha256 and "writer" not in conflict.context:
            ref = catalog_service_pb2.PathRef(workspace=order.workspace, path=order.path)
            with contextlib.suppress(Conflict, NotFound):
                found = (await self._ledger.resolve(ref)).entry
                if found.sha256 == sha256:
                    same = dataclasses.replace(order, base_generation=found.generation)
                    return (same, await self._begin(same, size, sha256)), conflict
        return None, conflict

    async def _begin(self, order: WriteOrder, size: int, sha256: bytes) -> catalog_service_pb2.BegunWrite:
        """Begin a write; waits while a copy of the path is being moved, which the catalog says by "later"."""
        intent = catalog_service_pb2.WriteIntent(
            workspace=order.workspace,
            path=order.path,
            base_generation=order.base_generation,
            size=size,
            sha256=sha256,
            modified=order.modified,
            conflict_of=order.conflict_of,
        )
        for attempt in range(1, _BEGIN_ATTEMPTS + 1):
            pending = self._ledger.begin(intent, order.user)
            try:
                return await asyncio.shield(pending)
            except asyncio.CancelledError:
                pending.add_done_callback(self._abort_orphan)
                raise
            except Conflict as error:
                if error.retry is not Retry.LATER or attempt == _BEGIN_ATTEMPTS:
                    raise
                await asyncio.sleep(error.retry_after or 1.0)
        raise InternalError("a write was neither begun nor refused")

    def _start_late(self, order: WriteOrder, late: LateCopies) -> None:
        key = (order.workspace, order.path)
        self._late[key] = late

        async def run() -> None:
            try:
                with self._ledger.holding(late.version_id):
                    await late.run()
            finally:
                if self._late.get(key) is late:
                    del self._late[key]

        self._background.start("a late copy", run())

    async def _give_up(self, upload: Upload) -> None:
        """Undo, in a task that the caller's cancellation does not reach."""
        await asyncio.shield(self._background.start("giving up a write", self._undo(upload)))

    async def _undo(self, upload: Upload) -> None:
        key = (upload.order.workspace, upload.order.path)
        self._given_up[key] += 1
        try:
            await upload.abandon()
            strangers: set[str] = set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ABORT_SECONDS):
                    strangers = await self._strangers.are_at(upload.uncertain, upload.order.modified, upload.sent)
            # what is called touched is cleared away
            touched = [one for one in upload.written_to if one not in strangers]
            aborted = catalog_service_pb2.AbortedWrite(version_id=upload.version_id, touched=touched)
            if not await self._abort(aborted, upload.order.path):
                self._background.start("giving up a write again", self._abort_at_last(aborted, upload.order.path))
        finally:
            self._given_up[key] -= 1
            if not self._given_up[key]:
                del self._given_up[key]

    async def _abort(self, aborted: catalog_service_pb2.AbortedWrite, path: str) -> bool:
        """Tell the catalog that a write is given up; false when it has not heard of it."""
        try:
            async with asyncio.timeout(_ABORT_SECONDS):
                await self._ledger.abort(aborted)
        except (CdirError, TimeoutError) as error:
            logger.warning("cannot give up the write of %s yet: %s", path, error)
            return False
        return True

    async def _abort_at_last(self, aborted: catalog_service_pb2.AbortedWrite, path: str) -> None:
        """The same until it has: while this process lives it renews the leases of its writes, so that none lapses."""
        pause = _ABORT_FIRST_PAUSE
        while not await self._abort(aborted, path):
            await asyncio.sleep(pause)
            pause = min(2 * pause, _ABORT_LONGEST_PAUSE)

    async def _see_committed(self, order: WriteOrder, upload: Upload, commit: asyncio.Future[entry_pb2.Entry]) -> None:
        """The caller left while the commit was under way: see how it ended."""
        try:
            entry = await commit
        except CdirError:
            await self._undo(upload)
            return
        late = upload.go_on(entry)
        if late is not None:
            self._start_late(order, late)

    def _abort_orphan(self, pending: asyncio.Future[catalog_service_pb2.BegunWrite]) -> None:
        """The caller left before it knew that its write had begun."""
        if not pending.cancelled() and pending.exception() is None:
            self._ledger.abort(catalog_service_pb2.AbortedWrite(version_id=pending.result().version_id))


class Upload:
    """One file being written, from its intent on.

    ``replaceable`` are ids of providers where an object that nothing is recorded of may lie, and may be replaced.
    """

    def __init__(
        self,
        ledger: Ledger,
        providers: ProviderWriter,
        order: WriteOrder,
        begun: catalog_service_pb2.BegunWrite,
        replaceable: Container[str],
    ) -> None:
        self.order = order
        self.version_id = begun.version_id
        self.commit: asyncio.Future[entry_pb2.Entry] | None = None
        """The call that commits; from then on the outcome is the catalog's."""
        self.committed = False
        self.late: LateCopies | None = None
        self.digest = ContentDigest()
        """Of the pieces so far, see :meth:`send_hashed`."""
        self.sent: ContentIdentity | None = None
        """The whole content, once providers may hold it: nobody stores it before its end is known."""
        self._ledger = ledger
        self._providers = providers
        self._targets = list(begun.targets)
        for target in self._targets:
            if target.provider_id in replaceable and not target.HasField("occupant"):
                target.occupant.SetInParent()
        self._needed = max(begun.min_copies, 1)
        self._copies: Copies | None = None
        self._writing: frozenset[str] = frozenset()
        """Ids of the providers where the write went on when the commit was sent."""

    @property
    def branches(self) -> Sequence[Branch]:
        """The write to each provider that is tried."""
        return () if self._copies is None else self._copies.branches

    @property
    def pending(self) -> list[Branch]:
        """Those that are still under way."""
        return [branch for branch in self.branches if branch.pending]

    def when_ended(self, call: Callable[[], None]) -> None:
        """Have ``call`` made once no write to a provider is under way; at once when none is."""
        waiting = {branch.task for branch in self.pending}
        if not waiting:
            call()

        def ended(task: asyncio.Task[None]) -> None:
            waiting.discard(task)
            if not waiting:
                call()

        for task in tuple(waiting):
            task.add_done_callback(ended)

    @property
    def stored_names(self) -> list[str]:
        """Providers that hold the content."""
        return [branch.target.provider for branch in self.branches if branch.stored is not None]

    @property
    def owed_names(self) -> list[str]:
        """Providers that should hold it and do not yet."""
        stored = set(self.stored_names)
        return [target.provider for target in self._targets if target.provider not in stored]

    @property
    def written_to(self) -> list[str]:
        """Ids of providers where something may be at the key."""
        return [branch.target.provider_id for branch in self.branches if branch.touched or branch.stored is not None]

    @property
    def uncertain(self) -> list[catalog_service_pb2.WriteTarget]:
        """Those of the targets written to where nobody knows what is at the key."""
        return [branch.target for branch in self.branches if branch.touched]

    def put(self, data: bytes) -> None:
        """Begin to write a whole small content."""
        reachable = self.reachable
        chosen = {target.provider_id for target in reachable}
        self._copies = self._providers.put(
            reachable,
            data,
            spares=[one for one in self._targets if one.writable and one.provider_id not in chosen],
            modified=self.order.modified,
            needed=self._needed,
            record_displaced=self._ledger.record,
        )

    def stream(self, size: int | None) -> None:
        """Begin to write a content in pieces."""
        self._copies = self._providers.stream(
            self.reachable,
            modified=self.order.modified,
            size=size,
            needed=self._needed,
            record_displaced=self._ledger.record,
        )

    def copy(self, held: HeldContent) -> None:
        """Begin to write a content that providers hold already."""
        self._copies = copy_held(
            self._providers,
            self.reachable,
            held,
            modified=self.order.modified,
            needed=self._needed,
            record_displaced=self._ledger.record,
        )

    async def send(self, piece: bytes) -> None:
        """Pass on the next piece, 1 byte to 4 MiB; raises when too few providers are left."""
        assert isinstance(self._copies, FanOut)
        try:
            await self._copies.send(piece)
        except CdirError as error:
            raise self._failure(self._copies) from error

    async def send_hashed(self, piece: bytes) -> None:
        """Pass on the next piece and add it to :attr:`digest` meanwhile."""
        if len(piece) < INLINE_BYTES:
            self.digest.update(piece)
            await self.send(piece)
            return
        hashing = asyncio.get_running_loop().run_in_executor(None, self.digest.update, piece)
        try:
            await self.send(piece)
        finally:
            await hashing

    async def finish(self, size: int, sha256: bytes, block_digests: bytes) -> StoredFile:
        """Wait for the copies and commit. The digests are those of what was sent."""
        copies = self._copies
        assert copies is not None
        self.sent = ContentIdentity(size, sha256)
        if isinstance(copies, FanOut):
            copies.commit()
        if not await (copies.minimum() if self.order.minimum else copies.settled()):
            raise self._failure(copies)
        commitment = catalog_service_pb2.WriteCommitment(
            version_id=self.version_id,
            size=size,
            sha256=sha256,
            block_digests=block_digests,
            modified=self.order.modified,
            stored=copies.stored,
            touched=copies.touched,
            writing=copies.writing,
        )
        self._writing = frozenset(commitment.writing)
        entry = await self._commit(commitment)
        self.late = self.go_on(entry)
        return StoredFile(entry, self.stored_names, self.owed_names, self.late, self.order.conflict_of)

    def go_on(self, entry: entry_pb2.Entry) -> LateCopies | None:
        """The copies that were under way when the file was committed as ``entry``; ``None`` when there were none."""
        if not self._writing:
            return None
        return LateCopies(self, entry, {one.target.provider_id for one in self.branches} - self._writing)

    def _failure(self, copies: Copies) -> CdirError:
        """Why too few copies are stored. What others have put in the way can be taken up: then it is worth a try."""
        failure = copies.failure()
        failure.message = f"{self.order.path} was not stored: {failure.message}"
        for branch in copies.branches:
            if isinstance(branch.error, AlreadyExists):
                context = {"path": self.order.path, IN_THE_WAY: branch.target.provider}
                return Conflict(failure.message, retry=Retry.LATER, retry_after=1.0, **context)
        return failure

    async def record_ended(self, branch: Branch) -> None:
        """Record a copy whose write ended after the commit: it is there, or somebody has to look."""
        seen = catalog_service_pb2.ReplicaObservation(
            version_id=self.version_id, provider_id=branch.target.provider_id, key=branch.target.key, written=True
        )
        if branch.stored is not None:
            seen.state = entry_pb2.REPLICA_STATE_OK
            seen.etag, seen.checksum = branch.stored.etag, branch.stored.checksum
            if branch.stored.HasField("acl"):
                seen.acl.CopyFrom(branch.stored.acl)
        else:
            seen.state = entry_pb2.REPLICA_STATE_UNKNOWN if branch.touched else entry_pb2.REPLICA_STATE_MISSING
            seen.error = "" if branch.error is None else branch.error.message
        await self._ledger.record(seen)

    async def abandon(self) -> None:
        """Cancel the copies under way and see them end."""
        if self._copies is not None:
            await self._copies.abandon()

    async def _commit(self, commitment: catalog_service_pb2.WriteCommitment) -> entry_pb2.Entry:
        """Commit; an answer that was lost is asked for again, which is safe because a version is committed once."""
        tries = 0
        while True:
            self.commit = self._ledger.commit(commitment, self.order.user)
            tries += 1
            try:
                entry = await asyncio.shield(self.commit)
            except CdirError as error:
                if tries == _COMMIT_TRIES or not isinstance(error, (ProviderUnavailable, DeadlineExceeded)):
                    self.commit = None
                    raise
                await asyncio.sleep(_COMMIT_PAUSE * tries)
            else:
                self.committed = True
                return entry

    @property
    def reachable(self) -> list[catalog_service_pb2.WriteTarget]:
        """The targets to write to now: those that answer, or all that may be written to when those are too few."""
        writable = [target for target in self._targets if target.writable]
        if len(writable) < self._needed:
            others = ", ".join(target.provider for target in self._targets if not target.writable)
            raise ProviderUnavailable(
                f"{self.order.path} needs {self._needed} copies, but only {len(writable)} providers can be written to"
                f" (not {others}; see `cdir status`)",
                path=self.order.path,
            )
        answering = [
            target
            for target in writable
            if target.state != provider_pb2.PROVIDER_STATE_DOWN
            and not self._providers.health.suspect(target.provider_id)
        ]
        return answering if len(answering) >= self._needed else writable
