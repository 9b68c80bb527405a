"""What became of entries: their contents, and the log of changes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cdir.model.states import ChangeKind, EntryKind

__all__ = ["Change", "Version"]


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable content of a file."""

    version_id: str
    generation: int
    size: int
    modified: datetime
    sha256: str
    author: str
    committed: datetime
    current: bool


@dataclass(frozen=True, slots=True)
class Change:
    """One row of a workspace's ordered log."""

    revision: int
    kind: ChangeKind
    path: str
    old_path: str
    """Where it was before a move; else empty."""
    entry_kind: EntryKind
    generation: int
    author: str
    time: datetime
