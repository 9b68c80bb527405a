"""What the two sides of a sync are: a local folder, a directory of the virtual directory, a folder at a provider."""

from __future__ import annotations

import asyncio
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from cdir.downloads import local_below
from cdir.errors import InvalidArgument, NotFound
from cdir.paths import parse_endpoint, parse_target
from cdir.walk import error_of

if TYPE_CHECKING:
    from cdir.client import Client

__all__ = ["Side", "is_folder", "sides"]

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

    def below(self, path: str) -> Side:
        """Return what is called ``path`` below this side; its names are joined by ``/``."""
        if self.is_local:
            return Side(local_below(self.path, path.split("/")), True)
        endpoint = parse_endpoint(self.path)
        return Side(str(endpoint.below(path)) if endpoint else f"{self.path.rstrip('/')}/{path}", False)


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


async def is_folder(client: Client, side: Side) -> bool | None:
    """Whether a side is a folder, or something else; ``None`` when nothing is there."""
    try:
        if side.is_local:
            return stat.S_ISDIR((await asyncio.to_thread(_status, side.path)).st_mode)
        if parse_endpoint(side.path) is not None:
            return (await client.endpoints.stat(side.path)).is_directory
        return (await client.stat(side.path)).is_directory
    except NotFound:
        return None


def _status(local: str) -> os.stat_result:
    try:
        return os.stat(local)
    except OSError as error:
        raise error_of(error, local) from error


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
