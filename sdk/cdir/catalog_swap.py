"""Putting an empty catalog in the place of a home's, to rebuild it; and back, when that fails."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

from cdir import daemon
from cdir.locations import Home

__all__ = ["empty_catalog", "scratch_home"]

_SUFFIXES = ("", "-wal", "-shm")
"""A SQLite database is these files, of which the last two need not be there."""


@contextlib.asynccontextmanager
async def empty_catalog(home: Home) -> AsyncIterator[Path | None]:
    """Run the home's daemon over an empty catalog; gives where the old one lies now, ``None`` when there was none.

    The old one is never written to. When the block fails it goes back to its place, and the daemon is as it was.
    """
    was_running = await daemon.stop(home)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    aside = home.catalog.with_name(f"{home.catalog.name}.{stamp}")
    there = home.catalog.exists()
    await asyncio.to_thread(_move, home.catalog, aside)
    try:
        await daemon.start(home, new_catalog=True)
        yield aside if there else None
    except BaseException:
        await daemon.stop(home)
        await asyncio.to_thread(_remove, home.catalog)
        await asyncio.to_thread(_move, aside, home.catalog)
        if was_running:
            await daemon.start(home)
        raise


@contextlib.asynccontextmanager
async def scratch_home(home: Home) -> AsyncIterator[Home]:
    """Run a second daemon for the block, over an empty catalog and with this home's key and providers."""
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="cdir-"))
    scratch = Home(folder)
    try:
        await asyncio.to_thread(_furnish, home, scratch)
        await daemon.start(scratch, new_catalog=True)
        yield scratch
    finally:
        await daemon.stop(scratch)
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _furnish(home: Home, scratch: Home) -> None:
    if home.key.exists():
        scratch.key.symlink_to(home.key)  # the key itself is in one place alone
    if home.vault.exists():
        scratch.vault.symlink_to(home.vault)
    if home.provider_card.exists():
        shutil.copy(home.provider_card, scratch.provider_card)


def _move(source: Path, target: Path) -> None:
    for suffix in _SUFFIXES:
        part = source.with_name(source.name + suffix)
        if part.exists():
            part.replace(target.with_name(target.name + suffix))


def _remove(catalog: Path) -> None:
    for suffix in _SUFFIXES:
        catalog.with_name(catalog.name + suffix).unlink(missing_ok=True)
