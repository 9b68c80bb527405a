"""Placement: which providers should hold a file. Pure: no database, no clock, no randomness."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from cdir.v1 import entry_pb2

__all__ = ["Candidate", "Placement", "effective_policy", "place"]

DEFAULT_KEEP_VERSIONS = 10
DEFAULT_KEEP_SECONDS = 30 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Candidate:
    """A registered provider, as far as placement looks at it."""

    id: int
    name: str
    location: str = ""
    priority: int = 100
    leaving: bool = False
    """It is being evacuated: it gets nothing, and what it holds is to be elsewhere."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a file should be."""

    chosen: tuple[Candidate, ...]
    """In the order of preference: the policy's, then priority, then name."""
    min_copies: int
    """How many must be durable before a write is acknowledged; 0 only when nothing was chosen."""
    reasons: dict[int, str]
    """One sentence for every candidate, by id."""


def effective_policy(rules: Iterable[entry_pb2.Policy]) -> entry_pb2.Policy:
    """Merge rules, nearest first, and fill in the defaults.

    ``copies`` stays absent where every provider is meant, ``min_copies`` where it follows from their number.
    """
    merged = entry_pb2.Policy()
    for rule in rules:
        for name in ("copies", "min_copies", "keep_versions", "keep_seconds"):
            if rule.HasField(name) and not merged.HasField(name):
                setattr(merged, name, getattr(rule, name))
        merged.outside_deletion = merged.outside_deletion or rule.outside_deletion
        for name in ("providers", "prefer"):
            if getattr(rule, name) and not getattr(merged, name):
                getattr(merged, name).extend(getattr(rule, name))
    if not merged.HasField("keep_versions"):
        merged.keep_versions = DEFAULT_KEEP_VERSIONS
    if not merged.HasField("keep_seconds"):
        merged.keep_seconds = DEFAULT_KEEP_SECONDS
    merged.outside_deletion = merged.outside_deletion or entry_pb2.OUTSIDE_DELETION_REPAIR
    return merged


def _weight(seed: str, candidate: Candidate) -> bytes:
    return hashlib.blake2b(f"{seed}\0{candidate.id}".encode(), digest_size=8).digest()


def place(
    policy: entry_pb2.Policy,
    candidates: Sequence[Candidate],
    seed: str,
    holders: Collection[int] = (),
    favoured: Collection[int] = (),
) -> Placement:
    """Choose among ``candidates`` as an effective ``policy`` says.

    ``seed`` spreads files evenly over providers that are otherwise equal (rendezvous hashing: when a provider comes or
    goes, only the files that it gains or loses move). ``holders`` are the ids of providers that hold a good copy; they
    are chosen first, so that no copy is moved without need; then the ``favoured``, which are to take over from one that
    leaves.
    """
    reasons: dict[int, str] = {}
    allowed = []
    for candidate in candidates:
        if candidate.leaving:
            reasons[candidate.id] = "it is being evacuated"
        elif policy.providers and candidate.name not in policy.providers:
            reasons[candidate.id] = "the policy names other providers"
        else:
            allowed.append(candidate)
    if not policy.HasField("copies") or policy.copies >= len(allowed):
        chosen = allowed
        for candidate in chosen:
            reasons[candidate.id] = "every provider of the policy holds the file"
    else:
        chosen = _choose(policy.copies, allowed, seed, (holders, favoured), reasons)
    order = {name: index for index, name in enumerate(policy.prefer)}
    ordered = tuple(sorted(chosen, key=lambda one: (order.get(one.name, len(order)), one.priority, one.name)))
    default = 2 if len(ordered) >= 3 else 1
    minimum = policy.min_copies if policy.HasField("min_copies") else default
    return Placement(ordered, min(minimum, len(ordered)), reasons)


def _choose(
    copies: int,
    allowed: Sequence[Candidate],
    seed: str,
    first: tuple[Collection[int], Collection[int]],
    reasons: dict[int, str],
) -> list[Candidate]:
    holders, favoured = first
    left = {candidate.id: candidate for candidate in allowed}
    locations: set[str] = set()
    chosen: list[Candidate] = []
    while left and len(chosen) < copies:
        best = min(
            left.values(),
            key=lambda one: (
                one.id not in holders,
                one.id not in favoured,
                one.priority,
                bool(one.location) and one.location in locations,
                _weight(seed, one),
            ),
        )
        del left[best.id]
        chosen.append(best)
        if best.id in holders:
            reasons[best.id] = "it holds a good copy already"
        elif best.id in favoured:
            reasons[best.id] = "it takes over from a provider that is being evacuated"
        elif best.location and best.location not in locations:
            reasons[best.id] = f"chosen by priority, in a place ({best.location}) that no other copy is in"
        else:
            reasons[best.id] = "chosen by priority, then by an even spread of the files"
        locations.add(best.location)
    for candidate in left.values():
        reasons[candidate.id] = f"{copies} others come before it, and the policy wants {copies} copies"
    return chosen
