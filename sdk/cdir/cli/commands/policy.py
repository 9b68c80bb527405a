"""``policy …``: how many copies, where, for how long."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import click

from cdir.cli.app import Lazy, LazyGroup
from cdir.cli.command import command, dry_run_option
from cdir.cli.output import table
from cdir.cli.session import Session
from cdir.model import OutsideDeletion, Policy

__all__ = ["parse_duration", "policy", "policy_lines", "policy_row", "policy_set", "policy_show", "policy_unset"]

policy = LazyGroup(
    "policy",
    lazy={
        "show": Lazy("policy", "policy_show", "Show what holds for a path."),
        "set": Lazy("policy", "policy_set", "Set it for a path and all below."),
        "unset": Lazy("policy", "policy_unset", "Remove what is set on a path."),
    },
    aliases={"get": "show", "remove": "unset", "rm": "unset"},
    help="Say how many copies, where, for how long.",
)

_DURATION: Final = re.compile(r"(\d+)\s*([smhdw]?)")
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def parse_duration(text: str) -> int:
    """Read ``30d``, ``12h``, ``90`` (seconds); returns seconds."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise click.BadParameter(f"{text!r}: write a time such as 30d, 12h or 90 (seconds)", param_hint="--keep")
    return int(match[1]) * _SECONDS[match[2]]


def _duration(seconds: int) -> str:
    for unit in ("d", "h", "m"):
        if seconds and seconds % _SECONDS[unit] == 0:
            return f"{seconds // _SECONDS[unit]}{unit}"
    return f"{seconds}s"


def policy_row(shown: Policy) -> dict[str, object]:
    """Return a policy as programs read it."""
    return {
        "copies": shown.copies,
        "min_copies": shown.min_copies,
        "providers": list(shown.providers),
        "prefer": list(shown.prefer),
        "keep_versions": shown.keep_versions,
        "keep_seconds": shown.keep_seconds,
        "outside_deletion": None if shown.outside_deletion is None else shown.outside_deletion.value,
    }


def policy_lines(shown: Policy) -> list[str]:
    """Return a policy as people read it."""
    pairs = [
        ("copies", "on every provider" if shown.copies is None else str(shown.copies)),
        ("acknowledge at", "2 of three or more, else 1" if shown.min_copies is None else str(shown.min_copies)),
        ("providers", ", ".join(shown.providers) or "all"),
        ("read first from", ", ".join(shown.prefer) or "the fastest"),
        ("keep versions", "10" if shown.keep_versions is None else str(shown.keep_versions)),
        ("keep removed for", "30d" if shown.keep_seconds is None else _duration(shown.keep_seconds)),
        ("removed by others", (shown.outside_deletion or OutsideDeletion.REPAIR).value),
    ]
    return table(pairs)


@command("show", "cdir policy show /photos")
@click.argument("path", default="/")
async def policy_show(session: Session, path: str) -> None:
    """Show what holds for a path, and what of it is set there."""
    target = session.path(path)
    async with session.client() as client:
        own, effective = await client.policy(target)
    row = {"path": target, "own": None if own is None else policy_row(own), "effective": policy_row(effective)}
    origin = "set here" if own is not None else "from above"
    session.output.record(row, [f"{target} ({origin}):", *(f"  {line}" for line in policy_lines(effective))])


@command(
    "set",
    "cdir policy set /photos --copies 2 --prefer nas",
    "cdir policy set /scratch --providers disk --keep 1d",
)
@click.argument("path")
@click.option("--copies", type=click.IntRange(min=1), help="How many providers hold each file.")
@click.option("--min-copies", type=click.IntRange(min=1), help="Copies that must be durable before a put returns.")
@click.option("--providers", "only", multiple=True, metavar="NAME[,NAME…]", help="Only these.")
@click.option("--prefer", multiple=True, metavar="NAME[,NAME…]", help="Read from these first.")
@click.option("--keep-versions", type=click.IntRange(min=0), help="Older versions of a file to keep.")
@click.option("--keep", metavar="TIME", help="How long replaced and removed content is kept, such as 30d.")
@click.option(
    "--outside-deletion",
    type=click.Choice([meaning.value for meaning in OutsideDeletion]),
    help="What it means when others remove a file at a provider: repair it (the default), accept it, or ask.",
)
@dry_run_option
async def policy_set(
    session: Session,
    path: str,
    copies: int | None,
    min_copies: int | None,
    only: Sequence[str],
    prefer: Sequence[str],
    keep_versions: int | None,
    keep: str | None,
    outside_deletion: str | None,
    dry_run: bool,
) -> None:
    """Set what is given for PATH and all below it; files there are placed anew in the background."""
    wanted = Policy(
        copies=copies,
        min_copies=min_copies,
        providers=_names(only),
        prefer=_names(prefer),
        keep_versions=keep_versions,
        keep_seconds=None if keep is None else parse_duration(keep),
        outside_deletion=None if outside_deletion is None else OutsideDeletion(outside_deletion),
    )
    if wanted == Policy():
        raise click.UsageError("say what to set, such as --copies 2")
    target = session.path(path)
    if dry_run:
        session.output.say(f"would set the policy of {target}")
        return
    async with session.client() as client:
        effective = await client.set_policy(target, wanted)
    row = {"path": target, "effective": policy_row(effective)}
    session.output.record(row, [f"{target}:", *(f"  {line}" for line in policy_lines(effective))])


def _names(given: Sequence[str]) -> tuple[str, ...]:
    return tuple(name.strip() for text in given for name in text.split(",") if name.strip())


@command("unset", "cdir policy unset /photos")
@click.argument("path")
@dry_run_option
async def policy_unset(session: Session, path: str, dry_run: bool) -> None:
    """Remove what is set on PATH itself; what is set above it holds again."""
    target = session.path(path)
    if dry_run:
        session.output.say(f"would remove the policy set on {target}")
        return
    async with session.client() as client:
        effective = await client.unset_policy(target)
    row = {"path": target, "effective": policy_row(effective)}
    session.output.record(row, [f"{target}:", *(f"  {line}" for line in policy_lines(effective))])
