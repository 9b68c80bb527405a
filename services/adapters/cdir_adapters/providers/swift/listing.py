"""Listings of a container, page by page until an empty one."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any, Final

from cdir.errors import NotFound
from cdir_adapters.providers.swift.faults import Faults
from cdir_adapters.providers.swift.wire import Request, Wire
from cdir_adapters.shapes import PAGE_SIZE

__all__ = ["Row", "rows_of_container"]

_DOING: Final = "listing the container"
_MAX_PAGE: Final = 16 * 1024 * 1024
"""Bytes: a thousand of the longest names, every character of them escaped."""

Row = dict[str, Any]


async def rows_of_container(
    wire: Wire, faults: Faults, container: str, prefix: str, *, delimiter: str = "", marker: str = ""
) -> AsyncGenerator[list[Row], None]:
    """Yield what lies in a container, in pages that are not empty: rows with ``name``, or with ``subdir``.

    A service may give shorter pages than it is asked for, so only an empty one ends a listing. A page is given out when
    the next one is there: a listing of a single page can then be tried again as a whole. Raises ProviderUnavailable
    when it breaks off, makes no sense or does not go on; also when the container is missing.
    """
    held: list[Row] = []
    while True:
        query = {"format": "json", "limit": str(PAGE_SIZE), "prefix": prefix, "delimiter": delimiter, "marker": marker}
        request = Request("GET", container, _DOING, prefix, {name: value for name, value in query.items() if value})
        try:
            body = await wire.body(request, _MAX_PAGE)
        except NotFound:
            raise faults.container_is_gone(container) from None
        try:
            rows: list[Row] = json.loads(body or b"[]")
            names = [_name(row) for row in rows]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise faults.broken("the service broke off a listing", _DOING) from None
        if held:
            yield held
        if not rows:
            return
        if names[-1] == marker or names[0] == marker:
            raise faults.broken("the service gives the same page of a listing again", _DOING)
        held = rows
        marker = names[-1]


def _name(row: Row) -> str:
    name = row["subdir"] if "subdir" in row else row["name"]
    if not isinstance(name, str):
        raise TypeError
    # raises ValueError for half of a surrogate pair, which no request could name
    name.encode()
    return name
