"""Copies and contents in memory, and the rule that says what is owed.

A :class:`Content` is a version with every copy of it; a :class:`Copy` is one row of ``replicas``. Store functions
change what was seen or wished and then call :func:`settle`, the only place that decides what follows from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from cdir.paths import join_path, key_of
from cdir.v1 import catalog_service_pb2, entry_pb2
from cdir_catalog.keys import aside_key

__all__ = [
    "CORRUPT",
    "LEFTOVER_CONTRIBUTION",
    "MISSING",
    "NO_SOURCE",
    "OK",
    "PRIVATE_ACL",
    "QUARANTINE_ATTEMPTS",
    "UNKNOWN",
    "Content",
    "Contribution",
    "Copy",
    "contribution",
    "owe",
    "settle",
]

OK = entry_pb2.REPLICA_STATE_OK
MISSING = entry_pb2.REPLICA_STATE_MISSING
CORRUPT = entry_pb2.REPLICA_STATE_CORRUPT
UNKNOWN = entry_pb2.REPLICA_STATE_UNKNOWN
"""The states that are stored; STALE and QUARANTINED follow from the other columns."""

PRIVATE_ACL = entry_pb2.Acl(access=entry_pb2.ACL_ACCESS_PRIVATE).SerializeToString(deterministic=True)
"""What older and removed contents have of a file with an ACL: they are there to be restored, and for nobody else."""

QUARANTINE_ATTEMPTS = 8
"""After so many counted failures a copy waits for a person."""


NO_SOURCE = "no good copy"
"""How the error begins of a copy that waits for another provider to have a good one."""


@dataclass(slots=True)
class Copy:
    """One row of ``replicas``, in the order of its columns."""

    id: int | None
    workspace_id: int
    version_id: int | None
    provider_id: int
    key: str
    move_to: str | None = None
    wanted: int = 1
    actual: int = MISSING
    etag: str = ""
    checksum: str = ""
    proven_at: int | None = None
    owed: int = 0
    due_at: int | None = None
    attempts: int = 0
    error: str = ""
    lease_owner: str | None = None
    lease_until: int | None = None
    lease_kind: int | None = None
    lease_key: str | None = None
    changed_at: int | None = None
    absent_at: int | None = None
    seen_size: int | None = None
    seen_modified: int | None = None
    acl: bytes | None = None
    acl_state: int | None = None
    acl_note: str | None = None
    gone: bool = field(default=False, compare=False)
    """The row is to be deleted: nothing is there and nothing should be."""

    def leased(self, now: int) -> bool:
        """Whether somebody may be working on it at this moment."""
        return self.lease_until is not None and self.lease_until > now

    def astray(self, now: int) -> bool:
        """Whether a worker of whom nothing was heard since may have renamed it to ``lease_key``."""
        renaming = self.lease_kind == catalog_service_pb2.DEBT_KIND_RELOCATE and not self.leased(now)
        return renaming and self.actual == OK and self.lease_key not in {None, self.key}

    def look_for(self) -> None:
        """Record that an astray copy is to be looked for in both places."""
        assert self.lease_key is not None
        self.actual, self.key, self.move_to = UNKNOWN, self.lease_key, self.key
        self.etag = self.checksum = ""
        self.unsee()
        self.release()

    @property
    def suspected(self) -> bool:
        """Whether a listing showed what may be others' content at its key; it is kept if an inspection agrees."""
        return self.actual == UNKNOWN and self.seen_size is not None

    def suspect(self, size: int, modified: int | None) -> None:
        """Record that what a listing showed at its key may be others' content: it is to be inspected."""
        self.actual, self.move_to, self.absent_at = UNKNOWN, None, None
        self.seen_size, self.seen_modified = size, modified

    def doubt(self) -> None:
        """Record that nothing is certain of the object at its key: it is to be inspected."""
        self.actual, self.move_to = UNKNOWN, None
        self.etag = self.checksum = ""
        self.unsee()

    def lose(self) -> None:
        """Record that surely nothing lies at its key."""
        self.doubt()
        self.actual = MISSING

    def take_acl(self, outcome: entry_pb2.AclOutcome) -> None:
        """Record what became of an ACL that was to be set on the object at its key."""
        self.acl = outcome.asked.SerializeToString(deterministic=True)
        self.acl_state, self.acl_note = outcome.state, outcome.note or None

    def forget_acl(self) -> None:
        """Record that nothing is known of the ACL of the object at its key: it is another object, or was renamed, which
        keeps the ACL at some providers and not at others."""
        self.acl = self.acl_state = self.acl_note = None

    def unsee(self) -> None:
        """Forget what listings said of the object at its key."""
        self.absent_at = self.seen_size = self.seen_modified = None

    def release(self) -> None:
        """End the lease."""
        self.lease_owner = self.lease_until = self.lease_kind = self.lease_key = None

    def mark_ok(self, now: int, etag: str, checksum: str) -> None:
        """Record that the right bytes were seen at ``key``."""
        self.actual = OK
        self.etag, self.checksum = etag, checksum
        self.proven_at = now
        self.attempts, self.error, self.due_at = 0, "", None
        self.unsee()

    def mark_displaced(self, aside: str) -> None:
        """Record that it is at its key or was moved aside, by a writer of whom nothing was heard since."""
        self.actual, self.move_to = UNKNOWN, aside
        self.etag = self.checksum = ""
        self.forget_acl()
        self.unsee()


@dataclass(slots=True)
class Content:
    """One version, the entry it belongs to, and its copies."""

    id: int
    version_id: str
    entry_id: int
    workspace_id: int
    workspace: str
    dirname: str
    basename: str
    size: int
    current: bool
    removed: bool = False
    was_current: bool = True
    acl: bytes | None = None
    """What is set on the entry; ``None`` when nothing is."""
    copies: list[Copy] = field(default_factory=list)

    @property
    def path(self) -> str:
        return join_path(self.dirname, self.basename)

    @property
    def natural_key(self) -> str:
        return key_of(self.workspace, self.path)

    @property
    def desired_key(self) -> str:
        """Where its copies belong: under the file's name while it is current, else aside."""
        return self.natural_key if self.current else aside_key(self.version_id)

    @property
    def wanted_acl(self) -> bytes | None:
        """What its copies shall have; ``None`` leaves them as they are."""
        return self.acl if self.acl is None or self.current else PRIVATE_ACL

    def owes_acl(self, copy: Copy) -> bool:
        """Whether the wanted ACL was not asked yet for a copy that is there."""
        wanted = self.wanted_acl
        return wanted is not None and copy.acl != wanted

    @property
    def is_handed_over(self) -> bool:
        """Whether its only good copies are where they are wanted no more: then a wanted one is made from them."""
        good = [copy.wanted for copy in self.copies if copy.actual == OK and not copy.gone]
        return bool(good) and not any(good)

    def at(self, provider_id: int) -> Copy | None:
        """Return the copy at a provider."""
        return next((copy for copy in self.copies if copy.provider_id == provider_id), None)


class Contribution(NamedTuple):
    """What one copy adds to the counters of its workspace and provider."""

    files: int
    bytes: int
    owed: int
    quarantined: int
    removals: int


_NOTHING = Contribution(0, 0, 0, 0, 0)
LEFTOVER_CONTRIBUTION = Contribution(0, 0, 0, 0, 1)


def contribution(size: int, current: bool, wanted: int, actual: int, owed: int, attempts: int) -> Contribution:
    """Return what a copy of a version adds to the counters. The same rule stands as SQL in the bulk statements."""
    if current and wanted:
        held = actual == OK
        return Contribution(held, size if held else 0, owed, owed and attempts >= QUARANTINE_ATTEMPTS, 0)
    if current:
        held = actual == OK
        return Contribution(held, size if held else 0, 0, 0, owed)
    return Contribution(0, 0, 0, 0, 1) if owed else _NOTHING


def owe(copy: Copy, owed: bool, now: int) -> None:
    """Set whether work is owed on a copy, and from when on it may be done."""
    if not owed:
        copy.owed, copy.due_at, copy.attempts = 0, None, 0
        return
    copy.owed = 1
    if copy.attempts >= QUARANTINE_ATTEMPTS and not copy.leased(now):
        copy.due_at = None
    elif copy.due_at is None:
        copy.due_at = now


def settle(content: Content, now: int) -> list[Copy]:
    """Decide for each copy where it belongs, whether it is to go, and what is owed.

    Returns leftovers: objects that turned out to belong to no content and are to be removed.
    """
    desired = content.desired_key
    leftovers: list[Copy] = []
    for copy in content.copies:
        _settle_one(content, copy, desired, leftovers, now)
    if any(copy.actual == OK and not copy.gone for copy in content.copies):
        for copy in content.copies:
            if copy.due_at is not None and copy.error.startswith(NO_SOURCE) and not copy.leased(now):
                copy.due_at = min(copy.due_at, now)  # there may be a source now
    # a copy that is wanted no more is removed only when those wanted are there
    wanted = [copy for copy in content.copies if copy.wanted and not copy.gone]
    secure = bool(wanted) and all(copy.actual == OK for copy in wanted)
    for copy in content.copies:
        if not copy.wanted and not copy.gone:
            owe(copy, secure or not (content.current or wanted), now)
    return leftovers


def _settle_one(content: Content, copy: Copy, desired: str, leftovers: list[Copy], now: int) -> None:
    if copy.actual == CORRUPT:
        if not content.current:
            copy.wanted = 0  # an older content is not repaired
        elif copy.wanted and copy.key != desired:
            leftovers.append(leftover(copy.workspace_id, copy.provider_id, copy.key, now))
            copy.actual = MISSING
    if copy.actual == MISSING:
        _settle_missing(content, copy, desired, now)
    elif not copy.wanted:
        if copy.actual != UNKNOWN:
            copy.move_to = None  # it is removed from where it is
    elif copy.astray(now) and copy.lease_key != desired:
        copy.look_for()
        owe(copy, True, now)
    elif copy.actual == OK:
        copy.move_to = desired if copy.key != desired else None
        owe(copy, copy.move_to is not None or content.owes_acl(copy), now)
    else:
        # what a complete listing did not show, and a person is to decide about, is not looked for
        owe(copy, copy.absent_at is None, now)


def _settle_missing(content: Content, copy: Copy, desired: str, now: int) -> None:
    copy.etag = copy.checksum = ""
    copy.proven_at = None
    copy.unsee()
    copy.forget_acl()
    if copy.wanted and (content.current or content.is_handed_over):
        copy.key, copy.move_to = desired, None
        owe(copy, True, now)
    elif copy.leased(now) and copy.lease_key is not None:
        # somebody is writing it at this moment: what will be there is looked at when the lease has ended
        copy.actual, copy.key, copy.move_to = UNKNOWN, copy.lease_key, None
        owe(copy, True, now)
    else:
        copy.gone = True


def leftover(workspace_id: int, provider_id: int, key: str, now: int) -> Copy:
    """Return the row of an object that no content explains, due for removal."""
    return Copy(None, workspace_id, None, provider_id, key, wanted=0, actual=UNKNOWN, owed=1, due_at=now)
