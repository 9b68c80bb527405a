"""What the service says about an object, and what it is told: times, user metadata, checksums."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cdir_adapters.adapter import Checksum, ObjectInfo
from cdir_adapters.capability import ChecksumKind

__all__ = [
    "FIELDS",
    "crc32c_of",
    "encode_metadata",
    "encoding_of",
    "generation_of",
    "info_of_resource",
    "is_generation",
]

FIELDS: Final = "name,size,generation,updated,md5Hash,crc32c,contentEncoding,metadata"
"""The properties of an object that are asked for."""

_MTIME: Final = "mtime"
"""User metadata with the client's modified time, RFC 3339, as rclone writes it for this service."""
_SECONDS: Final = "goog-reserved-file-mtime"
"""The same in whole seconds, as Google's own command line writes it."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:\d\d)")
_NUMBER: Final = re.compile(r"(-?)(\d{1,12})(?:\.(\d+))?")


def _format_time(moment: datetime) -> str:
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _parse_time(text: object) -> datetime | None:
    """Return a time, cut to microseconds: RFC 3339, or seconds since the epoch; ``None`` when it cannot be read."""
    if not isinstance(text, str):
        return None
    try:
        if found := _TIME.fullmatch(text):
            day, clock, fraction, zone = found.groups()
            return datetime.fromisoformat(f"{day}T{clock}.{fraction or '':0<6.6}{zone.upper()}").astimezone(UTC)
        if found := _NUMBER.fullmatch(text):
            since = timedelta(seconds=int(found[2]), microseconds=int(f"{found[3] or '':0<6.6}"))
            return _EPOCH - since if found[1] else _EPOCH + since
    except (ValueError, OverflowError):
        pass
    return None


def encode_metadata(modified: datetime, metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the user metadata to send."""
    seconds = (modified - _EPOCH) // timedelta(seconds=1)
    named = {name.lower(): value for name, value in metadata.items()}
    return {**named, _MTIME: _format_time(modified), _SECONDS: str(seconds)}


def info_of_resource(key: str, resource: Mapping[str, Any], *, listed: bool = False) -> ObjectInfo:
    """Return what the description of an object says. Raises ValueError when that makes no sense."""
    size, generation = resource.get("size"), resource.get("generation")
    if not isinstance(size, str) or not re.fullmatch(r"\d{1,18}", size) or not is_generation(str(generation)):
        raise ValueError("no size or no generation")
    received = resource.get("metadata") or {}
    if not isinstance(received, dict):
        raise ValueError("metadata that is none")  # noqa: TRY004 - all of it is one error: an answer without sense
    named = {str(name).lower(): str(value) for name, value in received.items()}
    modified = _parse_time(named.pop(_MTIME, None))
    modified = modified or _parse_time(named.pop(_SECONDS, None)) or _parse_time(resource.get("updated"))
    named.pop(_SECONDS, None)
    return ObjectInfo(
        key=key,
        size=int(size),
        modified=modified,
        etag=str(generation),
        checksum=_checksum(resource),
        metadata={} if listed else named,
    )


def is_generation(text: str) -> bool:
    """Whether ``text`` can name a generation. Zero is none: as a condition it means that there is no object."""
    return re.fullmatch(r"[1-9]\d{0,18}", text, re.ASCII) is not None


def generation_of(resource: Mapping[str, Any]) -> str:
    """Return the generation of a description that was found to make sense."""
    return str(resource["generation"])


def encoding_of(resource: Mapping[str, Any]) -> str:
    """Return the encoding that an object is stored in, empty where there is none."""
    return str(resource.get("contentEncoding") or "")


def crc32c_of(resource: Mapping[str, Any]) -> str | None:
    """Return the CRC32C that the service states, as hex; every object has one."""
    return _hex(resource.get("crc32c"), 4)


def _checksum(resource: Mapping[str, Any]) -> Checksum | None:
    """The MD5; of objects that were composed of others there is only the CRC32C."""
    digest = _hex(resource.get("md5Hash"), 16)
    if digest is not None:
        return Checksum(ChecksumKind.MD5, digest)
    digest = crc32c_of(resource)
    return None if digest is None else Checksum(ChecksumKind.CRC32C, digest)


def _hex(text: object, size: int) -> str | None:
    try:
        digest = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        return None
    return digest.hex() if len(digest) == size else None
