"""Files and folders on the server: what lies where, and why the server refused.

Every call works in the session it is given; errors of the library come out as they are, except where looking has found
what they mean.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import cast

import asyncssh

from cdir.errors import NotDirectory, NotFound, ProviderUnavailable, QuotaExceeded
from cdir_adapters.adapter import ObjectInfo, ObjectKind
from cdir_adapters.providers.sftp.faults import Refused, is_lost, translated
from cdir_adapters.providers.sftp.sessions import Session

__all__ = ["ATTEMPTS", "Tree", "kind_of", "permissions_of"]

ATTEMPTS = 20
"""How often a folder is made anew that others remove because it is empty."""


class Tree:
    """What lies below the root of one provider."""

    def __init__(self, provider: str) -> None:
        self._provider = provider

    async def require_root(self, session: Session) -> None:
        """A missing object proves nothing when the root itself is missing: a disk of the server is not mounted."""
        try:
            await session.sftp.stat(session.path(""))
        except asyncssh.SFTPNoSuchFile:
            raise ProviderUnavailable(
                f"provider {self._provider}: the folder {session.path('')} is gone from the server; is its disk"
                " mounted there?",
                provider=self._provider,
            ) from None

    async def attributes(self, session: Session, key: str) -> asyncssh.SFTPAttrs:
        """Raises NotFound, also below a file."""
        try:
            with translated(self._provider, key):
                return await session.sftp.lstat(session.path(key))
        except NotFound:
            await self.require_root(session)
            raise
        except (Refused, NotDirectory):
            if await self.is_below_file(session, key):
                raise NotFound(f"{key} at provider {self._provider} does not exist", key=key) from None
            raise

    async def kind_at(self, session: Session, key: str) -> ObjectKind | None:
        """What lies at ``key``; ``None`` when that is nothing, or cannot be seen."""
        try:
            return kind_of(await session.sftp.lstat(session.path(key)))
        except (
            asyncssh.SFTPNoSuchFile,
            asyncssh.SFTPFailure,
            asyncssh.SFTPNotADirectory,
            asyncssh.SFTPPermissionDenied,
        ):
            return None

    async def permissions_at(self, session: Session, key: str) -> int | None:
        """Permissions of the file at ``key``; ``None`` when there is none."""
        try:
            return permissions_of(await session.sftp.lstat(session.path(key)))
        except asyncssh.SFTPError as error:
            if is_lost(error):
                raise
            return None

    async def is_below_file(self, session: Session, key: str) -> bool:
        names = key.split("/")
        for end in range(1, len(names)):
            kind = await self.kind_at(session, "/".join(names[:end]))
            if kind is None:
                return False
            if kind is not ObjectKind.DIRECTORY:
                return True
        return False

    def info_of(self, key: str, attributes: asyncssh.SFTPAttrs) -> ObjectInfo:
        kind = kind_of(attributes)
        modified = None if attributes.mtime is None else datetime.fromtimestamp(attributes.mtime, UTC)
        return ObjectInfo(
            key=key, size=(attributes.size or 0) if kind is ObjectKind.FILE else 0, kind=kind, modified=modified
        )

    async def scan(self, session: Session, folder: str) -> AsyncGenerator[ObjectInfo, None]:
        """What lies right in a folder, unfinished writes included; nothing when it does not exist.

        One that goes away while it is read is an error: a part of a folder must never pass for the whole.
        """
        start = f"{folder}/" if folder else ""
        # declared an iterator, but it is a generator
        scan = cast("AsyncGenerator[asyncssh.SFTPName, None]", session.sftp.scandir(session.path(folder)))
        begun = False
        try:
            async with aclosing(scan) as names:
                async for entry in names:
                    begun = True
                    name = entry.filename
                    assert isinstance(name, str)
                    if name in {".", ".."} or not _is_text(name):
                        continue
                    key = start + name
                    attributes = entry.attrs
                    if attributes.permissions is None:
                        try:
                            attributes = await session.sftp.lstat(session.path(key))
                        except asyncssh.SFTPNoSuchFile:
                            continue  # removed since the folder was read
                    yield self.info_of(key, attributes)
        except asyncssh.SFTPNoSuchFile:
            await self.require_root(session)
            if begun:
                raise ProviderUnavailable(
                    f"{folder} at provider {self._provider}: the folder went away while it was read",
                    provider=self._provider,
                ) from None
        except (asyncssh.SFTPFailure, asyncssh.SFTPNotADirectory):
            if await self.kind_at(session, folder) is ObjectKind.DIRECTORY:
                raise
            if not await self.is_below_file(session, f"{folder}/"):
                raise

    async def make_folder(self, session: Session, key: str) -> None:
        """Make a folder and those above it. The root itself is never made here: when it is missing, so is a disk."""
        if not key:
            await self.require_root(session)
            return
        for _ in range(ATTEMPTS):
            try:
                await session.sftp.mkdir(session.path(key))
                return
            except asyncssh.SFTPNoSuchFile:
                await self.make_folder(session, key.rpartition("/")[0])
            except asyncssh.SFTPError:
                kind = await self.kind_at(session, key)
                if kind is ObjectKind.DIRECTORY:
                    return
                if kind is not None or await self.is_below_file(session, key):
                    raise NotDirectory(f"{key} at provider {self._provider} is not a folder", key=key) from None
                raise
        raise self.contended(key)

    async def prune(self, session: Session, key: str) -> None:
        """Remove the folders above ``key`` as far as they are empty."""
        folder = key.rpartition("/")[0]
        while folder:
            try:
                await session.sftp.rmdir(session.path(folder))
            except (
                asyncssh.SFTPFailure,
                asyncssh.SFTPDirNotEmpty,
                asyncssh.SFTPPermissionDenied,
                asyncssh.SFTPNoSuchFile,
            ):
                return
            folder = folder.rpartition("/")[0]

    async def require_space(self, session: Session, key: str) -> None:
        """Raise QuotaExceeded when that is why the server refused."""
        with contextlib.suppress(asyncssh.SFTPError):
            status = await session.sftp.statvfs(session.path(""))
            if not status.bavail or (status.files and not status.favail):
                raise QuotaExceeded(f"{key} at provider {self._provider}: no space is left there; make room", key=key)

    def contended(self, key: str) -> ProviderUnavailable:
        return ProviderUnavailable(
            f"{key} at provider {self._provider}: its folder is removed again and again; try later",
            provider=self._provider,
        )


def kind_of(attributes: asyncssh.SFTPAttrs) -> ObjectKind:
    if attributes.type == asyncssh.FILEXFER_TYPE_REGULAR:
        return ObjectKind.FILE
    return ObjectKind.DIRECTORY if attributes.type == asyncssh.FILEXFER_TYPE_DIRECTORY else ObjectKind.OTHER


def permissions_of(attributes: asyncssh.SFTPAttrs) -> int | None:
    """The permissions of a file; ``None`` of anything else, or when the server does not say."""
    if attributes.permissions is None or attributes.type != asyncssh.FILEXFER_TYPE_REGULAR:
        return None
    return stat.S_IMODE(attributes.permissions)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
