"""What a listing says of an object, and when that is the object which is recorded.

Size, the provider's checksum and its ETag are compared as what they are. The modified time counts where a listing
returns the time that was given at writing; two times closer than the provider's step are equal. An ETag that differs
while size and such a time agree proves nothing: some servers make it from where a file lies on the disk.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from cdir.v1 import adapter_service_pb2
from cdir_catalog.clock import SECOND
from cdir_catalog.store.providers import RegisteredProvider
from cdir_catalog.wire import from_timestamp

__all__ = ["Found", "Likeness", "Recorded", "Yardstick"]

_FINEST = 1000
"""Nanoseconds: times of objects travel with microseconds."""


@dataclass(frozen=True, slots=True)
class Found:
    """An object as a listing or a reader found it; times in nanoseconds since the epoch."""

    key: str
    size: int
    modified: int | None
    etag: str
    checksum: str
    sha256: bytes = b""
    """Known only when the object was read."""
    block_digests: bytes = b""

    @classmethod
    def of(cls, info: adapter_service_pb2.ObjectInfo) -> Found:
        """Return what a listing says of one object."""
        modified = from_timestamp(info.modified) if info.HasField("modified") else None
        return cls(info.key, info.size, modified, info.etag, info.checksum)


class Recorded(Protocol):
    """What is recorded of the object at a key: marks of the copy, size and time of its content."""

    @property
    def etag(self) -> str: ...
    @property
    def checksum(self) -> str: ...
    @property
    def seen_modified(self) -> int | None: ...


class Likeness(enum.Enum):
    """How an object found compares with the one recorded."""

    SAME = "same"
    DOUBTFUL = "doubtful"
    """Only a mark that proves nothing differs: reading can tell."""
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Yardstick:
    """How times and marks of one provider are compared."""

    lists_time: bool
    """Whether a listing returns the modified time that was given at writing."""
    step: int
    """Nanoseconds by which the times of its listings are coarse."""

    @classmethod
    def of(cls, provider: RegisteredProvider) -> Yardstick:
        """Return the yardstick that a provider's capability record describes."""
        fields = provider.record.capability.fields
        lists_time = "modified_listed" in fields and fields["modified_listed"].bool_value
        seconds = fields["modified_precision"].number_value if "modified_precision" in fields else 0.0
        return cls(lists_time, max(_FINEST, round(seconds * SECOND)))

    def same_time(self, one: int, other: int) -> bool:
        """Say whether two times are the same as far as the provider can tell."""
        return abs(one - other) < self.step

    def compare(self, copy: Recorded, size: int, modified_at: int, found: Found) -> Likeness:
        """Compare an object found with a copy of a content of ``size`` bytes that was modified at ``modified_at``."""
        if found.size != size:
            return Likeness.OTHER
        if _comparable(copy.checksum, found.checksum):
            return Likeness.SAME if copy.checksum == found.checksum else Likeness.OTHER
        etags = bool(copy.etag and found.etag)
        if etags and _bare(copy.etag) == _bare(found.etag):
            return Likeness.SAME
        if self.lists_time and found.modified is not None:
            if not self.same_time(found.modified, modified_at):
                return Likeness.OTHER
            return Likeness.DOUBTFUL if etags else Likeness.SAME
        if etags:
            return Likeness.OTHER
        if copy.seen_modified is not None and found.modified is not None:
            return Likeness.SAME if self.same_time(found.modified, copy.seen_modified) else Likeness.OTHER
        return Likeness.SAME

    def equals(self, copy: Recorded | None, size: int, modified_at: int, found: Found) -> bool:
        """Say whether something speaks for an object being a content, not only nothing against it."""
        if found.size != size:
            return False
        if copy is not None and _comparable(copy.checksum, found.checksum):
            return copy.checksum == found.checksum
        if copy is not None and copy.etag and _bare(copy.etag) == _bare(found.etag):
            return True
        return self.lists_time and found.modified is not None and self.same_time(found.modified, modified_at)


def _bare(etag: str) -> str:
    """Return an ETag without its quotes; servers put them or not, as they like."""
    return etag.removeprefix("W/").strip('"')


def _comparable(one: str, other: str) -> bool:
    """Say whether two checksums are of one kind."""
    kind, colon, _ = one.partition(":")
    return bool(colon) and other.startswith(f"{kind}:")
