"""Making one tree like another, one way: local folders, directories of the virtual directory, folders at providers.

What is new or differs in size, time or digest is transferred; nothing is ever removed. What is replaced in the virtual
directory, or at a provider, stays restorable as a version.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, NamedTuple

from cdir.endpoint_trees import copy_trees, get_objects, put_objects
from cdir.errors import InvalidArgument, NotFound
from cdir.model import OnConflict, TransferReport
from cdir.paths import parse_endpoint, parse_target

if TYPE_CHECKING:
    from cdir.client import Client
    from cdir.progress import OnProgress
    from cdir.trees import OnFile

__all__ = ["Side", "sides", "sync"]

_LOCAL, _VIRTUAL = "file:", "cdir:"
"""What a path begins with that says which kind it is."""


class Side(NamedTuple):
    """One of the two trees: a local path, or a place as :mod:`cdir.endpoints` has them."""

    path: str
    is_local: bool

    def __str__(self) -> str:
        if self.is_local:
            return f"{_LOCAL}{self.path}"
        return self.path if parse_endpoint(self.path) else f"{_VIRTUAL}{self.path}"


async def sides(client: Client, source: str, target: str, current: str = "/") -> tuple[Side, Side]:
    """Say what two texts name. ``PROVIDER:path`` and ``@team/…`` speak for themselves, as do paths that begin with
    ``file:`` (local), ``cdir:`` (virtual), ``.`` or ``~`` (local). Any other is what exists; beside a local side it is
    virtual, and beside a virtual source it is local. Relative virtual paths begin at ``current``.

    Raises NotFound (no such source) and InvalidArgument (a source that exists on both sides, or both sides local).
    """
    one, other = _plain(source, current), _plain(target, current)
    if one is None:
        one = await _existing(client, source, current)
    if other is None:
        virtual = one.is_local or parse_endpoint(one.path) is not None
        other = _virtual(target, current) if virtual else _local(target)
    if one.is_local and other.is_local:
        raise InvalidArgument("both sides are local; one of them has to be in the virtual directory or at a provider")
    return one, other


async def sync(
    client: Client,
    source: Side,
    target: Side,
    *,
    parallel: int = 4,
    dry_run: bool = False,
    on_progress: OnProgress | None = None,
    on_file: OnFile | None = None,
) -> TransferReport:
    """Make ``target`` like ``source``; a file that fails does not stop the others.

    A file of the virtual directory that somebody changes meanwhile is not overwritten: the content is kept beside it.
    """
    if source.is_local:
        endpoint = parse_endpoint(target.path)
        if endpoint is not None:
            return await put_objects(
                client,
                [source.path],
                endpoint,
                recursive=True,
                replace=True,
                parallel=parallel,
                dry_run=dry_run,
                on_progress=on_progress,
                on_file=on_file,
            )
        return await client.put(
            [source.path],
            target.path,
            recursive=True,
            parallel=parallel,
            on_conflict=OnConflict.KEEP_COPY,
            dry_run=dry_run,
            on_progress=on_progress,
            on_file=on_file,
        )
    if target.is_local:
        fetch = get_objects if parse_endpoint(source.path) is not None else _get
        return await fetch(
            client,
            [source.path],
            target.path,
            recursive=True,
            parallel=parallel,
            dry_run=dry_run,
            on_progress=on_progress,
            on_file=on_file,
        )
    return await copy_trees(
        client,
        [source.path],
        target.path,
        recursive=True,
        replace=True,
        parallel=parallel,
        dry_run=dry_run,
        on_progress=on_progress,
        on_file=on_file,
    )


async def _get(
    client: Client,
    sources: list[str],
    target: str,
    *,
    recursive: bool,
    parallel: int,
    dry_run: bool,
    on_progress: OnProgress | None,
    on_file: OnFile | None,
) -> TransferReport:
    return await client.get(
        sources,
        target,
        recursive=recursive,
        parallel=parallel,
        dry_run=dry_run,
        on_progress=on_progress,
        on_file=on_file,
    )


def _plain(text: str, current: str) -> Side | None:
    """What a text surely names; ``None`` when it may be either."""
    if text.startswith(_LOCAL):
        return _local(text.removeprefix(_LOCAL))
    if text.startswith(_VIRTUAL):
        return _virtual(text.removeprefix(_VIRTUAL), current)
    if text.startswith((".", "~")):
        return _local(text)
    if text.startswith("@"):
        return _virtual(text, current)
    return Side(text, False) if parse_endpoint(text) is not None else None


async def _existing(client: Client, source: str, current: str) -> Side:
    local = await asyncio.to_thread(os.path.lexists, source)
    virtual = await client.find(_virtual(source, current).path) is not None
    if local and virtual:
        raise InvalidArgument(
            f"{source} is both a local path and one of the virtual directory; write {_LOCAL}{source} or"
            f" {_VIRTUAL}{source}"
        )
    if not local and not virtual:
        raise NotFound(f"{source}: neither a local path nor one of the virtual directory")
    return _local(source) if local else _virtual(source, current)


def _local(path: str) -> Side:
    if not path:
        raise InvalidArgument(f"{_LOCAL} needs a path")
    return Side(os.path.abspath(os.path.expanduser(path)), True)


def _virtual(path: str, current: str) -> Side:
    where = parse_target(path, current)
    return Side(f"@{where.workspace}{where.path}" if where.workspace else where.path, False)
