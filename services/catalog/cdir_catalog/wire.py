"""Rows of the catalog as messages of ``cdir.v1``."""

from __future__ import annotations

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from cdir.paths import join_path
from cdir.v1 import entry_pb2
from cdir_catalog.clock import SECOND

__all__ = [
    "DIRECTORY",
    "FILE",
    "entry_message",
    "fill_entry",
    "fill_time",
    "fill_version",
    "from_timestamp",
    "root_message",
    "timestamp",
    "version_message",
]

FILE = entry_pb2.ENTRY_KIND_FILE
DIRECTORY = entry_pb2.ENTRY_KIND_DIRECTORY


def timestamp(nanoseconds: int) -> Timestamp:
    """Return a stored time as a message."""
    seconds, nanos = divmod(nanoseconds, SECOND)
    return Timestamp(seconds=seconds, nanos=nanos)


def fill_time(message: Timestamp, nanoseconds: int) -> None:
    """Set a message, such as a field of another one, to a stored time."""
    message.seconds, message.nanos = divmod(nanoseconds, SECOND)


def from_timestamp(message: Timestamp) -> int:
    """Return a message's time as it is stored."""
    return message.seconds * SECOND + message.nanos


def entry_message(workspace: str, row: Any, owed: int = 0) -> entry_pb2.Entry:
    """Return the entry of a row selected with :func:`cdir_catalog.store.entries.entry_columns`."""
    entry = entry_pb2.Entry()
    fill_entry(entry, workspace, row, owed)
    return entry


def fill_entry(entry: entry_pb2.Entry, workspace: str, row: Any, owed: int = 0) -> None:
    """As :func:`entry_message`, into a message that is empty.

    What is made inside of another message need not be copied into it, which takes longer than making it.
    """
    entry.workspace = workspace
    entry.path = join_path(row.dirname, row.basename)
    if row.kind == DIRECTORY:
        entry.kind = DIRECTORY
        fill_time(entry.modified, row.created_at)
        entry.author = row.author
        return
    entry.kind = FILE
    entry.size = row.size
    fill_time(entry.modified, row.modified_at)
    entry.sha256 = row.sha256
    entry.generation = row.generation
    entry.version_id = row.version
    entry.owed = owed
    entry.author = row.version_author
    if row.conflict_of is not None:
        entry.conflict_of = row.conflict_of


def root_message(workspace: str) -> entry_pb2.Entry:
    """Return the entry of a workspace's root, which exists without a row."""
    return entry_pb2.Entry(workspace=workspace, path="/", kind=DIRECTORY)


def version_message(row: Any) -> entry_pb2.Version:
    """Return the version of a row that has the columns of ``versions``."""
    version = entry_pb2.Version()
    fill_version(version, row)
    return version


def fill_version(version: entry_pb2.Version, row: Any) -> None:
    """As :func:`version_message`, into a message that is empty."""
    version.version_id = row.version_id
    version.generation = row.generation
    version.size = row.size
    fill_time(version.modified, row.modified_at)
    version.sha256 = row.sha256
    version.block_digests = row.block_digests
    version.author = row.author
    fill_time(version.committed, row.committed_at)
    version.current = row.superseded_at is None
