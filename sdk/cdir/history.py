"""History: what was removed or replaced, restoring it, and conflicting copies.

::

    async for outcome in client.history.restore("/reports", at=yesterday, recursive=True):
        print(outcome.path, outcome.error or "restored")
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime

from cdir import conversion
from cdir.connection import Connection
from cdir.errors import CdirError
from cdir.model import Entry, Version, WriteOutcome, time_of
from cdir.paths import parse_target
from cdir.status import from_failure, translated
from cdir.v1 import directory_service_pb2 as pb

__all__ = ["History", "RestoreOutcome", "Trashed"]


@dataclass(frozen=True, slots=True)
class RestoreOutcome:
    """One file of a restore: what was stored, why not, or, with ``dry_run``, neither of them."""

    path: str
    """Where it was restored to, workspace included."""
    generation: int
    """The generation that the content had. A file that was moved since had it under its new path."""
    size: int
    stored: WriteOutcome | None
    error: CdirError | None


@dataclass(frozen=True, slots=True)
class Trashed:
    """A removed file that can be restored."""

    path: str
    """Where it was, workspace included."""
    version: Version
    """Its last content."""
    removed_at: datetime
    removed_by: str
    expires_at: datetime
    """Until when it is kept."""


class History:
    """History of the directory; made by :attr:`cdir.client.Client.history`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def restore(
        self,
        path: str,
        *,
        generation: int | None = None,
        at: datetime | None = None,
        recursive: bool = False,
        dry_run: bool = False,
    ) -> AsyncIterator[RestoreOutcome]:
        """Make older contents current again, each as a new generation; yields each file's outcome.

        A file is restored by ``generation``, or as of a time; a directory as of a time, with what was changed, removed
        or moved since, and needs ``recursive``. Without either, what the latest removal at or below the path took away
        comes back. Files that show what is asked for already are passed over, files that were not there then stay. A
        time without a zone is local.

        A file that fails does not stop the others; its outcome carries the error. Raises NotFound (nothing of the kind
        is kept), IsDirectory, InvalidArgument (a time in the future; a file that was not removed, with neither).
        """
        where = parse_target(path)
        request = pb.RestoreEntryRequest(
            workspace=where.workspace,
            path=where.path,
            generation=generation,
            recursive=recursive,
            dry_run=dry_run,
        )
        if at is not None:
            request.at.FromDatetime(at.astimezone(UTC))
        call = self._connection.directory.RestoreEntry(request, metadata=self._connection.metadata)
        try:
            with translated():
                async for answer in call:
                    if answer.WhichOneof("outcome") != "unchanged":
                        yield _outcome(where.workspace, answer)
        finally:
            call.cancel()

    async def trash(self, path: str = "/", *, page_size: int = 1000) -> AsyncIterator[Trashed]:
        """Yield the removed files at or below a path that can be restored, ordered by (dirname, basename)."""
        where = parse_target(path)
        request = pb.ListTrashRequest(workspace=where.workspace, path=where.path, page_size=page_size)
        while True:
            answer = await self._connection.call(self._connection.directory.ListTrash, request)
            for file in answer.files:
                yield _trashed(where.workspace, file)
            request.page_token = answer.next_page_token
            if not request.page_token:
                return

    async def empty_trash(self, path: str = "/") -> int:
        """Let go of removed files at or below a path at once, with all their versions; returns how many files.

        This cannot be undone.
        """
        where = parse_target(path)
        request = pb.EmptyTrashRequest(workspace=where.workspace, path=where.path)
        return (await self._connection.call(self._connection.directory.EmptyTrash, request)).files

    async def conflicts(self, path: str = "/", *, page_size: int = 1000) -> AsyncIterator[Entry]:
        """Yield the conflicting copies below a directory; ``conflict_of`` says what each is a copy of.

        Renaming or removing one settles it. Raises NotFound.
        """
        where = parse_target(path)
        request = pb.ListEntriesRequest(
            workspace=where.workspace, path=where.path, recursive=True, conflicts=True, page_size=page_size
        )
        while True:
            answer = await self._connection.call(self._connection.directory.ListEntries, request)
            for entry in answer.entries:
                yield conversion.entry_from(entry)
            request.page_token = answer.next_page_token
            if not request.page_token:
                return


def _spelled(workspace: str, path: str) -> str:
    return f"@{workspace}{path}" if workspace else path


def _outcome(workspace: str, message: pb.RestoreEntryResponse) -> RestoreOutcome:
    return RestoreOutcome(
        path=_spelled(workspace, message.path),
        generation=message.generation,
        size=message.size,
        stored=conversion.write_outcome_from(message.stored) if message.HasField("stored") else None,
        error=from_failure(message.failure) if message.HasField("failure") else None,
    )


def _trashed(workspace: str, message: pb.TrashedFile) -> Trashed:
    return Trashed(
        path=_spelled(workspace, message.path),
        version=conversion.version_from(message.version),
        removed_at=time_of(conversion.nanoseconds(message.removed)),
        removed_by=message.removed_by,
        expires_at=time_of(conversion.nanoseconds(message.expires)),
    )
