"""What ``status`` says first: is all where it should be, how surely is that known, and if not, whose fault is it."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Final

from cdir.cli.output import NO_PROVIDER, count, human_time
from cdir.model import ExitState, ProviderState, ProviderStatus, TreeStatus

__all__ = ["headline", "oldest_proof", "status_line"]

_MOST_NAMED: Final = 3
"""Providers in trouble that the line names; the table below it has them all."""


def headline(tree: TreeStatus, now: datetime | None = None) -> list[str]:
    """Return the line that sums a tree up, and a line for each thing that waits for a person or is still going on."""
    if not tree.providers:
        return [NO_PROVIDER]
    lines = [status_line(tree, now)]
    if tree.quarantined:
        lines.append(
            f"{count(tree.quarantined, 'copy', 'copies')} could not be repaired again and again; "
            "see why below, then run `cdir repair`"
        )
        lines += [f"  {copy.path} at {copy.provider}: {copy.error}" for copy in tree.quarantined_copies]
    if tree.absent:
        lines.append(
            f"{count(tree.absent, 'copy', 'copies')} removed by others at their provider: `cdir repair PATH` makes one "
            "anew, `cdir rm PATH` removes the file everywhere"
        )
    if tree.conflicts:
        lines.append(
            f"{count(tree.conflicts, 'conflicting copy', 'conflicting copies')}: `cdir status --conflicts` lists them, "
            "`cdir mv` or `cdir rm` settles one"
        )
    if tree.unplaced:
        lines.append("a change of providers or policies is still being worked in")
    if tree.removals:
        lines.append(f"{count(tree.removals, 'old object')} still to be cleared away")
    return lines


def status_line(tree: TreeStatus, now: datetime | None = None) -> str:
    """Return one line: files and copies, how old the oldest proof is, which providers owe or are out of reach."""
    if not tree.providers:
        return NO_PROVIDER
    parts = [f"{_files(tree)}{_proof(tree, now or datetime.now(UTC))}"]
    troubles = [text for provider in tree.providers for text in (_leaving(provider), _trouble(provider)) if text]
    parts += troubles[:_MOST_NAMED]
    if len(troubles) > _MOST_NAMED:
        parts.append(f"and {count(len(troubles) - _MOST_NAMED, 'provider')} more")
    return "; ".join(parts)


def oldest_proof(tree: TreeStatus) -> datetime | None:
    """Return since when every good copy is known to be right: the oldest proof of all. ``None`` where there is no copy,
    or one that was never proven."""
    holding = [provider for provider in tree.providers if provider.proven is not None or provider.unproven]
    if any(provider.unproven for provider in holding):
        return None
    return min((provider.proven for provider in holding if provider.proven is not None), default=None)


def _files(tree: TreeStatus) -> str:
    files = count(tree.files, "file")
    if not tree.files:
        return f"no files yet, {count(len(tree.providers), 'provider')}"
    if tree.owed:
        return f"{files}, {count(tree.owed, 'copy', 'copies')} owed"
    if any(provider.files != tree.files for provider in tree.providers):
        return f"{files}, each wherever its policy wants it"
    if len(tree.providers) == 1:
        return f"{files}, all on {tree.providers[0].name}"
    return f"{files}, all on {count(len(tree.providers), 'provider')}"


def _proof(tree: TreeStatus, now: datetime) -> str:
    if not tree.files:
        return ""
    if any(provider.unproven for provider in tree.providers):
        return ", not every copy proven yet"
    oldest = oldest_proof(tree)
    if oldest is None:
        return ""
    which = "every other copy" if tree.owed else "every copy"
    return f", {which} proven within the last {_at_most(now - oldest)}"


def _at_most(age: timedelta) -> str:
    """Return a round time that is not shorter than ``age``: what the line says must hold."""
    minutes = max(1, math.ceil(age.total_seconds() / 60))
    if minutes <= 90:
        return "minute" if minutes == 1 else f"{minutes} min"
    hours = math.ceil(minutes / 60)
    return f"{hours} h" if hours <= 48 else f"{math.ceil(hours / 24)} days"


def _leaving(provider: ProviderStatus) -> str:
    """Return since when a provider is being given up and how much of that is left; one that may go is at rest."""
    if provider.exit is None or provider.exit is ExitState.EVACUATED:
        return ""
    since = f" since {human_time(provider.exit_since)}" if provider.exit_since else ""
    left = "" if provider.files_left is None else f", {count(provider.files_left, 'file')} still to go"
    waits = f": {provider.exit_waits}" if provider.exit_waits else ""
    return f"{provider.name} is {provider.exit.value}{since}{left}{waits}"


def _trouble(provider: ProviderStatus) -> str:
    state = _state(provider)
    if provider.owed:
        verb = "owes" if provider.owed == 1 else "owe"
        why = "" if provider.state is ProviderState.UP else f", {state}"
        return f"{count(provider.owed, 'file')} {verb} a copy to {provider.name}{why}"
    # one that nobody has looked at yet is in no trouble
    quiet = provider.state is ProviderState.UP or (provider.state is ProviderState.UNKNOWN and not provider.files)
    return "" if quiet else f"{provider.name} is {state}"


def _state(provider: ProviderStatus) -> str:
    """Return how a provider answers, since when and why."""
    if provider.state is ProviderState.UP:
        return "up"
    since = f" since {human_time(provider.state_since)}" if provider.state_since else ""
    reason = f": {provider.state_reason}" if provider.state_reason else ""
    return f"{provider.state.value}{since}{reason}"
