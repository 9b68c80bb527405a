"""Access control lists of S3, read and written.

An object has an owner and a list of grants. Everyone, and everyone who signs requests at all, are two groups with names
of their own; the canned lists are short forms of grants to them.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from cdir.errors import CdirError, PermissionDenied, Unsupported
from cdir_adapters.acl import Access, Acl, Grant, Right
from cdir_adapters.providers.s3.connections import Connections
from cdir_adapters.providers.s3.faults import Faults

__all__ = ["AclWire"]

T = TypeVar("T")

_GROUPS: Final = "http://acs.amazonaws.com/groups/"
_EVERYONE: Final = f"{_GROUPS}global/AllUsers"
_SIGNED_IN: Final = f"{_GROUPS}global/AuthenticatedUsers"

_EVERYONES: Final = {
    Access.PRIVATE: (),
    Access.AUTHENTICATED_READ: ((_SIGNED_IN, "GrantRead"),),
    Access.PUBLIC_READ: ((_EVERYONE, "GrantRead"),),
    Access.PUBLIC_READ_WRITE: ((_EVERYONE, "GrantRead"), (_EVERYONE, "GrantWrite")),
}
_KINDS: Final = {"user": "id", "email": "emailAddress", "group": "uri"}
_NAME: Final = re.compile(r"[\x21\x23-\x2b\x2d-\x7e]+")
"""What a header can carry between quotes."""

_RIGHTS: Final = {"READ": Right.READ, "WRITE": Right.WRITE, "FULL_CONTROL": Right.FULL, "WRITE_ACP": Right.FULL}


class AclWire:
    """The ACLs of the objects of one bucket. Keys are full ones."""

    def __init__(self, connections: Connections, faults: Faults, bucket: str) -> None:
        self._connections = connections
        self._faults = faults
        self._bucket = bucket
        self._refused: set[Access] = set()
        """What the bucket does not let objects have."""

    async def send_with(
        self, access: Access | None, send: Callable[[str | None], Awaitable[T]]
    ) -> tuple[T, Access | None]:
        """Send a request with a canned ACL, or without one where the bucket refuses it; say which it was."""
        if access is not None and access not in self._refused:
            try:
                return await send(str(access)), access
            except (Unsupported, PermissionDenied):
                answer = await send(None)  # refused as well if it was not that
                self._refused.add(access)
                return answer, None
        return await send(None), None

    async def give(self, key: str, access: Access | None) -> Access | None:
        """Set the access of an object just stored; ``None`` where that fails: the object is stored all the same."""
        if access is None or access in self._refused:
            return None
        try:
            await self.write(key, Acl(access))
        except CdirError as error:
            if isinstance(error, (Unsupported, PermissionDenied)):
                self._refused.add(access)
            return None
        return access

    async def read(self, key: str) -> Acl:
        """Return what is in force. Raises NotFound, Unsupported."""
        return _parse(await self._ask(key))

    async def _ask(self, key: str) -> Any:
        with self._faults.translated("reading an access control list", key):
            client = await self._connections.client()
            return await client.get_object_acl(Bucket=self._bucket, Key=key)

    async def write(self, key: str, acl: Acl) -> Acl:
        """Replace the list in one request and return what is in force. Raises NotFound, Unsupported, PermissionDenied,
        InvalidArgument (a grantee whom the service does not know)."""
        grants = [(grant, grantee) for grant in acl.grants if (grantee := _grantee(grant)) is not None]
        arguments: dict[str, str] = {"ACL": str(acl.access)}
        if grants:
            # a canned list and grants exclude each other, and a list without its owner shuts the owner out
            owner = (await self._ask(key)).get("Owner", {}).get("ID", "")
            given: dict[str, list[str]] = {"GrantFullControl": [f'id="{owner}"'], "GrantRead": [], "GrantWrite": []}
            for group, parameter in _EVERYONES[acl.access]:
                given[parameter].append(f'uri="{group}"')
            for grant, grantee in grants:
                given["GrantRead" if grant.right is Right.READ else "GrantFullControl"].append(grantee)
            arguments = {parameter: ", ".join(grantees) for parameter, grantees in given.items() if grantees}
        with self._faults.translated("setting an access control list", key):
            client = await self._connections.client()
            await client.put_object_acl(Bucket=self._bucket, Key=key, **arguments)
        return Acl(acl.access, tuple(grant for grant, _ in grants))


def _grantee(grant: Grant) -> str | None:
    """Return a grantee as a header has it; ``None`` for a grant that the protocol cannot express.

    Writing alone is no right on an object: who may write into the bucket replaces it.
    """
    kind, _, name = grant.grantee.partition(":")
    if grant.right is Right.WRITE or not _NAME.fullmatch(name):
        return None
    if kind == "group" and not name.startswith(_GROUPS):
        return None
    return f'{_KINDS[kind]}="{name}"'


def _parse(answer: Any) -> Acl:
    owner = answer.get("Owner", {}).get("ID")
    access = Access.PRIVATE
    grants: set[Grant] = set()
    order = list(Access)
    for each in answer.get("Grants", ()):
        grantee = each.get("Grantee", {})
        group = grantee.get("URI")
        right = _RIGHTS.get(each.get("Permission", ""))
        if right is None:
            continue  # to read the list itself
        if group in {_EVERYONE, _SIGNED_IN}:
            reads = Access.PUBLIC_READ if group == _EVERYONE else Access.AUTHENTICATED_READ
            access = max(access, reads if right is Right.READ else Access.PUBLIC_READ_WRITE, key=order.index)
        elif group:
            grants.add(Grant(f"group:{group}", right))
        elif grantee.get("EmailAddress"):
            grants.add(Grant(f"email:{grantee['EmailAddress']}", right))
        elif grantee.get("ID") != owner:
            grants.add(Grant(f"user:{grantee.get('ID', '')}", right))
    return Acl(access, tuple(sorted(grants)))
