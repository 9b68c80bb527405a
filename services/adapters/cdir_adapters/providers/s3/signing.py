"""Requests for the plain HTTP clients: signed here, so that bodies go to and from the socket without a detour.

Version 4 is signed into the URL where the request is sent more than once, else into the headers. Version 2 is always
signed into the headers: that is how the old services expect it, and some of them know no other way.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlsplit, urlunsplit

from botocore.auth import HmacV1Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from yarl import URL

__all__ = [
    "METADATA",
    "UNSIGNED",
    "HeaderSigner",
    "SignedRequest",
    "metadata_headers",
    "quoted_path",
    "sign_as_sent",
    "sign_old",
]

METADATA: Final = "x-amz-meta-"
UNSIGNED: Final = "UNSIGNED-PAYLOAD"
"""Stands for the digest of a body that is not part of the signature."""


@dataclasses.dataclass(frozen=True, slots=True)
class SignedRequest:
    """What to send. Nothing may be added that would have been signed: no ``Content-Type``, for one."""

    url: URL
    headers: Mapping[str, str] = dataclasses.field(repr=False)


def metadata_headers(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that carry user metadata."""
    return {f"{METADATA}{name}": value for name, value in metadata.items()}


class HeaderSigner:
    """Signs requests to one host in one region by version 4, into their headers.

    botocore does the same in ten times as long, which is half of what a small request takes. libcurl could sign too,
    but not with an access key that has a colon, as those of Swift do.
    """

    def __init__(self, region: str, host: str) -> None:
        """``host`` is what the header of this name says."""
        self._region = region
        self._host = host
        self._for: tuple[str, str] = ("", "")
        self._key = b""

    def sign(
        self,
        method: str,
        path: str,
        query: str,
        headers: Mapping[str, str],
        digest: str,
        credentials: ReadOnlyCredentials,
    ) -> list[str]:
        """Sign a request; return the lines of its headers.

        ``path`` and ``query`` are encoded, parameters in the order of their names; ``digest`` is the SHA-256 of the
        body as hex, or :data:`UNSIGNED`. Signed are the headers that the service asks to be: its own, whose names are
        given in lower case.
        """
        now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        given = {**headers, "host": self._host, "x-amz-content-sha256": digest, "x-amz-date": now}
        if credentials.token:
            given["x-amz-security-token"] = credentials.token
        signed = sorted(name for name in given if name == "host" or name.startswith("x-amz-"))
        names = ";".join(signed)
        lines = "".join(f"{name}:{' '.join(given[name].split())}\n" for name in signed)
        wanted = f"{method}\n{path}\n{query}\n{lines}\n{names}\n{digest}"
        scope = f"{now[:8]}/{self._region}/s3/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(wanted.encode()).hexdigest()}"
        signature = _hmac(self._key_of(now[:8], credentials.secret_key), text).hex()
        given["Authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope},SignedHeaders={names},Signature={signature}"
        )
        return [f"{name}: {value}" for name, value in given.items()]

    def _key_of(self, day: str, secret: str) -> bytes:
        """The key of a day, kept for it."""
        if self._for != (day, secret):
            key = f"AWS4{secret}".encode()
            for part in (day, self._region, "s3", "aws4_request"):
                key = _hmac(key, part)
            self._for, self._key = (day, secret), key
        return self._key


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")


def quoted_path(key: str) -> str:
    """Return the path of an object in its bucket, as version 4 signs it."""
    return "/" + quote(key, safe="/~")


def sign_old(
    method: str,
    endpoint: str,
    bucket: str,
    key: str,
    *,
    path_style: bool,
    query: Mapping[str, str],
    headers: Mapping[str, str],
    credentials: ReadOnlyCredentials,
) -> SignedRequest:
    """Sign a request for an object by version 2."""
    parts = urlsplit(endpoint)
    path = f"{parts.path.rstrip('/')}/{bucket}" if path_style else ""
    host = parts.netloc if path_style else f"{bucket}.{parts.netloc}"
    path += quoted_path(key)
    text = "&".join(f"{name}={quote(value, safe='~')}" for name, value in query.items())
    url = urlunsplit((parts.scheme, host, path, text, ""))
    request = AWSRequest(
        method=method, url=url, headers=dict(headers), auth_path=path if path_style else f"/{bucket}{path}"
    )
    HmacV1Auth(credentials).add_auth(request)
    return SignedRequest(URL(url, encoded=True), dict(request.headers.items()))


def sign_as_sent(request: Any, **_: Any) -> None:
    """Let the library sign the path that it sends, by version 2 and with the bucket in the path.

    By itself it leaves out what lies before the bucket in the endpoint's path, and ends the name of a bucket with a
    slash that the request does not have. Amazon takes the latter; services that sign what they received do not.
    """
    request.auth_path = urlsplit(request.url).path
