"""``acl …``: who may read the copies at the providers."""

from __future__ import annotations

from collections.abc import Sequence

import click

from cdir.acl import Access, Acl, AclReport, AclStanding, AclState, Grant, Right
from cdir.cli.app import Lazy, LazyGroup
from cdir.cli.command import command, dry_run_option
from cdir.cli.exits import Exit
from cdir.cli.output import count, table
from cdir.cli.session import Session

__all__ = ["acl", "acl_set", "acl_show", "acl_unset", "parse_grant"]

acl = LazyGroup(
    "acl",
    lazy={
        "show": Lazy("acl", "acl_show", "Show what is wanted, and what is in force at each provider."),
        "set": Lazy("acl", "acl_set", "Set it on all copies."),
        "unset": Lazy("acl", "acl_unset", "Take back what was set, on all copies."),
    },
    aliases={"get": "show"},
    help="Say who may read the copies at the storage services.",
)

_WAIT_SECONDS = 20.0

_WORDS = {
    AclState.NONE: "none wanted",
    AclState.APPLIED: "applied",
    AclState.NARROWER: "narrower",
    AclState.UNSUPPORTED: "cannot express",
    AclState.OWED: "owed",
}


def parse_grant(text: str) -> Grant:
    """Read ``WHO:RIGHT``, such as ``email:ada@example.org:read``; an address alone is that of an email."""
    who, _, right = text.rpartition(":")
    kind, _, name = who.partition(":")
    if who and not name and "@" in who:
        kind, name = "email", who
    if right not in set(Right):
        raise click.BadParameter(f"{text!r}: end it with :read, :write or :full", param_hint="--grant")
    if kind not in {"user", "email", "group"} or not name.strip():
        raise click.BadParameter(
            f"{text!r}: write who gets it as user:ID, email:ADDRESS or group:NAME, then :{right}", param_hint="--grant"
        )
    return Grant(f"{kind}:{name}", Right(right))


def _acl_row(shown: Acl | None) -> dict[str, object] | None:
    if shown is None:
        return None
    return {
        "access": shown.access.value,
        "grants": [{"grantee": grant.grantee, "right": grant.right.value} for grant in shown.grants],
    }


def _acl_text(shown: Acl | None) -> str:
    if shown is None:
        return ""
    return ", ".join([shown.access.value, *(f"{grant.grantee}:{grant.right}" for grant in shown.grants)])


def _note(report: AclReport, one: AclStanding) -> str:
    """Return the note, or that what is in force is not what was set."""
    if report.acl is None or one.in_force is None or one.state is not AclState.APPLIED:
        return one.note
    same = one.in_force.access is report.acl.access and set(one.in_force.grants) == set(report.acl.grants)
    return one.note if same else "not as it was set; `cdir scrub` has it put right"


def _row(path: str, report: AclReport) -> dict[str, object]:
    return {
        "path": path,
        "directory": report.directory,
        "acl": _acl_row(report.acl),
        "default": _acl_row(report.default),
        "providers": [
            {
                "provider": one.provider,
                "state": one.state.value,
                "files": one.files,
                "note": _note(report, one),
                "waits": one.waits,
                "in_force": _acl_row(one.in_force),
            }
            for one in report.standings
        ],
        "owed": report.owed,
        "unplaced": report.unplaced,
    }


def _lines(path: str, report: AclReport) -> list[str]:
    if report.acl is not None:
        wanted = _acl_text(report.acl) + (" (for new files below)" if report.directory else "")
    elif report.default is not None:
        wanted = f"{_acl_text(report.default)} (from above, for new files below)"
    else:
        wanted = "nothing is set: each provider does as it does by itself"
    lines = [f"{path}: {wanted}"]
    if report.directory:
        rows = [(one.provider, _WORDS[one.state], str(one.files), one.note) for one in report.standings]
        lines += table(rows, ("PROVIDER", "STATE", "FILES", "NOTE"), right=(2,)) if rows else []
    else:
        rows = [
            (one.provider, _WORDS[one.state], _acl_text(one.in_force) or "-", _note(report, one))
            for one in report.standings
        ]
        lines += table(rows, ("PROVIDER", "STATE", "IN FORCE", "NOTE")) if rows else []
    if report.unplaced:
        lines.append("files below are still being looked at; this is not all of them")
    return lines


@command("show", "cdir acl show /reports/q3.csv", "cdir acl show /reports --output json")
@click.argument("path")
async def acl_show(session: Session, path: str) -> None:
    """Show which access control list is wanted on PATH, and what became of it at each provider.

    The providers of a file that are up are asked what is in force there.
    """
    target = session.path(path)
    async with session.client() as client:
        report = await client.acl(target)
    session.output.record(_row(target, report), _lines(target, report))


@command(
    "set",
    "cdir acl set /public/logo.png public-read",
    "cdir acl set /reports private --recursive",
    "cdir acl set /reports/q3.csv private --grant email:ada@example.org:read",
)
@click.argument("path")
@click.argument("access", type=click.Choice([access.value for access in Access]))
@click.option("--grant", "grants", multiple=True, metavar="WHO:RIGHT", help="Beside that, give read, write or full.")
@click.option("-r", "--recursive", is_flag=True, help="Set it on all that lies below a directory as well.")
@dry_run_option
async def acl_set(
    session: Session, path: str, access: str, grants: Sequence[str], recursive: bool, dry_run: bool
) -> int:
    """Set who may read the copies of PATH at the providers.

    WHO is user:ID, email:ADDRESS or group:NAME. On a directory it is what new files below get; files that are there
    keep what they have unless --recursive is given. A provider that cannot express it says so. Exit code 3 when a
    provider that is down gets it later.
    """
    wanted = Acl(Access(access), tuple(map(parse_grant, grants)))
    target = session.path(path)
    if dry_run:
        session.output.say(f"would set {_acl_text(wanted)} on {target}{' and all below' if recursive else ''}")
        return Exit.DONE
    async with session.client() as client:
        report = await client.set_acl(target, wanted, recursive=recursive, wait=_WAIT_SECONDS)
    return _told(session, target, report)


@command("unset", "cdir acl unset /public/logo.png", "cdir acl unset /public --recursive")
@click.argument("path")
@click.option("-r", "--recursive", is_flag=True, help="Unset it on all that lies below a directory as well.")
@dry_run_option
async def acl_unset(session: Session, path: str, recursive: bool, dry_run: bool) -> int:
    """Take back what was set on PATH: its copies get what a directory above says of new files.

    Where no directory above says anything, copies that had an access control list become private. A directory says
    nothing any more of new files below it; files that are there keep what they have unless --recursive is given. A
    provider that cannot express it says so. Exit code 3 when a provider that is down gets it later.
    """
    target = session.path(path)
    if dry_run:
        session.output.say(f"would unset what is set on {target}{' and all below' if recursive else ''}")
        return Exit.DONE
    async with session.client() as client:
        report = await client.unset_acl(target, recursive=recursive, wait=_WAIT_SECONDS)
    return _told(session, target, report)


def _told(session: Session, target: str, report: AclReport) -> int:
    session.output.record(_row(target, report), _lines(target, report))
    if report.owed:
        session.output.say(f"{count(report.owed, 'copy gets', 'copies get')} it later, in the background")
    return Exit.OWED if report.owed or report.unplaced else Exit.DONE
