"""What the client returns: small immutable records, free of anything that belongs to the wire.

Times are timezone-aware :class:`~datetime.datetime` in UTC; ``modified_ns`` keeps the nanoseconds that those cannot
hold. Sizes are bytes. Digests are lower-case hex. Paths are absolute within their workspace (``/reports/q3.csv``);
``target`` spells the workspace out (``@team/reports/q3.csv``), as a person would type it.

Making a record class costs a command a millisecond, so each module here is loaded when one of its names is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cdir.model.entries import Entry, Server, time_of
    from cdir.model.history import Change, Version
    from cdir.model.policies import PlacementExplanation, PlacementReason, Policy, PolicyRule
    from cdir.model.providers import CheckResult, Kind, Option, ProviderInfo, ProviderUsage
    from cdir.model.standing import FileStatus, ProviderStatus, QuarantinedCopy, Replica, TreeStatus
    from cdir.model.states import (
        ChangeKind,
        EntryKind,
        ExitState,
        OnConflict,
        OutsideDeletion,
        ProviderState,
        ReplicaState,
        Wait,
    )
    from cdir.model.transfers import CopyOutcome, Failed, KeptCopy, TransferReport, WriteOutcome

__all__ = [
    "Change",
    "ChangeKind",
    "CheckResult",
    "CopyOutcome",
    "Entry",
    "EntryKind",
    "ExitState",
    "Failed",
    "FileStatus",
    "KeptCopy",
    "Kind",
    "OnConflict",
    "Option",
    "OutsideDeletion",
    "PlacementExplanation",
    "PlacementReason",
    "Policy",
    "PolicyRule",
    "ProviderInfo",
    "ProviderState",
    "ProviderStatus",
    "ProviderUsage",
    "QuarantinedCopy",
    "Replica",
    "ReplicaState",
    "Server",
    "TransferReport",
    "TreeStatus",
    "Version",
    "Wait",
    "WriteOutcome",
    "time_of",
]

_MODULES = {
    "Change": "history",
    "ChangeKind": "states",
    "CheckResult": "providers",
    "CopyOutcome": "transfers",
    "Entry": "entries",
    "EntryKind": "states",
    "ExitState": "states",
    "Failed": "transfers",
    "FileStatus": "standing",
    "KeptCopy": "transfers",
    "Kind": "providers",
    "OnConflict": "states",
    "Option": "providers",
    "OutsideDeletion": "states",
    "PlacementExplanation": "policies",
    "PlacementReason": "policies",
    "Policy": "policies",
    "PolicyRule": "policies",
    "ProviderInfo": "providers",
    "ProviderState": "states",
    "ProviderStatus": "standing",
    "ProviderUsage": "providers",
    "QuarantinedCopy": "standing",
    "Replica": "standing",
    "ReplicaState": "states",
    "Server": "entries",
    "TransferReport": "transfers",
    "TreeStatus": "standing",
    "Version": "history",
    "Wait": "states",
    "WriteOutcome": "transfers",
    "time_of": "entries",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'cdir.model' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"cdir.model.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
