"""The embedded daemon of a fresh home with local folders as providers: for tests of client and command line."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cdir
from cdir import daemon
from cdir.locations import Home

__all__ = ["Embedded", "embedded_daemon"]


@dataclass(frozen=True)
class Embedded:
    """A running daemon."""

    home: Home
    folders: dict[str, Path]
    """Roots of its providers by their names."""

    @property
    def address(self) -> str:
        return self.home.address


@contextmanager
def embedded_daemon(*names: str) -> Iterator[Embedded]:
    """Start the daemon in a folder with a short path, and register a local folder under each of ``names``."""
    place = Path(tempfile.mkdtemp(prefix="cdir-", dir="/tmp"))
    home = Home(place / "home")
    folders = {name: place / name for name in names}

    async def begin() -> None:
        await daemon.start(home)
        async with cdir.connect(home.address) as client:
            for name, folder in folders.items():
                await client.providers.add(name, "local", {"root": str(folder)})

    try:
        asyncio.run(begin())
        yield Embedded(home, folders)
    finally:
        asyncio.run(daemon.stop(home))
        shutil.rmtree(place, ignore_errors=True)
