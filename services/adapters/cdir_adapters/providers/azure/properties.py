"""What a blob carries besides its bytes: names, times, user metadata, checksums, and how they look on the wire.

The modified time is kept as rclone keeps it for this service: metadata ``mtime``, RFC 3339.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.errors import HeaderParseError
from email.header import decode_header

from cdir_adapters.adapter import Checksum
from cdir_adapters.capability import ChecksumKind
from cdir_adapters.names import NameEncoding

__all__ = [
    "FORBIDDEN_NAMES",
    "MTIME",
    "NAMES",
    "checksum_of_md5",
    "decode_metadata",
    "encode_metadata",
    "format_time",
    "is_folder",
    "modified_of",
    "parse_time",
    "quoted",
]

FORBIDDEN_NAMES = r".*[\\\ufffe\uffff].*|.*\."
"""The service turns backslashes into slashes, drops a dot at the end, and its listings are XML."""

NAMES = NameEncoding(FORBIDDEN_NAMES)

MTIME = "mtime"
_FOLDER = "hdi_isfolder"
"""Marks the directories of accounts with a hierarchical namespace, which look like empty blobs."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:\d\d)")
_SECONDS = re.compile(r"(-?\d{1,12})(?:\.(\d+))?")


def format_time(moment: datetime) -> str:
    """Return the time in UTC with six decimals."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def parse_time(text: str | None) -> datetime | None:
    """Return a time that cdir or another program wrote, cut to microseconds: RFC 3339, or seconds since the epoch.

    ``None`` when there is none or it cannot be read.
    """
    if not text:
        return None
    try:
        if found := _TIME.fullmatch(text):
            day, clock, fraction, zone = found.groups()
            return datetime.fromisoformat(f"{day}T{clock}.{fraction or '':0<6.6}{zone.upper()}").astimezone(UTC)
        if found := _SECONDS.fullmatch(text):
            microseconds = int(f"{found[2] or '':0<6.6}")
            if text.startswith("-"):
                microseconds = -microseconds
            return _EPOCH + timedelta(seconds=int(found[1]), microseconds=microseconds)
    except (ValueError, OverflowError):
        pass
    return None


def modified_of(metadata: Mapping[str, str] | None, stored: datetime | None) -> datetime | None:
    """Return the client's modified time when the metadata holds one, else when the blob was stored."""
    for name, value in (metadata or {}).items():
        if name.lower() == MTIME:
            return parse_time(value) or stored
    return stored


def is_folder(metadata: Mapping[str, str] | None) -> bool:
    """Whether the blob is the mark of a directory."""
    return any(name.lower() == _FOLDER and value.lower() == "true" for name, value in (metadata or {}).items())


def encode_metadata(modified: datetime, metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the user metadata to send. The service wants names that are identifiers; text that a header cannot
    carry as it is travels as an encoded word."""
    sent = {_encode_name(name.lower()): _encode_value(value) for name, value in metadata.items()}
    sent[MTIME] = format_time(modified)
    return sent


def decode_metadata(received: Mapping[str, str] | None) -> dict[str, str]:
    """Return the user metadata as it was given, without the modified time."""
    named = {name.lower(): value for name, value in (received or {}).items()}
    return {_decode_name(name): _decode_value(value) for name, value in named.items() if name != MTIME}


def _encode_name(name: str) -> str:
    """Write what an identifier cannot hold as an underscore and two digits for each byte; ``mtime`` is taken."""
    if name == MTIME:
        return "_6dtime"
    plain = re.sub(r"[^a-z0-9_]|_(?=[0-9a-f]{2})", _hex, name)
    return re.sub(r"^[0-9]", _hex, plain)


def _hex(found: re.Match[str]) -> str:
    return "".join(f"_{byte:02x}" for byte in found[0].encode())


def _decode_name(name: str) -> str:
    try:
        decoded = re.sub(r"(?:_[0-9a-f]{2})+", lambda found: bytes.fromhex(found[0].replace("_", "")).decode(), name)
    except UnicodeDecodeError:
        return name
    return decoded if _encode_name(decoded) == name else name  # another program's name stays as it is


def _encode_value(value: str) -> str:
    if value and value.isascii() and value.isprintable() and value == value.strip() and not value.startswith("=?"):
        return value
    return f"=?UTF-8?B?{base64.b64encode(value.encode()).decode()}?="


def _decode_value(value: str) -> str:
    if not value.startswith("=?"):
        return value
    try:
        parts = decode_header(value)
        return "".join(part if isinstance(part, str) else part.decode(charset or "ascii") for part, charset in parts)
    except (HeaderParseError, LookupError, UnicodeDecodeError, binascii.Error):
        return value


def checksum_of_md5(digest: str | bytes | bytearray | None) -> Checksum | None:
    """Return the checksum for an MD5 as headers (base64) or the library (bytes) give it."""
    if not digest:
        return None
    if isinstance(digest, str):
        try:
            digest = base64.b64decode(digest, validate=True)
        except binascii.Error:
            return None
    return Checksum(ChecksumKind.MD5, digest.hex()) if len(digest) == 16 else None


def quoted(etag: str | None) -> str | None:
    """Return an ETag in the form that headers have: listings leave its quotes away."""
    if not etag:
        return None
    return etag if etag.endswith('"') else f'"{etag}"'
