"""The mark that cdir leaves at the root of every provider, and what it says when it is met again.

The mark is the small object ``.cdir/provider``. It tells an empty provider from one that is not there (an unmounted
disk, a wrong bucket), one cdir home from another, and keeps one root from being registered twice under two names: each
of these would otherwise end in copies that are counted twice or taken for lost.
"""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from typing import Self

from cdir.errors import NotFound, PreconditionFailed
from cdir_adapters.adapter import Adapter, ByteRange

__all__ = ["MARK_KEY", "PROBE_PREFIX", "Mark", "check_ours", "claim_root", "read_mark", "write_mark"]

MARK_KEY = ".cdir/provider"
PROBE_PREFIX = ".cdir/probe-"
"""Where the capability probe works, before the mark is written."""

_FORMAT = 1
_MAX_BYTES = 1 << 16


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What the mark says. Text fields only: it is read by people too."""

    home_id: str
    provider_id: str
    name: str
    """Name of the provider when the mark was written; a rename leaves the mark alone."""
    created: str
    """When it was written, ISO 8601 in UTC."""

    @classmethod
    def new(cls, *, home_id: str, provider_id: str, name: str) -> Self:
        created = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(home_id=home_id, provider_id=provider_id, name=name, created=created)

    def to_bytes(self) -> bytes:
        values = {"format": _FORMAT, **dataclasses.asdict(self)}
        return json.dumps(values, indent=2, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Raises ValueError when it is no mark, or one of a format that this build does not know."""
        values = json.loads(data)
        if not isinstance(values, dict) or values.get("format") != _FORMAT:
            raise ValueError(f"not a mark of format {_FORMAT}")
        names = [field.name for field in dataclasses.fields(cls)]
        if not all(isinstance(values.get(name), str) for name in names):
            raise ValueError("a field is missing")
        return cls(**{name: values[name] for name in names})


async def read_mark(adapter: Adapter) -> Mark | None:
    """Return the mark at a provider's root; ``None`` when there is none. Raises PreconditionFailed when what lies there
    cannot be read as a mark."""
    try:
        found = await adapter.fetch(MARK_KEY, range=ByteRange(0, _MAX_BYTES))
    except NotFound:
        return None
    try:
        return Mark.from_bytes(found.data)
    except ValueError as error:
        raise PreconditionFailed(
            f"provider {adapter.info.name}: the mark {MARK_KEY} at {adapter.info.location} is damaged or of a newer"
            f" cdir ({error}); check it, then remove it and add the provider again",
            provider=adapter.info.name,
        ) from error


async def write_mark(adapter: Adapter, mark: Mark) -> None:
    """Leave ``mark``, replacing another."""
    data = mark.to_bytes()
    await adapter.write(MARK_KEY, data, size=len(data), modified=datetime.now(UTC))


def claim_root(
    found: Mark | None, *, home_id: str, provider_id: str, registered: bool, location: str, adopt: bool
) -> bool:
    """Decide whether a root may be used; return whether the mark has to be written.

    ``registered`` says whether the provider that the mark names is still registered. Raises PreconditionFailed when
    the root belongs to another registered provider of this home, whatever ``adopt`` says, or to another home and
    ``adopt`` is false.
    """
    if found is None:
        return True
    if found.home_id == home_id:
        if found.provider_id == provider_id:
            return False
        if not registered:
            return True  # it was removed since; its mark stayed with its objects
        raise PreconditionFailed(
            f"{location} is registered already as {found.name}; use that provider, or choose another root",
            provider=found.name,
        )
    if adopt:
        return True
    raise PreconditionFailed(
        f"{location} belongs to another cdir home ({found.home_id[:8]}, as provider {found.name}, since"
        f" {found.created}); choose another root, or take it over with --adopt",
        provider=found.name,
    )


def check_ours(found: Mark | None, *, home_id: str, provider_id: str, name: str, location: str) -> None:
    """Raise PreconditionFailed unless the mark is the one left for this provider."""
    if found is None:
        raise PreconditionFailed(
            f"provider {name}: {location} answers, but cdir's mark {MARK_KEY} is missing there; is it the right disk,"
            " bucket or account?",
            provider=name,
        )
    if found.home_id != home_id or found.provider_id != provider_id:
        raise PreconditionFailed(
            f"provider {name}: {location} carries the mark of "
            + (f"provider {found.name}" if found.home_id == home_id else f"another cdir home ({found.home_id[:8]})")
            + "; is it the right disk, bucket or account?",
            provider=name,
        )
