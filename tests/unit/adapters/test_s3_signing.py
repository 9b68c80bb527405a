"""Signatures of version 4 in headers, held against those of Amazon's own library."""

from __future__ import annotations

import hashlib

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials

from cdir_adapters.providers.s3.signing import UNSIGNED, HeaderSigner

DIGEST = hashlib.sha256(b"content").hexdigest()


@pytest.mark.parametrize("token", [None, "a-token+/=="])
@pytest.mark.parametrize(
    ("method", "host", "path", "query", "headers", "digest"),
    [
        ("GET", "127.0.0.1:9000", "/files/plain.txt", "", {"Range": "bytes=0-9"}, UNSIGNED),
        ("DELETE", "files.s3.eu-west-1.amazonaws.com", "/folder/plain.txt", "", {}, UNSIGNED),
        ("HEAD", "host", "/files/a%20b/%C3%BC%2B%26%3D%7E.txt", "", {}, UNSIGNED),
        ("PUT", "[::1]:9000", "/files/plain.txt", "", {"x-amz-acl": "private", "If-None-Match": "*"}, DIGEST),
        ("PUT", "host", "/files/x", "", {"x-amz-meta-mtime": "1.5", "x-amz-meta-name": "  two   words "}, DIGEST),
        ("GET", "host", "/files", "list-type=2&max-keys=10&prefix=a%2Fb%20c", {}, UNSIGNED),
        ("GET", "files.host", "/", "encoding-type=url&prefix=", {}, UNSIGNED),
    ],
)
def test_signature(
    method: str, host: str, path: str, query: str, headers: dict[str, str], digest: str, token: str | None
) -> None:
    credentials = ReadOnlyCredentials("an:access-key", "a-secret-key", token)
    signer = HeaderSigner("eu-west-1", host)
    for _ in range(2):  # the second time with the key that was kept
        lines = signer.sign(method, path, query, headers, digest, credentials)
        given: dict[str, str] = dict(line.split(": ", 1) for line in lines)
        stated = given.pop("Authorization")
        assert headers.items() <= given.items()
        covered = {name: given[name] for name in given if name.lower() in stated.partition("SignedHeaders=")[2]}
        assert {name for name in given if name.startswith("x-amz-")} <= covered.keys()
        url = f"https://{host}{path}?{query}" if query else f"https://{host}{path}"
        assert stated.rpartition("Signature=")[2] == _expected(method, url, covered, given["x-amz-date"], credentials)


def _expected(method: str, url: str, headers: dict[str, str], date: str, credentials: ReadOnlyCredentials) -> str:
    auth = S3SigV4Auth(credentials, "s3", "eu-west-1")
    request = AWSRequest(method=method, url=url, headers=headers)
    request.context["timestamp"] = date
    text = auth.string_to_sign(request, auth.canonical_request(request))
    signature: str = auth.signature(text, request)
    return signature


def test_keys_of_other_secrets_are_not_mixed_up() -> None:
    signer = HeaderSigner("eu-west-1", "host")
    signatures = {
        signer.sign("GET", "/files/x", "", {}, UNSIGNED, ReadOnlyCredentials("key", secret, None))[-1][-64:]
        for secret in ("one", "two", "one")
    }
    assert len(signatures) == 2
