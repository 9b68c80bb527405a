"""Signatures of S3 requests, checked by what Amazon's documents say of them and by none of the clients' own code."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from urllib.parse import quote, unquote

__all__ = ["Refused", "SignedCall", "check_version_2", "check_version_4", "signature_2", "version_of"]

_SKEW = timedelta(minutes=15)
_SUBRESOURCES = {
    *("acl", "cors", "delete", "lifecycle", "location", "logging", "notification", "partNumber", "policy"),
    *("requestPayment", "restore", "tagging", "torrent", "uploadId", "uploads", "versionId", "versioning", "versions"),
    *("website", "response-cache-control", "response-content-disposition", "response-content-encoding"),
    *("response-content-language", "response-content-type", "response-expires"),
}


class Refused(Exception):
    """The code to answer with."""


@dataclass(frozen=True)
class SignedCall:
    """A request as it came: nothing decoded, header names in lower case."""

    method: str
    path: str
    query: tuple[tuple[str, str | None], ...]
    """Names and values in the order of the URL, still encoded; ``None`` where there is no equals sign."""
    headers: Mapping[str, str]

    @classmethod
    def of(cls, method: str, target: str, headers: Mapping[str, str]) -> SignedCall:
        path, _, text = target.partition("?")
        pairs = [part.partition("=") for part in text.split("&") if part]
        query = tuple((name, value if equals else None) for name, equals, value in pairs)
        return cls(method, path, query, {name.lower(): value for name, value in headers.items()})

    def parameter(self, name: str) -> str | None:
        """The decoded value of a parameter; ``None`` when it is not there."""
        return next((unquote(value or "") for found, value in self.query if found == name), None)


def version_of(call: SignedCall) -> str:
    """Tell how a request is signed: ``v2``, ``v4`` or empty, with ``-query`` when it is in the URL."""
    given = call.headers.get("authorization", "")
    if given.startswith("AWS "):
        return "v2"
    if given.startswith("AWS4-HMAC-SHA256 "):
        return "v4"
    if call.parameter("Signature") is not None:
        return "v2-query"
    return "v4-query" if call.parameter("X-Amz-Signature") is not None else ""


def check_version_2(call: SignedCall, access_key: str, secret_key: str) -> None:
    """Raise Refused unless the request is signed by that key, in its headers or in its URL."""
    if version_of(call) == "v2":
        who, _, signature = call.headers["authorization"].removeprefix("AWS ").partition(":")
        stated = call.headers.get("x-amz-date") or call.headers.get("date")
        if stated is None or abs(parsedate_to_datetime(stated) - datetime.now(UTC)) > _SKEW:
            raise Refused("RequestTimeTooSkewed")
        date = "" if "x-amz-date" in call.headers else stated
    else:
        who, signature = call.parameter("AWSAccessKeyId") or "", call.parameter("Signature") or ""
        date = call.parameter("Expires") or "0"
        if int(date) < datetime.now(UTC).timestamp():
            raise Refused("AccessDenied")
    if who != access_key:
        raise Refused("InvalidAccessKeyId")
    if not hmac.compare_digest(signature_2(call, date, secret_key), signature):
        raise Refused("SignatureDoesNotMatch")


def signature_2(call: SignedCall, date: str, secret_key: str) -> str:
    """The signature of version 2; ``date`` is that of the header, or when the URL expires."""
    lines = [call.method, call.headers.get("content-md5", ""), call.headers.get("content-type", ""), date]
    lines += [f"{name}:{call.headers[name].strip()}" for name in sorted(call.headers) if name.startswith("x-amz-")]
    resource = "&".join(
        name if value is None else f"{name}={unquote(value)}"
        for name, value in sorted(call.query, key=lambda pair: pair[0])
        if name in _SUBRESOURCES
    )
    text = "\n".join([*lines, f"{call.path}?{resource}" if resource else call.path])
    return base64.b64encode(hmac.digest(secret_key.encode(), text.encode(), hashlib.sha1)).decode()


def check_version_4(call: SignedCall, access_key: str, secret_key: str) -> None:
    """Raise Refused unless the request is signed by that key, in its headers or in its URL."""
    if version_of(call) == "v4":
        fields = dict(
            part.strip().split("=", 1)
            for part in call.headers["authorization"].removeprefix("AWS4-HMAC-SHA256 ").split(",")
        )
        credential, names, signature = fields["Credential"], fields["SignedHeaders"], fields["Signature"]
        moment, payload = call.headers["x-amz-date"], call.headers["x-amz-content-sha256"]
    else:
        credential, names = call.parameter("X-Amz-Credential") or "", call.parameter("X-Amz-SignedHeaders") or ""
        signature, moment = call.parameter("X-Amz-Signature") or "", call.parameter("X-Amz-Date") or ""
        payload = "UNSIGNED-PAYLOAD"
    who, _, scope = credential.partition("/")
    if who != access_key:
        raise Refused("InvalidAccessKeyId")
    at = datetime.strptime(moment, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    if abs(at - datetime.now(UTC)) > _SKEW:
        raise Refused("RequestTimeTooSkewed")
    signed = names.split(";")
    if any(name.startswith("x-amz-") and name not in signed for name in call.headers):
        raise Refused("AccessDenied")
    encoded = sorted(
        (quote(unquote(name), safe="-_.~"), quote(unquote(value or ""), safe="-_.~"))
        for name, value in call.query
        if name != "X-Amz-Signature"
    )
    canonical = "\n".join(
        [
            *(
                call.method,
                quote(unquote(call.path), safe="/-_.~"),
                "&".join(f"{name}={value}" for name, value in encoded),
            ),
            *(f"{name}:{' '.join(call.headers.get(name, '').split())}" for name in signed),
            *("", names, payload),
        ]
    )
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = "\n".join(["AWS4-HMAC-SHA256", moment, scope, digest])
    key = f"AWS4{secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), hashlib.sha256)
    if not hmac.compare_digest(hmac.digest(key, text.encode(), hashlib.sha256).hex(), signature):
        raise Refused("SignatureDoesNotMatch")
