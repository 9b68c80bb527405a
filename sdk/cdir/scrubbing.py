"""Scrubs: proving that copies are what they are recorded as."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from cdir.connection import Connection
from cdir.paths import parse_target
from cdir.status import translated
from cdir.v1 import scrub_pb2

__all__ = ["ScrubProgress", "scrub"]


@dataclass(frozen=True, slots=True)
class ScrubProgress:
    """How far a scrub is."""

    proven: int
    """Copies found right."""
    by_checksum: int
    """How many of them by the provider's own checksum, without reading."""
    bytes: int
    """Bytes read."""
    calls: int
    """Calls made at providers."""
    missing: int
    """Copies found gone: they are owed from now on."""
    corrupt: int
    """Copies with other bytes than recorded: they are owed from now on."""
    changed: int
    """Copies that others have written since: they are treated as a scan treats them."""
    failed: int
    """Copies of which nothing could be found out."""
    unreachable: tuple[str, ...]
    """Names of providers that could not be reached to the end."""
    done: bool
    bounded: bool
    """Whether a bound has left copies unproven, or their access unasked."""
    access_right: int
    """Copies of files with an access control list that are open to nobody else, as their provider says."""
    access_wider: int
    """Copies that others had opened to more than was asked: it is set anew."""
    access_other: int
    """Copies that others had given another access, which is not wider: it is set anew."""
    access_failed: int
    """Copies whose access could not be found out; none of them is counted as right."""
    access_untold: tuple[str, ...]
    """Names of providers with such copies that do not tell what is in force there."""


async def scrub(
    connection: Connection, path: str, provider: str, *, bytes: int, calls: int, sample: float
) -> AsyncGenerator[ScrubProgress, None]:
    """See :meth:`cdir.client.Client.scrub`."""
    where = parse_target(path)
    call = connection.directory.ScrubTree(
        scrub_pb2.ScrubTreeRequest(
            workspace=where.workspace, path=where.path, provider=provider, bytes=bytes, calls=calls, sample=sample
        ),
        metadata=connection.metadata,
    )
    try:
        with translated():
            async for answer in call:
                yield _progress(answer.progress)
    finally:
        call.cancel()


def _progress(message: scrub_pb2.ScrubProgress) -> ScrubProgress:
    return ScrubProgress(
        proven=message.proven,
        by_checksum=message.by_checksum,
        bytes=message.bytes,
        calls=message.calls,
        missing=message.missing,
        corrupt=message.corrupt,
        changed=message.changed,
        failed=message.failed,
        unreachable=tuple(message.unreachable),
        done=message.done,
        bounded=message.bounded,
        access_right=message.access_right,
        access_wider=message.access_wider,
        access_other=message.access_other,
        access_failed=message.access_failed,
        access_untold=tuple(message.access_untold),
    )
