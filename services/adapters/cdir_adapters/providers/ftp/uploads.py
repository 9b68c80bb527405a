"""One write on its way: the file beside its target that has a name of its own until it is whole."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from datetime import UTC, datetime

from cdir_adapters.adapter import ObjectInfo, Source
from cdir_adapters.providers.ftp.faults import CallerFailed, Refusal
from cdir_adapters.providers.ftp.listing import stamp_of
from cdir_adapters.providers.ftp.sessions import Session
from cdir_adapters.providers.ftp.tree import ATTEMPTS, PATIENCE, Tree
from cdir_adapters.providers.ftp.wire import Data
from cdir_adapters.shapes import exactly

__all__ = [
    "TEMPORARY",
    "TIDY_DEADLINE",
    "begin",
    "drop",
    "finish",
    "pieces_of",
    "send",
    "set_time",
    "temporary_beside",
    "was_begun",
]

logger = logging.getLogger(__name__)

TEMPORARY = ".cdir-tmp-"
"""How the names of unfinished writes begin. They lie beside their targets, since a rename works only within a disk."""

TIDY_DEADLINE = 15.0
"""Seconds that removing an unfinished write may take; what remains is left to ``sweep``."""

_BEGUN = re.compile(re.escape(TEMPORARY) + "([0-9a-f]{8,12})-[0-9a-f]{32}")
_BLOCK = 1024 * 1024


def temporary_beside(key: str) -> str:
    """Return the key of a new unfinished write. It tells when it was begun: the file's own time may be any."""
    folder, slash, _ = key.rpartition("/")
    return f"{folder}{slash}{TEMPORARY}{int(time.time()):08x}-{uuid.uuid4().hex}"


def was_begun(info: ObjectInfo) -> datetime | None:
    """When the unfinished write ``info`` was begun or last went on, whichever is later; ``None`` when that is not
    known."""
    begun = _BEGUN.fullmatch(info.key.rpartition("/")[2])
    times = [info.modified, datetime.fromtimestamp(int(begun[1], 16), UTC) if begun else None]
    return max((moment for moment in times if moment is not None), default=None)


async def begin(tree: Tree, session: Session, temporary: str) -> Data:
    """Begin to fill a new file; the folders above it are made when they are missing."""
    folder = temporary.rpartition("/")[0]
    if session.features.opens_late and not await session.enters(folder):
        await tree.make_folder(session, folder)
    for attempt in range(ATTEMPTS):
        try:
            return await session.control.open_data("STOR", session.path(temporary))
        except Refusal as refusal:
            if refusal.passing or refusal.unknown_command or refusal.full:
                raise
            # where others remove folders that are empty, this one may be gone again by now
            if not await tree.make_folder(session, folder) and (refusal.denies or attempt >= PATIENCE):
                raise
    raise tree.contended(folder)


async def set_time(session: Session, key: str, moment: datetime) -> str:
    """Return the command by which the server was told the time; empty when it knows none."""
    features = session.features
    if features.mfmt:
        verb = "MFMT"
    elif features.mdtm and features.sets_time_by_mdtm is not False:
        verb = "MDTM"  # vsftpd and others take a time there to set
    else:
        return ""
    try:
        await session.control.command(verb, f"{stamp_of(moment)} {session.path(key)}")
    except Refusal as refusal:
        if refusal.passing:
            raise
        # what it keeps instead is seen afterwards
    return verb


async def drop(tree: Tree, session: Session, data: Data | None, temporary: str, provider: str) -> None:
    """Remove an unfinished write, for a limited time."""
    try:
        async with asyncio.timeout(TIDY_DEADLINE):
            if data is not None:
                data.abandon()
            with suppress(Refusal):
                await session.control.settle()
                await session.control.command("DELE", session.path(temporary))
            await tree.prune(session, temporary)
    except OSError as error:
        logger.info("provider %s: %s remains until the next sweep: %s", provider, temporary, error)


async def send(data: Data, first: bytes, pieces: AsyncIterator[bytes]) -> int:
    """Send all pieces; return how many bytes they had."""
    length = 0
    piece = first
    while piece:
        for start in range(0, len(piece), _BLOCK):
            await data.write(piece[start : start + _BLOCK])
        length += len(piece)
        piece = await anext(pieces, b"")
    return length


async def finish(session: Session, data: Data) -> None:
    """Have the server confirm that all is there."""
    try:
        await data.finish()
    except Refusal as refusal:
        if refusal.missing:
            # too late for this write, but the next one is told in time
            session.features.opens_late = True
        raise
    data.abandon()


async def pieces_of(source: Source, size: int | None, key: str) -> AsyncGenerator[bytes, None]:
    """The pieces of a source, whose own errors are kept apart from those of the server."""
    async with aclosing(exactly(source, size, key)) as pieces:
        try:
            async for piece in pieces:
                yield piece
        except Exception as error:
            raise CallerFailed(error) from error
