"""``storage``: the older spelling. Each form is put into the words of the newer command, which then runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from cdir.cli.app import Lazy, LazyGroup, app
from cdir.cli.command import examples
from cdir.cli.output import FORMATS
from cdir.paths import parse_endpoint

__all__ = [
    "config",
    "config_list",
    "copy",
    "create",
    "create_dir",
    "delete",
    "get",
    "list_",
    "put",
    "search",
    "storage",
    "sync",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _begin(context: click.Context, service: str, parallel: int | None) -> None:
    if service and parse_endpoint(f"{service}:") is None:
        raise click.UsageError(f"{service!r} cannot be the name of a service; see `cdir provider list`")
    context.obj = (service, parallel)


storage = LazyGroup(
    "storage",
    lazy={
        "create": Lazy("storage", "create", "Make a directory."),
        "get": Lazy("storage", "get", "Fetch to the local disk."),
        "put": Lazy("storage", "put", "Store what is local."),
        "list": Lazy("storage", "list_", "List."),
        "delete": Lazy("storage", "delete", "Remove."),
        "search": Lazy("storage", "search", "Find by name."),
        "sync": Lazy("storage", "sync", "Make one tree like another, one way."),
        "copy": Lazy("storage", "copy", "Copy, also from service to service."),
        "config": Lazy("storage", "config", "The registered services."),
    },
    help="The older spelling of the other commands, with the same meaning. Without --storage plain paths name the"
    " virtual directory; SERVICE:path always names an object at that service.",
    epilog=examples(
        "cdir storage --storage=aws put photos backup --recursive",
        "cdir storage copy aws:source.txt oracle:target.txt",
    ),
    params=[
        click.Option(["--storage", "service"], default="", metavar="SERVICE", help="Plain paths mean SERVICE:path."),
        click.Option(["--parallel"], type=click.IntRange(min=1), metavar="N", help="Files under way at once."),
    ],
    callback=click.pass_context(_begin),
)

create = LazyGroup("create", lazy={"dir": Lazy("storage", "create_dir", "Make one.")}, help="Make a directory.")

config = LazyGroup("config", lazy={"list": Lazy("storage", "config_list", "List them.")}, help="The services.")


def _recursive(function: _Function) -> _Function:
    return click.option("-r", "--recursive", is_flag=True, help="Folders with all below them.")(function)


def _dry_run(function: _Function) -> _Function:
    return click.option("-n", "--dry-run", "--dryrun", is_flag=True, help="Say what would be done.")(function)


def _form(
    name: str, example: str, *options: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Callable[[Callable[..., list[str]]], click.Command]:
    """Make a command of a function that says how the newer command spells it."""

    def decorate(function: Callable[..., list[str]]) -> click.Command:
        def run(output: str, quiet: bool, no_start: bool, **values: Any) -> Any:
            context = click.get_current_context()
            service, parallel = context.obj

            def place(path: str) -> str:
                return f"{service}:{path}" if service and parse_endpoint(path) is None else path

            command, *arguments = function(place, **values)
            if parallel is not None and command in {"cp", "get", "put", "sync"}:
                arguments = ["--parallel", str(parallel), *arguments]
            arguments = ["--output", output, *(["--quiet"] if quiet else []), *arguments]
            newer = app.get_command(context, command)
            assert newer is not None
            if isinstance(newer, click.Group):
                # of a group, the options belong to the command in it
                arguments = [arguments[-1], *arguments[:-1]]
            elif no_start:
                arguments = ["--no-start", *arguments]
            return newer.main(args=arguments, prog_name=f"cdir {command}", standalone_mode=False)

        made: Callable[..., Any] = run
        for option in options:
            made = option(made)
        made = click.option("--no-start", is_flag=True, help="Fail rather than start the daemon.")(made)
        made = click.option("-q", "--quiet", is_flag=True, help="Print results and errors, nothing else.")(made)
        made = click.option(
            "-o",
            "--output",
            type=click.Choice(FORMATS),
            default="table",
            show_default=True,
            help="How to print results.",
        )(made)
        return click.command(name, help=function.__doc__, epilog=examples(f"cdir storage {example}"))(made)

    return decorate


def _flags(**given: bool) -> list[str]:
    return [f"--{name.replace('_', '-')}" for name, is_given in given.items() if is_given]


@_form("dir", "create dir /photos", click.argument("directory"), _dry_run)
def create_dir(place: Callable[[str], str], directory: str, dry_run: bool) -> list[str]:
    """Make a directory of the virtual directory."""
    return ["mkdir", *_flags(dry_run=dry_run), "--", place(directory)]


@_form(
    "get", "get /photos photos --recursive", click.argument("target"), click.argument("source"), _recursive, _dry_run
)
def get(place: Callable[[str], str], source: str, target: str, recursive: bool, dry_run: bool) -> list[str]:
    """Fetch SOURCE to the local path TARGET."""
    return ["get", *_flags(recursive=recursive, dry_run=dry_run), "--", place(source), target]


@_form(
    "put",
    "--storage=aws put photos photos --recursive",
    click.argument("target"),
    click.argument("source"),
    _recursive,
    _dry_run,
)
def put(place: Callable[[str], str], source: str, target: str, recursive: bool, dry_run: bool) -> list[str]:
    """Store the local path SOURCE as TARGET."""
    return ["put", *_flags(recursive=recursive, dry_run=dry_run), "--", source, place(target)]


@_form("list", "--storage=aws list --recursive", click.argument("source", default=""), _recursive)
def list_(place: Callable[[str], str], source: str, recursive: bool) -> list[str]:
    """List SOURCE, by default everything."""
    return ["ls", *_flags(recursive=recursive), "--", place(source) or "/"]


@_form(
    "delete",
    "delete /old.txt",
    click.argument("source"),
    _recursive,
    click.option("-y", "--yes", is_flag=True, help="Do not ask."),
    _dry_run,
)
def delete(place: Callable[[str], str], source: str, recursive: bool, yes: bool, dry_run: bool) -> list[str]:
    """Remove SOURCE."""
    return ["rm", *_flags(recursive=recursive, yes=yes, dry_run=dry_run), "--", place(source)]


@_form(
    "search", "search /photos cat.jpg --recursive", click.argument("filename"), click.argument("directory"), _recursive
)
def search(place: Callable[[str], str], directory: str, filename: str, recursive: bool) -> list[str]:
    """Find FILENAME right in DIRECTORY, with --recursive also below it."""
    return ["search", *_flags(here=not recursive), "--", filename, place(directory)]


@_form(
    "copy",
    "copy aws:source.txt oracle:target.txt",
    click.argument("target"),
    click.argument("source"),
    _recursive,
    _dry_run,
)
def copy(place: Callable[[str], str], source: str, target: str, recursive: bool, dry_run: bool) -> list[str]:
    """Copy SOURCE to TARGET, between services or within one."""
    return ["cp", *_flags(recursive=recursive, dry_run=dry_run), "--", place(source), place(target)]


@_form(
    "sync",
    "--storage=aws sync photos photos --name=nightly --async",
    click.argument("places", nargs=-1, metavar="SOURCE TARGET | status"),
    click.option("--name", default="", help="Remember the two sides under this name."),
    click.option("--async", "background", is_flag=True, help="Return at once; `sync status` tells how it goes."),
    _dry_run,
)
def sync(place: Callable[[str], str], places: tuple[str, ...], name: str, background: bool, dry_run: bool) -> list[str]:
    """Make TARGET like SOURCE, one way; `sync status` tells how it goes or went."""
    options = [*(["--name", name] if name else []), *(["--async"] if background else []), *_flags(dry_run=dry_run)]
    if len(places) == 2:
        source, target = places
        if place(source) != source:
            # with a service, one plain side is local: the source where it exists, else the target
            is_local = os.path.lexists(os.path.expanduser(source))
            source = f"file:{source}" if is_local else place(source)
            target = place(target) if is_local else f"file:{target}"
        else:
            target = place(target)
        places = (source, target)
    return ["sync", *options, "--", *places]


@_form("list", "config list")
def config_list(place: Callable[[str], str]) -> list[str]:
    """List the registered services."""
    return ["provider", "list"]
