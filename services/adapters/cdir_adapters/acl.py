"""Access control lists in words that hold for every provider.

What a provider makes of them is its adapter's business, with two rules: what is set is never wider than what was asked
for, and what could not be expressed is told. ``docs/acl.md`` has what each kind does.
"""

from __future__ import annotations

import dataclasses
import enum

from cdir.v1 import entry_pb2

__all__ = ["Access", "Acl", "Grant", "Right", "acl_of_message", "message_of_acl", "outcome_of", "refusal_of"]


class Access(enum.StrEnum):
    """Who beside the owner may do what; each allows what the one before does."""

    PRIVATE = "private"
    AUTHENTICATED_READ = "authenticated-read"
    """Everyone reads who is known to the provider."""
    PUBLIC_READ = "public-read"
    PUBLIC_READ_WRITE = "public-read-write"


class Right(enum.StrEnum):
    READ = "read"
    WRITE = "write"
    FULL = "full"
    """Read, write, and change the list itself."""


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Grant:
    """One right for one grantee: ``user:ID``, ``email:ADDRESS`` or ``group:NAME``, in the provider's own ids."""

    grantee: str
    right: Right

    def __str__(self) -> str:
        return f"{self.grantee} ({self.right})"


@dataclasses.dataclass(frozen=True, slots=True)
class Acl:
    """What everyone may, and what is granted beside that."""

    access: Access
    grants: tuple[Grant, ...] = ()


_ACCESS = {
    entry_pb2.ACL_ACCESS_PRIVATE: Access.PRIVATE,
    entry_pb2.ACL_ACCESS_AUTHENTICATED_READ: Access.AUTHENTICATED_READ,
    entry_pb2.ACL_ACCESS_PUBLIC_READ: Access.PUBLIC_READ,
    entry_pb2.ACL_ACCESS_PUBLIC_READ_WRITE: Access.PUBLIC_READ_WRITE,
}
_RIGHTS = {
    entry_pb2.ACL_RIGHT_READ: Right.READ,
    entry_pb2.ACL_RIGHT_WRITE: Right.WRITE,
    entry_pb2.ACL_RIGHT_FULL: Right.FULL,
}
_ACCESS_VALUES = {access: value for value, access in _ACCESS.items()}
_RIGHT_VALUES = {right: value for value, right in _RIGHTS.items()}


def acl_of_message(message: entry_pb2.Acl) -> Acl:
    """Read an ACL from its message, whose values the catalog has checked; an unknown one gives nothing."""
    grants = (Grant(grant.grantee, _RIGHTS[grant.right]) for grant in message.grants if grant.right in _RIGHTS)
    return Acl(_ACCESS.get(message.access, Access.PRIVATE), tuple(grants))


def message_of_acl(acl: Acl) -> entry_pb2.Acl:
    """Return an ACL as a message."""
    return entry_pb2.Acl(
        access=_ACCESS_VALUES[acl.access],
        grants=[entry_pb2.AclGrant(grantee=one.grantee, right=_RIGHT_VALUES[one.right]) for one in acl.grants],
    )


def outcome_of(asked: entry_pb2.Acl, in_force: Acl) -> entry_pb2.AclOutcome:
    """Say what became of ``asked`` where ``in_force`` was set, which is no wider."""
    wanted = acl_of_message(asked)
    missing = [str(grant) for grant in wanted.grants if grant not in in_force.grants]
    if in_force.access is not wanted.access:
        missing.insert(0, str(wanted.access))
    if not missing:
        return entry_pb2.AclOutcome(asked=asked, state=entry_pb2.ACL_STATE_APPLIED)
    note = f"it is {in_force.access} there: it cannot express {', '.join(missing)}"
    return entry_pb2.AclOutcome(asked=asked, state=entry_pb2.ACL_STATE_NARROWER, note=note)


def refusal_of(asked: entry_pb2.Acl, reason: str) -> entry_pb2.AclOutcome:
    """Say that nothing of ``asked`` can be set, and why."""
    return entry_pb2.AclOutcome(asked=asked, state=entry_pb2.ACL_STATE_UNSUPPORTED, note=reason)
