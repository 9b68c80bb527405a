"""What the client returns: small immutable records, free of anything that belongs to the wire.

Times are timezone-aware :class:`~datetime.datetime` in UTC; ``modified_ns`` keeps the nanoseconds that those cannot
hold. Sizes are bytes. Digests are lower-case hex. Paths are absolute within their workspace (``/reports/q3.csv``);
``target`` spells the workspace out (``@team/reports/q3.csv``), as a person would type it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cdir.errors import CdirError

__all__ = [
    "Change",
    "ChangeKind",
    "CheckResult",
    "CopyOutcome",
    "Entry",
    "EntryKind",
    "ExitState",
    "Failed",
    "FileStatus",
    "KeptCopy",
    "Kind",
    "OnConflict",
    "Option",
    "PlacementExplanation",
    "PlacementReason",
    "Policy",
    "PolicyRule",
    "ProviderInfo",
    "ProviderState",
    "ProviderStatus",
    "ProviderUsage",
    "QuarantinedCopy",
    "Replica",
    "ReplicaState",
    "Server",
    "TransferReport",
    "TreeStatus",
    "Version",
    "Wait",
    "WriteOutcome",
    "time_of",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def time_of(nanoseconds: int) -> datetime:
    """Return the UTC time that lies ``nanoseconds`` after 1970, cut to microseconds."""
    return _EPOCH + timedelta(microseconds=nanoseconds // 1000)


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


class OutsideDeletion(enum.StrEnum):
    """What it means when others removed a file at a provider."""

    REPAIR = "repair"
    """The copy is made anew from another provider."""
    ACCEPT = "accept"
    """The file is removed, and can be restored."""
    ASK = "ask"
    """Nothing is done; the copy is shown as absent until a person repairs or removes the file."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What a subtree wants. ``None`` and empty mean: inherited from the nearest parent that says something."""

    copies: int | None = None
    """How many providers hold each file; by default every one."""
    min_copies: int | None = None
    """How many copies must be durable before a write is acknowledged; by default 2 of three or more, else 1."""
    providers: tuple[str, ...] = ()
    """Restricts the choice to these; by default every registered one."""
    prefer: tuple[str, ...] = ()
    """The order in which to read; the others follow by measured speed."""
    keep_versions: int | None = None
    """How many older versions are kept; by default 10."""
    keep_seconds: int | None = None
    """How long a replaced or removed version is kept; by default 30 days."""
    outside_deletion: OutsideDeletion | None = None
    """What it means when others removed a file at a provider; by default it is repaired."""


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """A policy and the path it is set on."""

    path: str
    policy: Policy


@dataclass(frozen=True, slots=True)
class PlacementReason:
    """Why a provider is chosen or not."""

    provider: str
    chosen: bool
    reason: str


@dataclass(frozen=True, slots=True)
class PlacementExplanation:
    """Which policy holds for a path, where it comes from, and what follows from it."""

    policy: Policy
    rules: tuple[PolicyRule, ...]
    reasons: tuple[PlacementReason, ...]


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


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a kind of provider."""

    name: str
    type: str
    required: bool
    secret: bool
    default: str
    description: str


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of provider."""

    kind: str
    description: str
    options: tuple[Option, ...]
    available: bool
    missing: str
    """What to install when it is not available; else empty."""


@dataclass(frozen=True, slots=True)
class ProviderInfo:
    """One registered provider. Secrets are named, never shown."""

    provider_id: str
    name: str
    kind: str
    options: Mapping[str, str]
    secret_names: tuple[str, ...]
    location: str
    priority: int
    cost: str
    read_only: bool
    bandwidth: int
    """The most bytes per second in each direction; 0 is no limit."""
    capability: Mapping[str, object]
    state: ProviderState
    state_since: datetime | None
    state_reason: str
    exit: ExitState | None = None
    """Set while it is given up."""


@dataclass(frozen=True, slots=True)
class ProviderUsage:
    """How full a provider is; ``None`` where it does not say."""

    name: str
    used: int | None
    free: int | None


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The outcome of one case of a provider check."""

    name: str
    outcome: str
    """``passed``, ``failed`` or ``skipped``."""
    message: str


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
