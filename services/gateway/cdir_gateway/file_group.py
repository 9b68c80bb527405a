"""Small files that are written together: one intent, one call to each provider and one commit for all of them.

Of a small file most of the cost is what there is of it however small it is, so what goes well is done for many at
once. What does not go well, at whatever step, goes on by itself in a task of its own, where it meets its trouble again
and what there is to do about it (:class:`FileWriter`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from cdir.errors import CdirError
from cdir.v1 import catalog_service_pb2
from cdir_gateway.upload import StoredFile, Upload
from cdir_gateway.writing import FileWriter, SmallFile
from cdir_transfer.shared_calls import OBJECTS_IN_CALL, SMALL_CONTENT

__all__ = ["GROUP_BYTES", "GROUP_FILES", "LARGEST", "FileGroup"]

GROUP_FILES: Final = OBJECTS_IN_CALL
"""Most files of a group: as many as one call to a provider carries."""
GROUP_BYTES: Final = 1 << 20
"""Bytes of a group up to which another file joins it."""
LARGEST: Final = SMALL_CONTENT
"""Bytes of the largest file that may be in a group."""


_Targets: TypeAlias = Sequence[catalog_service_pb2.WriteTarget]


class _Begun(NamedTuple):
    """A file whose intent is recorded."""

    number: int
    file: SmallFile
    upload: Upload


class FileGroup:
    """Files of one caller, told apart by numbers.

    ``report`` is awaited with what has become of each file, except of those that were given up; ``ended`` is called
    for each file after that, but not for what is left when :meth:`store` is cancelled.
    """

    def __init__(
        self,
        writer: FileWriter,
        report: Callable[[int, StoredFile | CdirError], Awaitable[None]],
        ended: Callable[[int], None],
    ) -> None:
        self._writer = writer
        self._report = report
        self._ended = ended
        self._tasks = asyncio.TaskGroup()
        self._alone: dict[int, asyncio.Task[None]] = {}
        """What goes on by itself."""
        self._begun: dict[int, Upload] = {}
        """Intents that nothing but this group sees to their end."""
        self._room: dict[int, int] = {}
        """Memory taken for them."""
        self.given_up: set[int] = set()
        """Files that are no longer wanted."""

    def give_up(self, number: int) -> bool:
        """End a file that has not ended, as far as it is not committed; nothing is reported of it."""
        self.given_up.add(number)
        alone = self._alone.get(number)
        return True if alone is None else alone.cancel()

    async def store(self, files: Mapping[int, SmallFile]) -> None:
        """See every file end. Cancelled, it gives up what is not committed."""
        try:
            async with self._tasks:
                await self._store({number: file for number, file in files.items() if number not in self.given_up})
        finally:
            for number in tuple(self._begun):
                self._give_up(number)

    async def _store(self, files: Mapping[int, SmallFile]) -> None:
        groups: dict[tuple[object, ...], list[tuple[_Begun, _Targets]]] = {}
        for begun in await self._begin(files):
            targets = self._free_targets(begun)
            if targets is None:
                self._go_on(begun)
            else:
                providers = tuple(target.provider_id for target in targets)
                key = (providers, begun.upload.needed, begun.file.order.minimum)
                groups.setdefault(key, []).append((begun, targets))
        async with asyncio.TaskGroup() as putting:
            for group in groups.values():
                # one as a rule: the rules of their paths may differ
                putting.create_task(self._put([begun for begun, _ in group], [targets for _, targets in group]))

    async def _begin(self, files: Mapping[int, SmallFile]) -> list[_Begun]:
        begun: list[_Begun] = []
        uploads = await self._writer.begin_each(list(files.values())) if files else []
        for (number, file), upload in zip(files.items(), uploads, strict=True):
            if upload is None:
                self._start_alone(number, self._writer.store(file))
            else:
                self._begun[number] = upload
                begun.append(_Begun(number, file, upload))
        return begun

    def _free_targets(self, begun: _Begun) -> _Targets | None:
        """Where a file is to be stored; ``None`` when there is something in its way."""
        if self._writer.is_late(begun.file.order):
            return None
        try:
            targets = begun.upload.reachable
        except CdirError:
            return None
        return None if any(target.HasField("occupant") for target in targets) else targets

    async def _put(self, group: Sequence[_Begun], targets: Sequence[_Targets]) -> None:
        """Store files at the same providers, and commit those that all of them have."""
        writer = self._writer
        rooms = [writer.room_of(begun.upload, begun.file.data) for begun in group]
        left = await writer.take_room(sum(rooms))
        for begun, room in zip(group, rooms, strict=True):
            self._room[begun.number] = min(room, left)
            left -= self._room[begun.number]
        shared = writer.put_together([(begun.upload, begun.file) for begun in group], targets)
        if shared is not None:
            await shared.landed(group[0].upload.needed if group[0].file.order.minimum else None)
        landed: list[tuple[_Begun, catalog_service_pb2.WriteCommitment]] = []
        for number, begun in enumerate(group):
            copies = None if shared is None else shared.copies(number)
            if begun.number in self.given_up:
                self._give_up(begun.number)
                self._ended(begun.number)
            elif copies is None:
                self._go_on(begun)
            else:
                file = begun.file
                landed.append((begun, begun.upload.commitment(len(file.data), file.sha256, copies)))
        if landed:
            await self._commit(landed)

    async def _commit(self, landed: list[tuple[_Begun, catalog_service_pb2.WriteCommitment]]) -> None:
        committing = [(begun.upload, commitment) for begun, commitment in landed]
        try:
            entries = await self._writer.commit_each(committing, landed[0][0].file.order.user)
        except asyncio.CancelledError:
            for begun, _ in landed:  # the catalog's answer decides of them
                self._forget(begun.number)
            raise
        stored: list[tuple[int, StoredFile]] = []
        for (begun, _), entry in zip(landed, entries, strict=True):
            if entry is None:
                self._go_on(begun)
            else:
                self._forget(begun.number)
                stored.append((begun.number, begun.upload.stored_everywhere(entry)))
        for number, file in stored:
            if number not in self.given_up:
                await self._report(number, file)
            self._ended(number)

    def _go_on(self, begun: _Begun) -> None:
        """Have a file go on by itself."""
        self._start_alone(begun.number, self._see_through(begun))

    async def _see_through(self, begun: _Begun) -> StoredFile:
        del self._begun[begun.number]
        return await self._writer.see_through(begun.upload, begun.file, self._room.pop(begun.number, None))

    def _start_alone(self, number: int, storing: Coroutine[Any, Any, StoredFile]) -> None:
        async def store() -> None:
            try:
                outcome: StoredFile | CdirError = await storing
            except CdirError as error:
                outcome = error
            await self._report(number, outcome)

        def ended(_: asyncio.Task[None]) -> None:
            # not in the task: one that is cancelled before it starts runs no line
            storing.close()
            if number in self._begun:
                self._give_up(number)
            self._ended(number)

        self._alone[number] = self._tasks.create_task(store())
        self._alone[number].add_done_callback(ended)
        if number in self.given_up:
            self._alone[number].cancel()

    def _give_up(self, number: int) -> None:
        upload = self._begun[number]
        self._forget(number)
        self._writer.give_up(upload)

    def _forget(self, number: int) -> None:
        """Leave an intent to somebody else."""
        del self._begun[number]
        self._writer.give_room(self._room.pop(number, 0))
