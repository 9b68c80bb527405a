"""What is remembered of each sync: between what, how far it is, how it ended. One file and one lock for each name."""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cdir.cli.output import rfc3339
from cdir.errors import Conflict, InvalidArgument
from cdir.locations import Home
from cdir.progress import Progress

__all__ = ["SyncRecord", "default_name", "records"]

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_WRITE_SECONDS: Final = 1.0
"""How often progress is written at most."""


def default_name(source: str, target: str) -> str:
    """Return what a sync is called that was given no name: the same for the same two sides."""
    name = re.sub(r"[^A-Za-z0-9._]+", "-", f"{source} to {target}").strip("-._")
    return name[-80:].lstrip("-._") or "sync"


@dataclass(slots=True)
class SyncRecord:
    """One named sync, kept in the folder of this user's cdir."""

    folder: Path
    name: str
    _written: float = 0.0

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidArgument(
                f"{self.name[:80]!r} cannot name a sync: use up to 80 letters, digits, '-', '_' and '.', beginning with"
                " a letter or digit"
            )

    @classmethod
    def of(cls, home: Home, name: str) -> SyncRecord:
        """Return the sync of a name; nothing needs to be known of it. Raises InvalidArgument."""
        return cls(home.path / "syncs", name)

    @property
    def log(self) -> Path:
        """What a sync in the background has to say."""
        return self.folder / f"{self.name}.log"

    def lock(self) -> int:
        """Take the lock and return its descriptor, which a child process may inherit and so keep it. Raises Conflict
        when the sync runs already."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.folder / f"{self.name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise Conflict(f"sync {self.name!r} runs already; see `cdir sync status --name {self.name}`") from None
        return descriptor

    def read(self) -> dict[str, Any] | None:
        """Return what is remembered; ``None`` for nothing. One that says that it runs while nobody holds its lock was
        interrupted."""
        try:
            record: dict[str, Any] = json.loads((self.folder / f"{self.name}.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        if record["state"] == "running" and not self._is_locked():
            record["state"] = "interrupted"
        return record

    def begin(self, source: str, target: str) -> dict[str, Any]:
        """Remember that it runs now."""
        record = {
            "name": self.name,
            "source": source,
            "target": target,
            "state": "running",
            "started": rfc3339(datetime.now(UTC)),
            "ended": None,
            "files": 0,
            "bytes": 0,
            "skipped": 0,
            "removed": 0,
            "failed": 0,
            "owed": 0,
            "error": "",
        }
        self.write(record)
        return record

    def progress(self, record: dict[str, Any], progress: Progress) -> None:
        """Remember how far it is, once a second at most."""
        now = time.monotonic()
        if now - self._written < _WRITE_SECONDS:
            return
        self._written = now
        record.update(files=progress.files, bytes=progress.bytes, skipped=progress.skipped, failed=progress.failed)
        self.write(record)

    def write(self, record: Mapping[str, Any]) -> None:
        """Replace what is remembered."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        replacement = self.folder / f".{self.name}.{os.getpid()}"
        replacement.write_text(json.dumps(record) + "\n", encoding="utf-8")
        replacement.replace(self.folder / f"{self.name}.json")

    def _is_locked(self) -> bool:
        try:
            descriptor = os.open(self.folder / f"{self.name}.lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False


def records(home: Home) -> Iterator[dict[str, Any]]:
    """Yield everything that is remembered, by name."""
    for path in sorted((home.path / "syncs").glob("*.json")):
        record = SyncRecord.of(home, path.stem).read()
        if record is not None:
            yield record
