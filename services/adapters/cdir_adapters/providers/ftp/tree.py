"""Files and folders on the server: what lies where, and why the server refused.

Every call works in the session it is given; refusals come out as they are, except where looking has found what they
mean.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from datetime import datetime

from cdir.errors import ConfigInvalid, NotDirectory, NotFound, PermissionDenied, ProviderUnavailable
from cdir_adapters.adapter import ObjectInfo, ObjectKind
from cdir_adapters.providers.ftp.faults import Refusal
from cdir_adapters.providers.ftp.listing import Entry, Spool, parse_facts, parse_list_line, parse_time
from cdir_adapters.providers.ftp.sessions import Session
from cdir_adapters.shapes import PIECE_SIZE

__all__ = ["ATTEMPTS", "PATIENCE", "Tree"]

logger = logging.getLogger(__name__)

ATTEMPTS = 20
"""How often a folder is made anew that others remove because it is empty."""

PATIENCE = 8
"""How often a refusal in a folder that exists is put down to others who remove it when it is empty."""

_MARK_FOLDER = ".cdir"
_SUPPRESSED = frozenset("/\r\n\0")


class Tree:
    """What lies below the root of one provider."""

    def __init__(self, provider: str) -> None:
        self._provider = provider

    # ------------------------------------------------------------------ single names

    async def look(self, session: Session, key: str) -> ObjectInfo | None:
        """What lies at ``key``; ``None`` when that is certainly nothing. Raises PermissionDenied when it cannot be
        told."""
        found = await self._glance(session, key)
        if found is None:
            await self._confirm_missing(session, key)
        return found

    async def require(self, session: Session, key: str) -> ObjectInfo:
        """What lies at ``key``. Raises NotFound."""
        found = await self.look(session, key)
        if found is None:
            raise NotFound(f"{key} at provider {self._provider} does not exist", key=key)
        return found

    async def _glance(self, session: Session, key: str) -> ObjectInfo | None:
        """What the server shows at ``key``; ``None`` when it shows nothing, for whatever reason."""
        if session.features.facts:
            try:
                reply = await session.control.command("MLST", session.path(key))
            except Refusal as refusal:
                if not _says_nothing_there(refusal):
                    raise
                return None
            for line in reply.lines[1:-1]:
                # the protocol puts a space before the facts, and some servers forget it
                entry = parse_facts(line.removeprefix(" "))
                if entry is not None:
                    return _info_of(key, entry)
            raise ProviderUnavailable(
                f"{key} at provider {self._provider}: the server's answer to MLST cannot be understood",
                provider=self._provider,
            )
        size = await self.size_of(session, key) if key else None
        if size is not None:
            return ObjectInfo(key=key, size=size, modified=await self.time_of(session, key))
        if await session.enters(key):
            return ObjectInfo(key=key, size=0, kind=ObjectKind.DIRECTORY)
        return None

    async def size_of(self, session: Session, key: str) -> int | None:
        """The size of a file as the server states it; ``None`` when it states none."""
        try:
            reply = await session.control.command("SIZE", session.path(key))
        except Refusal as refusal:
            if not _says_nothing_there(refusal):
                raise
            return None
        text = reply.text.strip()
        return int(text) if text.isascii() and text.isdigit() else None

    async def time_of(self, session: Session, key: str) -> datetime | None:
        """The modified time of a file as the server states it; ``None`` when it states none."""
        if not session.features.mdtm:
            return None
        try:
            reply = await session.control.command("MDTM", session.path(key))
        except Refusal as refusal:
            if refusal.passing:
                raise
            return None
        return parse_time(reply.text.strip())

    async def require_root(self, session: Session) -> None:
        """A missing object proves nothing when the root itself is missing: a disk of the server is not mounted."""
        if not await session.enters(""):
            raise ProviderUnavailable(
                f"provider {self._provider}: the folder {session.path('')} is gone from the server, or closed to its"
                " user; is its disk mounted there?",
                provider=self._provider,
            )

    async def _confirm_missing(self, session: Session, key: str) -> None:
        """What lies in a folder that is closed to us looks as if it were missing. Raises PermissionDenied then."""
        if not key:
            await self.require_root(session)
            return
        child, parent = key, key.rpartition("/")[0]
        while parent and not await session.enters(parent):
            child, parent = parent, parent.rpartition("/")[0]
        if not parent:
            await self.require_root(session)
        if child == key:
            return
        found = await self._glance(session, child)
        if found is None and not session.features.facts:
            found = await self._find_listed(session, parent, child)
        if found is not None and found.kind is ObjectKind.DIRECTORY:
            raise PermissionDenied(
                f"{child} at provider {self._provider}: the server does not let its user into this folder", key=child
            )

    async def _find_listed(self, session: Session, folder: str, key: str) -> ObjectInfo | None:
        """Look for one name among those that a folder shows."""
        spool = await self.listing(session, folder)
        if spool is None:
            return None
        with spool:
            async for entries in self.entries(session, folder, spool):
                for info, _ in entries:
                    if info.key == key:
                        return info
        return None

    async def is_empty(self, session: Session, folder: str) -> bool:
        spool = await self.listing(session, folder)
        if spool is None:
            return True
        with spool:
            async for entries in self.entries(session, folder, spool):
                if entries:
                    return False
        return True

    async def is_below_file(self, session: Session, key: str) -> bool:
        names = key.split("/")
        for end in range(1, len(names)):
            found = await self._glance(session, "/".join(names[:end]))
            if found is None:
                return False
            if found.kind is not ObjectKind.DIRECTORY:
                return True
        return False

    # ------------------------------------------------------------------ listings

    async def listing(self, session: Session, folder: str) -> Spool | None:
        """Fetch what a folder holds, whole; ``None`` when there is no such folder."""
        if session.features.facts:
            return await self._fetched_listing(session, folder, "MLSD", session.path(folder))
        if session.features.list_flags is None:
            await self._learn_to_list(session)
        return await self._plain_listing(session, folder, session.features.list_flags or "")

    async def _plain_listing(self, session: Session, folder: str, flags: str) -> Spool | None:
        # the folder is entered first, since LIST takes its argument for a pattern
        if not await session.enters(folder):
            found = await self.look(session, folder)
            if found is not None and found.kind is ObjectKind.DIRECTORY:
                raise ProviderUnavailable(
                    f"{folder} at provider {self._provider}: the folder came back while it was looked for",
                    provider=self._provider,
                )
            return None
        return await self._fetched_listing(session, folder, "LIST", flags)

    async def _fetched_listing(self, session: Session, folder: str, verb: str, argument: str) -> Spool | None:
        spool = Spool()
        try:
            data = await session.control.open_data(verb, argument)
            try:
                while piece := await data.read(PIECE_SIZE):
                    await spool.write(piece)
                reply = await data.finish()
            finally:
                data.abandon()
        except BaseException as error:
            spool.close()
            if isinstance(error, Refusal) and not error.passing:
                found = await self.look(session, folder)
                if found is None or found.kind is not ObjectKind.DIRECTORY:
                    return None
            raise
        # vsftpd says so with a code of success
        if (reply is not None and "failed" in reply.text.lower()) or (
            verb == "LIST" and session.features.lists_itself and not spool.size
        ):
            spool.close()
            raise PermissionDenied(
                f"{folder or 'the root'} at provider {self._provider}: the server cannot read this folder; check who"
                " may read it there",
                key=folder,
            )
        return spool

    async def _learn_to_list(self, session: Session) -> None:
        """Find out how LIST shows names with a leading dot: what it hides would pass for deleted."""
        await self.require_root(session)
        seen: dict[str, set[str]] = {}
        for flags in ("-a", ""):
            try:
                spool = await self._plain_listing(session, "", flags)
            except Refusal as refusal:
                if not flags or refusal.passing:
                    raise
                spool = None
            seen[flags] = set()
            if spool is not None:
                with spool:
                    async for lines in spool.batches():
                        seen[flags] |= {entry.name for line in lines if (entry := parse_list_line(line)) is not None}
            if "." in seen[flags]:
                session.features.list_flags, session.features.lists_itself = flags, True
                return
        # a server that does not know the flag may take it for the name of a file
        flags = "-a" if seen["-a"] >= seen[""] else ""
        if not any(name.startswith(".") for name in seen[flags]) and await session.enters(_MARK_FOLDER):
            raise ConfigInvalid(
                f"provider {self._provider}: the server does not show names that begin with a dot, and knows no MLSD;"
                " what it hides would pass for deleted. Have it show them (vsftpd: force_dot_files=YES)",
                provider=self._provider,
            )
        if seen[flags]:
            session.features.list_flags = flags

    async def entries(
        self, session: Session, folder: str, spool: Spool
    ) -> AsyncGenerator[list[tuple[ObjectInfo, str]], None]:
        """Yield what a fetched listing holds, many at a time, each with what the server calls it besides (``unique``).

        Raises ProviderUnavailable for a line that cannot be understood: what stands in it must not pass for deleted.
        """
        try:
            async for lines in spool.batches():
                found = [self._parsed(session, line) for line in lines]
                yield [
                    (_info_of(f"{folder}/{entry.name}" if folder else entry.name, entry), entry.unique)
                    for entry in found
                    if entry is not None and not entry.itself and self._is_name(entry.name, folder)
                ]
        except ValueError as error:
            raise ProviderUnavailable(
                f"{folder or 'the root'} at provider {self._provider}: its listing cannot be understood ({error})",
                provider=self._provider,
            ) from None

    def _parsed(self, session: Session, line: str) -> Entry | None:
        facts = session.features.facts
        entry = parse_facts(line) if facts else parse_list_line(line)
        if entry is None and (facts or not line.lower().startswith("total ")):
            raise ValueError(f"the line {line[:100]!r}")
        return entry

    def _is_name(self, name: str, folder: str) -> bool:
        """Whether a listed name can be one of a file right in the folder. Others could lead elsewhere."""
        if name in {".", ".."}:
            return False
        if _SUPPRESSED & set(name) or not _is_text(name):
            logger.warning("provider %s: a name in %r cannot be used and is left out: %r", self._provider, folder, name)
            return False
        return True

    # ------------------------------------------------------------------ folders

    async def make_folder(self, session: Session, key: str) -> bool:
        """Make a folder and those above it; tell whether it was missing. The root itself is never made here: when it is
        missing, so is a disk."""
        if not key:
            await self.require_root(session)
            return False
        for _ in range(ATTEMPTS):
            try:
                await session.control.command("MKD", session.path(key))
                return True
            except Refusal as refusal:
                if refusal.passing or refusal.unknown_command or refusal.full:
                    raise
                found = await self._glance(session, key)
                if found is not None:
                    if found.kind is ObjectKind.DIRECTORY:
                        return False
                    raise self.not_a_folder(key) from None
                if await self.is_below_file(session, key):
                    raise self.not_a_folder(key) from None
                above_was_missing = await self.make_folder(session, key.rpartition("/")[0])
                if refusal.denies and not above_was_missing:
                    raise
        raise self.contended(key)

    async def prune(self, session: Session, key: str) -> None:
        """Remove the folders above ``key`` as far as they are empty."""
        folder = key.rpartition("/")[0]
        while folder:
            try:
                await session.control.command("RMD", session.path(folder))
            except Refusal:
                return
            folder = folder.rpartition("/")[0]

    def not_a_folder(self, key: str) -> NotDirectory:
        return NotDirectory(f"{key} at provider {self._provider}: a part of the path is not a folder", key=key)

    def contended(self, key: str) -> ProviderUnavailable:
        return ProviderUnavailable(
            f"{key} at provider {self._provider}: its folder is removed again and again, or may not be made; try later",
            provider=self._provider,
        )


def _info_of(key: str, entry: Entry) -> ObjectInfo:
    size = (entry.size or 0) if entry.kind is ObjectKind.FILE else 0
    return ObjectInfo(key=key, size=size, kind=entry.kind, modified=entry.modified)


def _says_nothing_there(refusal: Refusal) -> bool:
    return (refusal.code in {550, 553} or refusal.missing) and not refusal.denies


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
