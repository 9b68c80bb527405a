"""Files that a complete listing did not show: noted first, concluded from only when the whole scan has ended.

The delete guard stands between the two. When more is missing at a provider than :func:`most_lost` lets pass, nothing
follows at all: an emptied or wrongly mounted root is likelier than that somebody removed so much. The provider is then
UNKNOWN until what is missing is there again, or a person accepts the losses. ``providers.guard`` holds the reason; it
is empty while losses are accepted, until the next scan of the whole provider has ended.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.errors import NotFound
from cdir.v1 import entry_pb2, scan_pb2
from cdir_catalog.clock import now_ns
from cdir_catalog.schema import counters, entries, intents, providers, replicas, scans, versions
from cdir_catalog.store.copies import MISSING, OK, UNKNOWN, Content, Copy
from cdir_catalog.store.ledger import ChangeRow, Ledger
from cdir_catalog.store.locks import lock_workspaces
from cdir_catalog.store.outside import author_of, kept_for
from cdir_catalog.store.policies import Placer
from cdir_catalog.store.providers import RegisteredProvider, find_provider, load_providers
from cdir_catalog.wire import FILE

__all__ = [
    "BATCH",
    "accept_losses",
    "conclude",
    "end_acceptance",
    "guard",
    "is_missed",
    "missed_count",
    "most_lost",
    "withdraw_unread",
]

BATCH = 1000
"""Most losses concluded in one transaction."""

_FEWEST = 10
_SHARE = 5
"""Up to so many files, or one in so many, may be missing."""

is_missed = sa.and_(replicas.c.absent_at.is_not(None), replicas.c.actual.in_([OK, MISSING]))
"""The condition for copies that were not shown, and from which nothing was concluded yet."""


_HELD = sa.select(sa.func.sum(counters.c.files)).where(counters.c.provider_id == sa.bindparam("provider"))
_MISSED = sa.select(sa.func.count()).where(
    replicas.c.provider_id == sa.bindparam("provider"), replicas.c.absent_at.is_not(None), replicas.c.actual == OK
)


def held_count(connection: Connection, provider: int) -> int:
    """Return how many current files a provider is recorded to hold."""
    held = connection.scalar(_HELD, {"provider": provider})
    return int(held or 0)


def most_lost(connection: Connection, provider: int) -> int:
    """Return how many files may be missing at a provider before the guard steps in."""
    return max(_FEWEST, held_count(connection, provider) // _SHARE)


def missed_count(connection: Connection, provider: int) -> int:
    """Return how many good copies at a provider were not shown by the scan under way."""
    return connection.scalar(_MISSED, {"provider": provider}) or 0


def guard(connection: Connection, provider: RegisteredProvider) -> str:
    """Set or lift the guard by what is missing now; returns the reason why it holds, empty when it does not."""
    if provider.accepts_losses:
        return ""
    missed = missed_count(connection, provider.id)
    if missed <= most_lost(connection, provider.id):
        if provider.guard:
            _set_guard(connection, provider.id, None)
        return ""
    held = held_count(connection, provider.id)
    reason = (
        f"{missed} or more of {held} files are missing at {provider.name!r} at once, as in an emptied or wrongly"
        f" mounted root; bring it back, or take them for lost: cdir provider check {provider.name} --accept-losses"
    )
    if not provider.guard:
        _set_guard(connection, provider.id, reason)
    return reason


def _set_guard(connection: Connection, provider: int, reason: str | None) -> None:
    connection.execute(providers.update().where(providers.c.id == provider).values(guard=reason, state_since=now_ns()))


def end_acceptance(connection: Connection, provider: RegisteredProvider) -> None:
    """Put the guard back after the scan for which losses were accepted."""
    if provider.accepts_losses:
        connection.execute(providers.update().where(providers.c.id == provider.id).values(guard=None))


def accept_losses(
    connection: Connection, request: scan_pb2.AcceptLossesRequest, _author: str
) -> scan_pb2.AcceptLossesResponse:
    """CatalogService.AcceptLosses."""
    provider = find_provider(connection, providers.c.name == request.name)
    if provider is None:
        raise NotFound(f"there is no provider {request.name!r}", provider=request.name)
    if provider.guard:
        _set_guard(connection, provider.id, "")
        # what was not looked at any more once the guard held is found by the next scan
        connection.execute(
            scans.update()
            .where(scans.c.provider_id == provider.id, scans.c.prefix == "", scans.c.recursive == 1)
            .values(due_at=now_ns())
        )
    query = sa.select(replicas.c.id, replicas.c.version_id).where(replicas.c.provider_id == provider.id, is_missed)
    rows = connection.execute(query.order_by(replicas.c.key).limit(BATCH + 1)).all()
    accepted = conclude(connection, provider, [row.version_id for row in rows[:BATCH]])
    return scan_pb2.AcceptLossesResponse(accepted=accepted, remaining=len(rows) > BATCH and accepted > 0)


def conclude(connection: Connection, provider: RegisteredProvider, version_ids: list[int]) -> int:
    """Let follow what the policies say from the absence of these versions' copies; returns how many that were."""
    if not version_ids:
        return 0
    workspaces = connection.scalars(
        sa.select(entries.c.workspace_id)
        .join(versions, versions.c.entry_id == entries.c.id)
        .where(versions.c.id.in_(version_ids))
        .distinct()
    ).all()
    lock_workspaces(connection, workspaces)
    ledger = Ledger(connection, now_ns())
    ledger.load(version_ids)
    concluding = _Concluding(connection, ledger, provider)
    count = sum(concluding.conclude(content) for content in list(ledger.contents.values()))
    concluding.apply()
    ledger.settle()
    ledger.save()
    return count


def withdraw_unread(ledger: Ledger, inspected: Sequence[tuple[Content, Copy]]) -> None:
    """Give up current contents by others that nobody has read, and of which an inspection found the last copy gone.

    What was before is current again. The ledger is settled then, and still to be saved.
    """
    registered = {provider.id: provider for provider in load_providers(ledger.connection)} if inspected else {}
    for content, copy in inspected:
        if content.current and not any(one.actual in {OK, UNKNOWN} for one in content.copies):
            concluding = _Concluding(ledger.connection, ledger, registered[copy.provider_id])
            concluding.withdraw(content)
            concluding.apply()
    ledger.settle()


class _Concluding:
    def __init__(self, connection: Connection, ledger: Ledger, provider: RegisteredProvider) -> None:
        self._connection = connection
        self._ledger = ledger
        self._provider = provider
        contents = list(ledger.contents.values())
        paths: dict[int, list[str]] = defaultdict(list)
        for content in contents:
            paths[content.workspace_id].append(content.path)
        self._placers = {key: Placer(connection, key, these) for key, these in paths.items()}
        natural = {content.natural_key for content in contents}
        self._writing = set(connection.scalars(sa.select(intents.c.key).where(intents.c.key.in_(natural))))
        rows = connection.execute(sa.select(versions).where(versions.c.id.in_(ledger.contents.keys())))
        self._versions = {row.id: row for row in rows}
        self._fallbacks = self._load_fallbacks(contents)
        # with everything gone, no removal is believed
        missed = missed_count(connection, provider.id)
        self._is_emptied = missed > 1 and missed >= held_count(connection, provider.id)
        self._removed: list[int] = []
        self._restored: list[tuple[Content, int]] = []

    def _load_fallbacks(self, contents: list[Content]) -> dict[int, list[Any]]:
        """Return the kept older versions, newest first, of files whose current content nobody has read."""
        of = {one.entry_id for one in contents if one.current and not self._versions[one.id].sha256}
        query = (
            sa.select(versions.c.id, versions.c.entry_id)
            .where(versions.c.entry_id.in_(of), versions.c.expires_at.is_not(None))
            .order_by(versions.c.generation.desc())
        )
        found: dict[int, list[Any]] = defaultdict(list)
        for row in self._connection.execute(query) if of else ():
            found[row.entry_id].append(row)
        self._ledger.load(row.id for rows in found.values() for row in rows)
        return found

    def conclude(self, content: Content) -> bool:
        """Conclude from the absence of one copy; False when it cannot be now."""
        copy = content.at(self._provider.id)
        if copy is None or copy.absent_at is None or copy.actual not in {OK, MISSING}:
            return False
        if copy.leased(self._ledger.now) or content.natural_key in self._writing:
            return False
        policy = self._placers[content.workspace_id].policy(content.path)
        others = {one.actual for one in content.copies if one is not copy}
        if not content.current:
            copy.doubt()
        elif copy.actual == MISSING:
            copy.absent_at = None
            if not others & {OK, UNKNOWN}:
                self.withdraw(content)
        elif policy.outside_deletion == entry_pb2.OUTSIDE_DELETION_ASK:
            copy.actual = UNKNOWN
        elif policy.outside_deletion == entry_pb2.OUTSIDE_DELETION_ACCEPT and OK in others and not self._is_emptied:
            copy.actual = MISSING
            self._remove(content, policy)
        elif OK in others and copy.move_to is None and self._provider.lists_all:
            # making it anew only creates, so that not even a wrong listing does harm
            copy.lose()
        else:
            # before it is made anew, one look shows whether the listing was right
            copy.doubt()
        return True

    def withdraw(self, content: Content) -> None:
        """Give up a content by others that went away again before anybody had read it; others are left alone."""
        if self._versions[content.id].sha256:
            return
        policy = self._placers[content.workspace_id].policy(content.path)
        generation = self._versions[content.id].generation
        older = [self._ledger.contents[row.id] for row in self._fallbacks[content.entry_id]]
        good = next((one for one in older if any(copy.actual == OK for copy in one.copies)), None)
        if good is None:
            self._remove(content, policy)
            return
        self._ledger.supersede(content, kept_for(policy))
        good.current = True
        self._place(good)
        self._restored.append((good, generation + 1))
        self._ledger.count_files(content.workspace_id, 0, good.size - content.size)
        self._log(entry_pb2.CHANGE_KIND_WRITTEN, content, generation + 1)

    def _place(self, content: Content) -> None:
        """Have every provider that should hold a content that is current again owe what it does not hold."""
        holders = {copy.provider_id for copy in content.copies if copy.actual == OK}
        chosen = {one.id for one in self._placers[content.workspace_id].place(content.path, holders).chosen}
        for provider in sorted(chosen - {copy.provider_id for copy in content.copies}):
            content.copies.append(Copy(None, content.workspace_id, content.id, provider, content.natural_key))

    def _remove(self, content: Content, policy: entry_pb2.Policy) -> None:
        self._ledger.supersede(content, kept_for(policy))
        self._ledger.count_files(content.workspace_id, -1, -content.size)
        self._removed.append(content.entry_id)
        self._log(entry_pb2.CHANGE_KIND_REMOVED, content, self._versions[content.id].generation)

    def _log(self, kind: int, content: Content, generation: int) -> None:
        row = ChangeRow(kind, content.path, FILE, generation, author_of(self._provider))
        self._ledger.log(content.workspace_id, row)

    def apply(self) -> None:
        """Write what is not the ledger's to write."""
        if self._removed:
            self._connection.execute(
                entries.update()
                .where(entries.c.id.in_(self._removed))
                .values(removed_at=self._ledger.now, removed_by=author_of(self._provider))
            )
        for content, generation in self._restored:
            self._connection.execute(
                versions.update()
                .where(versions.c.id == content.id)
                .values(superseded_at=None, expires_at=None, generation=generation)
            )
            self._connection.execute(
                entries.update().where(entries.c.id == content.entry_id).values(version_id=content.id)
            )
