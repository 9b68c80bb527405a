"""What botocore knows of the service, read from its files once per process and kept small.

As the library reads them, these descriptions are 14 MiB of objects: with the text of Amazon's manual, and with the
endpoints of all of its services. None of that is used here.
"""

from __future__ import annotations

import functools
import gzip
import json
import sys
from pathlib import Path
from typing import Any, Final

import botocore.loaders

__all__ = ["descriptions"]

_SERVICES: Final = {"s3", "sts", "sso", "oidc", "portal.sso"}
"""The service, and those that credentials of the machine may come from."""
_TEXT: Final = {"documentation", "documentationUrl"}


class _Files(botocore.loaders.JSONFileLoader):  # type: ignore[misc] # the library has no types
    """Reads the library's files, and leaves out what is only to be read by people."""

    def load_file(self, file_path: str) -> Any:
        """Return what a file holds, its name given without an ending; ``None`` where there is none."""
        plain, packed = Path(f"{file_path}.json"), Path(f"{file_path}.json.gz")
        if plain.is_file():
            content = plain.read_bytes()
        elif packed.is_file():
            content = gzip.decompress(packed.read_bytes())
        else:
            return None
        return json.loads(content, object_pairs_hook=_without_text)


def _without_text(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # the library wants some of the texts to be there
    kept = {sys.intern(name): "" if name in _TEXT and isinstance(value, str) else value for name, value in pairs}
    services = kept.get("services")
    if isinstance(services, dict) and "dnsSuffix" in kept:
        kept["services"] = {name: services[name] for name in services if name in _SERVICES}
    return kept


@functools.cache
def descriptions() -> botocore.loaders.Loader:
    """Return what clients are made from; it blocks the first time, and is shared by all clients then."""
    loader = botocore.loaders.create_loader()
    loader.file_loader = _Files()
    loader.load_service_model("s3", "service-2")
    loader.load_service_model("s3", "endpoint-rule-set-1")
    loader.load_data("endpoints")
    loader.load_data("partitions")
    loader.load_data("sdk-default-configuration")
    loader.load_data("_retry")
    return loader
