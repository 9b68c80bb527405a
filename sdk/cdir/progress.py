"""How far a transfer is: one live object that the engines update and a watcher may look at."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from cdir.errors import CdirError
from cdir.model import Failed, KeptCopy, TransferReport, WriteOutcome

__all__ = ["OnProgress", "Progress", "ProviderTally", "kept_copy"]


@dataclass(slots=True)
class ProviderTally:
    """What one provider did in this transfer."""

    stored: int = 0
    owed: int = 0


@dataclass(slots=True)
class Progress:
    """Counts of a transfer under way. The same object is handed to every call of the watcher; look, do not change."""

    found_files: int = 0
    """Files to transfer, as far as they are known."""
    found_bytes: int = 0
    complete: bool = False
    """True once all files are known, so that the two above are totals."""
    files: int = 0
    """Files transferred."""
    bytes: int = 0
    """Bytes transferred, those of files under way included."""
    skipped: int = 0
    """Files that were there unchanged."""
    failed: int = 0
    providers: dict[str, ProviderTally] = field(default_factory=dict)


OnProgress = Callable[[Progress], None]


class Tally:
    """Collects the outcomes of a transfer for its report, and tells the watcher."""

    def __init__(self, on_progress: OnProgress | None) -> None:
        self.progress = Progress()
        self._on_progress = on_progress
        self._failed: list[Failed] = []
        self._conflicts: list[KeptCopy] = []
        self._bytes = 0
        self._owed = 0
        self._owed_to: set[str] = set()

    def tell(self) -> None:
        if self._on_progress is not None:
            self._on_progress(self.progress)

    def found(self, size: int) -> None:
        """One more file is to be transferred."""
        self.progress.found_files += 1
        self.progress.found_bytes += size

    def all_found(self) -> None:
        self.progress.complete = True
        self.tell()

    def skipped(self, owed: int) -> None:
        """A file is there unchanged; ``owed`` providers still lack it."""
        self.progress.skipped += 1
        self._owed += owed
        self.tell()

    def moved(self, count: int) -> None:
        """Bytes of a file under way have gone over; negative takes back those of one that failed."""
        self.progress.bytes += count
        self.tell()

    def done(self, size: int) -> None:
        """A file is transferred; its bytes were told to :meth:`moved`."""
        self.progress.files += 1
        self._bytes += size
        self.tell()

    def stored(self, outcome: WriteOutcome) -> None:
        """A file is durable: who has it, who owes it."""
        self._owed += len(outcome.owed)
        self._owed_to.update(outcome.owed)
        if outcome.conflict_of:
            self._conflicts.append(kept_copy(outcome))
        for name in outcome.stored:
            self.progress.providers.setdefault(name, ProviderTally()).stored += 1
        for name in outcome.owed:
            self.progress.providers.setdefault(name, ProviderTally()).owed += 1

    def owe(self, providers: Collection[str]) -> None:
        """A file is durable, and these providers get their copy in the background."""
        self._owed += len(providers)
        self._owed_to.update(providers)

    def fail(self, path: str, error: CdirError) -> None:
        """One item is not transferred."""
        self.fail_with(Failed(path, error))

    def fail_with(self, failed: Failed) -> None:
        self._failed.append(failed)
        self.progress.failed += 1
        self.tell()

    def report(self, seconds: float) -> TransferReport:
        return TransferReport(
            files=self.progress.files,
            bytes=self._bytes,
            skipped=self.progress.skipped,
            failed=tuple(self._failed),
            owed=self._owed,
            seconds=seconds,
            owed_to=tuple(sorted(self._owed_to)),
            conflicts=tuple(self._conflicts),
        )


def kept_copy(outcome: WriteOutcome) -> KeptCopy:
    """Return what a person is told of a content that was kept as a conflicting copy."""
    entry = outcome.entry
    meant = f"@{entry.workspace}{outcome.conflict_of}" if entry.workspace else outcome.conflict_of
    return KeptCopy(meant, entry.target)
