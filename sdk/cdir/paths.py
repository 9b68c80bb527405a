"""Names and paths of the virtual directory: one normal form, one list of what is refused.

A *virtual path* is absolute within its workspace: ``/`` or ``/reports/q3.csv``. It is in Unicode normal form C, has no
empty, ``.`` or ``..`` component, no NUL and no other control character that a provider could not carry. A *key* is the
same path as a provider sees it: relative, without the leading slash.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final, NamedTuple

from cdir.errors import InvalidPath

__all__ = [
    "MAX_NAME_BYTES",
    "MAX_PATH_BYTES",
    "RESERVED_ROOT_NAME",
    "Endpoint",
    "WorkspacePath",
    "fold_name",
    "is_temporary",
    "join_path",
    "key_of",
    "normalize_path",
    "parse_endpoint",
    "parse_target",
    "split_path",
]

MAX_NAME_BYTES = 255
"""Longest name in UTF-8 bytes: the limit of Linux, macOS and most servers behind SFTP and WebDAV."""

MAX_PATH_BYTES = 1024
"""Longest path in UTF-8 bytes without the leading slash: the key limit of S3."""

RESERVED_ROOT_NAME = ".cdir"
"""The folder at each provider's root that belongs to cdir itself: sentinel, older versions, staging."""


class WorkspacePath(NamedTuple):
    """A path and the workspace it lies in; an empty workspace is the user's own."""

    workspace: str
    path: str


_PLAIN = re.compile(r"(?!/@|/\.cdir(?:/|$))(?:/(?!\.{1,2}(?:/|$))[\x20-\x2e\x30-\x7e]+)+")
"""What nearly every path is: short, printable ASCII, in normal form already. One look saves going through its names."""


def _check_name(name: str, whole: str) -> None:
    if name in {".", ".."}:
        raise InvalidPath(f"{whole!r}: a path cannot contain {name!r}; write it out in full", path=whole)
    if "\0" in name:
        raise InvalidPath(f"{whole!r}: a name cannot contain a NUL character", path=whole)
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in name):
        raise InvalidPath(
            f"{whole!r}: a name cannot contain control characters or bytes that are not UTF-8; rename it", path=whole
        )
    size = len(name.encode())
    if size > MAX_NAME_BYTES:
        raise InvalidPath(
            f"the name {name[:40]!r}… has {size} bytes in UTF-8; {MAX_NAME_BYTES} are the most", path=whole
        )


def normalize_path(path: str) -> str:
    """Return ``path`` in normal form, absolute within its workspace.

    Repeated and trailing slashes are dropped; a missing leading slash is added. Raises :class:`InvalidPath` for
    what can never name an entry: ``.`` or ``..``, control characters, a name or path that is too long, a reserved name.
    """
    if len(path) <= MAX_NAME_BYTES and _PLAIN.fullmatch(path):
        return path
    names = [unicodedata.normalize("NFC", name) for name in path.split("/") if name]
    for name in names:
        _check_name(name, path)
    if names and names[0] == RESERVED_ROOT_NAME:
        raise InvalidPath(f"{path!r}: {RESERVED_ROOT_NAME!r} at the top is kept for cdir itself", path=path)
    if names and names[0].startswith("@"):
        raise InvalidPath(f"{path!r}: a name at the top cannot begin with '@'; that names a workspace", path=path)
    normal = "/" + "/".join(names)
    size = len(normal.encode()) - 1
    if size > MAX_PATH_BYTES:
        raise InvalidPath(
            f"the path {path[:40]!r}… has {size} bytes in UTF-8; {MAX_PATH_BYTES} are the most", path=path
        )
    return normal


def split_path(path: str) -> tuple[str, str]:
    """Split a normal path into (dirname, basename); the root splits into ``("", "")``."""
    if path == "/":
        return "", ""
    dirname, _, basename = path.rpartition("/")
    return dirname or "/", basename


def join_path(dirname: str, basename: str) -> str:
    """Join a normal directory path and one name."""
    return f"/{basename}" if dirname == "/" else f"{dirname}/{basename}"


def key_of(workspace: str, path: str) -> str:
    """Return the key under which a file of the plain layout lies at every provider.

    Files of the user's own workspace (named ``""``) lie at the root, those of workspace ``team`` under ``@team/``.
    """
    return f"@{workspace}{path}" if workspace else path[1:]


def is_temporary(key: str) -> bool:
    """Say whether an object is half of a write under way, by the names that cdir, rclone and others give to those."""
    name = key.rpartition("/")[2]
    return name.startswith((".cdir-tmp-", ".rclone_temp_put_")) or name.endswith(".partial")


def fold_name(name: str) -> str:
    """Return the form in which two names collide on a provider that ignores case (NTFS, APFS, Dropbox)."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def parse_target(text: str, current: str = "/", *, allow_parent: bool = False) -> WorkspacePath:
    """Read a path as a person types it: ``dir/file``, ``/dir/file`` or ``@team/dir/file``.

    A relative path starts at ``current``, itself ``/dir`` or ``@team/dir``. ``.`` stands for the directory itself.
    ``..`` is refused unless ``allow_parent`` is true (for ``cd ..``), and then resolved here, lexically; it never leads
    above the root.
    """
    absolute = text if text.startswith(("/", "@")) else f"{current.rstrip('/')}/{text}"
    workspace = ""
    if absolute.startswith("@"):
        workspace, _, absolute = absolute[1:].partition("/")
        if not workspace:
            raise InvalidPath(f"{text!r}: write a workspace's name after '@'", path=text)
    names: list[str] = []
    for name in absolute.split("/"):
        if name in {"", "."}:
            continue
        if name == ".." and allow_parent:
            if not names:
                raise InvalidPath(f"{text!r} leads above the root of the virtual directory", path=text)
            names.pop()
        else:
            names.append(name)
    return WorkspacePath(workspace, normalize_path("/".join(names)))


class Endpoint(NamedTuple):
    """A path at a provider, past the virtual directory."""

    provider: str
    path: str

    def __str__(self) -> str:
        return f"{self.provider}:{self.path}"

    def below(self, name: str) -> Endpoint:
        """Return what is called ``name`` in this folder."""
        return Endpoint(self.provider, "/".join(part for part in (self.path.strip("/"), name) if part))

    @property
    def name(self) -> str:
        """The last part of the path; empty for the root."""
        return self.path.rstrip("/").rpartition("/")[2]


_ENDPOINT: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63}):(.*)", re.DOTALL)


def parse_endpoint(text: str) -> Endpoint | None:
    """Read ``PROVIDER:path``; ``None`` when the text is an ordinary path. ``./a:b`` is one."""
    found = _ENDPOINT.fullmatch(text)
    return None if found is None else Endpoint(found[1], found[2])
