"""What the options of a ``gcs`` provider mean."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import os.path
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlsplit

from cdir.errors import ConfigInvalid, InvalidPath
from cdir_adapters.registry import OptionValue

__all__ = ["MAX_NAME_BYTES", "GcsSettings", "account_of"]

MAX_NAME_BYTES: Final = 1024

_GOOGLE: Final = "https://storage.googleapis.com"
# goog and google are reserved; longer names consist of parts with dots between
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_ACCOUNTS: Final = ("service_account", "authorized_user")


def account_of(text: str) -> dict[str, Any]:
    """Read the JSON content of a credentials file.

    Raises ConfigInvalid unless it is a service account's key or a user's own credentials: other types name programs to
    run and addresses to ask, which an option of a provider must not.
    """
    try:
        account = json.loads(text)
    except (ValueError, RecursionError):
        account = None
    if not isinstance(account, dict):
        raise ConfigInvalid(
            "gcs: credentials must be the JSON of a service account's key, or the path of the file that holds it",
            option="credentials",
        )
    if account.get("type") not in _ACCOUNTS:
        raise ConfigInvalid(f"gcs: credentials must be of the type {' or '.join(_ACCOUNTS)}", option="credentials")
    return account


@dataclasses.dataclass(frozen=True, slots=True)
class GcsSettings:
    """Validated options. Its text form holds no secret."""

    bucket: str
    endpoint: str
    """URL without a slash at the end."""
    prefix: str
    """Empty, or ends with a slash: what stands before every key."""
    project: str | None
    location: str | None
    ca_file: str | None
    anonymous: bool
    """Requests go without a token."""
    credentials: str | None = dataclasses.field(repr=False)
    """JSON, or the path of a file with it; ``None`` are the machine's own, unless ``anonymous``."""

    @classmethod
    def from_options(cls, options: Mapping[str, OptionValue]) -> GcsSettings:
        """Read validated options. Raises ConfigInvalid for values that cannot be or that contradict each other."""

        def text(name: str) -> str | None:
            value = options.get(name)
            return str(value) if value not in (None, "") else None

        bucket = text("bucket") or ""
        if not _BUCKET.fullmatch(bucket):
            raise ConfigInvalid(
                "gcs: option bucket must be a bucket's name: 3 or more small letters, digits, hyphens, underscores and"
                " dots",
                option="bucket",
            )
        endpoint = _checked_endpoint(text("endpoint") or _GOOGLE)
        credentials = text("credentials")
        if credentials is not None:
            credentials = credentials.strip()
            if credentials.startswith("{"):
                account_of(credentials)
            else:
                credentials = os.path.expanduser(credentials)
                if not os.path.isabs(credentials):
                    raise ConfigInvalid(
                        "gcs: credentials must be the JSON of a service account's key, or the absolute path of the"
                        " file that holds it",
                        option="credentials",
                    )
        # the machine's own credentials are not for whoever listens at an endpoint of one's own
        anonymous = credentials is None and not _is_googles(endpoint)
        if not anonymous and endpoint.startswith("http:") and not _is_loopback(endpoint):
            raise ConfigInvalid(
                "gcs: option endpoint must be an https URL, since credentials go there", option="endpoint"
            )
        prefix = (text("prefix") or "").strip("/")
        return cls(
            bucket=bucket,
            endpoint=endpoint,
            prefix=f"{prefix}/" if prefix else "",
            project=text("project"),
            location=text("location"),
            ca_file=text("ca_file"),
            anonymous=anonymous,
            credentials=credentials,
        )

    @property
    def described(self) -> str:
        """Where the root is, for a person."""
        where = "" if self.endpoint == _GOOGLE else f" at {urlsplit(self.endpoint).netloc}"
        return f"gcs://{self.bucket}/{self.prefix}".rstrip("/") + where

    def name_of(self, key: str) -> str:
        """Return the name of the object that holds ``key``. Raises InvalidPath when it would be too long."""
        name = self.prefix + key
        size = len(name.encode())
        if size > MAX_NAME_BYTES:
            raise InvalidPath(
                f"{key} is too long: with the provider's prefix its name has {size} bytes, and Google Storage holds"
                f" {MAX_NAME_BYTES}",
                key=key,
            )
        return name

    def path_of(self, key: str) -> str:
        """Return the path of an object's resource; its name is one component, slashes and all."""
        return f"/storage/v1/b/{self.bucket}/o/{quote(self.name_of(key), safe='')}"


def _checked_endpoint(endpoint: str) -> str:
    try:
        parts = urlsplit(endpoint)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise ConfigInvalid("gcs: option endpoint must be an http or https URL", option="endpoint") from None
    if parts.username or parts.password or parts.query:
        raise ConfigInvalid("gcs: option endpoint must not hold credentials; give credentials", option="endpoint")
    if not usable or parts.fragment:
        raise ConfigInvalid(f"gcs: option endpoint must be an http or https URL, not {endpoint!r}", option="endpoint")
    return endpoint.rstrip("/")


def _is_googles(endpoint: str) -> bool:
    host = urlsplit(endpoint).hostname or ""
    return host == "googleapis.com" or host.endswith(".googleapis.com")


def _is_loopback(endpoint: str) -> bool:
    host = urlsplit(endpoint).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
