"""Older contents of files whose provider is given up.

Placement is about what is current. An older content stays where it was written; only when a provider leaves that has
the last good copy of one, another gets a copy.
"""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir_catalog.schema import replicas, versions
from cdir_catalog.store.copies import OK, Content, Copy
from cdir_catalog.store.ledger import Ledger
from cdir_catalog.store.policies import Placer

__all__ = ["hand_over_history"]


def hand_over_history(connection: Connection, placer: Placer, paths: Mapping[int, str], now: int) -> None:
    """Have others hold the older contents that providers on their way out hold; ``paths`` are of entries, by row id."""
    leaving = {provider.id for provider in placer.providers if provider.leaving}
    if not leaving:
        return
    found = connection.execute(
        sa.select(versions.c.id, versions.c.entry_id)
        .join(replicas, replicas.c.version_id == versions.c.id)
        .where(
            versions.c.entry_id.in_(paths),
            versions.c.superseded_at.is_not(None),
            replicas.c.provider_id.in_(leaving),
            replicas.c.wanted == 1,
        )
    ).all()
    if not found:
        return
    ledger = Ledger(connection, now)
    ledger.load(row.id for row in found)
    for content in ledger.contents.values():
        _hand_over(content, placer, leaving)
    ledger.settle()
    ledger.save()


def _hand_over(content: Content, placer: Placer, leaving: set[int]) -> None:
    elsewhere = [copy for copy in content.copies if copy.provider_id not in leaving and copy.wanted]
    if not any(copy.actual == OK for copy in elsewhere):
        present = {copy.provider_id for copy in content.copies}
        holders = {copy.provider_id for copy in content.copies if copy.actual == OK}
        heir = next(
            (
                candidate.id
                for candidate in placer.place(content.path, holders).chosen
                if candidate.id not in present and placer.by_id[candidate.id].writable
            ),
            None,
        )
        if heir is None:
            return  # nobody can take it: it stays wanted where it is, and the evacuation waits
        content.copies.append(Copy(None, content.workspace_id, content.id, heir, content.desired_key))
    for copy in content.copies:
        if copy.provider_id in leaving:
            copy.wanted = 0
