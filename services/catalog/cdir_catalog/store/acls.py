"""Access control lists: what is wanted of files and directories, and what became of it at each copy.

An ACL belongs to an entry. Every copy of a file's current content shall have it; those of its older contents, which are
kept to be restored, are private as soon as it has one. A copy that was not asked for it yet is debt like any other, see
:func:`cdir_catalog.store.copies.settle`. A directory's ACL is what files get that are made below it, unless a directory
in between has one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.errors import InvalidArgument
from cdir.v1 import directory_service_pb2, entry_pb2, provider_pb2
from cdir_catalog.clock import now_ns
from cdir_catalog.schema import entries, placements, replicas, versions, workspaces
from cdir_catalog.store.copies import OK, PRIVATE_ACL, Copy
from cdir_catalog.store.entries import ancestors, below, find_entries, live, require
from cdir_catalog.store.ledger import COPY_COLUMNS, ChangeRow, Ledger, copy_of
from cdir_catalog.store.locks import lock_workspaces
from cdir_catalog.store.placements import overlapping, place_anew
from cdir_catalog.store.providers import RegisteredProvider, load_providers
from cdir_catalog.store.workspaces import ensure_workspaces
from cdir_catalog.wire import DIRECTORY, FILE

__all__ = [
    "acl_message",
    "acl_owed_sql",
    "adopt_history",
    "get_acl",
    "inherited",
    "inherited_acls",
    "root_acl",
    "set_acl",
]

_GRANTEES: Final = ("user", "email", "group")
_MOST_GRANTS: Final = 100
"""What S3 takes in one list."""
_LONGEST_GRANTEE: Final = 1024

_OWED = entry_pb2.ACL_STATE_OWED

_ROOT_ACL = sa.select(workspaces.c.acl).where(workspaces.c.id == sa.bindparam("workspace"))


def acl_message(stored: bytes | None) -> entry_pb2.Acl | None:
    """Return what a column ``acl`` holds."""
    return None if stored is None else entry_pb2.Acl.FromString(stored)


def root_acl(connection: Connection, workspace_id: int) -> bytes | None:
    """Return the ACL that is set on the root of a workspace."""
    stored: bytes | None = connection.scalar(_ROOT_ACL, {"workspace": workspace_id})
    return stored


def inherited(path: str, found: Mapping[str, Any], root: bytes | None) -> bytes | None:
    """Return what a new file at ``path`` gets; ``found`` are the entries above it, ``root`` is the root's ACL."""
    for parent in ancestors(path):
        row = found.get(parent)
        if row is not None and row.acl is not None:
            stored: bytes = row.acl
            return stored
    return root


def inherited_acls(connection: Connection, workspace_id: int, paths: Iterable[str]) -> dict[str, bytes | None]:
    """Return what new files at these paths get."""
    wanted = list(paths)
    if not wanted:
        return {}
    above = dict.fromkeys(parent for path in wanted for parent in ancestors(path))
    found = find_entries(connection, workspace_id, above)
    root = root_acl(connection, workspace_id)
    return {path: inherited(path, found, root) for path in wanted}


def adopt_history(ledger: Ledger, entry_id: int, acl: bytes | None) -> None:
    """Take every content of an entry into the ledger whose ACL is another one now, so that it is settled with that."""
    rows = ledger.connection.scalars(sa.select(versions.c.id).where(versions.c.entry_id == entry_id)).all()
    ledger.load(rows)
    for row_id in rows:
        if row_id in ledger.contents:
            ledger.contents[row_id].acl = acl


def acl_owed_sql(*, current: bool) -> sa.ColumnElement[bool]:
    """Return :meth:`Content.owes_acl` as SQL over rows of ``replicas``, of current contents or of older ones."""
    of_entry = (
        sa.select(entries.c.acl)
        .join(versions, versions.c.entry_id == entries.c.id)
        .where(versions.c.id == replicas.c.version_id)
        .scalar_subquery()
    )
    wanted: sa.ColumnElement[Any] = of_entry if current else sa.literal(PRIVATE_ACL, sa.LargeBinary())
    return sa.and_(of_entry.is_not(None), replicas.c.acl.is_distinct_from(wanted))


def _checked(acl: entry_pb2.Acl) -> bytes:
    """Return an ACL as it is stored; raise InvalidArgument for one that says nothing, or nonsense."""
    if acl.access not in entry_pb2.AclAccess.values() or acl.access == entry_pb2.ACL_ACCESS_UNSPECIFIED:
        raise InvalidArgument("an ACL is private, authenticated-read, public-read or public-read-write")
    if len(acl.grants) > _MOST_GRANTS:
        raise InvalidArgument(f"an ACL has at most {_MOST_GRANTS} grants")
    for grant in acl.grants:
        kind, _, name = grant.grantee.partition(":")
        if kind not in _GRANTEES or not name.strip() or len(name) > _LONGEST_GRANTEE or not name.isprintable():
            raise InvalidArgument(
                f"{grant.grantee!r} is no grantee; write user:ID, email:ADDRESS or group:NAME", grantee=grant.grantee
            )
        if grant.right not in entry_pb2.AclRight.values() or grant.right == entry_pb2.ACL_RIGHT_UNSPECIFIED:
            raise InvalidArgument(f"a grant to {grant.grantee} gives read, write or full", grantee=grant.grantee)
    grants = sorted({(grant.grantee, grant.right) for grant in acl.grants})
    if len(grants) < len(acl.grants):
        raise InvalidArgument("an ACL gives the same right twice to one grantee")
    normal = entry_pb2.Acl(
        access=acl.access, grants=[entry_pb2.AclGrant(grantee=grantee, right=right) for grantee, right in grants]
    )
    return normal.SerializeToString(deterministic=True)


def set_acl(
    connection: Connection, request: directory_service_pb2.SetAclRequest, author: str
) -> directory_service_pb2.SetAclResponse:
    """CatalogService.SetAcl."""
    if request.unset and request.HasField("acl"):
        raise InvalidArgument("an ACL is set or unset, not both")
    given = None if request.unset else _checked(request.acl)
    workspace_id, _ = require(connection, request.workspace, request.path)
    if workspace_id is None:
        workspace_id = ensure_workspaces(connection, [request.workspace])[request.workspace]
    lock_workspaces(connection, [workspace_id])
    _, row = require(connection, request.workspace, request.path)
    ledger = Ledger(connection, now_ns())
    kind = DIRECTORY if row is None else row.kind
    stored = given
    if given is None and row is not None and kind == FILE:
        stored = _fallen_back(row.acl, inherited_acls(connection, workspace_id, [request.path])[request.path])
    if row is None:
        connection.execute(workspaces.update().where(workspaces.c.id == workspace_id).values(acl=stored))
    else:
        connection.execute(entries.update().where(entries.c.id == row.id).values(acl=stored))
    if row is not None and kind == FILE:
        adopt_history(ledger, row.id, stored)
        for content in ledger.contents.values():
            for copy in content.copies:
                # it is asked again: others may have changed it there, or the provider can do more now
                copy.forget_acl()
                if copy.actual == OK:
                    copy.attempts = 0  # what failed before was another list
        ledger.settle()
    elif request.recursive:
        mine = sa.and_(entries.c.workspace_id == workspace_id, below(request.path))
        if given is None:
            _unset_below(connection, mine, inherited_acls(connection, workspace_id, [request.path])[request.path])
        else:
            connection.execute(entries.update().where(mine).values(acl=stored))
        theirs = sa.select(versions.c.id).join(entries, entries.c.id == versions.c.entry_id).where(mine)
        connection.execute(
            replicas.update()
            .where(replicas.c.version_id.in_(theirs), replicas.c.acl.is_not(None))
            .values(acl=None, acl_state=None, acl_note=None)
        )
        place_anew(connection, workspace_id, request.path)
    ledger.log(workspace_id, ChangeRow(entry_pb2.CHANGE_KIND_ACL_SET, request.path, kind, 0, author))
    ledger.save()
    return directory_service_pb2.SetAclResponse(
        standing=_standing(connection, workspace_id, request.path, kind, row, stored)
    )


def _fallen_back(had: bytes | None, above: bytes | None) -> bytes | None:
    """Return what a file gets whose ACL is unset. Copies that were shown to others are not left as they are: where
    nothing is said above, they become private."""
    if above is not None:
        return above
    return None if had is None else PRIVATE_ACL


def _unset_below(connection: Connection, mine: sa.ColumnElement[bool], above: bytes | None) -> None:
    """Unset the ACLs of all entries below a directory; ``above`` is what it inherits."""
    connection.execute(entries.update().where(mine, entries.c.kind == DIRECTORY).values(acl=None))
    files = entries.update().where(mine, entries.c.kind == FILE)
    if above is not None:
        connection.execute(files.values(acl=above))
    else:
        connection.execute(files.where(entries.c.acl.is_not(None)).values(acl=PRIVATE_ACL))


def get_acl(
    connection: Connection, request: directory_service_pb2.GetAclRequest
) -> directory_service_pb2.GetAclResponse:
    """CatalogService.GetAcl."""
    workspace_id, row = require(connection, request.workspace, request.path)
    kind = DIRECTORY if row is None else row.kind
    stored = None if row is None else row.acl
    if row is None and workspace_id is not None:
        stored = root_acl(connection, workspace_id)
    return _standing(connection, workspace_id, request.path, kind, row, stored)


def _standing(
    connection: Connection, workspace_id: int | None, path: str, kind: int, row: Any, stored: bytes | None
) -> directory_service_pb2.GetAclResponse:
    response = directory_service_pb2.GetAclResponse(acl=acl_message(stored), directory=kind == DIRECTORY)
    if workspace_id is None:
        return response
    registered = {provider.id: provider for provider in load_providers(connection)}
    if kind == FILE:
        response.standings.extend(_of_file(connection, row, stored, registered))
        return response
    if stored is None and path != "/":
        above = inherited_acls(connection, workspace_id, [path])[path]
        if above is not None:
            response.default_acl.MergeFromString(above)
    response.standings.extend(_of_tree(connection, workspace_id, path, registered))
    response.unplaced = (
        connection.scalar(
            sa.select(placements.c.id)
            .where(placements.c.workspace_id == workspace_id, overlapping(path, ancestors(path)))
            .limit(1)
        )
        is not None
    )
    return response


def _of_file(
    connection: Connection, row: Any, stored: bytes | None, registered: dict[int, RegisteredProvider]
) -> list[directory_service_pb2.AclStanding]:
    query = sa.select(*COPY_COLUMNS).where(replicas.c.version_id == row.version_row, replicas.c.wanted == 1)
    standings = []
    for copy in map(copy_of, connection.execute(query)):
        provider = registered[copy.provider_id]
        standing = directory_service_pb2.AclStanding(provider=provider.name, files=1)
        if stored is not None:
            _judge(standing, copy, stored)
            if standing.state == _OWED:
                _excuse(standing, provider)
        standings.append(standing)
    return sorted(standings, key=lambda one: one.provider)


def _judge(standing: directory_service_pb2.AclStanding, copy: Copy, stored: bytes) -> None:
    if copy.actual != OK or copy.acl != stored or copy.acl_state is None:
        standing.state, standing.note = _OWED, copy.error
    else:
        standing.state = entry_pb2.AclState.ValueType(copy.acl_state)
        standing.note = copy.acl_note or ""


def _excuse(standing: directory_service_pb2.AclStanding, provider: RegisteredProvider) -> None:
    """Say of what is owed whether it waits for its provider."""
    if not provider.workable or provider.state == provider_pb2.PROVIDER_STATE_DOWN or provider.guard:
        standing.waits = True
        standing.note = provider.message().state_reason or standing.note or "nothing is changed there now"


def _of_tree(
    connection: Connection, workspace_id: int, path: str, registered: dict[int, RegisteredProvider]
) -> list[directory_service_pb2.AclStanding]:
    settled = sa.and_(replicas.c.actual == OK, replicas.c.acl == entries.c.acl, replicas.c.acl_state.is_not(None))
    state = sa.case((settled, replicas.c.acl_state), else_=sa.literal(int(_OWED)))
    note = sa.case((settled, replicas.c.acl_note), else_=replicas.c.error)
    rows = connection.execute(
        sa.select(replicas.c.provider_id, state.label("state"), sa.func.count().label("files"), sa.func.max(note))
        .select_from(entries.join(replicas, replicas.c.version_id == entries.c.version_id))
        .where(
            entries.c.workspace_id == workspace_id,
            below(path),
            live,
            entries.c.kind == FILE,
            entries.c.acl.is_not(None),
            replicas.c.wanted == 1,
        )
        .group_by(replicas.c.provider_id, state)
    )
    standings = []
    for provider_id, found, files, said in rows:
        provider = registered[provider_id]
        standing = directory_service_pb2.AclStanding(
            provider=provider.name, state=entry_pb2.AclState.ValueType(found), files=files, note=said or ""
        )
        if found == _OWED:
            _excuse(standing, provider)
        standings.append(standing)
    return sorted(standings, key=lambda one: (one.provider, one.state))
