"""Between the adapter interface and the messages of AdapterService: infos, times and keys."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime

from cdir.errors import InvalidPath
from cdir.v1 import adapter_service_pb2 as pb
from cdir.v1 import entry_pb2
from cdir_adapters import adapter as api
from cdir_adapters.names import is_key

__all__ = ["check_key", "check_prefix", "info_message", "modified_of"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def check_key(key: str) -> str:
    """Return ``key`` when it is relative and in normal form. Raises InvalidPath.

    Unlike :func:`cdir.paths.normalize_path` nothing is repaired and ``.cdir/`` is allowed: keys come from services.
    """
    if not is_key(key) or not (key.isascii() or unicodedata.is_normalized("NFC", key)):
        raise InvalidPath(
            f"{key!r} is not a key: it must be relative and in Unicode normal form C, without empty, '.' or '..' names"
            " and without control characters",
            key=key,
        )
    return key


def check_prefix(prefix: str) -> str:
    """Return a directory's key; unlike an object's it may be empty, which is the root. Raises InvalidPath."""
    return prefix and check_key(prefix)


def modified_of(message: pb.ObjectHeader | pb.SmallObject) -> datetime:
    """Return the modified time to store; now when the caller did not say."""
    if not message.HasField("modified"):
        return datetime.now(UTC)
    return message.modified.ToDatetime(tzinfo=UTC)


def info_message(info: api.ObjectInfo, acl: entry_pb2.AclOutcome | None = None) -> pb.ObjectInfo:
    """Return what a provider says about an object, and what became of the ACL that was to be set on it."""
    message = pb.ObjectInfo(
        key=info.key,
        size=info.size,
        directory=info.kind is api.ObjectKind.DIRECTORY,
        special=info.kind is api.ObjectKind.OTHER,
        etag=info.etag or "",
        acl=acl,
    )
    if info.modified is not None:
        # Timestamp.FromDatetime takes ten times as long, for every object written
        since = info.modified - _EPOCH
        message.modified.seconds = since.days * 86400 + since.seconds
        message.modified.nanos = since.microseconds * 1000
    if info.checksum is not None:
        message.checksum = f"{info.checksum.kind}:{info.checksum.value}"
    return message
