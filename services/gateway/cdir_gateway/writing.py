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
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final, NamedTuple

from cdir.errors import (
    CdirError,
    Conflict,
    InternalError,
    IsDirectory,
    NotFound,
    Retry,
)
from cdir.v1 import catalog_service_pb2, entry_pb2
from cdir_gateway.background import Background
from cdir_gateway.budget import ByteBudget
from cdir_gateway.ledger import Ledger
from cdir_gateway.orders import WriteOrder
from cdir_gateway.strangers import Strangers
from cdir_gateway.upload import LateCopies, StoredFile, Upload
from cdir_transfer.copying import HeldContent
from cdir_transfer.shared_puts import SharedPuts, SmallPut
from cdir_transfer.strangers import ContentIdentity
from cdir_transfer.writer import ProviderWriter

__all__ = ["FileWriter", "SmallFile"]

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


class SmallFile(NamedTuple):
    """A whole content whose digest its caller has checked."""

    order: WriteOrder
    data: bytes
    sha256: bytes


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

    async def store(self, file: SmallFile) -> StoredFile:
        """Store a whole content of at most 4 MiB. Raises the errors of WriteFiles."""
        try:
            async with self._begun(file.order, len(file.data), file.sha256, look=False) as upload:
                return await self._put(upload, file, await self.take_room(self.room_of(upload, file.data)))
        except Conflict as error:
            if not file.order.may_begin_anew(error):
                raise
        return await self._store_anew(file)

    async def _store_anew(self, file: SmallFile) -> StoredFile:
        async with self._begun(file.order, len(file.data), file.sha256, look=True) as upload:
            return await self._put(upload, file, await self.take_room(self.room_of(upload, file.data)))

    async def _put(self, upload: Upload, file: SmallFile, room: int) -> StoredFile:
        try:
            upload.put(file.data)
        finally:
            # given back by what holds it, which may be copies that land after the commit
            upload.when_ended(lambda: self.give_room(room))
        return await upload.finish(len(file.data), file.sha256, b"")

    async def begin_each(self, files: Sequence[SmallFile]) -> list[Upload | None]:
        """Begin to write files of one caller; ``None`` stands for one that is better stored by itself, from the start.

        Every upload is to be seen to its end: by :meth:`see_through`, by :meth:`commit_each`, or given up.
        """
        intents = [_intent(file.order, len(file.data), file.sha256) for file in files]
        try:
            pending = self._ledger.begin_each(intents, files[0].order.user)
            try:
                begun = await asyncio.shield(pending)
            except asyncio.CancelledError:
                pending.add_done_callback(self._abort_orphans)
                raise
        except CdirError:
            return [None] * len(files)
        return [
            None if isinstance(one, Exception) else Upload(self._ledger, self._providers, file.order, one, ())
            for file, one in zip(files, begun, strict=True)
        ]

    def put_together(
        self, files: Sequence[tuple[Upload, SmallFile]], targets: Sequence[Sequence[catalog_service_pb2.WriteTarget]]
    ) -> SharedPuts | None:
        """Begin to write contents whose targets are at the same providers; ``None`` where each has to go by itself."""
        puts = [SmallPut(some, file.data, file.order.modified) for (_, file), some in zip(files, targets, strict=True)]
        shared = self._providers.put_together(puts)
        if shared is not None:
            for number, (upload, file) in enumerate(files):
                upload.joined(shared, number, ContentIdentity(len(file.data), file.sha256))
        return shared

    def is_late(self, order: WriteOrder) -> bool:
        """Whether copies of the version before are still under way."""
        return (order.workspace, order.path) in self._late

    async def see_through(self, upload: Upload, file: SmallFile, room: int | None) -> StoredFile:
        """See an upload to its end that was begun together with others; ``room``, which is given back, is what it has
        taken, if any.

        Raises the errors of WriteFiles.
        """
        try:
            async with self._ending(upload):
                if room is None:
                    room = await self.take_room(self.room_of(upload, file.data))
                taken, room = room, None
                return await self._put(upload, file, taken)
        except Conflict as error:
            if not file.order.may_begin_anew(error):
                raise
        finally:
            if room is not None:
                self.give_room(room)  # it was left before the copies had it
        return await self._store_anew(file)

    async def commit_each(
        self, commitments: Sequence[tuple[Upload, catalog_service_pb2.WriteCommitment]], user: str
    ) -> list[entry_pb2.Entry | None]:
        """Commit what is stored everywhere; ``None`` stands for one that was not, and is to be seen through.

        A caller who leaves meanwhile leaves the uploads to the catalog's answer.
        """
        try:
            committing = self._ledger.commit_each([commitment for _, commitment in commitments], user)
            try:
                done = await asyncio.shield(committing)
            except asyncio.CancelledError:
                uploads = [upload for upload, _ in commitments]
                self._background.start("commits", self._see_each_committed(uploads, committing))
                raise
        except CdirError:
            return [None] * len(commitments)
        return [None if isinstance(one, Exception) else one for one in done]

    @staticmethod
    def room_of(upload: Upload, data: bytes) -> int:
        """Bytes of memory that the copies of a content take together."""
        return _HELD_TIMES * len(data) * len(upload.reachable)

    async def take_room(self, size: int) -> int:
        """Take room for copies; give back what this returns.

        Late copies give way to what is asked for, the one first that has got least far: their provider is slower than
        what comes, and what it is owed the replicator brings.
        """
        while True:
            try:
                async with asyncio.timeout(_ROOM_SECONDS):
                    return await self._room.take(size)
            except TimeoutError:
                youngest = next(reversed(self._late.values()), None)
                if youngest is not None:
                    await youngest.end()

    def give_room(self, room: int) -> None:
        """Give back what was taken."""
        self._room.give(room)

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
            async with self._ending(upload):
                met = await self._strangers.find(upload.reachable) if looks_left else []
                if not met:
                    yield upload
                    return
            taken = await self._strangers.take_up(met)
            replaceable |= taken.replaceable
            if taken.contents:
                order = order.after(begun.generation + taken.contents - 1)

    @asynccontextmanager
    async def _ending(self, upload: Upload) -> AsyncIterator[None]:
        """See an upload to its end, however the block ends."""
        order = upload.order
        try:
            late = self._late.get((order.workspace, order.path))
            if late is not None:
                # a copy of the version before that lands after the new one would take its place
                await late.end()
            yield
        finally:
            if upload.commit is None:
                await asyncio.shield(self.give_up(upload))
            elif upload.late is not None:
                self._start_late(order, upload.late)
            elif not upload.committed:
                self._background.start("a commit", self._see_committed(order, upload, upload.commit))

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
        intent = _intent(order, size, sha256)
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

    def give_up(self, upload: Upload) -> asyncio.Task[None]:
        """Begin to undo an upload, in a task that the caller's cancellation does not reach."""
        return self._background.start("giving up a write", self._undo(upload))

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

    async def _see_each_committed(
        self, uploads: Sequence[Upload], committing: asyncio.Future[list[entry_pb2.Entry | Exception]]
    ) -> None:
        done: Sequence[entry_pb2.Entry | Exception | None] = [None] * len(uploads)
        with contextlib.suppress(CdirError):
            done = await committing
        for upload, one in zip(uploads, done, strict=True):
            if not isinstance(one, entry_pb2.Entry):
                self.give_up(upload)

    def _abort_orphan(self, pending: asyncio.Future[catalog_service_pb2.BegunWrite]) -> None:
        """The caller left before it knew that its write had begun."""
        if not pending.cancelled() and pending.exception() is None:
            self._ledger.abort(catalog_service_pb2.AbortedWrite(version_id=pending.result().version_id))

    def _abort_orphans(self, pending: asyncio.Future[list[catalog_service_pb2.BegunWrite | Exception]]) -> None:
        if not pending.cancelled() and pending.exception() is None:
            for begun in pending.result():
                if not isinstance(begun, Exception):
                    self._ledger.abort(catalog_service_pb2.AbortedWrite(version_id=begun.version_id))


def _intent(order: WriteOrder, size: int, sha256: bytes) -> catalog_service_pb2.WriteIntent:
    return catalog_service_pb2.WriteIntent(
        workspace=order.workspace,
        path=order.path,
        base_generation=order.base_generation,
        size=size,
        sha256=sha256,
        modified=order.modified,
        conflict_of=order.conflict_of,
    )
