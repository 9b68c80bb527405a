"""Providers and their kinds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from cdir.model.states import ExitState, ProviderState

__all__ = ["CheckResult", "Kind", "Option", "ProviderInfo", "ProviderUsage"]


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a kind of provider."""

    name: str
    type: str
    required: bool
    secret: bool
    default: str
    description: str


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of provider."""

    kind: str
    description: str
    options: tuple[Option, ...]
    available: bool
    missing: str
    """What to install when it is not available; else empty."""


@dataclass(frozen=True, slots=True)
class ProviderInfo:
    """One registered provider. Secrets are named, never shown."""

    provider_id: str
    name: str
    kind: str
    options: Mapping[str, str]
    secret_names: tuple[str, ...]
    location: str
    priority: int
    cost: str
    read_only: bool
    bandwidth: int
    """The most bytes per second in each direction; 0 is no limit."""
    capability: Mapping[str, object]
    state: ProviderState
    state_since: datetime | None
    state_reason: str
    exit: ExitState | None = None
    """Set while it is given up."""


@dataclass(frozen=True, slots=True)
class ProviderUsage:
    """How full a provider is; ``None`` where it does not say."""

    name: str
    used: int | None
    free: int | None


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The outcome of one case of a provider check."""

    name: str
    outcome: str
    """``passed``, ``failed`` or ``skipped``."""
    message: str
