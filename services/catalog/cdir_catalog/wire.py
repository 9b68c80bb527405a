"""Rows of the catalog as messages of ``cdir.v1``."""

from __future__ import annotations

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from cdir.paths import join_path
from cdir.v1 import entry_pb2
from cdir_catalog.clock import SECOND

__all__ = ["DIRECTORY", "FILE", "entry_message", "from_timestamp", "root_message", "timestamp", "version_message"]

FILE = entry_pb2.ENTRY_KIND_FILE
DIRECTORY = entry_pb2.ENTRY_KIND_DIRECTORY


def timestamp(nanoseconds: int) -> Timestamp:
    """Return a stored time as a message."""
    seconds, nanos = divmod(nanoseconds, SECOND)
    return Timestamp(seconds=seconds, nanos=nanos)


def from_timestamp(message: Timestamp) -> int:
    """Return a message's time as it is stored."""
    return message.seconds * SECOND + message.nanos


def entry_message(workspace: str, row: Any, owed: int = 0) -> entry_pb2.Entry:
    """Return the entry of a row selected with :func:`cdir_catalog.store.entries.entry_columns`."""
    path = join_path(row.dirname, row.basename)
    if row.kind == DIRECTORY:
        return entry_pb2.Entry(
            workspace=workspace, path=path, kind=DIRECTORY, modified=timestamp(row.created_at), author=row.author
        )
    return entry_pb2.Entry(
        workspace=workspace,
        path=path,
        kind=FILE,
        size=row.size,
        modified=timestamp(row.modified_at),
        sha256=row.sha256,
        generation=row.generation,
        version_id=row.version,
        owed=owed,
        author=row.version_author,
        conflict_of=row.conflict_of,
    )


def root_message(workspace: str) -> entry_pb2.Entry:
    """Return the entry of a workspace's root, which exists without a row."""
    return entry_pb2.Entry(workspace=workspace, path="/", kind=DIRECTORY)


def version_message(row: Any) -> entry_pb2.Version:
    """Return the version of a row that has the columns of ``versions``."""
    return entry_pb2.Version(
        version_id=row.version_id,
        generation=row.generation,
        size=row.size,
        modified=timestamp(row.modified_at),
        sha256=row.sha256,
        block_digests=row.block_digests,
        author=row.author,
        committed=timestamp(row.committed_at),
        current=row.superseded_at is None,
    )
