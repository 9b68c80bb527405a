"""Access control lists as the mode bits of files: what folders of this machine and of SSH servers have."""

from __future__ import annotations

from typing import Final

from cdir.errors import Unsupported
from cdir_adapters.acl import Access, Acl, Grant, Right

__all__ = ["PRIVATE_MODE", "acl_of_mode", "mode_of", "require_mode"]

PRIVATE_MODE: Final = 0o600
"""What an unfinished file has whose finished one shall have an access of its own."""

_MODES: Final = {
    Access.PRIVATE: PRIVATE_MODE,
    Access.AUTHENTICATED_READ: 0o640,
    Access.PUBLIC_READ: 0o644,
    Access.PUBLIC_READ_WRITE: 0o666,
}
_PERMISSIONS: Final = 0o777


def mode_of(access: Access) -> int:
    """Return the mode of a file: only the account that cdir uses there, its group too, or everyone on that machine."""
    return _MODES[access]


def acl_of_mode(mode: int, group: int | None) -> Acl:
    """Return what a mode allows; ``group`` is the number of the file's group."""
    if mode & 0o002:
        return Acl(Access.PUBLIC_READ_WRITE)
    access = Access.PRIVATE
    if mode & 0o004:
        access = Access.PUBLIC_READ
    elif mode & 0o040:
        access = Access.AUTHENTICATED_READ
    grants = (Grant(f"group:{'' if group is None else group}", Right.WRITE),) if mode & 0o020 else ()
    return Acl(access, grants)


def require_mode(mode: int | None, access: Access, provider: str) -> Acl:
    """Return what is in force after a mode was set; raise Unsupported where the file system did not take it."""
    if mode is None or mode & _PERMISSIONS & ~0o100 != mode_of(access):
        kept = "no mode" if mode is None else f"mode {mode & _PERMISSIONS:04o}"
        raise Unsupported(
            f"the file system of provider {provider} does not keep modes: the file has {kept},"
            f" not {mode_of(access):04o}",
            provider=provider,
        )
    return Acl(access)
