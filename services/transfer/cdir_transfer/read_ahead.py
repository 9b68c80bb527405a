"""Reading the blocks of one content ahead of whoever takes them, in order and within a budget."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator
from typing import Protocol

from cdir.errors import CdirError
from cdir_transfer.digest import block_range
from cdir_transfer.runs import Runs, RunSource
from cdir_transfer.sharing import PART_SIZE, Part, Sharing

__all__ = ["BlockSource", "ReadAhead", "SpareBlocks"]


class BlockSource(RunSource, Protocol):
    """What blocks are read from."""

    def usable(self) -> list[str]:
        """Ids of the providers to ask, best first; at least one."""

    def part(self, provider_id: str, offset: int, length: int) -> AsyncGenerator[bytes, None]:
        """Read a range from one provider, in pieces, not verified."""


class SpareBlocks:
    """The blocks that may be read ahead in the whole process."""

    def __init__(self, blocks: int) -> None:
        self.left = blocks
        self.readings = 0
        """Contents that are being read ahead."""
        self._all = blocks

    def take(self, having: int, window: int) -> bool:
        """Take one; false when none is left, or a content that has ``having`` would take what is another one's share.

        ``window`` are any content's to have.
        """
        if self.left <= 0 or having >= max(self._all // max(self.readings, 1), window - 1):
            return False
        self.left -= 1
        return True

    def give(self) -> None:
        """Give one back."""
        self.left += 1


class _Block:
    __slots__ = ("index", "parts", "whole")

    def __init__(self, index: int, size: int, *, whole: bool) -> None:
        self.index = index
        self.whole = whole
        """Whether it is read as a whole, with all that this brings: following renames, overtaking, reporting."""
        offset, length = block_range(size, index)
        step = length if whole else PART_SIZE
        self.parts = [Part(offset + at, min(step, length - at)) for at in range(0, length, step)]

    @property
    def has_failed(self) -> bool:
        return any(part.failure is not None for part in self.parts)

    @property
    def has_ended(self) -> bool:
        return all(part.has_ended for part in self.parts) or self.has_failed


class ReadAhead:
    """Blocks ``first`` up to but not including ``stop`` of a content of ``size`` bytes. Leave it with :meth:`end`."""

    def __init__(
        self, source: BlockSource, sharing: Sharing, spares: SpareBlocks, window: int, size: int, first: int, stop: int
    ) -> None:
        self._source = source
        self._sharing = sharing
        self._spares = spares
        self._runs = Runs(source, stop)
        self._window = window
        self._size = size
        self._next = first
        self._stop = stop
        self._blocks: deque[_Block] = deque()
        """Begun and not handed on."""
        self._todo: deque[tuple[_Block, Part]] = deque()
        """Parts of blocks that were begun, not asked for yet."""
        self._having = 0
        spares.readings += 1

    @property
    def at_end(self) -> bool:
        """Whether all blocks were handed on."""
        return not self._blocks and self._next == self._stop

    async def next_block(self) -> bytes | None:
        """Return the next block; ``None`` at the end. Errors are those of the source's ``block``."""
        while not self.at_end:
            usable = self._source.usable()
            times = self._sharing.worth_asking(usable)
            # of one that is not known yet, where others could help, whole blocks at once would all come late
            self._ask(times, whole=len(times) == 1 and (len(usable) == 1 or self._sharing.is_known(usable[0])))
            head = self._blocks[0]
            if not head.has_ended:
                await self._wait(head, times)
                continue
            self._blocks.popleft()
            if self._having:
                self._having -= 1
                self._spares.give()
            return await self._joined(head)
        return None

    async def end(self) -> None:
        """Cancel what is still under way and see it end."""
        self._spares.readings -= 1
        for _ in range(self._having):
            self._spares.give()
        self._having = 0
        await self._sharing.end()
        await self._runs.close()

    def _ask(self, times: dict[str, float], *, whole: bool) -> None:
        """Ask for as many parts as there are places for, in ``whole`` blocks or in parts of them."""
        while self._todo or self._begin(whole=whole):
            left = len(self._todo) + (self._stop - self._next) * (1 if whole else _parts_of_block(self._size))
            ahead = sum(len(block.parts) for block in self._blocks) - len(self._todo)
            if len(times) == 1:
                # the parts of a block that have come make room for the others
                ahead -= sum(part.has_ended for part in self._shared_parts())
            provider_id = self._sharing.next_source(times, ahead, left)
            if provider_id is None:
                return
            block, part = self._todo.popleft()
            if block.whole and self._sharing.is_near(provider_id):
                self._sharing.ask_whole(part, provider_id, self._runs.block(provider_id, block.index))
            elif block.whole:
                # many requests at once are faster than one where a connection is slow
                self._sharing.ask_whole(part, provider_id, self._source.block(block.index))
            else:
                self._sharing.ask(part, provider_id, self._source.part(provider_id, part.offset, part.length))

    def _begin(self, *, whole: bool) -> bool:
        """Begin the next block, if there is one and room for it."""
        if self._next == self._stop:
            return False
        if self._blocks:
            if not self._spares.take(self._having, self._window):
                return False
            self._having += 1
        block = _Block(self._next, self._size, whole=whole)
        self._next += 1
        self._blocks.append(block)
        self._todo.extend((block, part) for part in block.parts)
        return True

    async def _wait(self, head: _Block, times: dict[str, float]) -> None:
        if head.whole:
            await self._sharing.any_news(head.parts, look=False)
            return
        while (relieved := self._sharing.relieved(self._shared_parts(), times)) is not None:
            part, rest, provider_id = relieved
            parts = next(block.parts for block in self._blocks if part in block.parts)
            parts.insert(parts.index(part) + 1, rest)
            self._sharing.ask(rest, provider_id, self._source.part(provider_id, rest.offset, rest.length))
        # whoever has a place free goes on, also when it is not the one that holds up the others
        await self._sharing.any_news(self._shared_parts(), look=True)

    def _shared_parts(self) -> list[Part]:
        return [part for block in self._blocks if not block.whole for part in block.parts]

    async def _joined(self, block: _Block) -> bytes:
        if block.whole:
            (part,) = block.parts
            assert part.call is not None
            data: bytes = await part.call.task
            return data
        try:
            for part in block.parts:
                if part.failure is not None:
                    raise part.failure
            data = b"".join(piece for part in block.parts for piece in part.pieces)
            await self._source.check(block.index, data)
            return data
        except CdirError:
            for part in block.parts:
                part.drop()
        return await self._source.block(block.index)


def _parts_of_block(size: int) -> int:
    """How many parts the largest block of a content has."""
    return -(-block_range(size, 0)[1] // PART_SIZE)
