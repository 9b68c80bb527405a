"""Both checksums of content on its way, taken without holding up the event loop."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from typing import Final

from cdir_adapters.providers.gcs.wire import Pieces
from cdir_runtime.crc32c import Crc32c

__all__ = ["Digests"]

_INLINE: Final = 256 * 1024
"""Up to this many bytes the digests take less time than handing them to a thread is worth."""


class Digests:
    """MD5 and CRC32C of everything that was taken."""

    def __init__(self) -> None:
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._crc32c = Crc32c()

    async def take(self, pieces: Pieces) -> None:
        """Add pieces, in their order."""
        if sum(map(len, pieces)) <= _INLINE:
            self._take(pieces)
        else:
            await asyncio.to_thread(self._take, pieces)

    def _take(self, pieces: Pieces) -> None:
        for piece in pieces:
            self._md5.update(piece)
            self._crc32c.update(piece)

    @property
    def md5(self) -> str:
        return self._md5.hexdigest()

    @property
    def crc32c(self) -> str:
        return self._crc32c.hexdigest()

    def stated(self) -> dict[str, str]:
        """As properties of an object."""
        return {
            "md5Hash": base64.b64encode(self._md5.digest()).decode(),
            "crc32c": base64.b64encode(self._crc32c.digest()).decode(),
        }

    def header(self) -> str:
        """As the header ``x-goog-hash``."""
        stated = self.stated()
        return f"crc32c={stated['crc32c']},md5={stated['md5Hash']}"
