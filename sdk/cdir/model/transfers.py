"""What writing, copying, ``put`` and ``get`` did."""

from __future__ import annotations

from dataclasses import dataclass, field

from cdir.errors import CdirError
from cdir.model.entries import Entry

__all__ = ["CopyOutcome", "Failed", "KeptCopy", "TransferReport", "WriteOutcome"]


@dataclass(frozen=True, slots=True)
class WriteOutcome:
    """A durable file: who holds it, and who will."""

    entry: Entry
    stored: tuple[str, ...]
    owed: tuple[str, ...]
    conflict_of: str = ""
    """The path asked for, when the content was kept beside it as a conflicting copy; ``entry`` is the copy."""


@dataclass(frozen=True, slots=True)
class CopyOutcome:
    """One file of a copy: what was stored, or why not."""

    path: str
    stored: WriteOutcome | None
    error: CdirError | None


@dataclass(frozen=True, slots=True)
class Failed:
    """One item that could not be transferred, and why."""

    path: str
    error: CdirError


@dataclass(frozen=True, slots=True)
class KeptCopy:
    """A file that lost against another edit of its path, and was kept beside it."""

    path: str
    """Where it should have gone, workspace included."""
    kept_as: str
    """Where it is, workspace included."""


@dataclass(frozen=True, slots=True)
class TransferReport:
    """What a ``put`` or ``get`` did."""

    files: int
    """Files transferred now."""
    bytes: int
    """Their size."""
    skipped: int
    """Files that were there unchanged."""
    failed: tuple[Failed, ...]
    owed: int
    """Copies still owed, of the files transferred and of those skipped."""
    seconds: float
    owed_to: tuple[str, ...] = field(default=())
    """Names of the providers that owe them, as far as they are known."""
    conflicts: tuple[KeptCopy, ...] = field(default=())
    """Of the files transferred, those kept as conflicting copies."""
