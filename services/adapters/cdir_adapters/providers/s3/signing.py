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
_ALWAYS_COVERED: Final = 3
"""Headers that every signature covers; they stand in the order that it asks for."""
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


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class _Second:
    """What all signatures of one second have in common."""

    moment: int
    """Seconds since the epoch."""
    credentials: ReadOnlyCredentials
    date: str
    key: hmac.HMAC
    """That of the day, to be copied: beginning with it anew takes longer."""
    before_digest: str
    """The beginning of what is signed."""
    authorization: str
    """The beginning of the header."""


class HeaderSigner:
    """Signs requests to one host in one region by version 4, into their headers.

    botocore does the same in more than ten times as long, which is more than all else that a small request takes.
    """

    def __init__(self, region: str, host: str) -> None:
        """``host`` is what the header of this name says."""
        self._region = region
        self._host = host
        self._second: _Second | None = None

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
        second = self._second
        moment = int(time.time())
        if second is None or second.moment != moment or second.credentials != credentials:
            second = self._second = self._begin(moment, credentials, second)
        covered = [("host", self._host), ("x-amz-content-sha256", digest), ("x-amz-date", second.date)]
        lines = [f"{name}: {value}" for name, value in covered]
        for name, value in headers.items():
            lines.append(f"{name}: {value}")
            if name.startswith("x-amz-"):
                covered.append((name, " ".join(value.split())))
        if credentials.token:
            lines.append(f"x-amz-security-token: {credentials.token}")
            covered.append(("x-amz-security-token", credentials.token))
        if len(covered) > _ALWAYS_COVERED:
            covered.sort()
        names = ";".join([name for name, _ in covered])
        text = "".join([f"{name}:{value}\n" for name, value in covered])
        wanted = hashlib.sha256(f"{method}\n{path}\n{query}\n{text}\n{names}\n{digest}".encode()).hexdigest()
        signing = second.key.copy()
        signing.update((second.before_digest + wanted).encode())
        signature = signing.hexdigest()
        lines.append(f"{second.authorization}{names},Signature={signature}")
        return lines

    def _begin(self, moment: int, credentials: ReadOnlyCredentials, before: _Second | None) -> _Second:
        date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(moment))
        day = date[:8]
        if before is not None and before.date[:8] == day and before.credentials.secret_key == credentials.secret_key:
            key = before.key
        else:
            secret = f"AWS4{credentials.secret_key}".encode()
            for part in (day, self._region, "s3", "aws4_request"):
                secret = hmac.digest(secret, part.encode(), "sha256")
            key = hmac.new(secret, digestmod="sha256")
        scope = f"{day}/{self._region}/s3/aws4_request"
        return _Second(
            moment=moment,
            credentials=credentials,
            date=date,
            key=key,
            before_digest=f"AWS4-HMAC-SHA256\n{date}\n{scope}\n",
            authorization=f"Authorization: AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope},SignedHeaders=",
        )


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
