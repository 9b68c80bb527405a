"""What the options of a ``webdav`` provider mean."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote, urlsplit

from cdir.errors import ConfigInvalid
from cdir_adapters.capability import ChecksumKind
from cdir_adapters.registry import OptionValue

__all__ = ["PROFILES", "Profile", "WebdavSettings"]

_FILES: Final = re.compile(r"(?P<dav>.*/remote\.php/dav)/files/(?P<user>[^/]+)(?:/.*)?")
"""Where Nextcloud and ownCloud serve the files of a user."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How a service departs from what is assumed of an unknown one."""

    direct: bool = False
    """A PUT shows its file whole or not at all, and an interrupted one changes nothing: files are put under their own
    name. Else they are put under another one and moved, since a PUT of many servers leaves half a file behind."""
    chunks: bool = False
    """Large files go in chunks, by version 2 of the protocol of Nextcloud and ownCloud."""
    checksum: ChecksumKind | None = None
    """What ``oc:checksums`` states of the stored bytes. Nextcloud repeats there what the client has said of them, which
    proves nothing."""
    times: bool = True
    """It may keep a modified time that it is given; tried, by header and by PROPPATCH."""
    earliest: int = 0
    """The first modified time it takes, in seconds since 1970."""
    case_sensitive: bool = True
    max_name_bytes: int = 255
    forbidden_names: str | None = None
    """See :attr:`Capability.forbidden_names`."""


PROFILES: Mapping[str, Profile] = {
    "generic": Profile(),
    "nextcloud": Profile(
        direct=True,
        chunks=True,
        earliest=24 * 3600 + 1,
        max_name_bytes=250,
        forbidden_names=r"(?si:.*\\.*|\.htaccess|.*\.part|.*\.filepart)",
    ),
    "owncloud": Profile(
        direct=True,
        chunks=True,
        checksum=ChecksumKind.SHA1,
        max_name_bytes=250,
        forbidden_names=r"(?si:.*\\.*|\.htaccess|.*\.part|.*\.filepart)",
    ),
    # as it comes, it shows and takes no names such as .htaccess
    "apache": Profile(direct=True, times=False, forbidden_names=r"(?s:\.ht.*)"),
    "pcloud": Profile(forbidden_names=r"(?s:.*\\.*)"),
    "box": Profile(case_sensitive=False, forbidden_names=r"(?s:.*\\.*| .*|.* )"),
    "icedrive": Profile(),
    # takes what follows these in a Destination for no part of the name
    "wsgidav": Profile(forbidden_names=r"(?s:.*[;?].*)"),
    "koofr": Profile(case_sensitive=False, forbidden_names=r"(?s:.*\\.*)"),
}


@dataclasses.dataclass(frozen=True, slots=True)
class WebdavSettings:
    """Validated options. Its text form holds no secret."""

    origin: str
    """Scheme, host and port."""
    segments: tuple[str, ...]
    """The names of the root's path, decoded."""
    profile: Profile
    user: str | None
    digest: bool
    verify_tls: bool
    ca_file: str | None
    uploads: tuple[str, ...]
    """The names of the path where chunks are put; empty where there are none."""
    password: str | None = dataclasses.field(repr=False)
    token: str | None = dataclasses.field(repr=False)

    @classmethod
    def from_options(cls, options: Mapping[str, OptionValue]) -> WebdavSettings:
        """Read validated options. Raises ConfigInvalid for values that contradict each other."""

        def text(name: str) -> str | None:
            value = options.get(name)
            return str(value) if value not in (None, "") else None

        origin, path = _parse_url(text("url") or "")
        name = text("profile") or "generic"
        if name not in PROFILES:
            raise ConfigInvalid(
                f"webdav: option profile must be one of {', '.join(PROFILES)}, not {name!r}", option="profile"
            )
        profile = PROFILES[name]
        user, password, token = text("user"), text("password"), text("token")
        if (user is None) != (password is None):
            missing = "password" if password is None else "user"
            raise ConfigInvalid(f"webdav: {missing} is missing; give user and password, or neither", option=missing)
        if user is not None and token is not None:
            raise ConfigInvalid("webdav: give user and password, or a token, but not both", option="token")
        if user is not None and ":" in user:
            raise ConfigInvalid("webdav: option user must not hold a colon, which ends it in a request", option="user")
        if token is not None and not (token.isascii() and token.isprintable()):
            raise ConfigInvalid("webdav: option token holds characters that no token has", option="token")
        uploads = ""
        if profile.chunks:
            found = _FILES.fullmatch(path)
            if found is None:
                raise ConfigInvalid(
                    f"webdav: with the profile {name}, option url must have the form"
                    " https://HOST/remote.php/dav/files/USER/FOLDER",
                    option="url",
                )
            uploads = f"{found['dav']}/uploads/{found['user']}"
        return cls(
            origin=origin,
            segments=_segments(path),
            profile=profile,
            user=user,
            digest=text("auth") == "digest",
            verify_tls=bool(options.get("verify_tls", True)),
            ca_file=text("ca_file"),
            uploads=_segments(uploads),
            password=password,
            token=token,
        )

    @property
    def location(self) -> str:
        """Where the root is, for a person."""
        return "/".join((self.origin, *self.segments))


def _parse_url(url: str) -> tuple[str, str]:
    """Return origin and path, the latter without a slash at the end."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.scheme not in {"http", "https"} or parts.query or parts.fragment:
        # an URL that is not understood may hold a password in any place, and is not repeated
        raise ConfigInvalid(
            "webdav: option url must be an http or https URL without '?' and '#', such as https://HOST/dav/FOLDER",
            option="url",
        )
    if parts.username is not None or parts.password is not None:
        raise ConfigInvalid("webdav: option url must not hold credentials; give user and password", option="url")
    where = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{where}" + (f":{port}" if port is not None else ""), parts.path.rstrip("/")


def _segments(path: str) -> tuple[str, ...]:
    names = tuple(unquote(segment) for segment in path.split("/") if segment)
    if any(name in {".", ".."} for name in names):
        raise ConfigInvalid("webdav: option url must not hold the names . and ..", option="url")
    return names
