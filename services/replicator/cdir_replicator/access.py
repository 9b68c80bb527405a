"""Asking providers who may do what with copies, and having set anew what is not as it was set.

Others may change it there without cdir. Setting is left to the debt: what is found is owed, and worked off at once.
"""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import logging
from collections.abc import Callable, Sequence
from typing import Final

from cdir.errors import CdirError, NotFound, Unsupported
from cdir.status import translated
from cdir.v1 import (
    adapter_service_pb2,
    adapter_service_pb2_grpc,
    catalog_service_pb2_grpc,
    entry_pb2,
    provider_pb2,
    scrub_pb2,
)
from cdir_replicator.allowance import Allowance
from cdir_transfer.listing import provider_ref
from cdir_transfer.observer import is_providers_fault

__all__ = ["AccessWatch", "Looked", "Verdict", "compare"]

logger = logging.getLogger(__name__)

_CALL_SECONDS: Final = 60.0
_CATALOG_SECONDS: Final = 60.0
_BATCH: Final = 100
_AT_ONCE: Final = 4


class Verdict(enum.Enum):
    """How what is in force compares with what was set."""

    RIGHT = enum.auto()
    WIDER = enum.auto()
    """Somebody may do what was not asked for."""
    OTHER = enum.auto()
    """Nobody may do more than was asked, and not everybody all of it."""
    UNTELLABLE = enum.auto()
    """Grants to addresses come back as ids: whether those are the right ones only setting them again makes sure."""


def compare(asked: entry_pb2.Acl, state: entry_pb2.AclState.ValueType, in_force: entry_pb2.Acl) -> Verdict:
    """Compare what a provider says with what was asked for there and had come to ``state``."""
    wanted = {(grant.grantee, grant.right) for grant in asked.grants}
    given = {(grant.grantee, grant.right) for grant in in_force.grants}
    extra = {grant for grant in given - wanted if not _covers(asked, *grant)}
    if in_force.access > asked.access:
        return Verdict.WIDER
    addresses = [right for grantee, right in wanted - given if grantee.startswith("email:")]
    ids = [right for grantee, right in extra if grantee.startswith("user:")]
    if len(ids) < len(extra) or any(ids.count(right) > addresses.count(right) for right in ids):
        return Verdict.WIDER
    if ids:
        return Verdict.UNTELLABLE
    if state == entry_pb2.ACL_STATE_NARROWER or (in_force.access == asked.access and given == wanted):
        return Verdict.RIGHT
    return Verdict.OTHER


def _covers(acl: entry_pb2.Acl, grantee: str, right: entry_pb2.AclRight.ValueType) -> bool:
    """Whether a grantee may do as much by ``acl``."""
    full = any(grant.grantee == grantee and grant.right == entry_pb2.ACL_RIGHT_FULL for grant in acl.grants)
    reads = right == entry_pb2.ACL_RIGHT_READ and acl.access >= entry_pb2.ACL_ACCESS_PUBLIC_READ
    writes = right == entry_pb2.ACL_RIGHT_WRITE and acl.access == entry_pb2.ACL_ACCESS_PUBLIC_READ_WRITE
    return full or reads or writes


@dataclasses.dataclass(frozen=True, slots=True)
class Looked:
    """How far a look at one provider has come."""

    last: int
    """Where the next look goes on; 0 when it was through."""
    bounded: bool
    """Whether a bound ended it."""
    error: CdirError | None = None
    """Why the provider was asked no further."""


class AccessWatch:
    """Asks for the access of copies; ``on_owed`` is called as soon as some are owed theirs."""

    def __init__(
        self,
        catalog: catalog_service_pb2_grpc.CatalogServiceAsyncStub,
        adapters: adapter_service_pb2_grpc.AdapterServiceAsyncStub,
        on_owed: Callable[[], None],
    ) -> None:
        self._catalog = catalog
        self._adapters = adapters
        self._on_owed = on_owed

    async def look(
        self,
        provider: provider_pb2.Provider,
        top: str,
        allowance: Allowance,
        progress: scrub_pb2.ScrubProgress,
        *,
        after: int = 0,
        most: int | None = None,
    ) -> Looked:
        """Ask for the access of copies at or below ``top`` (``""`` is everything) that have an ACL, from ``after`` on.

        Costs no call where there are none, and one per copy else. A copy at which the provider fails is not met again
        before the next round, so that it does not keep all later ones from being looked at.
        """
        last, looked = after, 0
        while True:
            items = await self._read(provider, top, last, _BATCH if most is None else min(_BATCH, most - looked + 1))
            if not items:
                return Looked(0, bounded=False)
            if not _tells(provider):
                _note_untold(provider, progress)
                return Looked(0, bounded=False)
            start = 0
            while start < len(items):
                some = items[start : start + _AT_ONCE]
                if most is not None:
                    some = some[: most - looked]
                some = [item for item in some if _taken(allowance)]
                if not some:
                    return Looked(last, bounded=True)
                progress.calls += len(some)
                error = await self._look_at(provider, some, progress)
                last, looked, start = some[-1].access_id, looked + len(some), start + len(some)
                if error is not None:
                    return Looked(last, bounded=False, error=error)

    async def _read(
        self, provider: provider_pb2.Provider, top: str, after: int, limit: int
    ) -> Sequence[scrub_pb2.AccessItem]:
        request = scrub_pb2.ReadAccessRequest(
            provider_id=provider.provider_id, top=top, after=after, limit=max(limit, 1)
        )
        with translated():
            return (await self._catalog.ReadAccess(request, timeout=_CATALOG_SECONDS)).items

    async def _look_at(
        self, provider: provider_pb2.Provider, items: Sequence[scrub_pb2.AccessItem], progress: scrub_pb2.ScrubProgress
    ) -> CdirError | None:
        """Judge copies side by side, and have those owed whose access is wrong; return why the provider as a whole
        fails. What it said of some counts all the same."""
        async with asyncio.TaskGroup() as asking:
            asked = [asking.create_task(self._ask(provider, item)) for item in items]
        doubts: list[scrub_pb2.AccessDoubt] = []
        verdicts: dict[int, Verdict] = {}
        broken: CdirError | None = None
        for item, found in zip(items, (task.result() for task in asked), strict=True):
            if isinstance(found, entry_pb2.Acl):
                verdict = verdicts[item.access_id] = compare(item.asked, item.state, found)
                if verdict is Verdict.RIGHT:
                    progress.access_right += 1
                else:
                    doubts.append(scrub_pb2.AccessDoubt(item=item, error=f"others made it {_words(found)} there"))
            elif isinstance(found, Unsupported):
                _note_untold(provider, progress)
            elif not isinstance(found, NotFound):  # that it is gone, its proof finds
                logger.info("the access of %s at provider %s is not known: %s", item.key, provider.name, found.message)
                progress.access_failed += 1
                broken = found if is_providers_fault(found) else broken
        if doubts:
            await self._owe(provider, doubts, verdicts, progress)
        return broken

    async def _ask(self, provider: provider_pb2.Provider, item: scrub_pb2.AccessItem) -> entry_pb2.Acl | CdirError:
        if item.state == entry_pb2.ACL_STATE_UNSUPPORTED:
            return Unsupported("nothing could be set there")
        request = adapter_service_pb2.GetObjectAclRequest(provider=provider_ref(provider), key=item.key)
        try:
            with translated():
                return (await self._adapters.GetObjectAcl(request, timeout=_CALL_SECONDS)).acl
        except CdirError as error:
            return error

    async def _owe(
        self,
        provider: provider_pb2.Provider,
        doubts: Sequence[scrub_pb2.AccessDoubt],
        verdicts: dict[int, Verdict],
        progress: scrub_pb2.ScrubProgress,
    ) -> None:
        with translated():
            response = await self._catalog.OweAccess(
                scrub_pb2.OweAccessRequest(doubts=doubts), timeout=_CATALOG_SECONDS
            )
        owed = set(response.owed)
        for doubt in doubts:
            verdict = verdicts[doubt.item.access_id]
            if doubt.item.access_id not in owed or verdict is Verdict.UNTELLABLE:
                continue
            wider = verdict is Verdict.WIDER
            progress.access_wider += wider
            progress.access_other += not wider
            logger.warning(
                "%s at provider %s is open to %s than asked: %s",
                doubt.item.key,
                provider.name,
                "more" if wider else "others",
                doubt.error,
            )
        if owed:
            self._on_owed()


def _taken(allowance: Allowance) -> bool:
    """Take the call for one copy from the allowance, where one is left."""
    if not allowance.left:
        return False
    allowance.spend(calls=1)
    return True


def _tells(provider: provider_pb2.Provider) -> bool:
    stated = provider.capability.fields.get("acl")
    return stated is not None and stated.bool_value


def _note_untold(provider: provider_pb2.Provider, progress: scrub_pb2.ScrubProgress) -> None:
    if provider.name not in progress.access_untold:
        progress.access_untold.append(provider.name)


def _words(acl: entry_pb2.Acl) -> str:
    access = entry_pb2.AclAccess.Name(acl.access).removeprefix("ACL_ACCESS_").lower().replace("_", "-")
    grants = (
        f"{grant.grantee}:{entry_pb2.AclRight.Name(grant.right).removeprefix('ACL_RIGHT_').lower()}"
        for grant in acl.grants
    )
    return ", ".join([access, *grants])
