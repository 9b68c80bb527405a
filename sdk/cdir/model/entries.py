"""The gateway, and what it lists."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cdir.model.states import EntryKind

__all__ = ["Entry", "Server", "time_of"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def time_of(nanoseconds: int) -> datetime:
    """Return the UTC time that lies ``nanoseconds`` after 1970, cut to microseconds."""
    return _EPOCH + timedelta(microseconds=nanoseconds // 1000)


@dataclass(frozen=True, slots=True)
class Server:
    """The gateway that answers."""

    version: str
    deployment: str
    """``embedded`` or ``split``."""
    local_files: bool
    """True when it may read and write local files that the caller names: same machine, same user."""
    process_id: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A directory or a file."""

    workspace: str
    """Empty for the user's own."""
    path: str
    kind: EntryKind
    size: int
    modified_ns: int
    """The time the writer gave to the content, in nanoseconds since 1970; for a directory when it was made."""
    sha256: str
    """Empty for a directory, and for a file found at a provider until its bytes are read for the first time."""
    generation: int
    """Counts the contents this path has had: 1, 2, 3…; 0 for a directory."""
    version_id: str
    owed: int
    """How many providers should hold the current content and do not yet; 0 for a directory."""
    author: str
    conflict_of: str = ""
    """The path within the workspace that a conflicting copy was meant for; empty for any other entry."""

    @property
    def name(self) -> str:
        """The last component of the path; empty for the root."""
        return self.path.rpartition("/")[2]

    @property
    def target(self) -> str:
        """The path as a person types it, workspace included."""
        return f"@{self.workspace}{self.path}" if self.workspace else self.path

    @property
    def modified(self) -> datetime:
        """``modified_ns`` as a time."""
        return time_of(self.modified_ns)

    @property
    def is_directory(self) -> bool:
        return self.kind is EntryKind.DIRECTORY
