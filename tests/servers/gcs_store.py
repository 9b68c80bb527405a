"""What a server of Google Cloud Storage holds, by the documents of its JSON API: buckets, generations, uploads."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import google_crc32c

__all__ = ["QUANTUM", "Bucket", "Refused", "Stored", "Upload", "checked", "number_of", "require_condition", "stated"]

QUANTUM = 256 * 1024
"""What every chunk of an upload but the last is a multiple of."""

_GENERATIONS = itertools.count(time.time_ns() // 1000)


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, reason: str, message: str = "") -> None:
        super().__init__(message or reason)
        self.status = status
        self.reason = reason


@dataclass
class Stored:
    """One generation of an object."""

    data: bytes
    described: dict[str, Any]
    """What a client may set: content type, encoding, metadata and the like."""
    components: int = 0
    """How many objects it was composed of; such a one has no MD5."""
    generation: int = field(default_factory=lambda: next(_GENERATIONS))
    metageneration: int = 1
    created: str = field(default_factory=lambda: _now())
    updated: str = field(default_factory=lambda: _now())
    _stated: tuple[bytes, dict[str, str]] = field(default_factory=lambda: (b"", stated(b"")))

    def stated(self) -> dict[str, str]:
        """Both checksums, worked out once for as long as the content stays the same."""
        if self._stated[0] is not self.data:
            self._stated = (self.data, stated(self.data))
        return dict(self._stated[1])

    def rot(self, data: bytes) -> None:
        """Let the bytes be others, and the checksums stay as they were."""
        self._stated = (data, self.stated())
        self.data = data

    @property
    def encoded(self) -> bool:
        """Whether it is stored compressed."""
        return self.described.get("contentEncoding") == "gzip"


@dataclass
class Bucket:
    """A bucket without versioning: an object that is replaced is gone."""

    project: str
    described: dict[str, Any] = field(default_factory=dict)
    objects: dict[str, Stored] = field(default_factory=dict)

    def at(self, bucket: str, name: str, query: Mapping[str, str]) -> Stored:
        """Return an object, of the generation that is asked for. Raises Refused."""
        found = self.objects.get(name)
        wanted = query.get("generation")
        if found is None or (wanted is not None and wanted != str(found.generation)):
            raise Refused(404, "notFound", f"No such object: {bucket}/{name}")
        return found


@dataclass
class Upload:
    """An upload session."""

    bucket: str
    name: str
    described: dict[str, Any]
    query: dict[str, str]
    data: bytearray = field(default_factory=bytearray)
    stored: Stored | None = None
    """What was made of it."""
    key: str = field(default_factory=lambda: uuid.uuid4().hex)

    def take(self, content_range: str, body: bytes, most: int | None) -> int | None:
        """Add what a request carries; return the size of the whole when that is all of it, else ``None``.

        ``most``: no more than so many bytes of it are kept, as the service may do.
        """
        wanted = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", content_range)
        if wanted is None:
            raise Refused(400, "invalid", "Failed to parse Content-Range header.")
        total = None if wanted[3] == "*" else int(wanted[3])
        if wanted[1] is not None:
            start, end = int(wanted[1]), int(wanted[2]) + 1
            if end - start != len(body) or (total is not None and end > total):
                raise Refused(400, "invalid", "Content-Range and Content-Length contradict each other.")
            if start > len(self.data):
                raise Refused(503, "backendError", "Invalid request: bytes are missing in between.")
            if total is None and len(body) % QUANTUM:
                raise Refused(400, "invalid", "Invalid request: a chunk is no multiple of 256 KiB.")
            fresh = body[len(self.data) - start :]
            if most is not None:
                fresh = fresh[: most // QUANTUM * QUANTUM]
            self.data += fresh
        elif body:
            raise Refused(400, "invalid", "A question has no body.")
        return total if total == len(self.data) else None


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def number_of(text: str | None) -> int | None:
    """Read a number of a query. Raises Refused for something else."""
    if text is None:
        return None
    if not text.isdecimal():
        raise Refused(400, "invalid", f"Invalid argument: {text}")
    return int(text)


def require_condition(found: Stored | None, query: Mapping[str, str], prefix: str = "if") -> None:
    """Raise Refused unless the object is what the query says; without one, its generation counts as zero."""
    generation = found.generation if found is not None else 0
    metageneration = found.metageneration if found is not None else 0
    for name, value in (("Generation", generation), ("Metageneration", metageneration)):
        wanted = number_of(query.get(f"{prefix}{name}Match"))
        unwanted = number_of(query.get(f"{prefix}{name}NotMatch"))
        if (wanted is not None and wanted != value) or (unwanted is not None and unwanted == value):
            raise Refused(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.")


def stated(data: bytes) -> dict[str, str]:
    """Both checksums, as properties of an object."""
    return {
        "md5Hash": base64.b64encode(hashlib.md5(data).digest()).decode(),
        "crc32c": base64.b64encode(google_crc32c.Checksum(data).digest()).decode(),
    }


def checked(described: Mapping[str, Any], data: bytes) -> dict[str, Any]:
    """Return what a client says of an object without the checksums. Raises Refused when those are others."""
    computed = stated(data)
    for name, title in (("md5Hash", "MD5 hash"), ("crc32c", "CRC32C")):
        claimed = described.get(name)
        if claimed is not None and claimed != computed[name]:
            raise Refused(
                400, "invalid", f'Provided {title} "{claimed}" doesn\'t match calculated {title} "{computed[name]}".'
            )
    metadata = described.get("metadata") or {}
    if sum(len(f"{name}{value}".encode()) for name, value in metadata.items()) > 8192:
        raise Refused(400, "metadataTooLarge", "The metadata of an object is limited to 8 KiB.")
    kept = ("contentType", "contentEncoding", "contentDisposition", "cacheControl", "metadata", "storageClass")
    return {name: described[name] for name in kept if described.get(name) is not None}
