"""Running the conformance cases on a provider: one at a time, each in a folder of its own, tidied up behind it."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import uuid
from collections.abc import AsyncGenerator

from cdir.errors import CdirError, NotFound
from cdir_adapters.acl import Access, Acl
from cdir_adapters.adapter import Adapter, ObjectKind

# the modules of cases register them when they are imported
from cdir_adapters.testing import controlling, listing, reading, writing
from cdir_adapters.testing.trial import CASES, MODIFIED, Case, RawGet, RawOpen, RawPut, Trial

__all__ = ["CASES", "Outcome", "Result", "run_case", "run_conformance"]

_ = (controlling, listing, reading, writing)


class Outcome(enum.StrEnum):
    PASSED = "passed"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """How one case went. ``message`` says what is missing (skipped) or wrong (failed)."""

    name: str
    outcome: Outcome
    message: str = ""


async def _remove_tree(adapter: Adapter, prefix: str) -> None:
    """Remove everything below ``prefix`` and the folders that held it."""
    folders: list[str] = []
    async for page in adapter.list(prefix, recursive=True):
        for found in page.objects:
            if found.kind is not ObjectKind.DIRECTORY:
                await adapter.delete(found.key)
    if not adapter.capability.directories:
        return
    waiting = [prefix]
    while waiting:
        folder = waiting.pop()
        folders.append(folder)
        async for page in adapter.list(folder):
            waiting.extend(found.key for found in page.objects if found.kind is ObjectKind.DIRECTORY)
    for folder in reversed(folders):
        await adapter.remove_directory(folder)


async def run_case(
    case: Case, adapter: Adapter, prefix: str, *, raw_put: RawPut, raw_get: RawGet, raw_open: RawOpen, many: int = 60
) -> None:
    """Run one case in a new folder below ``prefix``. Raises AssertionError, or what the adapter raised."""
    trial = Trial(
        adapter=adapter,
        prefix=f"{prefix}/{case.name}-{uuid.uuid4().hex[:8]}",
        raw_put=raw_put,
        raw_get=raw_get,
        raw_open=raw_open,
        many=many,
    )
    try:
        await case.run(trial)
    finally:
        with contextlib.suppress(CdirError):
            await _remove_tree(adapter, trial.prefix)


async def run_conformance(
    adapter: Adapter, prefix: str | None = None, *, many: int = 60
) -> AsyncGenerator[Result, None]:
    """Run every case on a user's own provider, yield each result as it is known, and leave nothing behind.

    The cases work in the folder ``prefix``; not given, it is a new one among cdir's own. There is no way around the
    adapter here, so it also puts, gets and opens what the cases want to be so raw.
    """
    folder = prefix or f".cdir/conformance-{uuid.uuid4().hex}"

    async def raw_put(key: str, data: bytes) -> None:
        await adapter.write(key, data, size=len(data), modified=MODIFIED)

    async def raw_get(key: str) -> bytes | None:
        try:
            async with adapter.read(key) as opened:
                return b"".join([piece async for piece in opened])
        except NotFound:
            return None

    async def raw_open(key: str) -> None:
        await adapter.set_acl(key, Acl(Access.PUBLIC_READ))

    try:
        for case in CASES:
            if not case.selected(adapter.capability):
                yield Result(case.name, Outcome.SKIPPED, f"needs {case.needs}")
                continue
            try:
                await run_case(case, adapter, folder, raw_put=raw_put, raw_get=raw_get, raw_open=raw_open, many=many)
            except Exception as error:
                result = Result(case.name, Outcome.FAILED, _describe(error))
            else:
                result = Result(case.name, Outcome.PASSED)
            yield result
    finally:
        with contextlib.suppress(CdirError):
            await _remove_tree(adapter, folder)


def _describe(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
