"""Keys that cdir has emptied lately: an old listing that still shows what was there must not bring it back."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir_catalog.clock import SECOND
from cdir_catalog.schema import vacancies, versions
from cdir_catalog.store.copies import Content, Copy
from cdir_catalog.store.listed import Found, Yardstick

__all__ = ["Vacancies", "note_vacancies", "prune_vacancies"]

_REMEMBERED = 24 * 3600 * SECOND
"""How long a listing may be old and still be known as old by what it shows."""


def note_vacancies(connection: Connection, emptied: Iterable[tuple[int, str, Copy, Content | None]], now: int) -> None:
    """Remember keys from which cdir removed or moved an object: (provider row id, key, copy, its content)."""
    rows = list(emptied)
    ids = {content.id for _, _, _, content in rows if content is not None}
    modified: dict[int, int] = {}
    if ids:
        query = sa.select(versions.c.id, versions.c.modified_at).where(versions.c.id.in_(ids))
        modified = {row.id: row.modified_at for row in connection.execute(query)}
    if rows:
        connection.execute(
            vacancies.insert(),
            [
                {
                    "provider_id": provider,
                    "key": key,
                    "at": now,
                    "size": None if content is None else content.size,
                    "modified_at": None if content is None else modified.get(content.id),
                    "etag": copy.etag,
                }
                for provider, key, copy, content in rows
            ],
        )


_PRUNE = vacancies.delete().where(vacancies.c.at < sa.bindparam("before"))


def prune_vacancies(connection: Connection, now: int) -> None:
    """Forget what is too long ago to matter."""
    connection.execute(_PRUNE, {"before": now - _REMEMBERED})


class Vacancies:
    """What was at some keys of a provider before cdir emptied them."""

    def __init__(self, connection: Connection, provider: int, keys: Collection[str]) -> None:
        self._last: dict[str, Any] = {}
        query = (
            sa.select(vacancies)
            .where(vacancies.c.key.in_(keys), vacancies.c.provider_id == provider)
            .order_by(vacancies.c.at)
        )
        for row in connection.execute(query):
            self._last[row.key] = row

    def since(self, key: str, moment: int) -> bool:
        """Say whether the key was emptied at or after a moment."""
        row = self._last.get(key)
        return row is not None and row.at >= moment

    def shows(self, found: Found, yardstick: Yardstick) -> bool:
        """Say whether an object looks like what was there before."""
        row = self._last.get(found.key)
        if row is None or row.size is None or row.modified_at is None:
            return False
        return yardstick.equals(_Marks(row.etag), row.size, row.modified_at, found)


class _Marks:
    """The marks of an object that is gone."""

    def __init__(self, etag: str) -> None:
        self.etag = etag
        self.checksum = ""
        self.seen_modified: int | None = None
