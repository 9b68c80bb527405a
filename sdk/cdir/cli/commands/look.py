"""``ls``, ``tree``, ``stat``, ``search``, ``cd``, ``pwd``: looking around."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import click

from cdir.cli.command import command
from cdir.cli.output import Row, human_size, human_time, rfc3339
from cdir.cli.session import Session, spelled
from cdir.errors import NotDirectory
from cdir.model import Entry, time_of
from cdir.paths import parse_endpoint, parse_target, split_path

__all__ = ["cd", "entry_row", "ls", "pwd", "search", "stat", "tree"]


def entry_row(entry: Entry) -> dict[str, object]:
    """Return an entry as programs read it."""
    return {
        "path": entry.target,
        "name": entry.name,
        "kind": entry.kind.value,
        "size": entry.size,
        "modified": rfc3339(entry.modified),
        "generation": entry.generation,
        "owed": entry.owed,
    }


def _name_line(entry: Entry, whole: bool) -> str:
    shown = entry.target if whole else entry.name
    return shown + ("/" if entry.is_directory and not shown.endswith("/") else "")


def _long_line(entry: Entry, whole: bool) -> str:
    size = "-" if entry.is_directory else human_size(entry.size)
    owed = f"{entry.owed} owed" if entry.owed else ""
    return f"{size:>9}  {human_time(entry.modified):>16}  {owed:>7}  {_name_line(entry, whole)}"


@command("ls", "cdir ls", "cdir ls -l /photos", "cdir ls --recursive --output json /photos")
@click.argument("path", default=".")
@click.option("-l", "--long", is_flag=True, help="Show size, time and owed copies.")
@click.option("-r", "--recursive", is_flag=True, help="List everything below as well.")
async def ls(session: Session, path: str, long: bool, recursive: bool) -> None:
    """List a directory; a file is listed as itself.

    PROVIDER:PATH lists what lies at a storage service, past the virtual directory.
    """
    if endpoint := parse_endpoint(path):
        from cdir.cli.endpoints import list_objects

        await list_objects(session, endpoint, long=long, recursive=recursive)
        return
    target = session.path(path)
    async with session.client() as client:
        await _print(session, client.list(target, recursive=recursive), _long_line if long else _name_line, recursive)


@command("search", "cdir search invoice", "cdir search '*.jpg' /photos")
@click.argument("pattern")
@click.argument("directory", default="/")
@click.option("-l", "--long", is_flag=True, help="Show size, time and owed copies.")
@click.option("--here", is_flag=True, help="Look right in the directory, not below it.")
async def search(session: Session, pattern: str, directory: str, long: bool, here: bool) -> None:
    """Find files and directories by name, ignoring case.

    With * or ? PATTERN must match the whole name, else a part of it. PROVIDER:PATH as directory looks through what lies
    at a storage service.
    """
    if endpoint := parse_endpoint(directory):
        from cdir.cli.endpoints import search_objects

        await search_objects(session, pattern, endpoint, long=long, recursive=not here)
        return
    target = session.path(directory)
    async with session.client() as client:
        found = client.search(pattern, target)
        if here:
            found = _right_in(found, (await client.stat(target)).path)
        await _print(session, found, _long_line if long else _name_line, True)


async def _right_in(entries: AsyncIterator[Entry], directory: str) -> AsyncIterator[Entry]:
    async for entry in entries:
        if split_path(entry.path)[0] == directory:
            yield entry


_Line = Callable[[Entry, bool], str]


async def _print(session: Session, entries: AsyncIterator[Entry], line: _Line, whole: bool) -> None:
    if session.output.for_people:
        async for entry in entries:
            session.output.line(line(entry, whole))
    else:
        await session.output.stream(_plain_rows(entries), lambda row: "")


async def _plain_rows(entries: AsyncIterator[Entry]) -> AsyncIterator[Row]:
    async for entry in entries:
        yield entry_row(entry)


@command("tree", "cdir tree /photos")
@click.argument("path", default=".")
async def tree(session: Session, path: str) -> None:
    """Show a directory and all below it."""
    target = session.path(path)
    async with session.client() as client:
        top = await client.stat(target)
        if not session.output.for_people:
            await session.output.stream(_plain_rows(client.list(top.target, recursive=True)), lambda row: "")
            return
        session.output.line(_name_line(top, True))
        if not top.is_directory:
            return
        files, directories = 0, 0
        # one directory at a time, so that memory holds the names of one path down the tree and no more
        waiting = [[(entry, "") async for entry in client.list(top.target)][::-1]]
        while waiting:
            level = waiting[-1]
            if not level:
                waiting.pop()
                continue
            entry, indent = level.pop()
            session.output.line(f"{indent}{'├── ' if level else '└── '}{_name_line(entry, False)}")
            if entry.is_directory:
                directories += 1
                below = indent + ("│   " if level else "    ")
                waiting.append([(child, below) async for child in client.list(entry.target)][::-1])
            else:
                files += 1
        session.output.say(f"{directories} directories, {files} files")


@command("stat", "cdir stat /photos/cat.jpg")
@click.argument("path")
async def stat(session: Session, path: str) -> None:
    """Show what a path names; of PROVIDER:PATH what lies at that storage service."""
    if endpoint := parse_endpoint(path):
        from cdir.cli.endpoints import stat_object

        await stat_object(session, endpoint)
        return
    target = session.path(path)
    async with session.client() as client:
        entry = await client.stat(target)
    row = {**entry_row(entry), "sha256": entry.sha256, "author": entry.author, "version_id": entry.version_id}
    lines = [f"{entry.target}: {entry.kind.value}"]
    if not entry.is_directory:
        lines += [
            f"  size        {human_size(entry.size)} ({entry.size} bytes)",
            f"  modified    {rfc3339(entry.modified)}",
            f"  sha256      {entry.sha256}",
            f"  generation  {entry.generation}",
            f"  owed        {entry.owed}",
        ]
    else:
        lines.append(f"  made        {rfc3339(time_of(entry.modified_ns))}")
    lines.append(f"  author      {entry.author or '-'}")
    session.output.record(row, lines)


@command("cd", "cdir cd /photos", "cdir cd ..")
@click.argument("path", default="/")
async def cd(session: Session, path: str) -> None:
    """Change the current virtual directory, where relative paths begin. Kept for your next commands."""
    where = parse_target(path, session.current(), allow_parent=True)
    target = spelled(where)
    if where.path != "/":
        async with session.client() as client:
            if not (await client.stat(target)).is_directory:
                raise NotDirectory(f"{target}: is a file; name a directory")
    session.set_current(target)
    session.output.record({"path": target}, [])


@command("pwd", "cdir pwd", needs_daemon=False)
async def pwd(session: Session) -> None:
    """Print the current virtual directory."""
    if session.output.for_people:
        session.output.line(session.current())
    else:
        session.output.record({"path": session.current()}, [])
