"""What a subtree wants, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass

from cdir.model.states import OutsideDeletion

__all__ = ["PlacementExplanation", "PlacementReason", "Policy", "PolicyRule"]


@dataclass(frozen=True, slots=True)
class Policy:
    """What a subtree wants. ``None`` and empty mean: inherited from the nearest parent that says something."""

    copies: int | None = None
    """How many providers hold each file; by default every one."""
    min_copies: int | None = None
    """How many copies must be durable before a write is acknowledged; by default 2 of three or more, else 1."""
    providers: tuple[str, ...] = ()
    """Restricts the choice to these; by default every registered one."""
    prefer: tuple[str, ...] = ()
    """The order in which to read; the others follow by measured speed."""
    keep_versions: int | None = None
    """How many older versions are kept; by default 10."""
    keep_seconds: int | None = None
    """How long a replaced or removed version is kept; by default 30 days."""
    outside_deletion: OutsideDeletion | None = None
    """What it means when others removed a file at a provider; by default it is repaired."""


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """A policy and the path it is set on."""

    path: str
    policy: Policy


@dataclass(frozen=True, slots=True)
class PlacementReason:
    """Why a provider is chosen or not."""

    provider: str
    chosen: bool
    reason: str


@dataclass(frozen=True, slots=True)
class PlacementExplanation:
    """Which policy holds for a path, where it comes from, and what follows from it."""

    policy: Policy
    rules: tuple[PolicyRule, ...]
    reasons: tuple[PlacementReason, ...]
