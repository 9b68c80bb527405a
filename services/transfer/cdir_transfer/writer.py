"""Writing one content to several providers at once.

Every target has a branch of its own: what occupies the key is moved aside first, then the content is written, whole or
as a stream. Branches fail one by one; a branch that holds up the others for too long is *cut loose*: cancelled, and
its copy left to be made later. Nothing here buffers more than a few pieces per branch.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from cdir.errors import (
    AlreadyExists,
    CdirError,
    DeadlineExceeded,
    IntegrityError,
    NotFound,
    ProviderUnavailable,
)
from cdir.status import translated
from cdir.v1 import adapter_service_pb2, adapter_service_pb2_grpc, catalog_service_pb2, entry_pb2
from cdir_runtime.crash import crash_point
from cdir_transfer.health import ProviderHealth
from cdir_transfer.observer import REFUSALS, TransferObserver, is_providers_fault
from cdir_transfer.reader import transfer_deadline
from cdir_transfer.shared_calls import SMALL_CONTENT
from cdir_transfer.shared_puts import SharedPuts, SmallPut, stored_copy
from cdir_transfer.small_writes import Attempt, Outcome, SmallContent, SmallWrites, write_late

__all__ = ["Branch", "Copies", "FanOut", "ProviderWriter", "RecordDisplaced"]

RecordDisplaced = Callable[[catalog_service_pb2.ReplicaObservation], Awaitable[None]]
"""Makes durable that an occupant now lies at its aside key (or was found missing); returns when it is."""

_QUEUE_PIECES: Final = 4
_BUFFERED_BYTES: Final = 8 << 20
_MOVE_SECONDS: Final = 300.0
"""A provider without a rename of its own copies, which takes time with the size."""

_LOOK_SECONDS: Final = 0.25
"""Between two looks at whether the providers that are waited for have become suspect."""
_DOUBTED_SECONDS: Final = 1.5
"""A provider that stays suspect for so long was asked by then, and did not answer."""

_COMMIT: Final = None
_Item = bytes | None
"""A piece, or the commit."""


class ProviderWriter:
    """Writes through an AdapterService. One per process.

    ``patience`` is for how many seconds a target may hold up the others in total before it is cut loose.
    ``slowdown`` allows a target that is slow but moves to cost more than that: this many times what the transfer takes
    without it. 0 means that only ``patience`` counts. With ``small``, small contents share calls.
    What it writes in the ``background`` holds back for what others wait for.
    """

    def __init__(
        self,
        adapters: adapter_service_pb2_grpc.AdapterServiceAsyncStub,
        health: ProviderHealth,
        observer: TransferObserver,
        *,
        small: SmallWrites | None = None,
        patience: float = 20.0,
        slowdown: float = 3.0,
        background: bool = False,
    ) -> None:
        self.background = background
        self.small = small
        self.adapters = adapters
        self.health = health
        self.observer = observer
        self.patience = patience
        self.slowdown = slowdown

    def put(
        self,
        targets: Iterable[catalog_service_pb2.WriteTarget],
        data: bytes,
        *,
        modified: Timestamp,
        needed: int,
        record_displaced: RecordDisplaced,
        spares: Iterable[catalog_service_pb2.WriteTarget] = (),
        begun: Callable[[str], Awaitable[Outcome]] | None = None,
    ) -> Copies:
        """Begin to store a whole content of at most 4 MiB at every target; :class:`Copies` says how it goes on.

        ``spares`` are targets that are written to as well as soon as it may be that too few of the others answer.
        What was ``begun`` together with others at every target (:class:`SharedPuts`) is waited for first.
        """

        def begin(target: catalog_service_pb2.WriteTarget, begun: Callable[[str], Awaitable[Outcome]] | None) -> Branch:
            return _WholeBranch(self, target, modified, record_displaced, data, begun)

        branches = [begin(target, begun) for target in targets]
        return Copies(self, branches, needed, [partial(begin, spare, None) for spare in spares])

    def put_together(self, puts: Sequence[SmallPut]) -> SharedPuts | None:
        """Begin to store small contents at the same targets, one call to each; ``None`` where calls are not shared."""
        return None if self.small is None else SharedPuts(self.small, self.health, puts)

    def stream(
        self,
        targets: Iterable[catalog_service_pb2.WriteTarget],
        *,
        modified: Timestamp,
        size: int | None,
        needed: int,
        record_displaced: RecordDisplaced,
    ) -> FanOut:
        """Begin to store a content whose pieces follow. ``size`` is in bytes when known beforehand."""
        return FanOut(
            self, [_StreamBranch(self, target, modified, record_displaced, size) for target in targets], needed
        )


class Branch(ABC):
    """The write to one target."""

    def __init__(
        self,
        writer: ProviderWriter,
        target: catalog_service_pb2.WriteTarget,
        modified: Timestamp,
        record_displaced: RecordDisplaced,
    ) -> None:
        self.target = target
        self.stored: catalog_service_pb2.StoredCopy | None = None
        """The copy, once it is durable at the provider."""
        self.error: CdirError | None = None
        """Why there is none."""
        self.touched = False
        """Whether what is at the key is uncertain now: a write was begun and did not end in a plain yes or no."""
        self._writer = writer
        self._modified = modified
        self._record_displaced = record_displaced
        self._tried = False
        """Whether an attempt before the last one may have stored the content: what is found there may be its own."""
        self.task = asyncio.create_task(self._run())

    @property
    def pending(self) -> bool:
        """Whether the write is still under way."""
        return not self.task.done()

    @property
    def silent(self) -> bool:
        """Whether the provider has not taken anything yet."""
        return self.pending

    async def cancel(self, error: CdirError) -> None:
        """End the write if it is under way, with ``error`` as its outcome."""
        if not self.pending:
            return
        self.task.cancel()
        await asyncio.wait([self.task])
        if self.stored is None and self.error is None:
            self.error = error

    @property
    def _ref(self) -> adapter_service_pb2.ProviderRef:
        return adapter_service_pb2.ProviderRef(
            provider_id=self.target.provider_id,
            revision=self.target.provider_revision,
            background=self._writer.background,
        )

    def _header(self, size: int | None) -> adapter_service_pb2.ObjectHeader:
        return adapter_service_pb2.ObjectHeader(
            provider=self._ref,
            key=self.target.key,
            size=size,
            modified=self._modified,
            only_if_absent=self._only_if_absent,
            acl=self._acl,
        )

    @property
    def _only_if_absent(self) -> bool:
        """What lies at a key that the catalog takes for free was put there by others, and is not cdir's to replace."""
        return not self.target.HasField("occupant")

    @property
    def _acl(self) -> entry_pb2.Acl | None:
        return self.target.acl if self.target.HasField("acl") else None

    async def _run(self) -> None:
        writer, provider_id = self._writer, self.target.provider_id
        try:
            with translated():
                if self.target.HasField("occupant") and self.target.occupant.version_id:
                    await self._move_aside(self.target.occupant)
                self.touched = True
                crash_point("write.before_copy")
                info, size = await self._write()
                crash_point("write.after_copy")
            if info.size != size:
                raise IntegrityError(f"the provider says that it stored {info.size} bytes instead of {size}")
            self.stored = stored_copy(provider_id, info)
            self.touched = False
            writer.health.answered(provider_id)
        except CdirError as error:
            self.error = error
            if isinstance(error, REFUSALS) and not (self._tried and isinstance(error, AlreadyExists)):
                self.touched = False
            if is_providers_fault(error):
                writer.health.failed(provider_id)
                writer.observer.provider_failed(provider_id, error)

    async def _move_aside(self, occupant: catalog_service_pb2.Occupant) -> None:
        self.touched = True
        seen = catalog_service_pb2.ReplicaObservation(
            version_id=occupant.version_id, provider_id=self.target.provider_id
        )
        crash_point("replace.before_aside")
        try:
            with translated():
                moved = await self._writer.adapters.MoveObject(
                    adapter_service_pb2.MoveObjectRequest(
                        provider=self._ref, source=self.target.key, target=occupant.aside_key
                    ),
                    timeout=_MOVE_SECONDS,
                )
        except NotFound:
            seen.key = self.target.key
            seen.state = entry_pb2.REPLICA_STATE_MISSING
            seen.error = f"nothing was at {self.target.key} when it was to be replaced"
        else:
            if occupant.HasField("size") and moved.info.size != occupant.size:
                await self._move_back(occupant)
            seen.key = occupant.aside_key
            seen.previous_key = self.target.key
            seen.state = entry_pb2.REPLICA_STATE_OK
            seen.etag, seen.checksum = moved.info.etag, moved.info.checksum
        crash_point("replace.after_aside")
        # the new content may replace the old only once the catalog knows where the old one is
        await self._record_displaced(seen)
        crash_point("replace.after_record")

    async def _move_back(self, occupant: catalog_service_pb2.Occupant) -> None:
        """What was moved aside is another program's: put it back, and raise AlreadyExists."""
        with translated():
            await self._writer.adapters.MoveObject(
                adapter_service_pb2.MoveObjectRequest(
                    provider=self._ref, source=occupant.aside_key, target=self.target.key
                ),
                timeout=_MOVE_SECONDS,
            )
        raise AlreadyExists(
            f"{self.target.key} at provider {self.target.provider} was changed by another program", key=self.target.key
        )

    @abstractmethod
    async def _write(self) -> tuple[adapter_service_pb2.ObjectInfo, int]:
        """Store the content; return what the provider says it stored, and the number of bytes that were sent."""


class _WholeBranch(Branch):
    def __init__(
        self,
        writer: ProviderWriter,
        target: catalog_service_pb2.WriteTarget,
        modified: Timestamp,
        record_displaced: RecordDisplaced,
        data: bytes,
        begun: Callable[[str], Awaitable[Outcome]] | None,
    ) -> None:
        super().__init__(writer, target, modified, record_displaced)
        self._data = data
        self._begun = begun

    async def _write(self) -> tuple[adapter_service_pb2.ObjectInfo, int]:
        if (wrote := await self._write_shortly()) is not None:
            if isinstance(wrote, adapter_service_pb2.ObjectInfo):
                return wrote, len(self._data)
            self._tried = wrote is Attempt.UNCERTAIN
        header = self._header(None)
        header.tried = self._tried
        with self._writer.health.waiting(self.target.provider_id, write_late(len(self._data))):
            response = await self._writer.adapters.PutObject(
                adapter_service_pb2.PutObjectRequest(header=header, data=self._data),
                timeout=transfer_deadline(len(self._data)),
            )
        return response.info, len(self._data)

    async def _write_shortly(self) -> Outcome | None:
        """Write in a call that others share, where that is possible."""
        if self._begun is not None:
            return await self._begun(self.target.provider_id)
        small = self._writer.small
        if small is None or len(self._data) > SMALL_CONTENT:
            return None
        content = SmallContent(
            key=self.target.key,
            modified=self._modified,
            only_if_absent=self._only_if_absent,
            data=self._data,
            acl=self._acl,
        )
        return await small.write(self._ref, content)


class _StreamBranch(Branch):
    def __init__(
        self,
        writer: ProviderWriter,
        target: catalog_service_pb2.WriteTarget,
        modified: Timestamp,
        record_displaced: RecordDisplaced,
        size: int | None,
    ) -> None:
        super().__init__(writer, target, modified, record_displaced)
        self._size = size
        self._queue: deque[_Item] = deque()
        self._arrived = asyncio.Event()
        self.taken = asyncio.Event()
        """Shared by the branches of one content once they are joined: set whenever one takes a piece."""
        self._sent = 0

    @property
    def silent(self) -> bool:
        """Whether the provider may not have taken anything yet: what was sent fits into the buffers on the way."""
        return self.pending and self._sent <= _BUFFERED_BYTES

    @property
    def has_room(self) -> bool:
        """Whether a piece can be pushed."""
        return len(self._queue) < _QUEUE_PIECES

    def push(self, item: _Item) -> None:
        """Queue a piece or the commit; the commit always fits."""
        self._queue.append(item)
        self._arrived.set()

    async def _write(self) -> tuple[adapter_service_pb2.ObjectInfo, int]:
        try:
            async with asyncio.timeout(transfer_deadline(0)) as guard:
                response = await self._writer.adapters.WriteObject(self._steps(guard))
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"provider {self.target.provider} took no data for {transfer_deadline(0):.0f} seconds",
                provider=self.target.provider,
            ) from error
        return response.info, self._sent

    async def _steps(self, guard: asyncio.Timeout) -> AsyncIterator[adapter_service_pb2.WriteObjectRequest]:
        clock = asyncio.get_running_loop().time
        yield adapter_service_pb2.WriteObjectRequest(header=self._header(self._size))
        while True:
            while not self._queue:
                # that the source is slow is not the provider's fault
                _reschedule(guard, None)
                self._arrived.clear()
                await self._arrived.wait()
            item = self._queue.popleft()
            self.taken.set()
            if item is _COMMIT:
                # much of it may be on its way still, and finishing a large object may cost the provider a pass over it
                _reschedule(guard, clock() + transfer_deadline(self._sent))
                yield adapter_service_pb2.WriteObjectRequest(commit=adapter_service_pb2.ObjectCommit(size=self._sent))
                return
            _reschedule(guard, clock() + transfer_deadline(len(item)))
            self._sent += len(item)
            yield adapter_service_pb2.WriteObjectRequest(data=item)


def _reschedule(guard: asyncio.Timeout, when: float | None) -> None:
    with contextlib.suppress(RuntimeError):  # the call has just ended, and its requests are still being asked for
        guard.reschedule(when)


class Copies:
    """The writes of one content that are under way, and their outcomes.

    Never just dropped: wait for :meth:`settled` or :meth:`minimum`; when that is false or fails, :meth:`abandon` it.
    ``needed`` is how many copies the content needs to count as stored.
    """

    def __init__(
        self,
        writer: ProviderWriter,
        branches: Iterable[Branch],
        needed: int,
        spares: Iterable[Callable[[], Branch]] = (),
    ) -> None:
        self.branches = list(branches)
        self.needed = needed
        self._spares = list(spares)
        self.patience = writer.patience
        self.slowdown = writer.slowdown
        self._writer = writer
        self._began = time.monotonic()
        self._held_up = 0.0

    @property
    def stored(self) -> list[catalog_service_pb2.StoredCopy]:
        """Copies that are durable by now."""
        return [branch.stored for branch in self.branches if branch.stored is not None]

    @property
    def touched(self) -> list[str]:
        """Ids of providers where a write failed and what is at the key is uncertain."""
        return [branch.target.provider_id for branch in self.branches if branch.touched and not branch.pending]

    @property
    def writing(self) -> list[str]:
        """Ids of providers where the write is still under way."""
        return [branch.target.provider_id for branch in self.pending]

    @property
    def pending(self) -> list[Branch]:
        """Branches that are still under way."""
        return [branch for branch in self.branches if branch.pending]

    @property
    def hopeless(self) -> bool:
        """Whether ``needed`` can no longer be reached."""
        hopes = sum(branch.pending or branch.stored is not None for branch in self.branches)
        return hopes + len(self._spares) < self.needed

    async def minimum(self) -> bool:
        """Wait until ``needed`` copies are durable, or cannot be any more; return which. Others stay under way."""
        while len(self.stored) < self.needed and not self.hopeless:
            await self._next_needed()
        return len(self.stored) >= self.needed

    async def settled(self) -> bool:
        """Wait until every branch has ended or was cut loose; return whether ``needed`` copies are durable."""
        doubted: dict[str, float] = {}
        while not self.hopeless:
            if len(self.stored) < self.needed:
                await self._next_needed()
                continue
            if not (pending := self.pending):
                break
            if (left := self._patience_left()) <= 0:
                await self._cut_loose(pending)
                break
            if dead := self._given_up(doubted):
                await self._cut_loose(dead)
                continue
            began = time.monotonic()
            await self._any_done(min(left, _LOOK_SECONDS))
            self._held_up += time.monotonic() - began
        self._raise_defects()
        return len(self.stored) >= self.needed

    async def abandon(self) -> None:
        """Cancel what is under way and see it end."""
        reason = ProviderUnavailable("the write was given up")
        await asyncio.gather(*(branch.cancel(reason) for branch in self.branches))

    def failure(self) -> CdirError:
        """Why fewer than ``needed`` copies are stored, in one line that names every provider's reason."""
        errors = [(branch.target.provider, branch.error) for branch in self.branches if branch.error is not None]
        reasons = "; ".join(f"{provider}: {error.message}" for provider, error in errors)
        message = f"stored on {len(self.stored)} of {self.needed} providers needed: {reasons}"
        kinds = {type(error) for _, error in errors}
        if len(kinds) == 1 and issubclass(kind := kinds.pop(), REFUSALS):
            return kind(message)
        return ProviderUnavailable(message)

    def _patience_left(self) -> float:
        without = time.monotonic() - self._began - self._held_up
        return self.patience + self.slowdown * without - self._held_up

    async def _next_needed(self) -> None:
        """Wait for a copy while there are too few, and turn to the spares when too few may come."""
        hopes = [one for one in self.pending if not self._writer.health.suspect(one.target.provider_id)]
        if self._spares and len(self.stored) + len(hopes) < self.needed:
            self.branches += [begin() for begin in self._spares]
            self._spares.clear()
        await self._any_done(_LOOK_SECONDS if self._spares else None)

    def _given_up(self, doubted: dict[str, float]) -> list[Branch]:
        """Return the branches whose provider took nothing, is suspect, and stayed so when it was asked whether it is
        there. ``doubted`` keeps since when each is suspect."""
        now = time.monotonic()
        suspects = {
            one.target.provider_id: one
            for one in self.pending
            if one.silent and self._writer.health.suspect(one.target.provider_id)
        }
        for gone in doubted.keys() - suspects.keys():
            del doubted[gone]
        return [one for name, one in suspects.items() if now - doubted.setdefault(name, now) >= _DOUBTED_SECONDS]

    async def _any_done(self, timeout: float | None) -> None:
        await asyncio.wait(
            [branch.task for branch in self.pending], timeout=timeout, return_when=asyncio.FIRST_COMPLETED
        )

    async def _cut_loose(self, branches: Iterable[Branch]) -> None:
        for branch in branches:
            late = DeadlineExceeded("fell behind the other providers; its copy is made later")
            self._writer.health.failed(branch.target.provider_id)
            if branch.silent:
                self._writer.observer.provider_failed(branch.target.provider_id, late)
            await branch.cancel(late)

    def _raise_defects(self) -> None:
        """Pass on what is no CdirError: a defect must not look like a provider's failure."""
        for branch in self.branches:
            if branch.task.done() and not branch.task.cancelled() and (defect := branch.task.exception()):
                raise defect


class FanOut(Copies):
    """A content whose pieces go to every target as they come: :meth:`send` each, then :meth:`commit`, then wait."""

    def __init__(self, writer: ProviderWriter, branches: Sequence[_StreamBranch], needed: int) -> None:
        super().__init__(writer, branches, needed)
        self._streams = branches
        self._changed = asyncio.Event()
        for branch in branches:
            branch.taken = self._changed
            branch.task.add_done_callback(lambda _: self._changed.set())

    async def send(self, piece: bytes) -> None:
        """Hand on a piece of 1 byte to 4 MiB; waits while targets are full, but not long for the slow ones.

        Raises the error of :meth:`failure` when ``needed`` can no longer be reached.
        """
        full = [branch for branch in self._streams if branch.pending and not self._pushed(branch, piece)]
        while full:
            ready = sum(branch.pending for branch in self._streams) - len(full)
            left = self._patience_left() if ready >= self.needed else None
            if left is not None and left <= 0:
                await self._cut_loose(full)
                break
            began = time.monotonic()
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._changed.wait()
            if left is not None:
                self._held_up += time.monotonic() - began
            full = [branch for branch in full if branch.pending and not self._pushed(branch, piece)]
        if self.hopeless:
            self._raise_defects()
            raise self.failure()

    def commit(self) -> None:
        """Say that the content is complete and right: only now may the targets make it durable."""
        for branch in self._streams:
            branch.push(_COMMIT)

    @staticmethod
    def _pushed(branch: _StreamBranch, piece: bytes) -> bool:
        if not branch.has_room:
            return False
        branch.push(piece)
        return True
