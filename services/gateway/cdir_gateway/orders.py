"""What shall be written, and what becomes of that when something else is in its way."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from cdir.errors import Conflict, Retry
from cdir_gateway.conflicts import conflict_path

__all__ = ["IN_THE_WAY", "WriteOrder"]

IN_THE_WAY: Final = "stranger"
"""Names, in the context of a Conflict, where another program's object lay in the way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOrder:
    """What shall be written.

    ``base_generation`` as in WriteOpen. ``minimum`` answers once enough copies are durable, the others going on.
    ``keep_copy`` keeps the content beside the path when it may not take it; then ``conflict_of`` is the path meant.
    """

    workspace: str
    path: str
    modified: Timestamp
    user: str
    base_generation: int | None = None
    minimum: bool = False
    keep_copy: bool = False
    conflict_of: str = ""

    def may_keep_copy(self, error: Conflict) -> bool:
        """Whether a content that was refused so is to be kept beside its path. "Later" means no other edit."""
        return self.keep_copy and error.retry is not Retry.LATER

    def may_begin_anew(self, error: Conflict) -> bool:
        """Whether a write that failed so can succeed with the same bytes: it lapsed before it was committed, or
        something lay in its way that can be taken up first."""
        return IN_THE_WAY in error.context or self.may_keep_copy(error)

    def after(self, generation: int) -> WriteOrder:
        """The same on top of what others have put at the path, which is its content of that generation now."""
        return self if self.base_generation is None else dataclasses.replace(self, base_generation=generation)

    def beside(self, time: datetime, number: int) -> WriteOrder:
        """The same as a conflicting copy, under its first, second… name."""
        return dataclasses.replace(
            self,
            path=conflict_path(self.path, self.user, time, number),
            base_generation=0,
            keep_copy=False,
            conflict_of=self.path,
        )
