"""What a thing is and how it fares, and the choices a caller makes."""

from __future__ import annotations

import enum

__all__ = [
    "ChangeKind",
    "EntryKind",
    "ExitState",
    "OnConflict",
    "OutsideDeletion",
    "ProviderState",
    "ReplicaState",
    "Wait",
]


class EntryKind(enum.Enum):
    """What a path names."""

    DIRECTORY = "directory"
    FILE = "file"


class ReplicaState(enum.Enum):
    """What is known of one copy."""

    OK = "ok"
    """Verified when it was written or read, in its right place."""
    OWED = "owed"
    """Wanted, and not there yet."""
    STALE = "stale"
    """There, but under a name it no longer should have, or no longer wanted."""
    MISSING = "missing"
    """It was there and was found gone; it is being restored."""
    CORRUPT = "corrupt"
    """Its bytes differ from the recorded digest; it is being replaced."""
    UNKNOWN = "unknown"
    """Nothing certain is known; it is looked at before it is relied on."""
    QUARANTINED = "quarantined"
    """Its repair failed again and again; look at ``error``, then run repair."""


class ProviderState(enum.Enum):
    """How a provider answers at the moment."""

    UP = "up"
    SLOW = "slow"
    DOWN = "down"
    PAUSED = "paused"
    UNKNOWN = "unknown"


class ExitState(enum.Enum):
    """How far a provider is on its way out."""

    LEAVING = "leaving"
    """Others get its copies; nothing new is written to it."""
    PURGING = "purging"
    """Others hold everything; its copies are being removed, as was asked for."""
    EVACUATED = "evacuated"
    """Others hold everything: it can be removed."""


class ChangeKind(enum.Enum):
    """What happened to a path."""

    WRITTEN = "written"
    REMOVED = "removed"
    MOVED = "moved"
    DIRECTORY_MADE = "directory_made"


class OnConflict(enum.Enum):
    """What becomes of a content whose base generation is no longer current, or beside a write under way."""

    FAIL = "fail"
    """It is refused with Conflict."""
    KEEP_COPY = "keep_copy"
    """It is kept beside the path, as ``NAME (conflicting copy of USER, 2026-11-21 14-03-07).EXT``."""


class Wait(enum.Enum):
    """When a write is answered."""

    MINIMUM = "min"
    """As soon as the policy's ``min_copies`` are durable; the rest follows in the background."""
    REACHABLE = "reachable"
    """When every provider that is up has its copy or has failed."""


class OutsideDeletion(enum.StrEnum):
    """What it means when others removed a file at a provider."""

    REPAIR = "repair"
    """The copy is made anew from another provider."""
    ACCEPT = "accept"
    """The file is removed, and can be restored."""
    ASK = "ask"
    """Nothing is done; the copy is shown as absent until a person repairs or removes the file."""
