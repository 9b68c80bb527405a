"""Access control lists of the copies of files, in words that hold for every provider.

::

    await client.set_acl("/public/logo.png", Acl(Access.PUBLIC_READ))
    report = await client.acl("/public/logo.png")
    print([(one.provider, one.state) for one in report.standings])
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from cdir.connection import Connection
from cdir.paths import WorkspacePath
from cdir.v1 import directory_service_pb2 as pb
from cdir.v1 import entry_pb2

__all__ = ["Access", "Acl", "AclReport", "AclStanding", "AclState", "Grant", "Right"]


class Access(enum.StrEnum):
    """Who beside the owner may do what."""

    PRIVATE = "private"
    """Nobody anything."""
    AUTHENTICATED_READ = "authenticated-read"
    """Everyone who is known to the provider may read."""
    PUBLIC_READ = "public-read"
    """Anyone may read."""
    PUBLIC_READ_WRITE = "public-read-write"
    """Anyone may read and write."""


class Right(enum.StrEnum):
    """What a grant allows."""

    READ = "read"
    WRITE = "write"
    FULL = "full"
    """Read, write, and change the list itself."""


@dataclass(frozen=True, slots=True)
class Grant:
    """One right for one grantee."""

    grantee: str
    """``user:ID``, ``email:ADDRESS`` or ``group:NAME``; the id or name is the provider's own."""
    right: Right


@dataclass(frozen=True, slots=True)
class Acl:
    """What everyone may, and what is granted beside that."""

    access: Access
    grants: tuple[Grant, ...] = ()


class AclState(enum.StrEnum):
    """What became of an ACL at one provider."""

    NONE = "none"
    """None is wanted."""
    APPLIED = "applied"
    NARROWER = "narrower"
    """The provider cannot express all of it: what is in force allows less."""
    UNSUPPORTED = "unsupported"
    """The provider cannot express it: what is in force is what it gives by itself."""
    OWED = "owed"
    """It is still to be set."""


@dataclass(frozen=True, slots=True)
class AclStanding:
    """What became of an ACL at one provider, for files of which it became the same."""

    provider: str
    state: AclState
    files: int
    """How many files; 1 for a file."""
    note: str
    """What cannot be expressed, or why it is owed; for a directory that of one of the files. May be empty."""
    waits: bool
    """It is owed because the provider is down, paused or held back, and set once that is over."""
    in_force: Acl | None
    """What the provider said just now; ``None`` for a directory, and when it was not asked or did not answer."""


@dataclass(frozen=True, slots=True)
class AclReport:
    """The ACL of a path, and what became of it."""

    acl: Acl | None
    """What is set on the path itself; for a directory it is what new files below get. ``None`` when nothing is."""
    default: Acl | None
    """What a directory inherits where nothing is set on it."""
    directory: bool
    standings: tuple[AclStanding, ...]
    """By provider and state: of a file's copies, or of those of all files below that have an ACL."""
    unplaced: bool
    """Files below are still to be looked at after a change."""

    @property
    def owed(self) -> int:
        """How many copies are still to get it."""
        return sum(one.files for one in self.standings if one.state is AclState.OWED)


_ACCESS = {
    entry_pb2.ACL_ACCESS_PRIVATE: Access.PRIVATE,
    entry_pb2.ACL_ACCESS_AUTHENTICATED_READ: Access.AUTHENTICATED_READ,
    entry_pb2.ACL_ACCESS_PUBLIC_READ: Access.PUBLIC_READ,
    entry_pb2.ACL_ACCESS_PUBLIC_READ_WRITE: Access.PUBLIC_READ_WRITE,
}
_ACCESS_TO = {access: value for value, access in _ACCESS.items()}
_RIGHTS = {
    entry_pb2.ACL_RIGHT_READ: Right.READ,
    entry_pb2.ACL_RIGHT_WRITE: Right.WRITE,
    entry_pb2.ACL_RIGHT_FULL: Right.FULL,
}
_RIGHTS_TO = {right: value for value, right in _RIGHTS.items()}
_STATES = {
    entry_pb2.ACL_STATE_UNSPECIFIED: AclState.NONE,
    entry_pb2.ACL_STATE_APPLIED: AclState.APPLIED,
    entry_pb2.ACL_STATE_NARROWER: AclState.NARROWER,
    entry_pb2.ACL_STATE_UNSUPPORTED: AclState.UNSUPPORTED,
    entry_pb2.ACL_STATE_OWED: AclState.OWED,
}


def _acl_from(message: entry_pb2.Acl) -> Acl:
    grants = tuple(Grant(grant.grantee, _RIGHTS[grant.right]) for grant in message.grants)
    return Acl(_ACCESS[message.access], grants)


def _report_from(answer: pb.GetAclResponse) -> AclReport:
    return AclReport(
        acl=_acl_from(answer.acl) if answer.HasField("acl") else None,
        default=_acl_from(answer.default_acl) if answer.HasField("default_acl") else None,
        directory=answer.directory,
        standings=tuple(
            AclStanding(
                provider=one.provider,
                state=_STATES[one.state],
                files=one.files,
                note=one.note,
                waits=one.waits,
                in_force=_acl_from(one.in_force) if one.HasField("in_force") else None,
            )
            for one in answer.standings
        ),
        unplaced=answer.unplaced,
    )


async def get_acl(connection: Connection, where: WorkspacePath) -> AclReport:
    """See :meth:`cdir.client.Client.acl`."""
    request = pb.GetAclRequest(workspace=where.workspace, path=where.path)
    return _report_from(await connection.call(connection.directory.GetAcl, request))


async def set_acl(connection: Connection, where: WorkspacePath, acl: Acl, *, recursive: bool, wait: float) -> AclReport:
    """See :meth:`cdir.client.Client.set_acl`."""
    message = entry_pb2.Acl(
        access=_ACCESS_TO[acl.access],
        grants=[entry_pb2.AclGrant(grantee=one.grantee, right=_RIGHTS_TO[one.right]) for one in acl.grants],
    )
    request = pb.SetAclRequest(
        workspace=where.workspace, path=where.path, acl=message, recursive=recursive, wait_seconds=wait
    )
    return _report_from((await connection.call(connection.directory.SetAcl, request)).standing)


async def unset_acl(connection: Connection, where: WorkspacePath, *, recursive: bool, wait: float) -> AclReport:
    """See :meth:`cdir.client.Client.unset_acl`."""
    request = pb.SetAclRequest(
        workspace=where.workspace, path=where.path, unset=True, recursive=recursive, wait_seconds=wait
    )
    return _report_from((await connection.call(connection.directory.SetAcl, request)).standing)
