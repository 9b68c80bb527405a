"""Names that a provider forbids, written so that it takes them and so that they can be read back.

A provider's forbidden names are a regular expression over whole components (:attr:`Capability.forbidden_names`): a
character it cannot hold, a trailing dot, a device name of Windows. Such a name is stored with what may offend written
as :data:`ESCAPE` and two hexadecimal digits for each of its UTF-8 bytes. ``ESCAPE`` itself is always written so, which
makes the encoding reversible; every other name stays as it is.
"""

from __future__ import annotations

import re

__all__ = ["ESCAPE", "NameEncoding", "is_key"]

ESCAPE = "‛"
"""U+201B: as good as never part of a name, and allowed by every provider."""

_NO_KEY = re.compile(r"(?:^|/)\.{0,2}(?:/|$)|[\x00-\x1f\x7f-\x9f]")
"""An empty, "." or ".." component, or a control character."""

_ESCAPED = re.compile(f"(?:{ESCAPE}[0-9A-F]{{2}})+")


def is_key(name: str) -> bool:
    """Whether an object could be asked for by that name. Other programs may store some by which none can."""
    return not _NO_KEY.search(name)


def _escape(text: str) -> str:
    return "".join(f"{ESCAPE}{byte:02X}" for byte in text.encode())


def _unescape(match: re.Match[str]) -> str:
    return bytes.fromhex(match.group().replace(ESCAPE, "")).decode()


class NameEncoding:
    """The encoding for one provider. ``forbidden`` is its ``Capability.forbidden_names``."""

    def __init__(self, forbidden: str) -> None:
        self._forbidden = re.compile(forbidden)

    def encode(self, key: str) -> str:
        """Return ``key`` as the provider takes it."""
        return "/".join(map(self._encode_name, key.split("/")))

    def decode(self, key: str) -> str:
        """Return the key that :meth:`encode` turned into ``key``.

        A name that it never makes, since someone else chose it, comes back as it is.
        """
        return "/".join(map(self._decode_name, key.split("/")))

    def _encode_name(self, name: str) -> str:
        plain = name.replace(ESCAPE, _escape(ESCAPE))
        if not self._forbidden.fullmatch(plain):
            return plain
        # first what is neither letter nor digit of ASCII, then everything: a device name has nothing but letters
        for keep in (str.isalnum, lambda _: False):
            encoded = "".join(
                character if character.isascii() and keep(character) else _escape(character) for character in name
            )
            if not self._forbidden.fullmatch(encoded):
                return encoded
        return encoded

    def _decode_name(self, name: str) -> str:
        if ESCAPE not in name:
            return name
        try:
            decoded = _ESCAPED.sub(_unescape, name)
        except UnicodeDecodeError:
            return name
        return decoded if self._encode_name(decoded) == name else name
