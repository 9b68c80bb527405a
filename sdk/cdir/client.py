"""The client: the virtual directory and its providers as asynchronous methods.

::

    async with cdir.connect() as client:
        await client.write("/notes/today.txt", b"hello")
        async for entry in client.list("/notes"):
            print(entry.name, entry.size)

Paths are written as on the command line: ``/dir/file``, or ``@team/dir/file`` in workspace ``team``. Every failure is a
:class:`cdir.errors.CdirError`. Methods that return an asynchronous iterator are plain methods: iterate over what they
return.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from cdir import conversion
from cdir.batching import Together
from cdir.connection import Connection
from cdir.errors import CdirError, InvalidArgument, NotFound
from cdir.model import Entry, OnConflict, Wait
from cdir.paths import WorkspacePath, parse_target
from cdir.status import from_failure, translated
from cdir.v1 import directory_service_pb2 as pb
from cdir.v1 import entry_pb2

if TYPE_CHECKING:
    from cdir.acl import Acl, AclReport
    from cdir.checking import CheckStep
    from cdir.endpoints import Endpoints
    from cdir.history import History
    from cdir.model import (
        Change,
        CopyOutcome,
        FileStatus,
        PlacementExplanation,
        Policy,
        Server,
        TransferReport,
        TreeStatus,
        Version,
        WriteOutcome,
    )
    from cdir.outside import AdoptOutcome, ScanReport
    from cdir.progress import OnProgress
    from cdir.providers import Providers
    from cdir.recovery import Recovery
    from cdir.scrubbing import ScrubProgress
    from cdir.small_files import SmallReads, SmallWrites
    from cdir.surplus import Deletion, OnRemoved
    from cdir.syncing import SyncReport
    from cdir.trees import OnFile
    from cdir.vault import Vault

__all__ = ["Client"]

Local = str | os.PathLike[str]

_TOGETHER: Final = 256
"""Paths that share a call, at most."""


class Client:
    """An open connection. Safe to use from many tasks of one event loop at a time."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._stats: Together[WorkspacePath, Entry] = Together(self._stat_each, most=_TOGETHER)
        self._directories: Together[WorkspacePath, bool] = Together(self._make_each, most=_TOGETHER)
        self._removals: Together[pb.EntryRemoval, int] = Together(self._remove_each, most=_TOGETHER)
        self._writes: SmallWrites | None = None
        self._reads: SmallReads | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the channel; calls under way are cancelled. Closing twice is fine."""
        await self.connection.close()
        for shared in (self._stats, self._directories, self._removals, self._writes, self._reads):
            if shared is not None:
                await shared.ended()

    @property
    def server(self) -> Server:
        """The gateway that answered when the connection was made."""
        return self.connection.server

    @property
    def providers(self) -> Providers:
        """The registered storage providers."""
        from cdir.providers import Providers

        return Providers(self.connection)

    @property
    def endpoints(self) -> Endpoints:
        """Objects at their providers, past the virtual directory, and copies between all places."""
        from cdir.endpoints import Endpoints

        return Endpoints(self.connection)

    @property
    def recovery(self) -> Recovery:
        """Snapshots of the catalog, and a lost one made anew."""
        from cdir.recovery import Recovery

        return Recovery(self.connection)

    @property
    def vault(self) -> Vault:
        """The keys that the secrets of providers are sealed under."""
        from cdir.vault import Vault

        return Vault(self.connection)

    @property
    def history(self) -> History:
        """What was removed or replaced: restoring it, the trash, conflicting copies."""
        from cdir.history import History

        return History(self.connection)

    # looking

    async def stat(self, path: str) -> Entry:
        """Return what a path names. Raises NotFound, InvalidPath. Many at a time share calls."""
        return await self._stats.ask(parse_target(path))

    async def _stat_each(self, places: Sequence[WorkspacePath]) -> Sequence[Entry | CdirError]:
        request = pb.GetEntriesRequest(refs=_refs(places))
        answer = await self.connection.call(self.connection.directory.GetEntries, request)
        return [
            from_failure(found.failure) if found.HasField("failure") else conversion.entry_from(found.entry)
            for found in answer.results
        ]

    async def find(self, path: str) -> Entry | None:
        """Return what a path names, or ``None`` when it names nothing."""
        try:
            return await self.stat(path)
        except NotFound:
            return None

    async def pages(
        self, path: str = "/", *, recursive: bool = False, page_size: int = 1000, first_page: int | None = None
    ) -> AsyncIterator[list[Entry]]:
        """Yield a directory's entries in pages, ordered by (dirname, basename); a file is listed as itself.

        Entries that come or go while paging are seen or not; no other is seen twice or left out. ``page_size`` is at
        most 10 000; ``first_page`` has the first page be shorter, for those who would rather begin sooner. Raises
        NotFound when the directory does not exist.
        """
        where = parse_target(path)
        token = ""
        size = page_size if first_page is None else first_page
        while True:
            request = pb.ListEntriesRequest(
                workspace=where.workspace,
                path=where.path,
                recursive=recursive,
                page_size=size,
                page_token=token,
            )
            answer = await self.connection.call(self.connection.directory.ListEntries, request)
            yield [conversion.entry_from(entry) for entry in answer.entries]
            token = answer.next_page_token
            if not token:
                return
            size = page_size

    async def list(self, path: str = "/", *, recursive: bool = False, page_size: int = 1000) -> AsyncIterator[Entry]:
        """Yield a directory's entries one by one, as :meth:`pages` does in pages."""
        async for page in self.pages(path, recursive=recursive, page_size=page_size):
            for entry in page:
                yield entry

    async def search(self, pattern: str, path: str = "/", *, page_size: int = 1000) -> AsyncIterator[Entry]:
        """Yield the entries at or below a directory whose name matches, ignoring case.

        With ``*`` or ``?`` the pattern is a glob over the whole name, else a part of the name. Raises NotFound when the
        directory does not exist.
        """
        where = parse_target(path)
        token = ""
        while True:
            request = pb.SearchEntriesRequest(
                workspace=where.workspace,
                path=where.path,
                pattern=pattern,
                page_size=page_size,
                page_token=token,
            )
            answer = await self.connection.call(self.connection.directory.SearchEntries, request)
            for entry in answer.entries:
                yield conversion.entry_from(entry)
            token = answer.next_page_token
            if not token:
                return

    async def versions(self, path: str) -> Sequence[Version]:
        """Return the contents a path has had and that are kept, newest first; also of a removed file.

        Raises NotFound, IsDirectory.
        """
        where = parse_target(path)
        request = pb.ListVersionsRequest(workspace=where.workspace, path=where.path)
        answer = await self.connection.call(self.connection.directory.ListVersions, request)
        return [conversion.version_from(version) for version in answer.versions]

    async def file_status(self, path: str) -> FileStatus:
        """Return every copy of a file. Raises NotFound, IsDirectory."""
        where = parse_target(path)
        request = pb.GetFileStatusRequest(workspace=where.workspace, path=where.path)
        return conversion.file_status_from(await self.connection.call(self.connection.directory.GetFileStatus, request))

    async def tree_status(self, path: str = "/") -> TreeStatus:
        """Return what providers hold and owe at or below a directory. Raises NotFound, NotDirectory."""
        where = parse_target(path)
        request = pb.GetTreeStatusRequest(workspace=where.workspace, path=where.path)
        return conversion.tree_status_from(await self.connection.call(self.connection.directory.GetTreeStatus, request))

    async def explain(self, path: str) -> PlacementExplanation:
        """Return which policy holds for a path, existing or not, and why each provider is or is not chosen."""
        where = parse_target(path)
        request = pb.ExplainPlacementRequest(workspace=where.workspace, path=where.path)
        return conversion.explanation_from(
            await self.connection.call(self.connection.directory.ExplainPlacement, request)
        )

    async def watch(self, path: str = "/", *, after_revision: int = -1) -> AsyncGenerator[Change, None]:
        """Yield changes at or below a path as they happen, for as long as the caller iterates.

        ``after_revision`` is the last revision the caller knows: 0 begins with the oldest kept, -1 with the next
        change. Raises CursorExpired when the log no longer reaches back that far.
        """
        where = parse_target(path)
        below = where.path.rstrip("/") + "/"
        call = self.connection.directory.WatchChanges(
            pb.WatchChangesRequest(workspace=where.workspace, after_revision=after_revision),
            metadata=self.connection.metadata,
        )
        try:
            with translated():
                async for answer in call:
                    for message in answer.changes:
                        change = conversion.change_from(message)
                        if change is not None and any(
                            touched == where.path or touched.startswith(below)
                            for touched in (change.path, change.old_path)
                        ):
                            yield change
        finally:
            call.cancel()

    # changing

    async def make_directory(self, path: str) -> bool:
        """Make a directory and its parents. Returns whether it was made; existing is fine. Raises NotDirectory.

        Many at a time share calls.
        """
        return await self._directories.ask(parse_target(path))

    async def _make_each(self, places: Sequence[WorkspacePath]) -> Sequence[bool | CdirError]:
        request = pb.MakeDirectoriesRequest(refs=_refs(places))
        answer = await self.connection.call(self.connection.directory.MakeDirectories, request)
        return [from_failure(one.failure) if one.HasField("failure") else one.made for one in answer.results]

    async def move(self, source: str, target: str, *, overwrite: bool = False) -> Entry:
        """Rename a file, or a directory with all below it, to exactly ``target``; returns the entry at its new path.

        Atomic; the objects at the providers follow in the background. With ``overwrite`` a file at ``target`` is
        replaced and stays restorable; a directory never is. Raises NotFound, AlreadyExists, InvalidArgument (between
        workspaces, or a directory into itself), NotDirectory, Conflict.
        """
        here, there = parse_target(source), parse_target(target)
        if here.workspace != there.workspace:
            raise InvalidArgument("a move stays within one workspace; copy, then remove")
        request = pb.MoveEntryRequest(
            workspace=here.workspace, source=here.path, target=there.path, overwrite=overwrite
        )
        return conversion.entry_from((await self.connection.call(self.connection.directory.MoveEntry, request)).entry)

    async def copy(
        self, source: str, target: str, *, recursive: bool = False, overwrite: bool = False
    ) -> AsyncIterator[CopyOutcome]:
        """Copy a file, or with ``recursive`` a directory and all below it, to exactly ``target``; yields each outcome.

        A file that fails does not stop the others; its outcome carries the error. Without ``overwrite`` files that
        exist fail with AlreadyExists. Raises NotFound, IsDirectory, InvalidArgument.
        """
        here, there = parse_target(source), parse_target(target)
        call = self.connection.directory.CopyEntry(
            pb.CopyEntryRequest(
                source_workspace=here.workspace,
                source=here.path,
                target_workspace=there.workspace,
                target=there.path,
                recursive=recursive,
                overwrite=overwrite,
            ),
            metadata=self.connection.metadata,
        )
        try:
            with translated():
                async for answer in call:
                    yield conversion.copy_outcome_from(answer)
        finally:
            call.cancel()

    async def remove(self, path: str, *, recursive: bool = False, if_generation: int | None = None) -> int:
        """Remove a file, an empty directory, or with ``recursive`` all below one; returns the number of files removed.

        Atomic; what was removed stays restorable for the policy's time. ``if_generation`` removes a file only while
        that is its generation. Raises NotFound, DirectoryNotEmpty, Conflict. Many at a time share calls.
        """
        where = parse_target(path)
        removal = pb.EntryRemoval(
            workspace=where.workspace, path=where.path, recursive=recursive, if_generation=if_generation
        )
        if not recursive:
            return await self._removals.ask(removal)
        # a call of its own: a large directory takes long
        (removed,) = await self._remove_each([removal])
        if isinstance(removed, CdirError):
            raise removed
        return removed

    async def _remove_each(self, removals: Sequence[pb.EntryRemoval]) -> Sequence[int | CdirError]:
        request = pb.RemoveEntriesRequest(removals=removals)
        answer = await self.connection.call(self.connection.directory.RemoveEntries, request)
        return [from_failure(one.failure) if one.HasField("failure") else one.files for one in answer.results]

    async def repair(self, path: str = "/", *, provider: str = "") -> int:
        """Make all debt at or below a path due now, of one provider or of all; returns how many copies that is."""
        where = parse_target(path)
        request = pb.RepairEntryRequest(workspace=where.workspace, path=where.path, provider=provider)
        return (await self.connection.call(self.connection.directory.RepairEntry, request)).due

    def check(self, path: str = "/", *, provider: str = "", deep: bool = False) -> AsyncGenerator[CheckStep, None]:
        """Hold the catalog against the providers at or below a path; yields findings, and a summary of each part.

        ``"/"`` checks everything, older contents and the catalog itself included. ``deep`` reads every copy. Nothing is
        changed. Raises NotFound (path or provider).
        """
        from cdir.checking import check

        return check(self.connection, path, provider, deep=deep)

    async def scan(self, path: str = "/", *, provider: str = "", wait: bool = False) -> Sequence[ScanReport]:
        """Look now at what other programs did at or below a path, at one provider or at all; returns a report of each.

        Files they made become files of the directory, newer edits become the current content, and what they removed is
        repaired or removed as the policy says. ``wait`` returns when each scan is done, or cannot go on since its
        provider does not answer. Raises NotFound (a provider).
        """
        from cdir.outside import scan

        return await scan(self.connection, parse_target(path), provider, wait=wait)

    def adopt(self, provider: str, source: str, target: str, *, recursive: bool = False) -> AsyncIterator[AdoptOutcome]:
        """Make a file ``target`` of the object ``source`` at a provider, or with ``recursive`` a directory of a folder.

        No byte moves first: copies to the other providers are owed. Yields one outcome for each object; one that fails
        carries the error and does not stop the others. Raises NotFound, IsDirectory, and what the provider does.
        """
        from cdir.outside import adopt

        return adopt(self.connection, provider, source, parse_target(target), recursive=recursive)

    def scrub(
        self, path: str = "/", *, provider: str = "", bytes: int = 0, calls: int = 0, sample: float = 1.0
    ) -> AsyncGenerator[ScrubProgress, None]:
        """Prove the copies at or below a path; yields how far that is, at once and then until it is done.

        It goes on when the caller leaves. ``bytes`` and ``calls`` bound what it may cost, 0 sets no bound; ``sample``
        is the share of the copies that is read. Raises NotFound (path or provider), InvalidArgument and RateLimited.
        """
        from cdir.scrubbing import scrub

        return scrub(self.connection, path, provider, bytes=bytes, calls=calls, sample=sample)

    # bytes

    async def write(
        self,
        path: str,
        content: bytes | os.PathLike[str] | AsyncIterable[bytes],
        *,
        modified_ns: int | None = None,
        base_generation: int | None = None,
        wait: Wait = Wait.REACHABLE,
        on_conflict: OnConflict = OnConflict.FAIL,
    ) -> WriteOutcome:
        """Store one file: from bytes, from a local file, or from pieces as they come.

        Nothing is stored unless all of it is. ``base_generation`` is the generation this write is based on: 0 means
        that the file must not exist, N that it must be N; ``None`` replaces whatever is current. ``on_conflict`` says
        what becomes of the content when it is something else, or another write to the path is under way; of a content
        kept as a conflicting copy the outcome says so. ``modified_ns`` is the content's time, by default the local
        file's, else now. Raises Conflict, IsDirectory, NotDirectory,
        ProviderUnavailable (too few providers took it), PreconditionFailed (none is registered).

        Small contents given as bytes by many tasks share a stream. A write that is cancelled is given up, unless it is
        already being committed.
        """
        size: int | None = None
        pieces: AsyncIterable[bytes]
        if isinstance(content, bytes):
            pieces, size = _single(content), len(content)
        elif isinstance(content, os.PathLike):
            from cdir.uploads import file_pieces

            pieces, size, modified = await file_pieces(os.fspath(content))
            modified_ns = modified if modified_ns is None else modified_ns
        else:
            pieces = content
        where = parse_target(path)
        opened = pb.WriteOpen(
            workspace=where.workspace,
            path=where.path,
            modified=conversion.timestamp(time.time_ns() if modified_ns is None else modified_ns),
            size=size,
            base_generation=base_generation,
            wait=conversion.WAIT[wait],
            on_conflict=conversion.ON_CONFLICT[on_conflict],
        )
        if isinstance(content, bytes):
            from cdir.small_files import SMALL, SmallWrites

            if len(content) <= SMALL:
                self._writes = self._writes or SmallWrites(self.connection)
                return await self._writes.write(opened, content, wait)
        from cdir.streams import write_pieces

        return await write_pieces(self.connection, opened, pieces, wait)

    def open_read(
        self,
        path: str,
        *,
        offset: int = 0,
        length: int | None = None,
        generation: int | None = None,
        provider: str = "",
    ) -> AsyncIterator[bytes]:
        """Return an iterator over a file's bytes, or over ``length`` of them from ``offset`` on.

        Every byte was verified before it is yielded. ``provider`` reads that provider's copy and no other. Raises
        NotFound, IsDirectory, RangeNotSatisfied, ProviderUnavailable, IntegrityError; also midway.
        """
        from cdir import streams

        return streams.open_read(
            self.connection,
            parse_target(path),
            offset=offset,
            length=length,
            generation=generation,
            provider=provider,
        )

    async def read(
        self,
        path: str,
        *,
        offset: int = 0,
        length: int | None = None,
        generation: int | None = None,
        provider: str = "",
    ) -> bytes:
        """Return a file's bytes; all of them are held in memory. See :meth:`open_read`.

        Small files that many tasks read share a stream.
        """
        if not offset and length is None:
            from cdir.small_files import SmallReads

            where = parse_target(path)
            self._reads = self._reads or SmallReads(self.connection)
            content = await self._reads.read(
                pb.FileRead(workspace=where.workspace, path=where.path, generation=generation, provider=provider)
            )
            if content is not None:
                return content
        pieces = self.open_read(path, offset=offset, length=length, generation=generation, provider=provider)
        return b"".join([piece async for piece in pieces])

    async def put(
        self,
        sources: Local | Sequence[Local],
        target: str,
        *,
        recursive: bool = False,
        parallel: int = 4,
        wait: Wait = Wait.REACHABLE,
        on_conflict: OnConflict = OnConflict.FAIL,
        dry_run: bool = False,
        on_progress: OnProgress | None = None,
        on_file: OnFile | None = None,
    ) -> TransferReport:
        """Store local files and trees; what is there with the same size and modified time is skipped.

        A file goes into ``target`` when that is a directory, ends with ``/``, or there are several sources; else it
        gets that name. A directory needs ``recursive``: its *contents* go below ``target``, so that running it again
        finds everything in place; of several directories each goes to ``target/NAME``. Empty directories are made.
        Symbolic links inside a tree, named pipes, sockets and devices are not stored; they, and what cannot be read,
        are reported as failed, and the rest goes on.

        A file that somebody else changed after it was compared is not overwritten: ``on_conflict`` says whether yours
        fails or is kept as a conflicting copy.

        ``parallel`` is the number of large files sent at once. ``on_progress`` gets the same live
        :class:`~cdir.progress.Progress` each time. Raises NotFound (a source), IsDirectory (without ``recursive``),
        NotDirectory, and ProviderUnavailable when the connection breaks.
        """
        from cdir import trees

        return await trees.put(
            self,
            _several(sources),
            target,
            recursive=recursive,
            parallel=parallel,
            wait=wait,
            on_conflict=on_conflict,
            dry_run=dry_run,
            on_progress=on_progress,
            on_file=on_file,
        )

    async def get(
        self,
        sources: str | Sequence[str],
        target: Local,
        *,
        recursive: bool = False,
        parallel: int = 4,
        provider: str = "",
        generation: int | None = None,
        dry_run: bool = False,
        on_progress: OnProgress | None = None,
        on_file: OnFile | None = None,
    ) -> TransferReport:
        """Fetch files and trees to the local disk; what is there with the same size and modified time is skipped.

        Where things go mirrors :meth:`put`. Each file appears whole, verified, with its modified time, or not at all.
        ``provider`` fetches that provider's copies and no others, and skips nothing. ``generation`` fetches an older
        content of a file, which may have been removed since.
        """
        from cdir import trees

        return await trees.get(
            self,
            [sources] if isinstance(sources, str) else sources,
            target,
            recursive=recursive,
            parallel=parallel,
            provider=provider,
            generation=generation,
            dry_run=dry_run,
            on_progress=on_progress,
            on_file=on_file,
        )

    async def sync(
        self,
        source: str,
        target: str,
        *,
        delete: Deletion | None = None,
        parallel: int = 4,
        dry_run: bool = False,
        on_file: OnFile | None = None,
        on_removed: OnRemoved | None = None,
    ) -> SyncReport:
        """Make one tree like another, one way; see :func:`cdir.sides.sides` for how each is written, and
        :func:`cdir.syncing.sync` for what happens."""
        from cdir import syncing

        one, other = await syncing.sides(self, source, target)
        return await syncing.sync(
            self, one, other, delete=delete, parallel=parallel, dry_run=dry_run, on_file=on_file, on_removed=on_removed
        )

    # policies

    async def policy(self, path: str = "/") -> tuple[Policy | None, Policy]:
        """Return what is set on a path itself (``None`` for nothing) and what holds there, every field filled in."""
        where = parse_target(path)
        request = pb.GetPolicyRequest(workspace=where.workspace, path=where.path)
        answer = await self.connection.call(self.connection.directory.GetPolicy, request)
        own = conversion.policy_from(answer.own) if answer.HasField("own") else None
        return own, conversion.policy_from(answer.effective)

    async def set_policy(self, path: str, policy: Policy) -> Policy:
        """Set the fields that are given on a path; others stay. Files below are placed anew in the background.

        Returns what then holds there. Raises NotFound (a provider), InvalidArgument.
        """
        where = parse_target(path)
        rule = entry_pb2.PolicyRule(workspace=where.workspace, path=where.path, policy=conversion.policy_to(policy))
        answer = await self.connection.call(self.connection.directory.SetPolicy, pb.SetPolicyRequest(rule=rule))
        return conversion.policy_from(answer.effective)

    async def unset_policy(self, path: str) -> Policy:
        """Remove what is set on a path; returns what then holds there. Raises NotFound when nothing is set."""
        where = parse_target(path)
        request = pb.UnsetPolicyRequest(workspace=where.workspace, path=where.path)
        answer = await self.connection.call(self.connection.directory.UnsetPolicy, request)
        return conversion.policy_from(answer.effective)

    async def acl(self, path: str) -> AclReport:
        """Return the access control list of a path and what became of it at each provider. Raises NotFound."""
        from cdir import acl

        return await acl.get_acl(self.connection, parse_target(path))

    async def set_acl(self, path: str, wanted: Acl, *, recursive: bool = False, wait: float = 20.0) -> AclReport:
        """Set the ACL of all copies of a file, or what new files below a directory get; ``recursive`` for all below.

        Waits up to ``wait`` seconds for providers that are up. Raises NotFound, InvalidArgument (a grantee).
        """
        from cdir import acl

        return await acl.set_acl(self.connection, parse_target(path), wanted, recursive=recursive, wait=wait)

    async def unset_acl(self, path: str, *, recursive: bool = False, wait: float = 20.0) -> AclReport:
        """Take back what was set; copies get what new files there get, and are private where nothing is said above.

        Of a directory it is what new files below get; ``recursive`` for all below. Waits as :meth:`set_acl` does.
        Raises NotFound.
        """
        from cdir import acl

        return await acl.unset_acl(self.connection, parse_target(path), recursive=recursive, wait=wait)


async def _single(content: bytes) -> AsyncIterator[bytes]:
    yield content


def _refs(places: Sequence[WorkspacePath]) -> Sequence[pb.EntryRef]:
    return [pb.EntryRef(workspace=where.workspace, path=where.path) for where in places]


def _several(sources: Local | Sequence[Local]) -> Sequence[Local]:
    return [sources] if isinstance(sources, str | os.PathLike) else sources
