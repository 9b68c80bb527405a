"""What an object carries besides its bytes: times, user metadata, ETags, and how they look in headers."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from email.errors import HeaderParseError
from email.header import decode_header
from email.utils import parsedate_to_datetime

from cdir_adapters.adapter import Checksum
from cdir_adapters.capability import ChecksumKind

__all__ = [
    "MTIME",
    "checksum_of_etag",
    "decode_metadata",
    "digest_of_etag",
    "encode_metadata",
    "format_mtime",
    "md5_of",
    "parse_mtime",
    "parse_time",
]

MTIME = "mtime"
"""User metadata with the client's modified time, in seconds since the epoch with a fraction; rclone's convention."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def format_mtime(modified: datetime) -> str:
    """Return seconds since the epoch with six decimals; exact, also before 1970."""
    microseconds = (modified - _EPOCH) // _MICROSECOND
    sign = "-" if microseconds < 0 else ""
    seconds, fraction = divmod(abs(microseconds), 1_000_000)
    return f"{sign}{seconds}.{fraction:06d}"


def parse_mtime(text: str | None) -> datetime | None:
    """Return the time, cut to microseconds; ``None`` when there is none or it cannot be read."""
    if not text:
        return None
    seconds, _, fraction = text.partition(".")
    try:
        if seconds.isdecimal() and fraction.isdecimal():  # as cdir and rclone write it; Decimal takes all else
            return _EPOCH + timedelta(seconds=int(seconds), microseconds=int(f"{fraction:0<6.6}"))
        return _EPOCH + int(Decimal(text) * 1_000_000) * _MICROSECOND
    except (InvalidOperation, OverflowError, ValueError):
        return None


def parse_time(text: str | None) -> datetime | None:
    """Return the time that a service states, in the form of HTTP or of ISO 8601; ``None`` when it cannot be read."""
    if not text:
        return None
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        with contextlib.suppress(ValueError):
            moment = parse(text)
            return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    return None


def encode_metadata(modified: datetime, metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the user metadata to send. Text that a header cannot carry as it is travels as an encoded word."""
    sent = {name.lower(): _encode(value) for name, value in metadata.items()}
    sent[MTIME] = format_mtime(modified)
    return sent


def decode_metadata(received: Mapping[str, str]) -> dict[str, str]:
    """Return the user metadata as it was given, without the modified time."""
    return {name.lower(): _decode(value) for name, value in received.items() if name.lower() != MTIME}


def _encode(value: str) -> str:
    if value.isascii() and value.isprintable() and value == value.strip() and not value.startswith("=?"):
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


def digest_of_etag(etag: str | None) -> str | None:
    """Return the ETag as lower-case hex, without quotes, when it has the form of an MD5; else ``None``."""
    if etag is None:
        return None
    bare = etag.removeprefix("W/").strip('"').lower()
    return bare if re.fullmatch(r"[0-9a-f]{32}", bare) else None


def checksum_of_etag(etag: str | None) -> Checksum | None:
    """Return what an ETag says about the content, by its form. Not for objects that the service encrypts by key."""
    digest = digest_of_etag(etag)
    if digest is not None:
        return Checksum(ChecksumKind.MD5, digest)
    bare = (etag or "").removeprefix("W/").strip('"').lower()
    if re.fullmatch(r"[0-9a-f]{32}-[0-9]{1,5}", bare):
        return Checksum(ChecksumKind.MD5_MULTIPART, bare)
    return None


def md5_of(data: bytes) -> str:
    """Return the MD5 of a content as ETags have it."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
