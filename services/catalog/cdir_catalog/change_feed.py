"""The change log as watchers follow it, any number of them.

A commit wakes all watchers, and most of them stand at the same revision: they share one look at the database, which
would otherwise cost more than all else that a change means to a watcher.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from functools import partial
from typing import Final, NamedTuple

from cdir.v1 import entry_pb2
from cdir_catalog.database import Database
from cdir_catalog.group_commit import GroupCommit
from cdir_catalog.store.changes import changes_after, last_revision
from cdir_runtime.shared_work import SharedWork

__all__ = ["ChangeFeed"]

_POLL_SECONDS: Final = 1.0


class _Place(NamedTuple):
    workspace: str
    revision: int
    """The last one known there."""


class ChangeFeed:
    """Follows the logs of all workspaces. One per catalog process."""

    def __init__(self, database: Database, commits: GroupCommit, *, poll_seconds: float = _POLL_SECONDS) -> None:
        """``poll_seconds`` is how often a place in the log is looked at for what another process committed."""
        self._database = database
        self._commits = commits
        self._poll_seconds = poll_seconds
        self._following: SharedWork[_Place, list[entry_pb2.Change]] = SharedWork()

    async def follow(self, workspace: str, revision: int) -> AsyncGenerator[list[entry_pb2.Change], None]:
        """Yield the changes after ``revision`` in their order, then others as they are committed, without end.

        0 begins with the oldest kept, a negative one with the next. Raises CursorExpired when the log does not reach
        back that far, or has never come to that revision.
        """
        if revision < 0:
            revision = await self._database.read(partial(last_revision, workspace=workspace))
        while True:
            place = _Place(workspace, revision)
            changes = await self._following.join(place, partial(self._next, place))
            revision = changes[-1].revision
            yield changes

    async def _next(self, place: _Place) -> list[entry_pb2.Change]:
        """Wait until there is something after a place, and return it."""
        while True:
            seen = self._commits.count
            found = await self._database.read(
                partial(changes_after, workspace=place.workspace, revision=place.revision)
            )
            if found:
                return found
            await self._commits.wait_for_commit(seen, self._poll_seconds)
