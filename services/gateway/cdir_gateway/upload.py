"""One file being written, from its intent on: the copies under way, the commit, and the copies that land after it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Container, Sequence
from functools import partial
from typing import Final

from cdir.errors import (
    AlreadyExists,
    CdirError,
    Conflict,
    DeadlineExceeded,
    ProviderUnavailable,
    Retry,
)
from cdir.v1 import catalog_service_pb2, directory_service_pb2, entry_pb2, provider_pb2
from cdir_gateway.ledger import Ledger
from cdir_gateway.orders import IN_THE_WAY, WriteOrder
from cdir_transfer.copying import HeldContent, copy_held
from cdir_transfer.digest import INLINE_BYTES, ContentDigest
from cdir_transfer.shared_puts import SharedPuts
from cdir_transfer.strangers import ContentIdentity
from cdir_transfer.writer import Branch, Copies, FanOut, ProviderWriter

__all__ = ["LateCopies", "StoredFile", "Upload"]

logger = logging.getLogger(__name__)

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
        self.needed = max(begun.min_copies, 1)
        """Copies without which the content does not count as stored."""
        self._copies: Copies | None = None
        self._shared: tuple[SharedPuts, int] | None = None
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
        if self._copies is None:
            return [target.provider_id for target in self.uncertain]
        return [branch.target.provider_id for branch in self.branches if branch.touched or branch.stored is not None]

    @property
    def uncertain(self) -> list[catalog_service_pb2.WriteTarget]:
        """Those of the targets written to where nobody knows what is at the key."""
        if self._copies is None and self._shared is not None:
            shared, number = self._shared
            return list(shared.targets(number))
        return [branch.target for branch in self.branches if branch.touched]

    def put(self, data: bytes) -> None:
        """Begin to write a whole small content, or go on with what was begun together with others."""
        shared, number = self._shared or (None, 0)
        chosen = self.reachable if shared is None else shared.targets(number)
        names = {target.provider_id for target in chosen}
        self._copies = self._providers.put(
            chosen,
            data,
            spares=[one for one in self._targets if one.writable and one.provider_id not in names],
            modified=self.order.modified,
            needed=self.needed,
            record_displaced=self._ledger.record,
            begun=None if shared is None else partial(shared.outcome, number),
        )

    def joined(self, shared: SharedPuts, number: int, content: ContentIdentity) -> None:
        """Say that the content is being written together with others, as the one of that number."""
        self.sent = content
        self._shared = shared, number

    def stream(self, size: int | None) -> None:
        """Begin to write a content in pieces."""
        self._copies = self._providers.stream(
            self.reachable,
            modified=self.order.modified,
            size=size,
            needed=self.needed,
            record_displaced=self._ledger.record,
        )

    def copy(self, held: HeldContent) -> None:
        """Begin to write a content that providers hold already."""
        self._copies = copy_held(
            self._providers,
            self.reachable,
            held,
            modified=self.order.modified,
            needed=self.needed,
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
        commitment = self.commitment(size, sha256, copies.stored)
        commitment.block_digests = block_digests
        commitment.touched[:] = copies.touched
        commitment.writing[:] = copies.writing
        self._writing = frozenset(commitment.writing)
        entry = await self._commit(commitment)
        self.late = self.go_on(entry)
        return StoredFile(entry, self.stored_names, self.owed_names, self.late, self.order.conflict_of)

    def commitment(
        self, size: int, sha256: bytes, stored: Sequence[catalog_service_pb2.StoredCopy]
    ) -> catalog_service_pb2.WriteCommitment:
        """What the catalog is asked to make the current version."""
        return catalog_service_pb2.WriteCommitment(
            version_id=self.version_id, size=size, sha256=sha256, modified=self.order.modified, stored=stored
        )

    def stored_everywhere(self, entry: entry_pb2.Entry) -> StoredFile:
        """The file that was committed as ``entry`` when the writes begun together had all landed."""
        stored: list[str] = []
        owed: list[str] = []
        assert self._shared is not None
        shared, number = self._shared
        written = {target.provider_id for target in shared.targets(number)}
        for target in self._targets:
            (stored if target.provider_id in written else owed).append(target.provider)
        return StoredFile(entry, stored, owed, None, self.order.conflict_of)

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
        elif self._shared is not None:
            await self._shared[0].cancel()

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
        if len(writable) < self.needed:
            others = ", ".join(target.provider for target in self._targets if not target.writable)
            raise ProviderUnavailable(
                f"{self.order.path} needs {self.needed} copies, but only {len(writable)} providers can be written to"
                f" (not {others}; see `cdir status`)",
                path=self.order.path,
            )
        answering = [
            target
            for target in writable
            if target.state != provider_pb2.PROVIDER_STATE_DOWN
            and not self._providers.health.suspect(target.provider_id)
        ]
        return answering if len(answering) >= self.needed else writable
