"""What the options of an ``rclone`` provider mean."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Final

from cdir.errors import ConfigInvalid
from cdir_adapters.registry import OptionValue

__all__ = ["OWN_REMOTE", "RcloneSettings"]

OWN_REMOTE: Final = "cdir"
"""Name of the remote in the configuration file that is made for a provider with ``type``."""

_MIB: Final = 1 << 20
_REMOTE: Final = re.compile(r"(?P<name>[\w.+@](?:[\w.+@ -]*[\w.+@-])?):?(?P<path>(?<=:).*)?")
_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9_ -]*")
_PARAMETER: Final = re.compile(
    r"""\s*(?P<name>[A-Za-z0-9_]+)\s*=\s*(?:"(?P<double>(?:[^"]|"")*)"|'(?P<single>(?:[^']|'')*)'|(?P<plain>(?:[^,"'][^,]*)?))\s*"""
    r"(?:,|$)"
)
_SECRET_NAME: Final = re.compile(
    r"(?:.*_)?(?:pass|password2?|secret|token|key|pin|credentials|sas_url|connection_string)"
)
"""Options of backends that hold secrets; those that name files or commands end otherwise."""


@dataclasses.dataclass(frozen=True, slots=True)
class RcloneSettings:
    """Validated options. Its text form holds no secret."""

    remote: str
    """Name of the remote, without a colon."""
    root: str
    """Folder in the remote, without a slash at its end; a slash at its beginning means something to some backends."""
    type: str | None
    """Backend of a remote that is made from the options; ``None`` for one of a configuration file."""
    config: str | None
    """Configuration file; ``None`` for rclone's own."""
    program: str | None
    staging: str | None
    staging_limit: int
    """Bytes."""
    parameters: Mapping[str, str]
    secrets: Mapping[str, str] = dataclasses.field(repr=False)
    config_password: str | None = dataclasses.field(repr=False)

    @classmethod
    def from_options(cls, options: Mapping[str, OptionValue]) -> RcloneSettings:
        """Read validated options. Raises ConfigInvalid for values that cannot be or that contradict each other."""

        def text(name: str) -> str | None:
            value = options.get(name)
            return str(value) if value not in (None, "") else None

        remote, backend, root = text("remote"), text("type"), text("root") or ""
        if (remote is None) == (backend is None):
            raise ConfigInvalid("rclone: give either remote or type", option="remote")
        if remote is not None:
            for name in ("parameters", "secrets"):
                if text(name) is not None:
                    raise ConfigInvalid(f"rclone: {name} belongs to type, not to remote", option=name)
            found = _REMOTE.fullmatch(remote)
            if found is None:
                raise ConfigInvalid(
                    "rclone: remote must be the name of one in a configuration file, as in 'gdrive' or 'gdrive:folder';"
                    " for others give type, parameters and secrets",
                    option="remote",
                )
            remote, path = found["name"], found["path"] or ""
            root = f"{path.rstrip('/')}/{root.lstrip('/')}" if path.strip("/") and root else root or path
        elif text("config") is not None or text("config_password") is not None:
            raise ConfigInvalid("rclone: config belongs to remote, not to type", option="config")
        elif not _TYPE.fullmatch(backend or ""):
            raise ConfigInvalid("rclone: type must be the name of a backend of rclone, as in 'mega'", option="type")
        if backend == "local" and not root.startswith("/"):
            raise ConfigInvalid("rclone: with type local, root must be an absolute path", option="root")
        parameters = _parameters(text("parameters"), "parameters")
        exposed = sorted(name for name in parameters if _SECRET_NAME.fullmatch(name.lower()))
        if exposed:
            raise ConfigInvalid(f"rclone: {exposed[0]} is a secret; give it in secrets", option="parameters")
        limit = options.get("staging_limit")
        if not isinstance(limit, int) or limit < 1:
            raise ConfigInvalid("rclone: staging_limit must be at least 1 MiB", option="staging_limit")
        return cls(
            remote=remote or OWN_REMOTE,
            root=_checked_root(root),
            type=backend,
            config=text("config"),
            program=text("program"),
            staging=text("staging"),
            staging_limit=limit * _MIB,
            parameters=parameters,
            secrets=_parameters(text("secrets"), "secrets"),
            config_password=text("config_password"),
        )

    @property
    def fs(self) -> str:
        """The remote as calls name it. The root is part of the paths instead: in URLs, this stands in brackets."""
        return f"{self.remote}:{'/' if self.root.startswith('/') else ''}"

    @property
    def base(self) -> str:
        """What stands before every key: empty, or ends with a slash."""
        root = self.root.strip("/")
        return f"{root}/" if root else ""

    @property
    def location(self) -> str:
        """Where the root is, for a person."""
        return f"rclone {self.type or 'remote ' + self.remote}:{self.root}"

    def hidden(self) -> tuple[str, ...]:
        """Every text that must not be repeated."""
        texts = (*self.secrets.values(), self.config_password or "")
        return tuple(text for text in texts if len(text) > 2)


def _checked_root(root: str) -> str:
    names = root.strip("/").split("/") if root.strip("/") else []
    if any(name in {"", ".", ".."} or not name.isprintable() for name in names):
        raise ConfigInvalid(
            "rclone: root must be a path without empty, '.' or '..' names and without control characters", option="root"
        )
    return ("/" if root.startswith("/") else "") + "/".join(names)


def _parameters(text: str | None, option: str) -> dict[str, str]:
    """Read ``name=value,name="value"``, as in rclone's connection strings. No value enters a message."""
    found: dict[str, str] = {}
    rest = (text or "").strip().rstrip(",")
    while rest:
        match = _PARAMETER.match(rest)
        if match is None or match["name"].lower() in found or any(map(_is_control, match.group())):
            raise ConfigInvalid(
                f"rclone: option {option} must be name=value pairs with commas between, each name once; a value with a"
                " comma stands in quotes, and a quote in it is doubled",
                option=option,
            )
        if match["double"] is not None:
            value = match["double"].replace('""', '"')
        elif match["single"] is not None:
            value = match["single"].replace("''", "'")
        else:
            value = match["plain"].strip()
        found[match["name"].lower()] = value
        rest = rest[match.end() :]
    if "type" in found:
        raise ConfigInvalid(f"rclone: type is an option of its own, not part of {option}", option=option)
    return found


def _is_control(character: str) -> bool:
    return ord(character) < 32 or ord(character) == 127
