"""Which commands there are. A command's module is imported when the command is used, and not before: it counts."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Final, NamedTuple

import click

__all__ = ["Lazy", "LazyGroup", "app"]


class Lazy(NamedTuple):
    """Where a command is, and its line in the help of its group."""

    module: str
    attribute: str
    summary: str
    section: str = "Commands"


_COMMANDS: Final[dict[str, Lazy]] = {
    "up": Lazy("service", "up", "Start the daemon.", "Running"),
    "down": Lazy("service", "down", "Stop the daemon.", "Running"),
    "demo": Lazy("demo", "demo", "See it all on three local folders.", "Running"),
    "provider": Lazy("provider", "provider", "Register and look after storage services.", "Storage services"),
    "policy": Lazy("policy", "policy", "Say how many copies, where, for how long.", "Storage services"),
    "acl": Lazy("acl", "acl", "Say who may read the copies there.", "Storage services"),
    "put": Lazy("transfer", "put", "Store local files and trees.", "Files"),
    "add": Lazy("outside", "add", "Adopt what lies at a storage service already.", "Files"),
    "get": Lazy("transfer", "get", "Fetch files and trees.", "Files"),
    "cat": Lazy("transfer", "cat", "Print files.", "Files"),
    "ls": Lazy("look", "ls", "List a directory.", "Files"),
    "tree": Lazy("look", "tree", "Show a directory and all below it.", "Files"),
    "stat": Lazy("look", "stat", "Show what a path names.", "Files"),
    "search": Lazy("look", "search", "Find files and directories by name.", "Files"),
    "sync": Lazy("sync", "sync", "Make one tree like another, one way.", "Files"),
    "mkdir": Lazy("change", "mkdir", "Make directories.", "Files"),
    "cp": Lazy("change", "cp", "Copy inside the directory, and from service to service.", "Files"),
    "mv": Lazy("change", "mv", "Rename or move.", "Files"),
    "rm": Lazy("change", "rm", "Remove; it stays restorable for a while.", "Files"),
    "cd": Lazy("look", "cd", "Change the current virtual directory.", "Files"),
    "pwd": Lazy("look", "pwd", "Print the current virtual directory.", "Files"),
    "status": Lazy("copies", "status", "Show which copies there are, and which are owed.", "Copies"),
    "explain": Lazy("copies", "explain", "Say why a file is placed as it is.", "Copies"),
    "versions": Lazy("copies", "versions", "List the contents a file has had.", "Copies"),
    "restore": Lazy("history", "restore", "Bring back what was changed or removed.", "Copies"),
    "trash": Lazy("history", "trash", "List what was removed and can be restored.", "Copies"),
    "repair": Lazy("copies", "repair", "Work off owed copies now.", "Copies"),
    "scan": Lazy("outside", "scan", "Look for what other programs did at the storage services.", "Copies"),
    "scrub": Lazy("proof", "scrub", "Prove that copies are as they were written.", "Copies"),
    "check": Lazy("proof", "check", "Hold the catalog against the providers.", "Copies"),
    "watch": Lazy("copies", "watch", "Print changes as they happen.", "Copies"),
    "jobs": Lazy("leaving", "jobs", "List work that goes on for long, and how far it is.", "Storage services"),
    "snapshot": Lazy("recovery", "snapshot", "Keep the catalog itself at the providers.", "Copies"),
    "rebuild": Lazy("recovery", "rebuild", "Make a lost catalog anew from the providers.", "Copies"),
    "vault": Lazy("vault", "vault", "Look after the keys that secrets are sealed under.", "Storage services"),
    "storage": Lazy("storage", "storage", "The older spelling: storage put, get, list, copy and so on.", "Other"),
    "completion": Lazy("completion", "completion", "Print the code for completion in your shell.", "Other"),
}

_ALIASES: Final = {
    "copy": "cp",
    "delete": "rm",
    "download": "get",
    "find": "search",
    "list": "ls",
    "move": "mv",
    "providers": "provider",
    "start": "up",
    "stop": "down",
    "upload": "put",
}
"""What people try instead. Not listed in the help."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used."""

    def __init__(
        self,
        name: str | None = None,
        *,
        lazy: Mapping[str, Lazy] | None = None,
        aliases: Mapping[str, str] | None = None,
        **attributes: object,
    ) -> None:
        super().__init__(name, **attributes)  # type: ignore[arg-type]
        self._lazy = dict(lazy or {})
        self._aliases = dict(aliases or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = self._lazy.get(self._aliases.get(cmd_name, cmd_name))
        if found is None:
            return None
        loaded = getattr(importlib.import_module(f"cdir.cli.commands.{found.module}"), found.attribute)
        assert isinstance(loaded, click.Command)
        return loaded

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            import difflib

            near = difflib.get_close_matches(args[0], [*self._lazy, *self._aliases], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"no such command: {args[0]!r}{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, found in self._lazy.items():
            sections.setdefault(found.section, []).append((name, found.summary))
        for section, lines in sections.items():
            with formatter.section(section):
                formatter.write_dl(lines)


_EPILOG: Final = """\b
First steps:
  cdir demo                                             see it work
  cdir provider add disk --kind local --set root=/mnt/disk/cdir
  cdir provider add cloud --kind s3 --set bucket=b --set access_key=K --secret secret_key
  cdir put --recursive ~/photos /photos
  cdir status

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done but copies are owed, 4 not found, 5 not allowed, 6 conflict,
130 interrupted."""


def _print_version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from importlib.metadata import version

    click.echo(f"cdir {version('cdir')}")
    ctx.exit()


app = LazyGroup(
    "cdir",
    lazy=_COMMANDS,
    aliases=_ALIASES,
    help="One virtual directory over many storage services: every file on several of them, verified and kept whole.",
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    params=[
        click.Option(
            ["--version"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_print_version,
            help="Print the version.",
        )
    ],
)
