"""What the options of a ``swift`` provider mean."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from urllib.parse import urlsplit

from cdir.errors import ConfigInvalid
from cdir_adapters.registry import OptionValue

__all__ = ["SEGMENTS_SUFFIX", "SwiftSettings"]

SEGMENTS_SUFFIX = "_segments"
"""What the name of the container with the segments of large objects adds to the container's; other clients' too."""

_MAX_CONTAINER = 256 - len(SEGMENTS_SUFFIX)


@dataclasses.dataclass(frozen=True, slots=True)
class SwiftSettings:
    """Validated options. Its text form holds no secret."""

    container: str
    prefix: str
    """Empty, or ends with a slash: what stands before every key."""
    auth_url: str
    """Without a slash at the end; of version 3 it ends with ``/v3``."""
    auth_version: int
    user: str | None
    key: str | None = dataclasses.field(repr=False)
    user_domain: str
    project: str | None
    project_id: str | None
    project_domain: str
    application_credential_id: str | None
    application_credential_secret: str | None = dataclasses.field(repr=False)
    region: str | None
    interface: str
    storage_url: str | None
    """Without a slash at the end; ``None`` is what the sign-in says."""
    verify_tls: bool
    ca_file: str | None

    @classmethod
    def from_options(cls, options: Mapping[str, OptionValue]) -> SwiftSettings:
        """Read validated options. Raises ConfigInvalid for values that contradict each other."""

        def text(name: str) -> str | None:
            value = options.get(name)
            return str(value) if value not in (None, "") else None

        container = text("container")
        if container is None or "/" in container or len(container.encode()) > _MAX_CONTAINER:
            raise ConfigInvalid(
                f"swift: option container must be a name without slashes of at most {_MAX_CONTAINER} bytes",
                option="container",
            )
        auth_url = _url(text("auth_url"), "auth_url")
        if auth_url is None:
            raise ConfigInvalid("swift: option auth_url is missing", option="auth_url")
        version = text("auth_version")
        path = urlsplit(auth_url).path
        first = version == "1" if version else "/v1" in path
        if not first and not path.endswith("/v3"):
            auth_url += "/v3"
        prefix = (text("prefix") or "").strip("/")
        user_domain = text("user_domain") or "Default"
        settings = cls(
            container=container,
            prefix=f"{prefix}/" if prefix else "",
            auth_url=auth_url,
            auth_version=1 if first else 3,
            user=text("user"),
            key=text("key"),
            user_domain=user_domain,
            project=text("project"),
            project_id=text("project_id"),
            project_domain=text("project_domain") or user_domain,
            application_credential_id=text("application_credential_id"),
            application_credential_secret=text("application_credential_secret"),
            region=text("region"),
            interface=text("interface") or "public",
            storage_url=_url(text("storage_url"), "storage_url"),
            verify_tls=bool(options.get("verify_tls", True)),
            ca_file=text("ca_file"),
        )
        settings._require_credentials()
        return settings

    def _require_credentials(self) -> None:
        """Raise ConfigInvalid unless the credentials that the way of signing in needs are there."""
        if self.application_credential_id or self.application_credential_secret:
            needed = {
                "application_credential_id": self.application_credential_id,
                "application_credential_secret": self.application_credential_secret,
            }
            if self.auth_version == 1:
                raise ConfigInvalid(
                    "swift: an application credential needs auth_version 3; auth_url is that of version 1",
                    option="auth_version",
                )
        else:
            needed = {"user": self.user, "key": self.key}
            if self.auth_version == 3:
                needed["project"] = self.project or self.project_id
        for name, value in needed.items():
            if value is None:
                raise ConfigInvalid(
                    f"swift: option {name} is missing; {', '.join(needed)} belong together", option=name
                )

    @property
    def segments(self) -> str:
        """Name of the container with the segments of large objects."""
        return self.container + SEGMENTS_SUFFIX

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never be shown."""
        return tuple(secret for secret in (self.key, self.application_credential_secret) if secret)

    @property
    def location(self) -> str:
        """Where the root is, for a person."""
        where = urlsplit(self.storage_url or self.auth_url).netloc
        return f"swift://{self.container}/{self.prefix}".rstrip("/") + f" at {where}"


def _url(value: str | None, name: str) -> str | None:
    if value is None:
        return None
    try:
        parts = urlsplit(value)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise ConfigInvalid(f"swift: option {name} must be an http or https URL", option=name) from None
    if parts.username or parts.password:
        raise ConfigInvalid(f"swift: option {name} must not hold credentials; give user and key", option=name)
    if not usable or parts.query or parts.fragment:
        raise ConfigInvalid(f"swift: option {name} must be an http or https URL, not {value!r}", option=name)
    return value.rstrip("/")
