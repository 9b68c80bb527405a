"""``status``, ``explain``, ``versions``, ``repair``, ``watch``: which copies there are, and why."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

import click

from cdir.cli.command import command, dry_run_option
from cdir.cli.commands.history import conflict_line, conflict_rows
from cdir.cli.commands.policy import policy_lines, policy_row
from cdir.cli.exits import Exit
from cdir.cli.headline import headline, oldest_proof, status_line
from cdir.cli.output import Row, count, human_size, human_time, rfc3339, table
from cdir.cli.session import Session
from cdir.errors import IsDirectory
from cdir.model import Change, FileStatus, ProviderStatus, TreeStatus

if TYPE_CHECKING:
    from cdir.client import Client

__all__ = ["explain", "file_status_row", "repair", "status", "tree_status_row", "versions", "watch"]


@command("status", "cdir status", "cdir status /photos/cat.jpg", "cdir status --conflicts", "cdir status --output json")
@click.argument("path", default="/")
@click.option("--conflicts", is_flag=True, help="List the conflicting copies below PATH instead.")
async def status(session: Session, path: str, conflicts: bool) -> None:
    """Show which copies there are and which are owed: of a file, of a tree, or of everything."""
    target = session.path(path)
    async with session.client() as client:
        if conflicts:
            number = await session.output.stream(conflict_rows(client, target), conflict_line)
            if not number and session.output.for_people:
                session.output.say("no conflicting copies")
            return
        try:
            file = None if target in {"/", "."} or target.endswith("/") else await client.file_status(target)
        except IsDirectory:
            file = None
        if file is not None:
            session.output.record(file_status_row(file), _file_lines(file))
            return
        tree = await client.tree_status(target)
    session.output.record(tree_status_row(tree), [*headline(tree), *_provider_table(tree.providers)])


def file_status_row(file: FileStatus) -> dict[str, object]:
    """Return a file's status as programs read it."""
    entry = file.entry
    return {
        "path": entry.target,
        "generation": entry.generation,
        "size": entry.size,
        "sha256": entry.sha256,
        "modified": rfc3339(entry.modified),
        "layout": file.layout,
        "replicas": [
            {
                "provider": replica.provider,
                "state": replica.state.value,
                "key": replica.key,
                "etag": replica.etag,
                "proven_at": rfc3339(replica.proven_at),
                "error": replica.error,
            }
            for replica in file.replicas
        ],
        "owed": file.owed,
    }


def tree_status_row(tree: TreeStatus) -> dict[str, object]:
    """Return a tree's status as programs read it."""
    return {
        "files": tree.files,
        "bytes": tree.bytes,
        "owed": tree.owed,
        "providers": [
            {
                "name": provider.name,
                "kind": provider.kind,
                "state": provider.state.value,
                "files": provider.files,
                "bytes": provider.bytes,
                "owed": provider.owed,
                "reason": provider.state_reason,
                "since": rfc3339(provider.state_since),
                "proven_at": rfc3339(provider.proven),
                "exit": None if provider.exit is None else provider.exit.value,
                "exit_since": rfc3339(provider.exit_since),
                "files_left": provider.files_left,
                "exit_waits": provider.exit_waits,
            }
            for provider in tree.providers
        ],
        "quarantined": tree.quarantined,
        "unplaced": tree.unplaced,
        "removals": tree.removals,
        "conflicts": tree.conflicts,
        "absent": tree.absent,
        "line": status_line(tree),
        "proven_at": rfc3339(oldest_proof(tree)),
        "quarantined_copies": [
            {"path": copy.path, "provider": copy.provider, "error": copy.error} for copy in tree.quarantined_copies
        ],
    }


def _file_lines(file: FileStatus) -> list[str]:
    entry = file.entry
    good = sum(replica.state.value == "ok" for replica in file.replicas)
    owed = f", {count(file.owed, 'copy', 'copies')} owed" if file.owed else ""
    lines = [
        f"{entry.target}: {human_size(entry.size)}, generation {entry.generation}, "
        f"{count(good, 'good copy', 'good copies')}{owed}"
    ]
    rows = [
        (
            replica.provider,
            replica.state.value,
            f"proven {human_time(replica.proven_at)}" if replica.proven_at else "",
            replica.error,
        )
        for replica in file.replicas
    ]
    return lines + [f"  {line}" for line in table(rows)]


def _provider_table(providers: Sequence[ProviderStatus]) -> list[str]:
    if not providers:
        return []
    rows = [
        (
            provider.name,
            provider.kind,
            str(provider.files),
            human_size(provider.bytes),
            str(provider.owed),
            provider.state.value + (f", {provider.exit.value}" if provider.exit else ""),
        )
        for provider in providers
    ]
    return ["", *table(rows, ("PROVIDER", "KIND", "FILES", "SIZE", "OWED", "STATE"), right=(2, 3, 4))]


@command("explain", "cdir explain /photos/cat.jpg")
@click.argument("path")
async def explain(session: Session, path: str) -> None:
    """Say which policy holds for a path, existing or not, and why each provider is or is not chosen."""
    target = session.path(path)
    async with session.client() as client:
        explanation = await client.explain(target)
    row = {
        "path": target,
        "policy": policy_row(explanation.policy),
        "rules": [{"path": rule.path, **policy_row(rule.policy)} for rule in explanation.rules],
        "providers": [
            {"provider": reason.provider, "chosen": reason.chosen, "reason": reason.reason}
            for reason in explanation.reasons
        ],
    }
    origin = ", ".join(rule.path for rule in explanation.rules)
    reasons = [(reason.provider, "yes" if reason.chosen else "no", reason.reason) for reason in explanation.reasons]
    session.output.record(
        row,
        [
            f"{target}: by {'the rule on ' + origin if origin else 'the defaults'}",
            *(f"  {line}" for line in policy_lines(explanation.policy)),
            "",
            *table(reasons, ("PROVIDER", "HOLDS IT", "WHY")),
        ],
    )


@command("versions", "cdir versions /report.txt")
@click.argument("path")
async def versions(session: Session, path: str) -> None:
    """List the contents a file has had and that are kept, newest first; also of a removed file."""
    target = session.path(path)
    async with session.client() as client:
        found = await client.versions(target)
    rows = [
        {
            "generation": version.generation,
            "size": version.size,
            "sha256": version.sha256,
            "modified": rfc3339(version.modified),
            "author": version.author,
            "current": version.current,
        }
        for version in found
    ]
    session.output.rows(
        rows,
        [
            ("GENERATION", lambda row: str(row["generation"])),
            ("SIZE", lambda row: human_size(row["size"]) if isinstance(row["size"], int) else ""),
            ("MODIFIED", lambda row: str(row["modified"])),
            ("AUTHOR", lambda row: str(row["author"] or "-")),
            ("", lambda row: "current" if row["current"] else ""),
        ],
        right=(0, 1),
        empty="no versions are kept",
    )


@command("repair", "cdir repair", "cdir repair /photos --provider nas --wait")
@click.argument("path", default="/")
@click.option("--provider", default="", help="Only this one's copies.")
@click.option("--wait", is_flag=True, help="Return when nothing is owed any more; exit code 3 when that stops short.")
@dry_run_option
async def repair(session: Session, path: str, provider: str, wait: bool, dry_run: bool) -> int:
    """Work off owed copies at or below PATH now, those included that were given up on."""
    target = session.path(path)
    async with session.client() as client:
        if dry_run:
            owed = await _owed(client, target, provider)
            session.output.say(f"would make {count(owed, 'owed copy', 'owed copies')} due")
            return Exit.DONE
        due = await client.repair(target, provider=provider)
        owed = await _worked_off(client, target, provider) if wait else await _owed(client, target, provider)
    text = f"{count(due, 'copy', 'copies')} due now"
    if wait:
        text = "nothing is owed" if not owed else f"{count(owed, 'copy', 'copies')} still owed; see `cdir status`"
    session.output.record({"due": due, "owed": owed}, [text])
    return Exit.OWED if wait and owed else Exit.DONE


async def _owed(client: Client, target: str, provider: str) -> int:
    entry = await client.stat(target)
    if not entry.is_directory:
        return entry.owed
    tree = await client.tree_status(target)
    return sum(known.owed for known in tree.providers if provider in {"", known.name})


async def _worked_off(client: Client, target: str, provider: str) -> int:
    """Wait until nothing is owed, or nothing has moved for half a minute; returns what is owed then."""
    owed = await _owed(client, target, provider)
    moved = time.monotonic()
    while owed and time.monotonic() - moved < 30:
        await asyncio.sleep(0.25)
        before, owed = owed, await _owed(client, target, provider)
        if owed < before:
            moved = time.monotonic()
    return owed


@command("watch", "cdir watch /photos", "cdir watch --since 0 --output json")
@click.argument("path", default="/")
@click.option(
    "--since",
    type=click.IntRange(min=-1),
    default=-1,
    metavar="REVISION",
    help="Begin after this revision; 0 for all kept.",
)
async def watch(session: Session, path: str, since: int) -> None:
    """Print changes at or below PATH as they happen, until Ctrl-C. JSON is one object a line."""
    target = session.path(path)
    async with session.client() as client:
        changes = _change_rows(client.watch(target, after_revision=since))
        await session.output.stream(changes, _change_line, lines=True)


async def _change_rows(changes: AsyncIterator[Change]) -> AsyncIterator[Row]:
    async for change in changes:
        yield {
            "revision": change.revision,
            "change": change.kind.value,
            "path": change.path,
            "old_path": change.old_path,
            "kind": change.entry_kind.value,
            "generation": change.generation,
            "author": change.author,
            "time": rfc3339(change.time),
        }


def _change_line(row: Row) -> str:
    moved = f" (was {row['old_path']})" if row["old_path"] else ""
    return f"{row['revision']:>8}  {row['time']}  {str(row['change']).replace('_', ' '):<14}  {row['path']}{moved}"
