"""Requests for the plain HTTP client: signed here, so that bodies go to and from the socket without a detour.

Version 4 is signed into the URL. Version 2 is signed into the headers: that is how the old services expect it, and
some of them know no other way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlsplit, urlunsplit

from botocore.auth import HmacV1Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from yarl import URL

__all__ = ["METADATA", "SignedRequest", "metadata_headers", "sign_as_sent", "sign_old"]

METADATA: Final = "x-amz-meta-"


@dataclasses.dataclass(frozen=True, slots=True)
class SignedRequest:
    """What to send. Nothing may be added that would have been signed: no ``Content-Type``, for one."""

    url: URL
    headers: Mapping[str, str] = dataclasses.field(repr=False)


def metadata_headers(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that carry user metadata."""
    return {f"{METADATA}{name}": value for name, value in metadata.items()}


def sign_old(
    method: str,
    endpoint: str,
    bucket: str,
    key: str,
    *,
    path_style: bool,
    query: Mapping[str, str],
    headers: Mapping[str, str],
    credentials: Credentials,
) -> SignedRequest:
    """Sign a request for an object by version 2."""
    parts = urlsplit(endpoint)
    path = f"{parts.path.rstrip('/')}/{bucket}" if path_style else ""
    host = parts.netloc if path_style else f"{bucket}.{parts.netloc}"
    path += "/" + quote(key, safe="/~")
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
