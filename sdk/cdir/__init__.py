"""cdir: one virtual directory over many storage providers.

::

    import cdir

    async with cdir.connect() as client:  # or cdir.connect_blocking() without asyncio
        await client.put("photos", "/photos", recursive=True)

Importing this package is cheap; what a name needs is loaded when the name is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cdir.blocking import BlockingClient, connect_blocking
    from cdir.client import Client
    from cdir.connecting import connect
    from cdir.errors import CdirError
    from cdir.model import (
        Change,
        Entry,
        FileStatus,
        OutsideDeletion,
        Policy,
        ProviderInfo,
        Replica,
        TransferReport,
        TreeStatus,
        Version,
        Wait,
        WriteOutcome,
    )
    from cdir.progress import Progress

__all__ = [
    "BlockingClient",
    "CdirError",
    "Change",
    "Client",
    "Entry",
    "FileStatus",
    "OutsideDeletion",
    "Policy",
    "Progress",
    "ProviderInfo",
    "Replica",
    "TransferReport",
    "TreeStatus",
    "Version",
    "Wait",
    "WriteOutcome",
    "connect",
    "connect_blocking",
]

_MODULES = {
    "BlockingClient": "cdir.blocking",
    "CdirError": "cdir.errors",
    "Client": "cdir.client",
    "Progress": "cdir.progress",
    "connect": "cdir.connecting",
    "connect_blocking": "cdir.blocking",
}
"""Where the names are that do not come from :mod:`cdir.model`."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'cdir' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES.get(name, "cdir.model")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
