"""What one provider can do: a flat, frozen record that every adapter declares and every layer may narrow.

Grammar of the names: ``<verb>`` alone says that the verb works at all (``copy``); ``<verb>_<condition>`` says that the
verb honours a condition (``write_if_absent``); ``max_…`` and ``min_…`` are limits, ``None`` where there is none. Every
flag defaults to the modest answer. A true flag must behave as documented and a false one must raise
:class:`cdir.errors.Unsupported`; the conformance suite tests both directions. Flags whose meaning depends on the server
behind the protocol are probed when a provider is added and kept with it.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Self

__all__ = ["Capability", "ChecksumKind"]


class ChecksumKind(enum.StrEnum):
    """A checksum that a provider states about what it holds."""

    MD5 = "md5"
    """MD5 of the whole content, lower-case hex."""
    MD5_MULTIPART = "md5-multipart"
    """MD5 over the parts' binary MD5s, then ``-N``: the ETag of a multipart upload (S3)."""
    SHA1 = "sha1"
    SHA256 = "sha256"
    CRC32C = "crc32c"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """See the module's text for the grammar of the names."""

    write_if_absent: bool = False
    """``WriteMode.CREATE`` never replaces: of two racing creators exactly one succeeds."""
    write_if_match: bool = False
    """``write(if_match=…)`` replaces only the object with that ETag."""
    read_if_match: bool = False
    """``read(if_match=…)`` fails with PreconditionFailed when the object has another ETag."""
    write_unknown_size: bool = False
    """``write`` accepts a stream whose size nobody told."""
    write_atomic: bool = False
    """A reader sees the old object or the new one, never a mixture or a part."""
    copy: bool = False
    """The provider copies by itself; the bytes do not travel."""
    move: bool = False
    """The provider renames by itself, without a moment in which neither name has the object."""
    directories: bool = False
    """Directories are objects of their own; else a prefix exists as long as something lies under it."""
    list_recursive: bool = False
    """One listing walks the whole subtree; else the adapter walks it directory by directory."""
    list_ordered: bool = False
    """Pages come in the order of the keys' UTF-8 bytes, and ``start_after`` is honoured."""
    list_current: bool = False
    """``list`` shows every object whose write had ended before the listing began."""
    metadata: bool = False
    """Small user metadata is stored with the object and returned by ``stat``."""
    modified_settable: bool = False
    """``stat`` returns the modified time that was given to ``write``, at ``modified_precision``."""
    modified_listed: bool = False
    """``list`` returns that same time too (S3 and Swift do not)."""
    modified_precision: timedelta | None = None
    """Step of the modified time that the provider keeps; ``None`` when it keeps none."""
    acl: bool = False
    """``set_acl`` sets who may read an object, at least whether everyone or nobody else may, and ``get_acl`` tells."""
    acl_grants: bool = False
    """``set_acl`` honours grants to named users and groups; else it leaves them out."""
    write_access: bool = False
    """``write(access=…)`` stores the object with that access; it is never seen with a wider one."""
    usage: bool = False
    """``usage`` tells how much is used or free."""
    digest: bool = False
    """The provider computes the SHA-256 of an object when asked; the bytes do not travel."""
    etag: bool = False
    """``stat`` returns an ETag that changes with the content."""
    checksums: frozenset[ChecksumKind] = frozenset()
    """Checksums of the content that ``stat`` and ``write`` can return."""
    case_sensitive: bool = True
    """``a`` and ``A`` are two names."""
    unicode_preserving: bool = True
    """A name comes back in the Unicode form in which it was written."""
    max_object_size: int | None = None
    """Bytes."""
    max_path_bytes: int | None = None
    """Bytes of the whole key in UTF-8, the provider's root included."""
    max_name_bytes: int | None = None
    """Bytes of one component in UTF-8."""
    forbidden_names: str | None = None
    """Regular expression that a component must not match as a whole; the name encoding takes care of such names."""

    def __post_init__(self) -> None:
        if self.forbidden_names is not None:
            re.compile(self.forbidden_names)

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values, every field under its own name; ``modified_precision`` in seconds."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["checksums"] = sorted(self.checksums)
        if self.modified_precision is not None:
            values["modified_precision"] = self.modified_precision.total_seconds()
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote. A field that is missing has its default; one that this build does not know,
        and a checksum it does not know, are skipped. Whole numbers may have become floating ones on the way."""
        known = {field.name for field in dataclasses.fields(cls)}
        taken = {name: value for name, value in values.items() if name in known and value is not None}
        for name in taken:
            if name.startswith("max_"):
                taken[name] = int(taken[name])
        kinds = {kind.value for kind in ChecksumKind}
        taken["checksums"] = frozenset(ChecksumKind(kind) for kind in taken.get("checksums", ()) if kind in kinds)
        if "modified_precision" in taken:
            taken["modified_precision"] = timedelta(seconds=taken["modified_precision"])
        return cls(**taken)

    def narrowed_by(self, other: Capability) -> Capability:
        """Return what both records allow: the flags true in both, the tighter limits, the coarser precision."""
        values: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            mine, others = getattr(self, field.name), getattr(other, field.name)
            if isinstance(mine, bool):
                values[field.name] = mine and others
            elif field.name.startswith("max_"):
                limits = [limit for limit in (mine, others) if limit is not None]
                values[field.name] = min(limits, default=None)
        precisions = [self.modified_precision, other.modified_precision]
        return dataclasses.replace(
            self,
            **values,
            checksums=self.checksums & other.checksums,
            modified_precision=None if None in precisions else max(step for step in precisions if step is not None),
        )
