"""What an object carries besides its bytes: times, user metadata, ETags, and how they look in headers."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from email.errors import HeaderParseError
from email.header import decode_header
from email.utils import parsedate_to_datetime
from typing import Final

from cdir_adapters.adapter import Checksum, ObjectInfo
from cdir_adapters.capability import ChecksumKind

__all__ = [
    "METADATA",
    "encode_metadata",
    "format_mtime",
    "info_of_headers",
    "is_large",
    "md5_of_etag",
    "parse_mtime",
    "user_metadata",
]

METADATA: Final = "x-object-meta-"
"""What the names of headers with user metadata begin with, in lower case."""

_MTIME: Final = "mtime"
"""User metadata with the client's modified time, in seconds since the epoch with a fraction, as other clients write
and read it too."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def format_mtime(modified: datetime) -> str:
    """Return seconds since the epoch with six decimals; exact, also before 1970."""
    microseconds = (modified - _EPOCH) // _MICROSECOND
    sign = "-" if microseconds < 0 else ""
    seconds, fraction = divmod(abs(microseconds), 1_000_000)
    return f"{sign}{seconds}.{fraction:06d}"


def parse_mtime(text: str | None) -> datetime | None:
    """Return the time, cut to microseconds; ``None`` when there is none or it cannot be read."""
    try:
        return _EPOCH + int(Decimal(text) * 1_000_000) * _MICROSECOND if text else None
    except (InvalidOperation, OverflowError, ValueError):
        return None


def encode_metadata(modified: datetime, metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of user metadata. Text that a header cannot carry as it is travels as an encoded word."""
    sent = {f"{METADATA}{name.lower()}": _encode(value) for name, value in metadata.items()}
    sent[METADATA + _MTIME] = format_mtime(modified)
    return sent


def user_metadata(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of user metadata as received, to send them again."""
    return {name: value for name, value in headers.items() if name.lower().startswith(METADATA)}


def is_large(headers: Mapping[str, str]) -> bool:
    """Say whether an object is the manifest of others, so that its ETag is no MD5 of the content."""
    return headers.get("X-Static-Large-Object", "").lower() == "true" or "X-Object-Manifest" in headers


def md5_of_etag(etag: str | None) -> str | None:
    """Return an ETag as lower-case hex, without quotes, when it has the form of an MD5; else ``None``."""
    bare = (etag or "").removeprefix("W/").strip('"').lower()
    return bare if re.fullmatch(r"[0-9a-f]{32}", bare) else None


def info_of_headers(key: str, size: int, headers: Mapping[str, str]) -> ObjectInfo:
    """Return what the answer to a HEAD, GET or PUT says about an object of ``size`` bytes."""
    received = {name.lower()[len(METADATA) :]: value for name, value in user_metadata(headers).items()}
    modified = parse_mtime(received.pop(_MTIME, None)) or _stored(headers)
    etag = headers.get("ETag")
    digest = None if is_large(headers) else md5_of_etag(etag)
    return ObjectInfo(
        key=key,
        size=size,
        modified=modified,
        etag=etag,
        checksum=Checksum(ChecksumKind.MD5, digest) if digest else None,
        metadata={name: _decode(value) for name, value in received.items()},
    )


def _stored(headers: Mapping[str, str]) -> datetime | None:
    """When the service stored the object: X-Timestamp is exact where Last-Modified is rounded up to a second."""
    exact = parse_mtime(headers.get("X-Timestamp"))
    if exact is not None:
        return exact
    try:
        return parsedate_to_datetime(headers.get("Last-Modified", "")).astimezone(UTC)
    except ValueError:
        return None


def _encode(value: str) -> str:
    # an empty value would mean that there is none
    if value and value.isascii() and value.isprintable() and value == value.strip() and not value.startswith("=?"):
        return value
    return f"=?UTF-8?B?{base64.b64encode(value.encode()).decode()}?="


def _decode(value: str) -> str:
    if not value.startswith("=?"):
        return value
    try:
        return "".join(
            part.decode(charset or "ascii") if isinstance(part, bytes) else part
            for part, charset in decode_header(value)
        )
    except (HeaderParseError, LookupError, UnicodeDecodeError, binascii.Error):
        return value
