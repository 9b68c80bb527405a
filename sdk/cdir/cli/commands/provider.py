"""``provider …``: the registered storage services."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from cdir.cli.app import Lazy, LazyGroup
from cdir.cli.command import command, dry_run_option, yes_option
from cdir.cli.exits import Exit
from cdir.cli.output import NO_PROVIDER, count, human_size, human_time, rfc3339, table
from cdir.cli.provider_options import parse_options, parse_size, read_secrets
from cdir.cli.session import Session
from cdir.model import ProviderInfo, ProviderState
from cdir.place_templates import PLACES, filled_in

__all__ = ["add", "check", "kinds", "pause", "provider", "provider_list", "remove", "resume", "set_", "show", "usage"]

provider = LazyGroup(
    "provider",
    lazy={
        "kinds": Lazy("provider", "kinds", "List the kinds of storage service and their options."),
        "add": Lazy("provider", "add", "Register a storage service."),
        "list": Lazy("provider", "provider_list", "List the registered ones."),
        "show": Lazy("provider", "show", "Show one."),
        "check": Lazy("provider", "check", "Reach one now; --full tests all it can do."),
        "usage": Lazy("provider", "usage", "Show how full they are."),
        "set": Lazy("provider", "set_", "Change options of one."),
        "pause": Lazy("provider", "pause", "Leave one alone for a while."),
        "resume": Lazy("provider", "resume", "Take a paused one up again."),
        "evacuate": Lazy("leaving", "evacuate", "Do without one: others get what it holds."),
        "replace": Lazy("leaving", "replace", "Put one in the place of another."),
        "drill": Lazy("leaving", "drill", "Say what would be lost without one."),
        "remove": Lazy("provider", "remove", "Forget one; its objects stay where they are."),
    },
    aliases={"ls": "list", "rm": "remove", "delete": "remove", "update": "set"},
    help="Register and look after storage services.",
)


def _row(info: ProviderInfo) -> dict[str, object]:
    return {
        "name": info.name,
        "kind": info.kind,
        "state": info.state.value,
        "options": dict(info.options),
        "secrets": list(info.secret_names),
        "location": info.location,
        "priority": info.priority,
        "cost": info.cost,
        "read_only": info.read_only,
        "bandwidth": info.bandwidth,
        "state_since": rfc3339(info.state_since),
        "state_reason": info.state_reason,
        "capability": dict(info.capability),
        "exit": _exit(info),
    }


def _exit(info: ProviderInfo) -> str | None:
    return None if info.exit is None else info.exit.value


def _state_text(info: ProviderInfo) -> str:
    text = info.state.value
    if info.exit is not None:
        text += f", {info.exit.value}"
    if info.state is not ProviderState.UP:
        text += f" since {human_time(info.state_since)}" if info.state_since else ""
        text += f": {info.state_reason}" if info.state_reason else ""
    return text


@command("kinds", "cdir provider kinds", "cdir provider kinds s3")
@click.argument("kind", required=False)
async def kinds(session: Session, kind: str | None) -> int:
    """List the kinds of storage service, or the options of one KIND."""
    async with session.client() as client:
        found = [known for known in await client.providers.kinds() if kind in {None, known.kind}]
    if kind and not found:
        session.output.complain(f"cdir: no such kind: {kind!r}; `cdir provider kinds` lists them")
        return Exit.NOT_FOUND
    rows: list[dict[str, object]] = [
        {
            "kind": known.kind,
            "description": known.description,
            "available": known.available,
            "missing": known.missing,
            "options": [
                {
                    "name": option.name,
                    "type": option.type,
                    "required": option.required,
                    "secret": option.secret,
                    "default": option.default,
                    "description": option.description,
                }
                for option in known.options
            ],
        }
        for known in found
    ]
    if kind and session.output.for_people:
        known = found[0]
        session.output.line(f"{known.kind}: {known.description}" + (f" ({known.missing})" if known.missing else ""))
        lines = [
            (
                f"--{'secret' if option.secret else 'set'} {option.name}",
                "required" if option.required else (f"default {option.default}" if option.default else ""),
                option.description,
            )
            for option in known.options
        ]
        for line in table(lines):
            session.output.line(f"  {line}")
    else:
        session.output.rows(
            rows,
            [
                ("KIND", lambda row: str(row["kind"])),
                ("", lambda row: str(row["description"])),
                ("", lambda row: "" if row["available"] else str(row["missing"])),
            ],
        )
    return Exit.DONE


@command(
    "add",
    "cdir provider add disk --kind local --set root=/mnt/disk/cdir",
    "cdir provider add cloud --kind s3 --set bucket=b --set region=eu-central-1 --set access_key=K --secret secret_key",
    "cdir provider add nas --kind sftp --set host=nas --set user=me --secret password=env:NAS_PASSWORD",
    "cdir provider add work --kind gcs --set bucket=cdir-{user}-{name} --secret credentials=@key.json",
)
@click.argument("name")
@click.option("--kind", required=True, help="See `cdir provider kinds`.")
@click.option("--set", "options", multiple=True, metavar="OPTION=VALUE", help="An option that is not secret.")
@click.option(
    "--secret",
    "secrets",
    multiple=True,
    metavar="OPTION[=env:VAR|@FILE|-]",
    help="A secret option: asked for without echo, or read from a variable, a file, or standard input.",
)
@click.option("--location", default="", help="Where it is, in your words; copies prefer distinct ones.")
@click.option("--priority", type=click.IntRange(min=1), default=100, show_default=True, help="Lower comes first.")
@click.option("--cost", default="", help="What it costs, in your words.")
@click.option("--read-only", is_flag=True, help="Read from it, never write to it.")
@click.option("--bandwidth", default="0", metavar="SIZE", help="Most bytes per second, such as 5MiB; 0 is no limit.")
@click.option("--adopt", is_flag=True, help="Take over a root that another cdir home marked as its own.")
@dry_run_option
async def add(
    session: Session,
    name: str,
    kind: str,
    options: Sequence[str],
    secrets: Sequence[str],
    location: str,
    priority: int,
    cost: str,
    read_only: bool,
    bandwidth: str,
    adopt: bool,
    dry_run: bool,
) -> None:
    """Register a storage service under NAME.

    It is reached and probed first, and then holds a copy of every file whose policy asks for it.

    The options root, bucket, container and prefix may hold {user} (your login name), {host} (this machine's name) and
    {name} (NAME), filled in once, now; write {{ and }} for braces.
    """
    given = parse_options(options)
    limit = parse_size("--bandwidth", bandwidth)
    if dry_run:
        shown = {option: value for option, value in filled_in(given, name).items() if option in PLACES}
        named = ", ".join(f"{option}={shown[option]}" if option in shown else option for option in sorted(given))
        session.output.say(f"would register {name}, kind {kind}, with {named or 'no options'}")
        return
    values = read_secrets(secrets)
    async with session.client() as client:
        info = await client.providers.add(
            name,
            kind,
            given,
            secrets=values,
            location=location,
            priority=priority,
            cost=cost,
            read_only=read_only,
            bandwidth=limit,
            adopt=adopt,
        )
        status = await client.tree_status("/")
    lines = [f"{info.name} is registered ({info.kind}, {info.state.value})"]
    if status.files:
        lines.append(f"it now gets its copies of {count(status.files, 'file')}; `cdir status` shows how far it is")
    session.output.record(_row(info), lines)


@command("list", "cdir provider list", "cdir provider list --output json")
async def provider_list(session: Session) -> None:
    """List the registered storage services."""
    async with session.client() as client:
        infos = await client.providers.list()
        usages = {usage.name: usage for usage in (await client.providers.usage() if infos else ())}
    by_name = {info.name: info for info in infos}
    rows: list[dict[str, object]] = []
    for info in infos:
        usage = usages.get(info.name)
        rows.append(
            {
                "name": info.name,
                "kind": info.kind,
                "state": info.state.value,
                "used": usage.used if usage else None,
                "free": usage.free if usage else None,
                "priority": info.priority,
                "location": info.location,
                "exit": _exit(info),
            }
        )
    session.output.rows(
        rows,
        [
            ("NAME", lambda row: str(row["name"])),
            ("KIND", lambda row: str(row["kind"])),
            ("USED", lambda row: _size(row["used"])),
            ("FREE", lambda row: _size(row["free"])),
            ("PRIORITY", lambda row: str(row["priority"])),
            ("LOCATION", lambda row: str(row["location"] or "-")),
            ("STATE", lambda row: _state_text(by_name[str(row["name"])])),
        ],
        right=(2, 3, 4),
        empty=NO_PROVIDER,
    )


def _size(value: object) -> str:
    return human_size(value) if isinstance(value, int) else "-"


@command("show", "cdir provider show cloud")
@click.argument("name")
async def show(session: Session, name: str) -> None:
    """Show one storage service: its options, how it answers, what it can do. Secrets are named, never shown."""
    async with session.client() as client:
        info = await client.providers.get(name)
    pairs = [
        ("state", _state_text(info)),
        *((option, value) for option, value in sorted(info.options.items())),
        *((secret, "(secret, set)") for secret in info.secret_names),
        ("location", info.location or "-"),
        ("priority", str(info.priority)),
        ("cost", info.cost or "-"),
        ("read only", "yes" if info.read_only else "no"),
        ("bandwidth", f"{human_size(info.bandwidth)}/s" if info.bandwidth else "no limit"),
        ("proven by", _proof(info)),
        ("can", ", ".join(name for name, value in sorted(info.capability.items()) if value is True) or "-"),
    ]
    session.output.record(_row(info), [f"{info.name}: {info.kind}", *(f"  {line}" for line in table(pairs))])


def _proof(info: ProviderInfo) -> str:
    """How copies there are shown to be right, see ``cdir scrub``."""
    stated = info.capability.get("checksums")
    if isinstance(stated, list | tuple) and stated:
        return f"its own checksums ({', '.join(map(str, stated))}), without reading"
    return "reading a sample: it states no checksums"


@command(
    "check",
    "cdir provider check cloud",
    "cdir provider check --full cloud",
    "cdir provider check old-disk --accept-losses",
)
@click.argument("name")
@click.option("--full", is_flag=True, help="Test all it can do, in a scratch folder there.")
@click.option("--accept-losses", is_flag=True, help="The files that are missing there are lost; copy them again.")
async def check(session: Session, name: str, full: bool, accept_losses: bool) -> int:
    """Reach a storage service now. Exit code 1 when a check fails.

    When very many files are missing there at once, nothing is concluded from it and the service is left alone: it may
    be the wrong disk or account. --accept-losses says that they are really gone.
    """
    rows: list[dict[str, object]] = []
    outcomes = {"passed": 0, "failed": 0, "skipped": 0}
    async with session.client() as client:
        if accept_losses:
            accepted = await client.providers.accept_losses(name)
            text = f"{count(accepted, 'file')} taken for lost; what else is missing is looked for now"
            rows.append({"name": "losses", "outcome": "passed", "message": text})
            session.output.say(text)
        async for result in client.providers.check(name, full=full):
            outcomes[result.outcome] = outcomes.get(result.outcome, 0) + 1
            rows.append({"name": result.name, "outcome": result.outcome, "message": result.message})
            if session.output.for_people and (not session.output.quiet or result.outcome == "failed"):
                session.output.line(
                    f"{result.outcome:<8} {result.name}" + (f": {result.message}" if result.message else "")
                )
    if session.output.for_people:
        session.output.say(", ".join(f"{number} {outcome}" for outcome, number in outcomes.items() if number))
    else:
        session.output.rows(rows, [])
    return Exit.FAILED if outcomes["failed"] else Exit.DONE


@command("usage", "cdir provider usage")
async def usage(session: Session) -> None:
    """Ask each storage service how full it is."""
    async with session.client() as client:
        rows = [{"name": one.name, "used": one.used, "free": one.free} for one in await client.providers.usage()]
    session.output.rows(
        rows,
        [
            ("NAME", lambda row: str(row["name"])),
            ("USED", lambda row: _size(row["used"])),
            ("FREE", lambda row: _size(row["free"])),
        ],
        right=(1, 2),
        empty="no storage service is registered",
    )


@command(
    "set",
    "cdir provider set cloud --set region=eu-west-1 --priority 50",
    "cdir provider set cloud --secret secret_key",
)
@click.argument("name")
@click.option("--set", "options", multiple=True, metavar="OPTION=VALUE", help="An option; an empty value unsets it.")
@click.option(
    "--secret",
    "secrets",
    multiple=True,
    metavar="OPTION[=env:VAR|@FILE|-]",
    help="A secret option: asked for without echo, or read from a variable, a file, or standard input.",
)
@click.option("--name", "new_name", help="A new name.")
@click.option("--location", help="Where it is, in your words.")
@click.option("--priority", type=click.IntRange(min=1), help="Lower comes first.")
@click.option("--cost", help="What it costs, in your words.")
@click.option("--read-only/--read-write", default=None, help="Read from it only, or write to it too.")
@click.option("--bandwidth", metavar="SIZE", help="Most bytes per second, such as 5MiB; 0 is no limit.")
@dry_run_option
async def set_(
    session: Session,
    name: str,
    options: Sequence[str],
    secrets: Sequence[str],
    new_name: str | None,
    location: str | None,
    priority: int | None,
    cost: str | None,
    read_only: bool | None,
    bandwidth: str | None,
    dry_run: bool,
) -> None:
    """Change a storage service. New options are tried before they are kept."""
    given = parse_options(options)
    limit = None if bandwidth is None else parse_size("--bandwidth", bandwidth)
    if dry_run:
        session.output.say(f"would change {name}")
        return
    values = read_secrets(secrets)
    async with session.client() as client:
        info = await client.providers.update(
            name,
            options=given,
            secrets=values,
            new_name=new_name,
            location=location,
            priority=priority,
            cost=cost,
            read_only=read_only,
            bandwidth=limit,
        )
    session.output.record(_row(info), [f"{info.name} is changed ({info.state.value})"])


@command("pause", "cdir provider pause cloud")
@click.argument("name")
@dry_run_option
async def pause(session: Session, name: str, dry_run: bool) -> None:
    """Leave a storage service alone until `resume`. What it should get meanwhile is owed."""
    await _pause(session, name, paused=True, dry_run=dry_run)


@command("resume", "cdir provider resume cloud")
@click.argument("name")
@dry_run_option
async def resume(session: Session, name: str, dry_run: bool) -> None:
    """Take a paused storage service up again; it gets what it is owed."""
    await _pause(session, name, paused=False, dry_run=dry_run)


async def _pause(session: Session, name: str, *, paused: bool, dry_run: bool) -> None:
    if dry_run:
        session.output.say(f"would {'pause' if paused else 'resume'} {name}")
        return
    async with session.client() as client:
        info = await client.providers.update(name, paused=paused)
    session.output.record(_row(info), [f"{info.name} is {'paused' if paused else 'taken up again'}"])


@command("remove", "cdir provider remove old-disk")
@click.argument("name")
@click.option("--force", is_flag=True, help="Even if it holds the only good copy of some files or older contents.")
@yes_option
@dry_run_option
async def remove(session: Session, name: str, force: bool, yes: bool, dry_run: bool) -> None:
    """Forget a storage service. Its objects stay where they are."""
    if dry_run:
        session.output.say(f"would forget {name}")
        return
    if force and not yes and sys.stdin.isatty():
        click.confirm(f"Forget {name}, even if files then have no known copy?", abort=True, err=True)
    async with session.client() as client:
        forgotten = await client.providers.remove(name, force=force)
    session.output.record(
        {"name": name, "forgotten": forgotten},
        [f"{name} is forgotten, with {count(forgotten, 'copy', 'copies')} that stay there"],
    )
