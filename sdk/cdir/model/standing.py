"""How well a file or a tree is kept."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cdir.model.entries import Entry
from cdir.model.states import ExitState, ProviderState, ReplicaState

__all__ = ["FileStatus", "ProviderStatus", "QuarantinedCopy", "Replica", "TreeStatus"]


@dataclass(frozen=True, slots=True)
class Replica:
    """One copy of a file's current content."""

    provider: str
    state: ReplicaState
    key: str
    """Where it is at the provider, or will be."""
    etag: str
    """The provider's own, as received; empty when it states none."""
    proven_at: datetime | None
    """When its bytes were last seen to be right; ``None`` when never."""
    error: str
    """The last failure in one line; empty when there was none."""
    wanted: bool = True
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class FileStatus:
    """A file and every copy of it."""

    entry: Entry
    replicas: tuple[Replica, ...]
    layout: str = "plain"

    @property
    def owed(self) -> int:
        return self.entry.owed


@dataclass(frozen=True, slots=True)
class ProviderStatus:
    """What one provider holds and owes of a tree."""

    name: str
    kind: str
    state: ProviderState
    state_reason: str
    """One line that says why it is not up; else empty."""
    state_since: datetime | None
    files: int
    bytes: int
    owed: int
    proven: datetime | None = None
    """When the good copy that was proven longest ago was proven; ``None`` when there is none, or one that never was."""
    unproven: bool = False
    """Whether it holds a copy that was never proven."""
    exit: ExitState | None = None
    """Set while it is given up."""
    exit_since: datetime | None = None
    """When it came into that state."""
    files_left: int | None = None
    """Files of all it holds, in the tree or not, that others have still to take over before it can go, as of the last
    count; ``None`` when it is not leaving, or nobody has counted yet."""
    exit_waits: str = ""
    """One line that says what its leaving waits for; else empty."""


@dataclass(frozen=True, slots=True)
class QuarantinedCopy:
    """A copy whose repair failed again and again; it waits for a person to run repair."""

    path: str
    provider: str
    error: str
    """Why the repair failed last."""


@dataclass(frozen=True, slots=True)
class TreeStatus:
    """What providers hold and owe at or below a directory."""

    files: int
    bytes: int
    owed: int
    quarantined: int
    """How many owed copies wait for a person."""
    unplaced: bool
    """True while a change of providers or policies is still being worked into the tree."""
    removals: int
    """Objects of replaced or removed content still to be cleared away at providers."""
    providers: tuple[ProviderStatus, ...]
    conflicts: int = 0
    """Conflicting copies that wait for a person to rename or remove them."""
    quarantined_copies: tuple[QuarantinedCopy, ...] = ()
    """Some of the quarantined."""
    absent: int = 0
    """Copies that others removed, where the policy says to ask."""
