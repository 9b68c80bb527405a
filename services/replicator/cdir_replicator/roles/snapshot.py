"""The role that keeps snapshots of the catalog at the providers."""

from __future__ import annotations

import logging

from cdir_transfer.snapshots import SnapshotStore

__all__ = ["SnapshotRole"]

logger = logging.getLogger(__name__)


class SnapshotRole:
    """Makes the snapshot that is due: a few minutes after a change, and once a day a whole one.

    When one is due says the catalog, so that any number of replicators may ask.
    """

    def __init__(self, store: SnapshotStore) -> None:
        self._store = store

    async def once(self) -> bool:
        """Make one if it is due; return whether one was made."""
        if not self._store.takers(await self._store.providers()):
            return False  # at a time without providers there is nothing to report
        taken = await self._store.take()
        if taken.made:
            logger.info("stored the catalog's snapshot %s at %s", taken.name, ", ".join(taken.providers))
        return taken.made
