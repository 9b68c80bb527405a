"""The change log and the identity of this cdir."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.errors import CursorExpired
from cdir.v1 import catalog_service_pb2, entry_pb2
from cdir_catalog.schema import changes, identity, workspaces
from cdir_catalog.wire import timestamp

__all__ = ["changes_after", "get_identity", "last_revision"]

_LARGEST_MESSAGE = 500


def last_revision(connection: Connection, workspace: str) -> int:
    """Return the revision of the last change, 0 when there was none."""
    query = sa.select(workspaces.c.revision).where(workspaces.c.name == workspace)
    return connection.scalar(query) or 0


def changes_after(connection: Connection, workspace: str, revision: int) -> list[entry_pb2.Change]:
    """Return the next changes after ``revision``, at most as many as fit a message; 0 begins with the oldest kept.

    Raises :class:`CursorExpired` when changes between are no longer kept, or ``revision`` was never reached.
    """
    row = connection.execute(
        sa.select(workspaces.c.id, workspaces.c.revision).where(workspaces.c.name == workspace)
    ).first()
    last = 0 if row is None else row.revision
    if revision > last:
        raise CursorExpired(f"the change log has not come to revision {revision}; list anew, then watch from 0")
    if row is None or revision == last:
        return []
    found = connection.execute(
        sa.select(changes)
        .where(changes.c.workspace_id == row.id, changes.c.revision > revision)
        .order_by(changes.c.revision)
        .limit(_LARGEST_MESSAGE)
    ).all()
    if revision > 0 and (not found or found[0].revision != revision + 1):
        raise CursorExpired(f"the change log no longer reaches back to revision {revision}; list anew, then watch on")
    return [
        entry_pb2.Change(
            revision=one.revision,
            kind=one.kind,
            path=one.path,
            old_path=one.old_path,
            entry_kind=one.entry_kind,
            generation=one.generation,
            author=one.author,
            time=timestamp(one.changed_at),
        )
        for one in found
    ]


_HOME = sa.select(identity.c.home_id)


def get_identity(
    connection: Connection, _request: catalog_service_pb2.GetIdentityRequest
) -> catalog_service_pb2.GetIdentityResponse:
    """CatalogService.GetIdentity."""
    home_id = connection.execute(_HOME).scalar_one()
    return catalog_service_pb2.GetIdentityResponse(home_id=home_id)
