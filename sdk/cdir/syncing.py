"""Making one tree like another, one way: local folders, directories of the virtual directory, folders at providers.

What is new or differs in size, time or digest is transferred; what the source has not is removed where that is asked
for. What is replaced in the virtual directory, or at a provider, stays restorable as a version.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cdir.endpoint_trees import copy_trees, get_objects, put_objects
from cdir.model import OnConflict, TransferReport
from cdir.paths import parse_endpoint
from cdir.sides import Side, sides
from cdir.surplus import Deletion, Limit, OnRemoved, Removal, Surplus

if TYPE_CHECKING:
    from cdir.client import Client
    from cdir.progress import OnProgress
    from cdir.trees import OnFile

__all__ = ["Deletion", "Limit", "Removal", "Side", "SyncReport", "sides", "sync"]


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What a sync did."""

    transfer: TransferReport
    removal: Removal = field(default_factory=Removal)


async def sync(
    client: Client,
    source: Side,
    target: Side,
    *,
    delete: Deletion | None = None,
    parallel: int = 4,
    dry_run: bool = False,
    on_progress: OnProgress | None = None,
    on_file: OnFile | None = None,
    on_removed: OnRemoved | None = None,
) -> SyncReport:
    """Make ``target`` like ``source``; a file that fails does not stop the others.

    A file of the virtual directory that somebody changes meanwhile is not overwritten: the content is kept beside it.
    Without ``delete`` nothing is removed; with it both sides are compared first, and what the target has beyond the
    source is removed when all else is in place. A guard that holds that back raises nothing: the report says so.
    """
    async with AsyncExitStack() as stack:
        surplus: Surplus | None = None
        if delete is not None:
            surplus = await stack.enter_async_context(Surplus(client, source, target, delete))
            await surplus.compare()
        transfer = await _transfer(
            client, source, target, parallel=parallel, dry_run=dry_run, on_progress=on_progress, on_file=on_file
        )
        if surplus is None:
            return SyncReport(transfer)
        held_back = surplus.held_back(transfer.failed)
        if held_back is not None:
            return SyncReport(transfer, Removal(held_back=held_back))
        removal = await surplus.remove(dry_run=dry_run, parallel=parallel, on_removed=on_removed)
        return SyncReport(transfer, removal)


async def _transfer(
    client: Client,
    source: Side,
    target: Side,
    *,
    parallel: int,
    dry_run: bool,
    on_progress: OnProgress | None,
    on_file: OnFile | None,
) -> TransferReport:
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
