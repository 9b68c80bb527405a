"""What a provider is recorded to hold, for holding it against what really lies there."""

from __future__ import annotations

import base64
import binascii
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.errors import InvalidArgument, NotFound
from cdir.paths import join_path
from cdir.v1 import check_pb2
from cdir_catalog.clock import now_ns
from cdir_catalog.keys import ASIDE_PREFIX
from cdir_catalog.schema import entries, intents, replicas, versions, workspaces
from cdir_catalog.store.copies import OK, UNKNOWN, Copy
from cdir_catalog.store.intents import check_batch, target_ids
from cdir_catalog.store.ledger import COPY_COLUMNS, copy_of
from cdir_catalog.store.providers import RegisteredProvider, provider_by_id
from cdir_catalog.store.replica_messages import replica_message
from cdir_catalog.wire import version_message

__all__ = ["explain_objects", "list_copies"]

_LARGEST_PAGE = 1000
_MOST_DIGEST_BYTES = 1 << 20
"""A page ends when the digests in it come to this: a message has to stay small however large the files are."""


def _provider(connection: Connection, provider_id: str) -> RegisteredProvider:
    found = provider_by_id(connection, provider_id)
    if found is None:
        raise NotFound("this provider is not registered any more", provider=provider_id)
    return found


def _recorded(*columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """Return the query of replicas with the file that each belongs to; leftovers belong to none."""
    return sa.select(*COPY_COLUMNS, *columns).select_from(
        replicas.outerjoin(versions, versions.c.id == replicas.c.version_id)
        .outerjoin(entries, entries.c.id == versions.c.entry_id)
        .outerjoin(workspaces, workspaces.c.id == entries.c.workspace_id)
    )


_FILE = (entries.c.dirname, entries.c.basename, workspaces.c.name.label("workspace"))
_NAMES = len(COPY_COLUMNS)


def _versions(connection: Connection, copies: Iterable[Copy]) -> dict[int, Any]:
    wanted = {copy.version_id for copy in copies if copy.version_id is not None}
    query = sa.select(versions).where(versions.c.id.in_(wanted))
    return {row.id: row for row in connection.execute(query)} if wanted else {}


def _messages(
    connection: Connection, rows: Sequence[Any], provider: RegisteredProvider, now: int, *, digests: bool
) -> list[check_pb2.RecordedCopy]:
    copies = [copy_of(row[:_NAMES]) for row in rows]
    known = _versions(connection, copies)
    found = []
    for row, copy in zip(rows, copies, strict=True):
        version = None if copy.version_id is None else known[copy.version_id]
        message = check_pb2.RecordedCopy(
            replica=replica_message(copy, None if version is None else version.version_id, provider, now),
            owed=bool(copy.owed),
            settled=copy.actual == OK and bool(copy.wanted) and not copy.owed and not copy.leased(now),
        )
        if version is not None:
            message.workspace, message.path = row.workspace, join_path(row.dirname, row.basename)
            if digests:
                message.version.CopyFrom(version_message(version))
            else:
                message.version.version_id, message.version.generation = version.version_id, version.generation
                message.version.size = version.size
        found.append(message)
    return found


def list_copies(connection: Connection, request: check_pb2.ListCopiesRequest) -> check_pb2.ListCopiesResponse:
    """CatalogService.ListCopies."""
    if request.page_size < 0:
        raise InvalidArgument("page_size cannot be negative")
    provider = _provider(connection, request.provider_id)
    limit = min(request.page_size or _LARGEST_PAGE, _LARGEST_PAGE)
    conditions = [replicas.c.provider_id == provider.id]
    if request.top:
        inside = sa.and_(replicas.c.key >= f"{request.top}/", replicas.c.key < f"{request.top}0")
        conditions.append(sa.or_(replicas.c.key == request.top, inside))
    if request.page_token:
        key, row_id = _position(request.page_token)
        conditions.append(sa.tuple_(replicas.c.key, replicas.c.id) > sa.tuple_(sa.literal(key), sa.literal(row_id)))
        # SQLite uses the index only for the plain comparison
        conditions.append(replicas.c.key >= key)
    query = _recorded(*_FILE).where(*conditions).order_by(replicas.c.key, replicas.c.id).limit(limit)
    rows = connection.execute(query).all()
    messages = _messages(connection, rows, provider, now_ns(), digests=request.with_digests)
    kept, weight = 0, 0
    for message in messages:
        weight += len(message.version.block_digests)
        kept += 1
        if weight > _MOST_DIGEST_BYTES:
            break
    response = check_pb2.ListCopiesResponse(copies=messages[:kept])
    if kept < len(rows) or len(rows) == limit:
        response.next_page_token = _token(rows[kept - 1].key, rows[kept - 1].id)
    return response


def _token(key: str, row_id: int) -> str:
    return base64.urlsafe_b64encode(f"{row_id}\0{key}".encode()).decode()


def _position(token: str) -> tuple[str, int]:
    try:
        row_id, key = base64.urlsafe_b64decode(token.encode()).decode().split("\0")
        return key, int(row_id)
    except (ValueError, binascii.Error):
        raise InvalidArgument("the page_token is none that a listing returned") from None


def explain_objects(
    connection: Connection, request: check_pb2.ExplainObjectsRequest
) -> check_pb2.ExplainObjectsResponse:
    """CatalogService.ExplainObjects."""
    check_batch(request.keys)
    provider = _provider(connection, request.provider_id)
    now = now_ns()
    keys = sorted(set(request.keys))
    here = replicas.c.provider_id == provider.id
    at: dict[str, list[Any]] = defaultdict(list)
    for row in connection.execute(_recorded(*_FILE).where(here, replicas.c.key.in_(keys)).order_by(replicas.c.id)):
        at[row.key].append(row)
    changing = _touched(connection, provider.id, keys, now)
    response = check_pb2.ExplainObjectsResponse()
    for key in request.keys:
        copies = _messages(connection, at[key], provider, now, digests=False)
        response.objects.add(copies=copies, changing=key in changing)
    return response


def _touched(connection: Connection, provider: int, keys: Sequence[str], now: int) -> set[str]:
    """Return those of the keys at which an object may appear, go or change at this moment, or is to."""
    here = replicas.c.provider_id == provider
    touched: set[str] = set()
    for column in (replicas.c.move_to, replicas.c.lease_key):
        touched.update(connection.scalars(sa.select(column).where(here, column.in_(keys))))
    at_keys = sa.select(replicas.c.key).where(
        here, replicas.c.key.in_(keys), sa.or_(replicas.c.lease_until > now, replicas.c.owed == 1)
    )
    touched.update(connection.scalars(at_keys))
    writing = connection.execute(sa.select(intents.c.key, intents.c.targets).where(intents.c.key.in_(keys)))
    touched.update(row.key for row in writing if provider in target_ids(row))
    aside = {key.rpartition("/")[2]: key for key in keys if key.startswith(ASIDE_PREFIX)}
    if aside:
        touched.update(_stepping_aside(connection, provider, aside, now))
    return touched


def _stepping_aside(connection: Connection, provider: int, aside: dict[str, str], now: int) -> set[str]:
    """Return the aside keys (given by version id) to which a copy may have been moved before anybody reported it."""
    rows = connection.execute(
        sa.select(versions.c.version_id, *COPY_COLUMNS)
        .join(replicas, replicas.c.version_id == versions.c.id)
        .where(versions.c.version_id.in_(aside), replicas.c.provider_id == provider)
    ).all()
    copies = {row[0]: copy_of(row[1:]) for row in rows}
    elsewhere = {name: copy for name, copy in copies.items() if copy.key != aside[name]}
    written = set(
        connection.scalars(sa.select(intents.c.key).where(intents.c.key.in_({copy.key for copy in elsewhere.values()})))
    )
    return {
        aside[name]
        for name, copy in elsewhere.items()
        if copy.key in written or copy.owed or copy.actual == UNKNOWN or copy.leased(now)
    }
