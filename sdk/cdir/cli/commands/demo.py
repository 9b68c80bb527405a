"""``demo``: the main job on three local folders, told in plain words and checked at each step."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sysconfig
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from cdir import daemon
from cdir.cli.command import command
from cdir.cli.commands.transfer import summary
from cdir.cli.exits import Exit
from cdir.cli.headline import headline
from cdir.cli.output import Output, count
from cdir.cli.session import Session
from cdir.connecting import connect
from cdir.locations import Home
from cdir.model import ProviderState, TreeStatus

if TYPE_CHECKING:
    from cdir.client import Client

__all__ = ["demo"]

_PACKAGES: Final = ("asyncio", "email", "json", "logging", "urllib")
"""What of Python's standard library serves as real files: some hundred, in folders."""

_FOLDERS: Final = ("attic", "cellar", "office")
_AWAY: Final = "cellar"
_WAIT_SECONDS: Final = 30.0


class _Failed(Exception):
    """A step did not do what it should."""


@command("demo", "cdir demo", "cdir demo --keep      # look at the folders afterwards", needs_daemon=False)
@click.option("--keep", is_flag=True, help="Leave the folders for a look.")
async def demo(session: Session, keep: bool) -> int:
    """See it all on three local folders, in a temporary place: nothing of yours is touched."""
    started = time.monotonic()
    place = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="cdir-demo-"))
    problem = ""
    try:
        await _Demo(session.output, place).run()
    except _Failed as error:
        problem = str(error)
    finally:
        if not keep:
            await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)
    seconds = time.monotonic() - started
    row = {
        "passed": not problem,
        "problem": problem,
        "seconds": round(seconds, 1),
        "place": str(place) if keep else None,
    }
    if problem:
        session.output.record(row, [])
        session.output.complain(f"cdir: the demo failed: {problem}")
        return Exit.FAILED
    session.output.record(row, _ending(seconds, place if keep else None))
    return Exit.DONE


def _ending(seconds: float, place: Path | None) -> list[str]:
    kept = [f"All of it is still in {place}; remove it when you have seen enough.", ""] if place else []
    return [
        "",
        f"That was all, in {seconds:.0f} s. Every step was checked.",
        "",
        *kept,
        "Now with your own storage:",
        "  cdir provider kinds                                   what can be registered",
        "  cdir provider add disk --kind local --set root=/mnt/disk/cdir",
        "  cdir put --recursive ~/photos /photos",
        "  cdir status",
    ]


class _Demo:
    def __init__(self, output: Output, place: Path) -> None:
        self._output = output
        self._home = Home(place / "home")
        self._folders = {name: place / name for name in _FOLDERS}
        self._source = place / "source"
        self._fetched = place / "fetched"
        self._step = 0

    async def run(self) -> None:
        await asyncio.to_thread(self._collect)
        self._tell("Starting the daemon in a temporary home, and registering three folders as storage services")
        async with self._client() as client:
            for name, folder in self._folders.items():
                await client.providers.add(name, "local", {"root": str(folder)})
                self._note(f"{name}: {folder}")
            await self._put(client)
            await self._look()
            await self._take_away(client)
            await self._bring_back(client)

    @contextlib.asynccontextmanager
    async def _client(self) -> AsyncIterator[Client]:
        ready = await daemon.start(self._home)
        try:
            async with connect(ready.address) as client:
                yield client
        finally:
            await daemon.stop(self._home)

    async def _put(self, client: Client) -> None:
        self._tell("Putting some of Python's standard library into the virtual directory /library")
        report = await client.put(self._source, "/library", recursive=True)
        self._note(summary(report))
        self._require(not report.failed, f"{report.failed[0].path}: {report.failed[0].error}" if report.failed else "")
        status = await self._until(client, lambda status: not status.owed, "every copy to be there")
        self._show(status)
        again = await client.put(self._source, "/library", recursive=True)
        self._require(
            again.files == 0 and again.skipped == report.files, "putting it again was not a matter of nothing"
        )
        self._note(f"Putting it again: {summary(again)}")

    async def _look(self) -> None:
        self._tell(
            "Looking into one of the folders: the files lie there under their own names, for any program to read"
        )
        folder = self._folders["attic"] / "library"
        names = sorted(path.name + "/" for path in folder.iterdir())
        self._note(f"{folder}: {' '.join(names)}")
        for name in self._folders:
            await self._compare(self._folders[name] / "library", f"the copy in {name}")
        self._note("All three folders were compared with the originals, byte by byte.")

    async def _take_away(self, client: Client) -> None:
        folder = self._folders[_AWAY]
        self._tell(f"Taking one folder away, as when a service fails: {_AWAY} → {_AWAY}.away")
        folder.rename(folder.with_name(f"{_AWAY}.away"))
        report = await client.get("/library", self._fetched, recursive=True)
        self._note(f"Reading everything all the same: {summary(report)}")
        await self._compare(self._fetched, "what was read back")
        await client.write("/library/news.txt", _NEWS)
        (self._source / "news.txt").write_bytes(_NEWS)
        self._note("Writing a new file all the same: /library/news.txt")
        status = await self._until(
            client,
            lambda status: (
                bool(status.owed)
                and any(one.name == _AWAY and one.state is ProviderState.DOWN for one in status.providers)
            ),
            f"{_AWAY} to be seen as down",
        )
        self._show(status)

    async def _bring_back(self, client: Client) -> None:
        folder = self._folders[_AWAY]
        self._tell("Bringing the folder back, and waiting until it has what it missed")
        folder.with_name(f"{_AWAY}.away").rename(folder)
        status = await self._until(
            client,
            lambda status: not status.owed and all(one.state is ProviderState.UP for one in status.providers),
            f"{_AWAY} to be whole again",
        )
        self._show(status)
        for name in self._folders:
            await self._compare(self._folders[name] / "library", f"the copy in {name}")
        self._note("All three folders were compared with the originals again.")

    # telling and checking

    def _tell(self, text: str) -> None:
        self._step += 1
        self._say(f"\n{self._step}. {text}")

    def _note(self, text: str) -> None:
        self._say(f"   {text}")

    def _say(self, text: str) -> None:
        if self._output.for_people and not self._output.quiet:
            self._output.line(text)

    def _show(self, status: TreeStatus) -> None:
        for line in headline(status):
            self._note(f"status: {line}")

    def _require(self, holds: bool, problem: str) -> None:
        if not holds:
            raise _Failed(problem)

    async def _until(self, client: Client, holds: Callable[[TreeStatus], bool], what: str) -> TreeStatus:
        deadline = time.monotonic() + _WAIT_SECONDS
        while not holds(status := await client.tree_status("/")):
            if time.monotonic() > deadline:
                raise _Failed(f"waited {_WAIT_SECONDS:.0f} s for {what}; status: {'; '.join(headline(status))}")
            await asyncio.sleep(0.1)
        return status

    async def _compare(self, copy: Path, what: str) -> None:
        difference = await asyncio.to_thread(_difference, self._source, copy)
        self._require(not difference, f"{what} differs: {difference}")

    def _collect(self) -> None:
        library = Path(sysconfig.get_path("stdlib"))
        for package in _PACKAGES:
            shutil.copytree(
                library / package, self._source / package, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
            )
        self._say(
            f"The demo takes {count(sum(1 for _ in _files(self._source)), 'real file')}, and half a minute at most."
        )


_NEWS: Final = b"Written while one of three storage services was away.\n"


def _files(top: Path) -> list[str]:
    return sorted(
        os.path.relpath(os.path.join(directory, name), top) for directory, _, names in os.walk(top) for name in names
    )


def _difference(original: Path, copy: Path) -> str:
    """Return the first difference between two trees in words; empty when there is none."""
    wanted, found = _files(original), _files(copy)
    if wanted != found:
        return f"{sorted(set(wanted) ^ set(found))[0]} is in one only"
    for name in wanted:
        if (original / name).read_bytes() != (copy / name).read_bytes():
            return f"{name} has other bytes"
    return ""
