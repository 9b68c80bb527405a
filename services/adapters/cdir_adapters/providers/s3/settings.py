"""What the options of an ``s3`` provider mean."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from urllib.parse import urlsplit

from cdir.errors import ConfigInvalid
from cdir_adapters.providers.s3.profiles import PROFILES, Profile
from cdir_adapters.registry import OptionValue

__all__ = ["S3Settings"]


@dataclasses.dataclass(frozen=True, slots=True)
class S3Settings:
    """Validated options. Its text form holds no secret."""

    bucket: str
    endpoint: str | None
    """Without a slash at the end, a path of its own included; ``None`` is Amazon's for the region."""
    region: str
    prefix: str
    """Empty, or ends with a slash: what stands before every key."""
    path_style: bool
    profile: Profile
    signature_v2: bool
    ca_file: str | None
    """Certificates to trust instead of the machine's."""
    access_key: str | None
    secret_key: str | None = dataclasses.field(repr=False)
    session_token: str | None = dataclasses.field(repr=False)

    @classmethod
    def from_options(cls, options: Mapping[str, OptionValue]) -> S3Settings:
        """Read validated options. Raises ConfigInvalid for values that contradict each other."""

        def text(name: str) -> str | None:
            value = options.get(name)
            return str(value) if value not in (None, "") else None

        bucket = text("bucket")
        if bucket is None or "/" in bucket:
            raise ConfigInvalid("s3: option bucket must be a bucket's name without slashes", option="bucket")
        endpoint = text("endpoint")
        if endpoint is not None:
            parts = urlsplit(endpoint)
            if parts.scheme not in {"http", "https"} or not parts.netloc:
                raise ConfigInvalid(
                    f"s3: option endpoint must be an http or https URL, not {endpoint!r}", option="endpoint"
                )
            if parts.username or parts.password:
                raise ConfigInvalid(
                    "s3: option endpoint must not hold credentials; give access_key and secret_key", option="endpoint"
                )
            if parts.query or parts.fragment:
                raise ConfigInvalid("s3: option endpoint must end with a host or a path", option="endpoint")
            endpoint = endpoint.rstrip("/")
        access_key, secret_key = text("access_key"), text("secret_key")
        if (access_key is None) != (secret_key is None):
            missing = "secret_key" if secret_key is None else "access_key"
            raise ConfigInvalid(
                f"s3: {missing} is missing; give access_key and secret_key, or neither to use this machine's own"
                " credentials",
                option=missing,
            )
        name = text("profile") or ("aws" if endpoint is None else "generic")
        if name not in PROFILES:
            raise ConfigInvalid(
                f"s3: option profile must be one of {', '.join(PROFILES)}, not {name!r}", option="profile"
            )
        prefix = (text("prefix") or "").strip("/")
        # a dot in the bucket's name would not match the wildcard certificate of the virtual host
        path_style = bool(options.get("path_style", endpoint is not None or "." in bucket))
        if endpoint is not None and urlsplit(endpoint).path and not path_style:
            raise ConfigInvalid("s3: an endpoint with a path of its own needs path_style=true", option="path_style")
        signature = text("signature")
        return cls(
            bucket=bucket,
            endpoint=endpoint,
            region=text("region") or "us-east-1",
            prefix=f"{prefix}/" if prefix else "",
            path_style=path_style,
            profile=PROFILES[name],
            signature_v2=PROFILES[name].signature_v2 if signature is None else signature == "v2",
            ca_file=text("ca_file"),
            access_key=access_key,
            secret_key=secret_key,
            session_token=text("session_token"),
        )

    @property
    def location(self) -> str:
        """Where the root is, for a person."""
        where = urlsplit(self.endpoint).netloc if self.endpoint else f"Amazon S3, {self.region}"
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/") + f" at {where}"
