"""What looks wrong when the catalog is held against a provider, and what has to be so for it to count: pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from cdir.paths import RESERVED_ROOT_NAME
from cdir.v1 import check_pb2
from cdir_transfer.learning import is_same_etag

__all__ = ["Suspicion", "difference", "is_metadata"]

Kind: TypeAlias = "check_pb2.CheckFindingKind.ValueType"

_MISSING = check_pb2.CHECK_FINDING_KIND_MISSING
_WRONG_SIZE = check_pb2.CHECK_FINDING_KIND_WRONG_SIZE
_CHANGED = check_pb2.CHECK_FINDING_KIND_CHANGED
_CORRUPT = check_pb2.CHECK_FINDING_KIND_CORRUPT
_UNEXPLAINED = check_pb2.CHECK_FINDING_KIND_UNEXPLAINED

_OWN: Final = f"{RESERVED_ROOT_NAME}/"
_VERSIONS: Final = f"{_OWN}versions/"


def is_metadata(key: str) -> bool:
    """Whether cdir itself keeps the object there beside the contents of files."""
    return key.startswith(_OWN) and not key.startswith(_VERSIONS)


def difference(copy: check_pb2.RecordedCopy, size: int, etag: str) -> Kind | None:
    """Return in what an object differs from the copy recorded at its key; ``None`` when in nothing that is known."""
    if size != copy.version.size:
        return _WRONG_SIZE
    if etag and copy.replica.etag and not is_same_etag(etag, copy.replica.etag):
        return _CHANGED
    return None


@dataclass(frozen=True, slots=True)
class Suspicion:
    """Something at one key of a provider that looks wrong."""

    key: str
    copy: check_pb2.RecordedCopy | None
    """The copy recorded there; ``None`` for an object without one."""
    kind: Kind
    reason: str = ""
    """Why, when reading has shown it."""
    size: int = 0
    """Of an object without a copy, as it was listed."""

    def stands(self, now: check_pb2.ExplainedObject) -> bool:
        """Whether the catalog still says what it said when the suspicion arose, and nobody works on the object."""
        if now.changing:
            return False
        if self.copy is None:
            return not now.copies
        return any(
            copy.settled
            and copy.version.version_id == self.copy.version.version_id
            and copy.replica.etag == self.copy.replica.etag
            for copy in now.copies
        )

    def finding(self, found: tuple[int, str] | None) -> check_pb2.CheckFinding | None:
        """Return the finding, with what lies there now (size and etag); ``None`` when it has settled."""
        if self.copy is None:
            if found is None:
                return None
            message = f"{found[0]} bytes that nothing explains"
            return check_pb2.CheckFinding(kind=_UNEXPLAINED, key=self.key, message=message)
        version = self.copy.version
        kind: Kind | None
        if found is None:
            kind, message = _MISSING, "recorded as a good copy, but nothing is there"
        else:
            kind = difference(self.copy, *found)
            if kind == _WRONG_SIZE:
                message = f"{found[0]} bytes instead of {version.size}"
            elif kind == _CHANGED:
                message = f"written by others: etag {found[1]} instead of {self.copy.replica.etag}"
            elif self.kind == _CORRUPT:
                kind, message = _CORRUPT, self.reason
            else:
                return None
        return check_pb2.CheckFinding(
            kind=kind,
            key=self.key,
            workspace=self.copy.workspace,
            path=self.copy.path,
            generation=version.generation,
            message=message,
        )
