"""Named places in the protocols at which a process can be told to die, as a power cut would end it.

Tests set ``CDIR_CRASH_AT`` to ``NAME`` or ``NAME:COUNT``: the process kills itself with SIGKILL when it passes that
point for the COUNT-th time, the first by default. ``SERVICE/NAME:COUNT`` arms only that service of the split deployment
(``gateway``, ``catalog``…). Unarmed, a point costs one look into an empty dictionary.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Final

from cdir.errors import ConfigInvalid

__all__ = ["POINTS", "VARIABLE", "arm", "crash_point", "die", "disarm"]

VARIABLE: Final = "CDIR_CRASH_AT"

POINTS: Final[Mapping[str, str]] = {
    "write.before_begin": "the gateway is about to record the intent",
    "write.in_begin": "the catalog has inserted the intent and not committed it",
    "write.begun": "the catalog has committed the intent and not answered",
    "write.before_copy": "a provider is about to be given the content",
    "write.after_copy": "a provider has stored the content; nobody was told",
    "write.before_copies": "a provider is about to be given the contents of several files",
    "write.after_copies": "a provider has stored what it takes of them; nobody was told",
    "write.before_commit": "enough copies are durable; the commit was not asked for",
    "write.in_commit": "the catalog has written the commit and not committed it",
    "write.committed": "the catalog has committed and not answered",
    "write.after_commit": "the gateway knows that the file is stored and has not told its caller",
    "replace.before_aside": "the copy of the older version is about to be moved aside",
    "replace.after_aside": "it was moved aside at its provider; the catalog does not know",
    "replace.after_record": "the catalog knows where it is; the new content is not written",
    "move.in_commit": "the catalog has written a rename and not committed it",
    "move.committed": "the catalog has committed a rename; no provider has followed",
    "remove.in_commit": "the catalog has written a removal and not committed it",
    "remove.committed": "the catalog has committed a removal; no provider has followed",
    "place.committed": "the catalog has placed files anew; no copy has followed",
    "repair.after_claim": "debt is leased and not worked on",
    "repair.before_copy": "a copy that is owed is about to be made",
    "repair.after_copy": "it was written; the catalog does not know",
    "repair.before_relocate": "an object is about to be renamed at its provider",
    "repair.after_relocate": "it was renamed; the catalog does not know",
    "repair.before_delete": "objects are about to be removed at a provider",
    "repair.after_delete": "they were removed; the catalog does not know",
    "repair.before_finish": "outcomes of work are about to be reported",
    "repair.in_finish": "the catalog has written the outcomes and not committed them",
    "repair.finished": "they are committed; the replicator does not know",
    "recover.after_claim": "a crashed write was taken over and not looked at",
    "recover.before_commit": "a crashed write was found whole and is about to be completed",
    "recover.before_abort": "a crashed write is about to be undone",
    "scan.before_compare": "a range was listed; the catalog was not asked to compare it",
    "scan.in_compare": "the catalog has drawn its conclusions from a range and not committed them",
    "scan.compared": "they are committed; the replicator does not know",
    "scan.before_finish": "everything was compared; the end of the scan was not recorded",
    "scan.after_finish": "the end of a scan is recorded",
    "evacuate.before_start": "an evacuation was planned and not begun",
    "evacuate.in_start": "the catalog has written the begin of an evacuation and not committed it",
    "evacuate.started": "the evacuation has begun; nobody was told",
    "evacuate.before_record": "how far an evacuation is was measured and not recorded",
    "evacuate.in_record": "the catalog has recorded that and not committed it",
    "evacuate.recorded": "it is recorded; what follows from it was not begun",
}
"""What is so when a process dies at each point."""

_armed: dict[str, int] = {}
"""How often each armed point is still to be passed."""


def crash_point(name: str) -> None:
    """Die here if this point is armed and was passed often enough."""
    if _armed.get(name) is not None:
        _pass(name)


def arm(service: str, environment: Mapping[str, str]) -> None:
    """Arm what ``CDIR_CRASH_AT`` names, if that is meant for ``service``. Raises ConfigInvalid for an unknown point."""
    order = environment.get(VARIABLE, "")
    for_service, separator, point = order.rpartition("/")
    if not order or (separator and for_service != service):
        return
    name, _, count = point.partition(":")
    if name not in POINTS or not (count or "1").isdecimal() or not int(count or "1"):
        raise ConfigInvalid(f"{VARIABLE} is {order!r}; name a crash point, as in write.after_copy:2", option=VARIABLE)
    _armed[name] = int(count or "1")


def disarm() -> None:
    """Let no point end this process."""
    _armed.clear()


def _pass(name: str) -> None:
    _armed[name] -= 1
    if _armed[name] <= 0:
        die()


def die() -> None:
    """End this process at once, as ``kill -9`` does."""
    os.kill(os.getpid(), signal.SIGKILL)
