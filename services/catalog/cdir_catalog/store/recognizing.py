"""Telling which of the objects seen at providers are the contents that a snapshot knows."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir_catalog.clock import SECOND, now_ns
from cdir_catalog.keys import aside_key
from cdir_catalog.schema import sightings, versions
from cdir_catalog.store.copies import MISSING, OK, UNKNOWN, Content, Copy
from cdir_catalog.store.ledger import Ledger
from cdir_catalog.store.providers import RegisteredProvider

__all__ = ["Listed", "Verdict", "compare", "recognize", "recognize_known"]

_PAGE = 200
_FINEST = 1000
"""Nanoseconds: times of objects travel with microseconds."""


class Listed:
    """The providers whose every object was seen, by row id."""

    def __init__(self, providers: Sequence[RegisteredProvider], provider_ids: Iterable[str]) -> None:
        ids = set(provider_ids)
        self.every = tuple(providers)
        self.by_id = {one.provider_id: one for one in providers if one.provider_id in ids}
        self.rows = {one.id for one in self.by_id.values()}

    def precision(self, provider_id: str) -> int:
        """Return the step, in nanoseconds, of the times that a provider keeps."""
        value = self.by_id[provider_id].record.capability.fields.get("modified_precision")
        return max(_FINEST, 0 if value is None else round(value.number_value * SECOND))


class Verdict(enum.Enum):
    """Whether an object is a content."""

    SAME = "same"
    LIKELY = "likely"
    """Nothing speaks against it, and only reading can tell."""
    OTHER = "other"


def compare(content: Content, modified_at: int, copy: Copy | None, seen: Any, precision: int) -> Verdict:
    """Hold a sighting against a content and what was recorded of its copy there.

    The provider's own word for the content decides; without one, size and modified time are as good as for rsync. A
    differing ETag alone is no proof where times are kept: some servers make it from where the file lies on the disk.
    """
    if seen.size != content.size:
        return Verdict.OTHER
    if seen.key == aside_key(content.version_id):
        return Verdict.SAME  # nothing else is ever there
    etags = copy is not None and copy.etag and seen.etag
    checksums = copy is not None and copy.checksum and seen.checksum
    if copy is not None and ((etags and copy.etag == seen.etag) or (checksums and copy.checksum == seen.checksum)):
        return Verdict.SAME
    if seen.exact and seen.modified_at is not None:
        return Verdict.SAME if abs(seen.modified_at - modified_at) <= precision else Verdict.OTHER
    return Verdict.OTHER if etags or checksums else Verdict.LIKELY


def recognize_known(connection: Connection, listed: Listed) -> set[int]:
    """Record for every version where the providers listed hold it, current ones first.

    Copies at other providers become uncertain. Older versions of which nothing is left are forgotten. Returns the
    contents that :func:`recognize` does.
    """
    on_their_way = set()
    for condition in (versions.c.superseded_at.is_(None), versions.c.superseded_at.is_not(None)):
        query = sa.select(versions.c.id, versions.c.modified_at).where(condition).order_by(versions.c.id).limit(_PAGE)
        rows = connection.execute(query).all()
        while rows:
            on_their_way |= recognize(connection, listed, {row.id: row.modified_at for row in rows})
            rows = connection.execute(query.where(versions.c.id > rows[-1].id)).all()
    return on_their_way


def recognize(connection: Connection, listed: Listed, modified: Mapping[int, int]) -> set[int]:
    """Record where the providers listed hold some versions, given by row id with their modified times.

    Returns the current contents found aside whose copies had not come to their file's new name when it was last known:
    another file that took the old name moved them there.
    """
    ledger = Ledger(connection, now_ns())
    ledger.load(modified)
    keys: dict[int, list[str]] = {}
    for content in ledger.contents.values():
        keys[content.id] = _possible_keys(content)
    seen = _unexplained(connection, {key for possible in keys.values() for key in possible})
    explained: list[dict[str, Any]] = []
    on_their_way: set[int] = set()
    for content in ledger.contents.values():
        for provider in listed.every:
            copy = content.at(provider.id)
            if provider.id not in listed.rows:
                if copy is not None and copy.actual == OK:
                    copy.actual = UNKNOWN
                continue
            here = [seen[provider.provider_id, key] for key in keys[content.id] if (provider.provider_id, key) in seen]
            precision = listed.precision(provider.provider_id)
            verdicts = [(compare(content, modified[content.id], copy, one, precision), one) for one in here]
            found = next((pair for pair in verdicts if pair[0] is Verdict.SAME), None) or next(
                (pair for pair in verdicts if pair[0] is Verdict.LIKELY), None
            )
            if found is not None:
                under = found[1].key
                under_way = copy is not None and (copy.move_to is not None or copy.key == under)
                if content.current and under_way and under == aside_key(content.version_id):
                    on_their_way.add(content.id)
                _record(content, copy, provider.id, *found, now=ledger.now)
                del seen[provider.provider_id, under]
                explained.append({"at": provider.provider_id, "under": under, "version_id": content.id})
            elif copy is not None:
                copy.actual = MISSING
    ledger.settle()
    ledger.save()
    if explained:
        connection.execute(
            sightings.update().where(
                sightings.c.provider == sa.bindparam("at"), sightings.c.key == sa.bindparam("under")
            ),
            explained,
        )
    return on_their_way


def _possible_keys(content: Content) -> list[str]:
    """Return where a content may lie, the best first."""
    recorded = [key for copy in content.copies for key in (copy.key, copy.move_to) if key is not None]
    return list(dict.fromkeys([content.desired_key, *recorded, content.natural_key, aside_key(content.version_id)]))


def _unexplained(connection: Connection, keys: set[str]) -> dict[tuple[str, str], Any]:
    rows = connection.execute(
        sa.select(sightings).where(sightings.c.key.in_(sorted(keys)), sightings.c.version_id.is_(None))
    )
    return {(row.provider, row.key): row for row in rows}


def _record(content: Content, copy: Copy | None, provider: int, verdict: Verdict, seen: Any, *, now: int) -> None:
    if copy is None:
        copy = Copy(None, content.workspace_id, content.id, provider, seen.key)
        content.copies.append(copy)
    copy.key, copy.move_to, copy.wanted = seen.key, None, 1
    proven = copy.proven_at
    copy.mark_ok(now, seen.etag, seen.checksum)
    copy.proven_at = proven  # its bytes were not looked at now
    if verdict is Verdict.LIKELY:
        copy.actual = UNKNOWN
