"""Setting access control lists so that an object is never left wider than asked, and telling what became of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from cdir.errors import CdirError, InvalidArgument, PermissionDenied, Unsupported
from cdir.v1 import entry_pb2
from cdir_adapters.acl import Access, Acl, acl_of_message, outcome_of, refusal_of
from cdir_adapters.adapter import Adapter, ObjectInfo

__all__ = ["access_to_write", "apply_acl", "outcome_of_write", "outcomes_of_writes"]

logger = logging.getLogger(__name__)


async def apply_acl(adapter: Adapter, key: str, asked: entry_pb2.Acl) -> entry_pb2.AclOutcome:
    """Set an ACL on an object, or of what the provider refuses the narrower part that it takes.

    Raises NotFound, and what passes: the ACL is not settled then.
    """
    if not adapter.capability.acl:
        reason = f"provider {adapter.info.name} ({adapter.info.kind}) has no access control lists for single objects"
        return refusal_of(asked, reason)
    acl = acl_of_message(asked)
    refused: CdirError | None = None
    # what is there may be wider than what is asked: it is narrowed as far as that can be had
    for attempt in dict.fromkeys((acl, Acl(acl.access), Acl(Access.PRIVATE))):
        try:
            in_force = await adapter.set_acl(key, attempt)
        except (InvalidArgument, PermissionDenied, Unsupported) as error:
            refused = refused or error
            continue
        outcome = outcome_of(asked, in_force)
        if refused is not None:
            outcome.note = f"{outcome.note}: {refused.message}"
        return outcome
    assert refused is not None
    return refusal_of(asked, refused.message)


def access_to_write(adapter: Adapter, asked: entry_pb2.Acl | None) -> Access | None:
    """Return the access with which an object is to be stored whose ACL is asked for."""
    return None if asked is None or not adapter.capability.write_access else acl_of_message(asked).access


async def outcome_of_write(
    adapter: Adapter, info: ObjectInfo, asked: entry_pb2.Acl | None
) -> entry_pb2.AclOutcome | None:
    """Set what a write has not set of the ACL asked for; ``None`` when it is to be tried again."""
    if asked is None:
        return None
    if info.access is not None and not asked.grants:
        return outcome_of(asked, Acl(info.access))
    try:
        return await apply_acl(adapter, info.key, asked)
    except CdirError as error:
        logger.info("provider %s: the ACL of %s is set later: %s", adapter.info.name, info.key, error.message)
        return None


async def outcomes_of_writes(
    adapter: Adapter, stored: Sequence[ObjectInfo | CdirError], asked: Sequence[entry_pb2.Acl | None]
) -> Sequence[entry_pb2.AclOutcome | None]:
    """As :func:`outcome_of_write` for each of several writes, side by side: callers bound their number."""
    if all(acl is None for acl in asked):
        return [None] * len(stored)
    async with asyncio.TaskGroup() as group:
        setting = [
            None if isinstance(info, CdirError) else group.create_task(outcome_of_write(adapter, info, acl))
            for info, acl in zip(stored, asked, strict=True)
        ]
    return [None if task is None else task.result() for task in setting]
