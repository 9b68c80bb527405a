"""``rebuild`` and ``snapshot …``: a catalog kept elsewhere, and one made anew."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

import click

from cdir.cli.app import Lazy, LazyGroup
from cdir.cli.command import command, dry_run_option, yes_option
from cdir.cli.exits import Exit
from cdir.cli.output import count, human_size, rfc3339
from cdir.cli.session import Session
from cdir.errors import CdirError, NotFound, PreconditionFailed
from cdir.recovery import LATEST, RebuildReport

if TYPE_CHECKING:
    from cdir.client import Client

__all__ = ["rebuild", "snapshot", "snapshot_list", "snapshot_now", "snapshot_restore"]

snapshot = LazyGroup(
    "snapshot",
    lazy={
        "now": Lazy("recovery", "snapshot_now", "Store one at several providers."),
        "list": Lazy("recovery", "snapshot_list", "Show those that the providers hold."),
        "restore": Lazy("recovery", "snapshot_restore", "Go back to one, and to what the providers hold."),
    },
    aliases={"ls": "list", "take": "now", "create": "now"},
    help="Keep the catalog itself at the providers. One is stored some minutes after a change by itself.",
)


@command("now", "cdir snapshot now")
async def snapshot_now(session: Session) -> None:
    """Store a snapshot of the catalog at several providers, unless nothing has changed since the last one."""
    async with session.client() as client:
        taken = await client.recovery.take_snapshot()
    row = {"name": taken.name, "taken": taken.taken, "size": taken.size, "providers": list(taken.providers)}
    if taken.taken:
        line = f"{taken.name} ({human_size(taken.size)}) is at {', '.join(taken.providers)}"
    else:
        line = f"nothing has changed since {taken.name}"
    session.output.record(row, [line])


@command("list", "cdir snapshot list --output json")
async def snapshot_list(session: Session) -> None:
    """Show the snapshots that the providers hold, newest first."""
    async with session.client() as client:
        found = await client.recovery.snapshots()
    session.output.rows(
        [
            {
                "name": one.name,
                "taken": rfc3339(one.taken),
                "kind": "increment" if one.base else "whole",
                "base": one.base,
                "revision": one.revision,
                "size": one.size,
                "home": one.home_id,
                "providers": list(one.providers),
            }
            for one in found
        ],
        [
            ("NAME", lambda row: str(row["name"])),
            ("TAKEN", lambda row: str(row["taken"])),
            ("KIND", lambda row: str(row["kind"])),
            ("SIZE", lambda row: human_size(row["size"]) if isinstance(row["size"], int) else ""),
            ("AT", lambda row: ", ".join(row["providers"]) if isinstance(row["providers"], list) else ""),
        ],
        right=(3,),
        empty="no provider that answers holds a snapshot",
    )


@command("restore", "cdir snapshot restore", "cdir snapshot restore 20261121T140307120Z-812.snapshot --yes")
@click.argument("name", default=LATEST)
@click.option("--from", "providers", multiple=True, metavar="PROVIDER", help="Only what these hold.")
@yes_option
@dry_run_option
async def snapshot_restore(session: Session, name: str, providers: Sequence[str], yes: bool, dry_run: bool) -> int:
    """Make the catalog anew from the snapshot NAME (by default the latest) and from what the providers hold now.

    What the providers hold prevails: files stored since are found again. The old catalog is kept aside.
    """
    return await _make_anew(session, providers, snapshot=name, without_snapshot=False, yes=yes, dry_run=dry_run)


@command("rebuild", "cdir rebuild", "cdir rebuild --dry-run", "cdir rebuild --from disk --from cloud --yes")
@click.option("--from", "providers", multiple=True, metavar="PROVIDER", help="Only what these hold.")
@click.option("--no-snapshot", "without_snapshot", is_flag=True, help="Do not begin with a snapshot.")
@yes_option
@dry_run_option
async def rebuild(session: Session, providers: Sequence[str], without_snapshot: bool, yes: bool, dry_run: bool) -> int:
    """Make a lost catalog anew: from the newest snapshot that the providers hold, if any, and from their files.

    The old catalog, if there is one, is kept aside. When the providers are not known any more, add them first with
    `cdir provider add … --adopt`.
    """
    return await _make_anew(
        session, providers, snapshot="", without_snapshot=without_snapshot, yes=yes, dry_run=dry_run
    )


async def _make_anew(
    session: Session, providers: Sequence[str], *, snapshot: str, without_snapshot: bool, yes: bool, dry_run: bool
) -> int:
    async with contextlib.AsyncExitStack() as exits:
        kept = None
        if session.elsewhere:
            client = await exits.enter_async_context(session.client())
        elif dry_run:
            client = await exits.enter_async_context(_trying(session))
        else:
            await _agreed(session, yes=yes)
            client, kept = await exits.enter_async_context(_replacing(session))
        report: RebuildReport | None = None
        async for step in client.recovery.rebuild(
            providers=providers, snapshot=snapshot, without_snapshot=without_snapshot, dry_run=dry_run
        ):
            if step.stage:
                session.output.say(step.stage)
            report = step.report or report
        if report is None:
            raise NotFound("the rebuild ended without saying what it made; see the daemon's log")
    session.output.record(_row(report, kept), _lines(report, kept, dry_run=dry_run))
    return Exit.OWED if report.without_copy or report.unreachable else Exit.DONE


async def _agreed(session: Session, *, yes: bool) -> None:
    """Ask before a catalog that holds something is replaced. One that cannot be opened may hold something."""
    if yes or not session.home.catalog.exists():
        return
    try:
        async with session.client() as client:
            files = (await client.tree_status("/")).files
        holds = f"holds {count(files, 'file')}" if files else ""
    except CdirError:
        holds = "cannot be opened"
    if not holds:
        return
    what = f"the catalog {session.home.catalog} {holds}"
    if not sys.stdin.isatty():
        raise PreconditionFailed(f"{what}; add --yes to make it anew (it is kept aside)")
    click.confirm(f"{what[0].upper()}{what[1:]}. Make it anew, and keep it aside?", abort=True, err=True)


@contextlib.asynccontextmanager
async def _replacing(session: Session) -> AsyncIterator[tuple[Client, str | None]]:
    from cdir.catalog_swap import empty_catalog
    from cdir.connecting import connect

    async with empty_catalog(session.home) as aside, connect(session.home.address) as client:
        yield client, None if aside is None else str(aside)


@contextlib.asynccontextmanager
async def _trying(session: Session) -> AsyncIterator[Client]:
    from cdir.catalog_swap import scratch_home
    from cdir.connecting import connect

    async with scratch_home(session.home) as home, connect(home.address) as client:
        yield client


def _row(report: RebuildReport, kept: str | None) -> dict[str, object]:
    return {
        "files": report.files,
        "known": report.known,
        "adopted": report.adopted,
        "older": report.older,
        "removed": report.removed,
        "without_copy": report.without_copy,
        "without_copy_paths": list(report.without_copy_paths),
        "ignored": report.ignored,
        "unexplained": report.unexplained,
        "snapshot": report.snapshot or None,
        "unreachable": list(report.unreachable),
        "old_catalog": kept,
    }


def _lines(report: RebuildReport, kept: str | None, *, dry_run: bool) -> list[str]:
    source = f"{report.known} from the snapshot {report.snapshot}, " if report.snapshot else ""
    has = "would have" if dry_run else "has"
    lines = [
        f"the catalog {has} {count(report.files, 'file')}: {source}{report.adopted} found at the providers alone;"
        f" {count(report.older, 'older version')} kept"
    ]
    if report.removed:
        lines.append(f"{count(report.removed, 'file was', 'files were')} removed after the snapshot; see `cdir trash`")
    if report.without_copy:
        lines.append(f"{count(report.without_copy, 'file has', 'files have')} no copy at any provider that was listed:")
        lines += [f"  {path}" for path in report.without_copy_paths]
        if report.without_copy > len(report.without_copy_paths):
            lines.append(f"  … and {report.without_copy - len(report.without_copy_paths)} more")
    if report.unexplained:
        lines.append(f"{count(report.unexplained, 'older content')} that no snapshot explains stay at the providers")
    if report.ignored:
        lines.append(f"{count(report.ignored, 'object')} at the providers cannot be files, by their names")
    if report.unreachable:
        lines.append(f"not reached: {', '.join(report.unreachable)}; what lies there is looked at once they answer")
    if kept:
        lines.append(f"the old catalog is kept as {kept}")
    return lines
