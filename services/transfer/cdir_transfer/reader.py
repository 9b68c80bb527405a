"""Reading a content from whichever replica has it, and never a byte that was not verified.

A content is read in blocks (:mod:`cdir_transfer.digest`). Each block is one FetchObject, is verified before it is
handed on, and fails over by itself: to the other keys of the replica, to the keys the catalog knows now (the object may
have been renamed meanwhile), and to the next replica. A replica that answers later than it nearly always does is
overtaken: the next one is asked as well, and the first good answer wins.

Where the replicas of a large content are far away, the parts of its blocks are asked of all that are worth it
(:mod:`cdir_transfer.sharing`); a block of which a part does not come, or that is not what was committed, is read again
as a whole.

A content that was found at a provider and whose digests nobody knows yet is the exception: see
:mod:`cdir_transfer.learning`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Final

from cdir.errors import (
    CdirError,
    IntegrityError,
    IsDirectory,
    NotFound,
    PreconditionFailed,
    ProviderUnavailable,
    RangeNotSatisfied,
)
from cdir.status import translated
from cdir.v1 import adapter_service_pb2, adapter_service_pb2_grpc, catalog_service_pb2, entry_pb2
from cdir_transfer.digest import BLOCK_SIZE, INLINE_BYTES, block_count, block_range, check_block, check_whole
from cdir_transfer.health import ProviderHealth
from cdir_transfer.learning import FirstReading, Learning
from cdir_transfer.observer import TransferObserver, is_providers_fault
from cdir_transfer.overtaking import Overtaking
from cdir_transfer.read_ahead import ReadAhead, SpareBlocks
from cdir_transfer.sharing import PART_SIZE, Sharing

__all__ = ["OpenContent", "ResolveAgain", "VerifiedReader", "transfer_deadline"]

ResolveAgain = Callable[[], Awaitable[Sequence[entry_pb2.Replica]]]
"""Asks the catalog where the replicas of the same version are now; raises NotFound when the path no longer has it."""

_HUNG_SECONDS: Final = 600.0
_SLOWEST_RATE: Final = 256
_PIECE_SIZE: Final = 32 << 10
"""Bytes after which it is seen that a part of a block comes on."""
_RUN_PATIENCE: Final = 1.0
"""Seconds that the next block of a run may take at least before it is given up."""
_KEPT_WAITING: Final = 5.0
"""Seconds: whoever takes the next block of a run later than this may be the reason why its request has ended."""


def transfer_deadline(size: int) -> float:
    """Seconds after which a call that moves ``size`` bytes is taken for hung: 600, and the time that 256 bytes/s need.

    The adapters end a call whose provider no longer moves, long before. They alone can: they know what waits its turn,
    as calls to a provider with a bandwidth do, and what is slow but moves.
    """
    return _HUNG_SECONDS + size / _SLOWEST_RATE


class VerifiedReader:
    """Reads contents through an AdapterService. One per process: it bounds the blocks read ahead and the overtaking.

    ``window`` is the most blocks under way for one content at one provider; ``spare_blocks`` the most blocks read ahead
    in the whole process, in blocks of 4 MiB. Every content can always have one block under way, and once more where it
    is overdue, so memory is bounded by twice the number of open contents plus ``spare_blocks``, and no content waits
    for another. What it reads in the ``background`` holds back for what others wait for.
    """

    def __init__(
        self,
        adapters: adapter_service_pb2_grpc.AdapterServiceAsyncStub,
        health: ProviderHealth,
        observer: TransferObserver,
        *,
        window: int = 4,
        spare_blocks: int = 24,
        background: bool = False,
    ) -> None:
        self._background = background
        self._adapters = adapters
        self._health = health
        self._observer = observer
        self._window = window
        self._spares = SpareBlocks(spare_blocks)
        self._overtaking = Overtaking(health)

    def open(
        self,
        version: entry_pb2.Version,
        replicas: Iterable[entry_pb2.Replica],
        resolve_again: ResolveAgain,
        *,
        label: str,
    ) -> OpenContent:
        """Begin to read ``version`` from ``replicas``, best first. ``label`` names the file in errors."""
        return OpenContent(self, version, list(replicas), resolve_again, label)

    async def _fetch(
        self, replica: entry_pb2.Replica, key: str, offset: int, length: int, whole_size: int
    ) -> adapter_service_pb2.FetchObjectResponse:
        """One range of one object; IntegrityError when the object has another size than the version."""
        provider_id = replica.provider_id
        self._overtaking.asked()
        self._health.paces.asked(provider_id, length)
        request = adapter_service_pb2.FetchObjectRequest(
            provider=self._ref(replica),
            key=key,
            offset=offset,
            length=max(length, 1),
        )
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            with self._health.waiting(provider_id, self._overtaking.patience(provider_id, length)), translated():
                response = await self._adapters.FetchObject(request, timeout=transfer_deadline(length))
        except RangeNotSatisfied as error:
            raise IntegrityError(f"the object is shorter than {whole_size} bytes") from error
        except CdirError as error:
            if is_providers_fault(error):
                self._health.failed(provider_id)
                self._observer.provider_failed(provider_id, error)
            raise
        self._health.succeeded(provider_id, length, clock() - began)
        if response.size != whole_size:
            raise IntegrityError(f"the object has {response.size} bytes instead of {whole_size}")
        return response

    async def _read_run(
        self, replica: entry_pb2.Replica, offset: int, length: int, whole_size: int
    ) -> AsyncGenerator[bytes, None]:
        """Yield a range of one object in blocks, asked for in one request; errors as :meth:`_fetch`."""
        patience = self.run_patience(replica.provider_id)
        async with aclosing(self._read_on(replica, offset, length, whole_size, BLOCK_SIZE, patience)) as blocks:
            async for data, seconds in blocks:
                self._health.succeeded(replica.provider_id, len(data), seconds)
                yield data

    async def _read_part(
        self, replica: entry_pb2.Replica, offset: int, length: int, whole_size: int
    ) -> AsyncGenerator[bytes, None]:
        """Yield a range of one object in small pieces; errors as :meth:`_fetch`.

        How long it took is learnt if all of it is taken, and it is no short rest of a part: that shares the line with
        other parts, and says nothing of small objects, which are read by themselves.
        """
        provider_id = replica.provider_id
        clock = asyncio.get_running_loop().time
        began = clock()
        patience = self._overtaking.patience(provider_id, max(length, PART_SIZE))
        async with aclosing(self._read_on(replica, offset, length, whole_size, _PIECE_SIZE, patience)) as pieces:
            async for data, _ in pieces:
                self._health.answered(provider_id)
                yield data
        if 2 * length >= PART_SIZE:
            self._health.succeeded(provider_id, length, clock() - began)

    async def _read_on(
        self, replica: entry_pb2.Replica, offset: int, length: int, whole_size: int, piece_length: int, patience: float
    ) -> AsyncGenerator[tuple[bytes, float], None]:
        """Yield a range of one object in pieces, and how long each was waited for, in seconds."""
        provider_id = replica.provider_id
        self._overtaking.asked()
        self._health.paces.asked(provider_id, BLOCK_SIZE)
        request = adapter_service_pb2.ReadObjectRequest(
            provider=self._ref(replica),
            key=replica.key,
            offset=offset,
            length=length,
            piece_length=piece_length,
        )
        clock = asyncio.get_running_loop().time
        call = self._adapters.ReadObject(request)
        try:
            pieces = aiter(call)
            taken = clock()
            while True:
                began = clock()
                try:
                    with self._health.waiting(provider_id, patience), translated():
                        piece = await anext(pieces, None)
                except CdirError as error:
                    if is_providers_fault(error) and began - taken < _KEPT_WAITING:
                        self._health.failed(provider_id)
                        self._observer.provider_failed(provider_id, error)
                    raise
                taken = clock()
                if piece is None:
                    return
                if piece.size != whole_size:
                    raise IntegrityError(f"the object has {piece.size} bytes instead of {whole_size}")
                yield piece.data, taken - began
        finally:
            call.cancel()

    def _ref(self, replica: entry_pb2.Replica) -> adapter_service_pb2.ProviderRef:
        return adapter_service_pb2.ProviderRef(
            provider_id=replica.provider_id, revision=replica.provider_revision, background=self._background
        )

    def run_patience(self, provider_id: str) -> float:
        """Seconds after which the next block of a run is given up."""
        return max(_RUN_PATIENCE, self._overtaking.patience(provider_id, BLOCK_SIZE))


class OpenContent:
    """One content being read. Its methods may run at the same time."""

    def __init__(
        self,
        reader: VerifiedReader,
        version: entry_pb2.Version,
        replicas: list[entry_pb2.Replica],
        resolve_again: ResolveAgain,
        label: str,
    ) -> None:
        self._reader = reader
        self._resolve_again = resolve_again
        self._resolving = asyncio.Lock()
        self._resolved = 0
        self._replicas = replicas
        self._bad: set[str] = set()
        self._label = label
        self._first = None if version.sha256 else FirstReading(version)
        self.changed: set[str] = set()
        """Names of providers where another program has changed the object since it was found there."""
        self.version = version
        """The content; digests that were not known are filled in once all of it was read."""

    async def block(self, index: int) -> bytes:
        """Return one verified block; of an empty content, block 0 is empty.

        Raises ProviderUnavailable when no replica could be reached that might have it (its cause is what the first said
        that was asked), else IntegrityError when every replica is damaged or gone.
        """
        first = self._first
        if first is not None and first.source is None:
            async with first.choosing:
                if first.source is None:
                    return await self._block(index)
        return await self._block(index)

    async def _block(self, index: int) -> bytes:
        _, length = block_range(self.version.size, index)
        replicas = self._ranked(length)
        failures: dict[str, CdirError] = {}

        def note(replica: entry_pb2.Replica, error: CdirError) -> None:
            if isinstance(error, PreconditionFailed):
                self.changed.add(replica.provider)
            failures[replica.provider] = error

        async def ask(replica: entry_pb2.Replica) -> bytes:
            return await self._from_replica(replica, index)

        data = await self._reader._overtaking.first_good(replicas, _provider_id, length, ask, note)
        if data is None:
            raise self._nothing_left(failures)
        return data

    async def part(self, provider_id: str, offset: int, length: int) -> AsyncGenerator[bytes, None]:
        """Read a range of one provider's copy, where it was last known to be, in pieces; not verified. Raises NotFound.

        Close it when it is left early.
        """
        replica = self._replica_at(provider_id)
        if replica is None:
            raise NotFound(f"{self._label} is no longer at a provider where it was", path=self._label)
        async with aclosing(self._reader._read_part(replica, offset, length, self.version.size)) as pieces:
            async for data in pieces:
                yield data

    def run(self, provider_id: str, index: int, count: int) -> AsyncGenerator[bytes, None] | None:
        """Read blocks from one provider's copy in one request, where it was last known to be; not verified."""
        replica = self._replica_at(provider_id)
        if self._first is not None or replica is None:
            return None
        offset, _ = block_range(self.version.size, index)
        length = min(count * BLOCK_SIZE, self.version.size - offset)
        return self._reader._read_run(replica, offset, length, self.version.size)

    def run_patience(self, provider_id: str) -> float:
        """Seconds after which a block of a run is given up."""
        return self._reader.run_patience(provider_id)

    async def check(self, index: int, data: bytes) -> None:
        """Raise IntegrityError unless ``data`` is a block of this content."""
        if len(data) >= INLINE_BYTES:
            await asyncio.to_thread(self._check, index, data)
        else:
            self._check(index, data)

    async def whole(self) -> bytes:
        """Return a content of at most one block."""
        if self.version.size > BLOCK_SIZE:
            raise ValueError("a content of several blocks is read block by block")
        return await self.block(0)

    async def blocks(self, first: int = 0, stop: int | None = None) -> AsyncGenerator[bytes, None]:
        """Yield verified blocks in order, from ``first`` up to but not including ``stop`` (default: the end).

        Close the generator (``contextlib.aclosing``) when it is left early. Errors are those of :meth:`block`.
        """
        count = block_count(self.version.size)
        end = count if stop is None else stop
        learning = self._first.begin() if self._first is not None and first == 0 and end == count > 1 else None
        reader = self._reader
        sharing = Sharing(reader._health, reader._overtaking, BLOCK_SIZE, reader._window)
        ahead = ReadAhead(self, sharing, reader._spares, reader._window, self.version.size, first, end)
        try:
            while (data := await ahead.next_block()) is not None:
                if learning is not None:
                    await learning.take(data)
                    if ahead.at_end:
                        self._learn(learning)
                yield data
        finally:
            await ahead.end()

    async def pieces(self, offset: int = 0, length: int | None = None) -> AsyncGenerator[bytes, None]:
        """Yield a range in pieces of at most one block; cut short at the end of the content.

        Raises RangeNotSatisfied when ``offset`` lies past the end, and the errors of :meth:`block`.
        """
        size = self.version.size
        if offset > size or (offset == size and size > 0 and length != 0):
            raise RangeNotSatisfied(
                f"{self._label} has {size} bytes; a range cannot begin at {offset}", path=self._label
            )
        end = size if length is None else min(size, offset + length)
        if not size and self._first is not None:
            await self.block(0)  # nothing to hand out, but something to learn
        if end <= offset:
            return
        if size <= BLOCK_SIZE:
            # nothing to read ahead: no task of its own for the one block
            block = await self.block(0)
            yield block if end - offset == size else block[offset:end]
            return
        first = offset // BLOCK_SIZE
        position = first * BLOCK_SIZE
        blocks = self.blocks(first, block_count(end))
        try:
            async for block in blocks:
                start, stop = max(offset - position, 0), min(end - position, len(block))
                yield block if start == 0 and stop == len(block) else block[start:stop]
                position += len(block)
        finally:
            await blocks.aclose()

    def _replica_at(self, provider_id: str) -> entry_pb2.Replica | None:
        return next((replica for replica in self._replicas if replica.provider_id == provider_id), None)

    def _ranked(self, length: int) -> list[entry_pb2.Replica]:
        """The replicas in the order in which to ask for so many bytes.

        Those that were found bad come last but for suspect providers: one bad block does not make the others bad.
        """
        if self._first is not None and self._first.source is not None:
            # other copies may hold other bytes: without digests nothing tells
            return [self._first.source]
        health = self._reader._health
        ranked = health.ordered(self._replicas, _provider_id, length)
        if self._bad:
            ranked.sort(key=lambda one: (health.suspect(one.provider_id), one.provider_id in self._bad))
        return ranked

    def usable(self) -> list[str]:
        """Return the ids of the providers to ask for blocks, best first; there is always one, if only to fail."""
        health = self._reader._health
        ranked = [one.provider_id for one in self._ranked(BLOCK_SIZE)]
        if self._first is not None:
            return ranked[:1] or [""]
        good = [one for one in ranked if one not in self._bad and not health.suspect(one)]
        return good or ranked[:1] or [""]

    async def _from_replica(self, replica: entry_pb2.Replica, index: int) -> bytes:
        """Return the block from one replica, following it to where the catalog says it is now."""
        known = self._resolved
        tried: set[str] = set()
        damage: tuple[str, IntegrityError] | None = None
        while True:
            for key in (replica.key, *replica.alternate_keys):
                if key in tried:
                    continue
                tried.add(key)
                try:
                    return await self._from_key(replica, key, index)
                except (NotFound, IsDirectory):
                    continue
                except IntegrityError as found:
                    damage = damage or (key, found)
            moved = await self._where_now(replica.provider_id, known)
            if moved is None or moved.key in tried:
                break
            replica, known = moved, self._resolved
        self._bad.add(replica.provider_id)
        if damage is None:
            missing = NotFound(f"nothing is at {replica.key}")
            self._report(moved, replica.key, entry_pb2.REPLICA_STATE_MISSING, missing)
            raise missing
        key, error = damage
        self._report(moved, key, entry_pb2.REPLICA_STATE_CORRUPT, error)
        raise error

    async def _from_key(self, replica: entry_pb2.Replica, key: str, index: int) -> bytes:
        size = self.version.size
        offset, length = block_range(size, index)
        first = self._first
        try:
            found = await self._reader._fetch(replica, key, offset, length, size)
        except IntegrityError as error:
            if first is not None:
                raise first.of_another_size(replica) from error
            raise
        data = found.data
        if first is not None:
            first.accept(replica, key, found)
            if len(data) != length:
                raise IntegrityError(f"{len(data)} bytes instead of {length} in block {index}")
            if size <= BLOCK_SIZE:
                learning = first.begin()
                await learning.take(data)
                self._learn(learning)
        else:
            await self.check(index, data)
        return data

    def _learn(self, learning: Learning) -> None:
        """All of the content was read for the first time: from now on it is verified."""
        learnt = learning.finish()
        self.version.sha256, self.version.block_digests = learnt.sha256, learnt.block_digests
        self._first = None
        self._reader._observer.content_learnt(learnt)

    def _check(self, index: int, data: bytes) -> None:
        if self.version.size <= BLOCK_SIZE:
            check_whole(self.version, data)
        else:
            check_block(self.version, index, data)

    async def _where_now(self, provider_id: str, known: int) -> entry_pb2.Replica | None:
        """The provider's replica as the catalog knows it now, asking at most once for all who knew as little."""
        async with self._resolving:
            if self._resolved == known:
                try:
                    self._replicas = list(await self._resolve_again())
                except NotFound:
                    # renamed or removed since it was opened; what is known has to do
                    return None
                self._resolved += 1
        return self._replica_at(provider_id)

    def _report(
        self, now: entry_pb2.Replica | None, key: str, state: entry_pb2.ReplicaState.ValueType, error: CdirError
    ) -> None:
        """Report what was found at ``key``, if that is where the catalog, asked again, says the copy is."""
        if now is None or now.key != key:
            return
        self._reader._observer.replica_seen(
            catalog_service_pb2.ReplicaObservation(
                version_id=self.version.version_id,
                provider_id=now.provider_id,
                key=key,
                state=state,
                error=error.message,
            )
        )

    def _nothing_left(self, failures: dict[str, CdirError]) -> CdirError:
        if not failures:
            return ProviderUnavailable(
                f"no provider is known to hold a good copy of {self._label} now; see `cdir status`", path=self._label
            )
        reasons = "; ".join(f"{provider}: {error.message}" for provider, error in failures.items())
        if all(isinstance(error, (IntegrityError, NotFound)) for error in failures.values()):
            return IntegrityError(f"no good copy of {self._label} is left: {reasons}", path=self._label)
        error = ProviderUnavailable(f"cannot read {self._label} from any provider: {reasons}", path=self._label)
        error.__cause__ = next(iter(failures.values()))
        return error


def _provider_id(replica: entry_pb2.Replica) -> str:
    return replica.provider_id
