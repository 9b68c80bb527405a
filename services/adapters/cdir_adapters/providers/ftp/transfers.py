"""Bytes of one file from the server."""

from __future__ import annotations

from cdir.errors import IntegrityError, NotFound
from cdir_adapters.adapter import ObjectInfo, ReadStream
from cdir_adapters.providers.ftp.faults import Refusal, translated
from cdir_adapters.providers.ftp.sessions import Session
from cdir_adapters.providers.ftp.tree import Tree
from cdir_adapters.providers.ftp.wire import Data
from cdir_adapters.shapes import PIECE_SIZE

__all__ = ["Changed", "FileStream", "open_file"]


class Changed(IntegrityError):
    """The file is not the one any more whose size was told just before."""


class FileStream(ReadStream):
    """A range of a file, as it comes. ``aclose`` ends the transfer, wherever it is."""

    def __init__(
        self, info: ObjectInfo, session: Session, data: Data, *, skip: int, length: int, to_end: bool, provider: str
    ) -> None:
        self.info = info
        self._session = session
        self._data = data
        self._skip = skip
        self._left = length
        self._to_end = to_end
        self._provider = provider

    async def __anext__(self) -> bytes:
        with translated(self._provider, self.info.key):
            while self._skip:
                self._skip -= len(await self._read(self._skip))
            if not self._left:
                await self._finish()
                raise StopAsyncIteration
            piece = await self._read(self._left)
            self._left -= len(piece)
            return piece

    async def _read(self, most: int) -> bytes:
        piece = await self._data.read(min(most, PIECE_SIZE))
        if not piece:
            # when the server says why, that is the error
            await self._data.finish()
            raise self._changed("shorter")
        return piece

    async def _finish(self) -> None:
        """A whole file ends with the server's word that it is whole."""
        if not self._to_end or self._data.ended:
            return
        if await self._data.read(1):
            raise self._changed("longer")
        await self._data.finish()

    def _changed(self, how: str) -> Changed:
        return Changed(
            f"{self.info.key} at provider {self._provider} became {how} while it was read", key=self.info.key
        )

    async def aclose(self) -> None:
        """End the transfer. A connection that does not come to rest is used no more."""
        self._data.abandon()
        try:
            await self._session.control.settle()
        except OSError:
            self._session.control.discard()


async def open_file(
    tree: Tree, session: Session, info: ObjectInfo, offset: int, length: int, provider: str
) -> FileStream:
    """Begin to read a range of a file that was there a moment ago. Raises NotFound when it is not any more."""
    path = session.path(info.key)
    control = session.control
    skip = 0 if session.features.restarts else offset
    try:
        try:
            data = await control.open_data("RETR", path, offset=offset - skip)
        except Refusal as refusal:
            if refusal.verb != "REST" or refusal.passing:
                raise
            session.features.restarts, skip = False, offset
            data = await control.open_data("RETR", path)
    except Refusal as refusal:
        if offset and refusal.verb == "RETR":
            # a server may keep the offset for the next transfer, which could be somebody's write
            control.discard()
        elif not refusal.passing and await tree.look(session, info.key) is None:
            raise NotFound(f"{info.key} at provider {provider} does not exist", key=info.key) from None
        raise
    return FileStream(
        info, session, data, skip=skip, length=length, to_end=offset + length == info.size, provider=provider
    )
