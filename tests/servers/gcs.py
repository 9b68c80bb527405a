"""A server in the event loop of the test that follows the JSON API which Google Cloud Storage documents.

It holds objects in memory and knows what documents say of generations and conditions, of uploads (in one part, in two,
in chunks to a session), checksums, rewriting, composing, partial answers, objects stored compressed, and tokens for the
signed assertions of a service account. Emulators that can be installed ignore conditions. That Google's own library
works with it is tested, so what follows from that holds for the service too; the rest is as good as the documents.
"""

from __future__ import annotations

import base64
import functools
import gzip
import itertools
import json
import re
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any
from urllib.parse import parse_qsl, unquote

from aiohttp import web
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from servers.gcs_store import Bucket, Refused, Stored, Upload, checked, number_of, require_condition

__all__ = ["GcsServer", "gcs_server"]

_LONGEST_NAME = 1024
_EMAIL = "tester@cdir-test.iam.gserviceaccount.com"


class GcsServer:
    """A running server. ``buckets`` are what it holds."""

    project = "cdir-test"

    def __init__(self) -> None:
        self.buckets: dict[str, Bucket] = {}
        self.uploads: dict[str, Upload] = {}
        """Sessions that were neither finished nor given up."""
        self.requests: list[tuple[str, str]] = []
        """Method and target of everything that was asked."""
        self.port = 0
        self.anonymous = False
        """Whether requests without a token are served."""
        self.tokens: set[str] = set()
        """Those that are accepted."""
        self.signed_in = 0
        """How often somebody was given a token."""
        self.most_kept: int | None = None
        """Bytes of a chunk that are kept of one request, when it carries more."""
        self.most_listed = 1000
        """Rows of a page."""
        self.most_rewritten = 1 << 40
        """Bytes that one request of a copy goes on by."""
        self._rewritten: dict[str, int] = {}
        self._key = _account_key()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def credentials(self) -> str:
        """The key of a service account that is known here, as JSON."""
        key = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return json.dumps(
            {
                "type": "service_account",
                "project_id": self.project,
                "private_key_id": "1",
                "private_key": key.decode(),
                "client_email": _EMAIL,
                "client_id": "1",
                "token_uri": f"{self.endpoint}/token",
            }
        )

    def options(self, bucket: str) -> Mapping[str, str | int | bool]:
        """Options of a ``gcs`` provider on ``bucket`` of this server."""
        return {"bucket": bucket, "endpoint": self.endpoint, "credentials": self.credentials}

    def put(self, bucket: str, name: str, data: bytes, **described: Any) -> Stored:
        """Put an object without asking anybody."""
        held = self.buckets.setdefault(bucket, Bucket(self.project))
        held.objects[name] = Stored(data, described)
        return held.objects[name]

    def get(self, bucket: str, name: str) -> bytes | None:
        """The content of an object; ``None`` when there is none."""
        held = self.buckets.get(bucket)
        found = held.objects.get(name) if held is not None else None
        return found.data if found is not None else None

    def contents(self, bucket: str) -> dict[str, bytes]:
        """The content of every object by its name."""
        return {name: stored.data for name, stored in self.buckets[bucket].objects.items()}

    # ------------------------------------------------------------------ requests

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        self.requests.append((request.method, request.raw_path))
        body = await request.content.read()
        try:
            return self._answer(request, body)
        except Refused as refused:
            return _refusal(refused)
        except (json.JSONDecodeError, UnicodeDecodeError):
            return _refusal(Refused(400, "parseError", "Parse Error"))

    def _answer(self, request: web.BaseRequest, body: bytes) -> web.Response:
        path, _, text = request.raw_path.partition("?")
        query = dict(parse_qsl(text, keep_blank_values=True))
        if (request.method, path) == ("POST", "/token"):
            return self._sign_in(dict(parse_qsl(body.decode())))
        self._require_token(request)
        parts = [unquote(part) for part in path.strip("/").split("/")]
        if parts[0] == "upload" and parts[1:4] == ["storage", "v1", "b"]:
            return self._upload(request, parts[4], query, body)
        if parts[0] == "download":
            del parts[0]
        match request.method, parts[3:]:
            case _ if parts[:3] != ["storage", "v1", "b"]:
                raise Refused(404, "notFound", "Not Found")
            case "POST", []:
                return self._make_bucket(query, json.loads(body))
            case "GET", [bucket]:
                return self._shown(self._bucket_resource(bucket), query)
            case "GET", [bucket, "o"]:
                return self._shown(self._list(request, bucket, query), query)
            case "GET", [bucket, "o", name]:
                return self._get(request, bucket, name, query)
            case "PATCH", [bucket, "o", name]:
                return self._patch(request, bucket, name, query, json.loads(body))
            case "DELETE", [bucket, "o", name]:
                found = self._bucket(bucket).at(bucket, name, query)
                require_condition(found, query)
                del self._bucket(bucket).objects[name]
                return web.Response(status=204)
            case "POST", [bucket, "o", name, "rewriteTo", "b", target, "o", new_name]:
                given = json.loads(body) if body else {}
                return self._shown(self._rewrite(request, (bucket, name), (target, new_name), query, given), query)
            case "POST", [bucket, "o", name, "compose"]:
                return self._compose(request, bucket, name, query, json.loads(body))
        raise Refused(405, "methodNotAllowed", "Method Not Allowed")

    def _sign_in(self, form: Mapping[str, str]) -> web.Response:
        """A token for an assertion that the service account signed (RFC 7523)."""
        try:
            signed, _, signature = form["assertion"].rpartition(".")
            self._key.public_key().verify(_of_base64(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256())
            claims = json.loads(_of_base64(signed.partition(".")[2]))
            known = claims["iss"] == _EMAIL and claims["exp"] > time.time() and "devstorage" in claims["scope"]
        except Exception:
            known = False
        if not known:
            error = {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
            return web.json_response(error, status=400)
        self.signed_in += 1
        token = f"ya29.{uuid.uuid4().hex}"
        self.tokens.add(token)
        return web.json_response({"access_token": token, "expires_in": 3599, "token_type": "Bearer"})

    def _require_token(self, request: web.BaseRequest) -> None:
        given = request.headers.get("Authorization")
        if given is None and self.anonymous:
            return
        if given is None or given.removeprefix("Bearer ") not in self.tokens:
            raise Refused(401, "authError", "Invalid Credentials")

    def _shown(self, resource: Mapping[str, Any], query: Mapping[str, str], status: int = 200) -> web.Response:
        fields = query.get("fields")
        return web.json_response(_partial(resource, fields) if fields else resource, status=status)

    # ------------------------------------------------------------------ buckets

    def _bucket(self, name: str) -> Bucket:
        if name not in self.buckets:
            raise Refused(404, "notFound", "The specified bucket does not exist.")
        return self.buckets[name]

    def _make_bucket(self, query: Mapping[str, str], described: dict[str, Any]) -> web.Response:
        if "project" not in query:
            raise Refused(400, "required", "Required parameter: project")
        name = str(described["name"])
        if name in self.buckets:
            raise Refused(409, "conflict", "Your previous request to create the named bucket succeeded.")
        self.buckets[name] = Bucket(query["project"], described)
        return self._shown(self._bucket_resource(name), query)

    def _bucket_resource(self, name: str) -> dict[str, Any]:
        described = {"location": "US", "storageClass": "STANDARD", **self._bucket(name).described}
        return {**described, "kind": "storage#bucket", "id": name, "name": name, "metageneration": "1"}

    def _list(self, request: web.BaseRequest, bucket: str, query: Mapping[str, str]) -> dict[str, Any]:
        held = self._bucket(bucket)
        prefix, delimiter, begin = (query.get(name, "") for name in ("prefix", "delimiter", "startOffset"))
        after = base64.urlsafe_b64decode(query.get("pageToken", "")).decode()
        rows: dict[str, dict[str, Any] | None] = {}
        for name in sorted(held.objects, key=str.encode):
            if not name.startswith(prefix) or name.encode() < begin.encode():
                continue
            cut = name.find(delimiter, len(prefix)) if delimiter else -1
            if cut >= 0:
                rows[name[: cut + len(delimiter)]] = None
            else:
                rows[name] = self._resource(request, bucket, name)
        waiting = [row for row in rows if row.encode() > after.encode()]
        most = min(number_of(query.get("maxResults")) or self.most_listed, self.most_listed)
        page = waiting[:most]
        found: dict[str, Any] = {"kind": "storage#objects"}
        items = [rows[row] for row in page if rows[row] is not None]
        prefixes = [row for row in page if rows[row] is None]
        # what is empty is left out
        found |= {"items": items} if items else {}
        found |= {"prefixes": prefixes} if prefixes else {}
        if len(waiting) > most:
            found["nextPageToken"] = base64.urlsafe_b64encode(page[-1].encode()).decode()
        return found

    # ------------------------------------------------------------------ objects

    def _resource(self, request: web.BaseRequest, bucket: str, name: str) -> dict[str, Any]:
        stored = self.buckets[bucket].objects[name]
        sums = stored.stated()
        if stored.components:
            del sums["md5Hash"]
        quoted = request.url.origin().joinpath("download", "storage", "v1", "b", bucket, "o")
        media = f"{quoted}/{_quote(name)}?generation={stored.generation}&alt=media"
        return {
            **{"kind": "storage#object", "id": f"{bucket}/{name}/{stored.generation}", "mediaLink": media},
            **{"name": name, "bucket": bucket, "size": str(len(stored.data)), "storageClass": "STANDARD"},
            **{"generation": str(stored.generation), "metageneration": str(stored.metageneration)},
            **{"etag": base64.b64encode(f"{stored.generation}/{stored.metageneration}".encode()).decode()},
            **{"timeCreated": stored.created, "updated": stored.updated},
            **({"componentCount": stored.components} if stored.components else {}),
            **stored.described,
            **sums,
        }

    def _get(self, request: web.BaseRequest, bucket: str, name: str, query: Mapping[str, str]) -> web.Response:
        stored = self._bucket(bucket).at(bucket, name, query)
        require_condition(stored, query)
        if query.get("alt") != "media":
            return self._shown(self._resource(request, bucket, name), query)
        sums = stored.stated()
        headers = {
            "x-goog-generation": str(stored.generation),
            "x-goog-metageneration": str(stored.metageneration),
            "x-goog-stored-content-length": str(len(stored.data)),
            "x-goog-stored-content-encoding": "gzip" if stored.encoded else "identity",
            "x-goog-hash": f"crc32c={sums['crc32c']}" + ("" if stored.components else f",md5={sums['md5Hash']}"),
            "Content-Type": str(stored.described.get("contentType", "application/octet-stream")),
        }
        data, status = stored.data, 200
        if stored.encoded and "gzip" not in request.headers.get("Accept-Encoding", ""):
            # unpacked on the way, whatever range was asked for
            return web.Response(body=gzip.decompress(data), headers=headers)
        if stored.encoded:
            headers["Content-Encoding"] = "gzip"
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if wanted is not None:
            start, end = int(wanted[1]), min(int(wanted[2] or len(data) - 1), len(data) - 1)
            if start >= len(data):
                raise Refused(416, "requestedRangeNotSatisfiable", "Request range not satisfiable")
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            data, status = data[start : end + 1], 206
        return web.Response(status=status, body=data, headers=headers)

    def _patch(
        self, request: web.BaseRequest, bucket: str, name: str, query: Mapping[str, str], changes: dict[str, Any]
    ) -> web.Response:
        stored = self._bucket(bucket).at(bucket, name, query)
        require_condition(stored, query)
        metadata = {**stored.described.get("metadata", {}), **(changes.pop("metadata", None) or {})}
        stored.described |= changes
        stored.described["metadata"] = {name: value for name, value in metadata.items() if value is not None}
        stored.metageneration += 1
        return self._shown(self._resource(request, bucket, name), query)

    def _store(
        self,
        request: web.BaseRequest,
        bucket: str,
        name: str,
        query: Mapping[str, str],
        described: Mapping[str, Any],
        data: bytes,
    ) -> web.Response:
        """Store an object when its condition holds and it is what the client says."""
        held = self._bucket(bucket)
        require_condition(held.objects.get(name), query)
        held.objects[name] = Stored(data, checked(described, data))
        return self._shown(self._resource(request, bucket, name), query)

    def _rewrite(
        self,
        request: web.BaseRequest,
        source: tuple[str, str],
        target: tuple[str, str],
        query: Mapping[str, str],
        given: Mapping[str, Any],
    ) -> dict[str, Any]:
        wanted = {"generation": query["sourceGeneration"]} if "sourceGeneration" in query else {}
        found = self._bucket(source[0]).at(*source, wanted)
        held = self._bucket(target[0])
        require_condition(found, query, "ifSource")
        require_condition(held.objects.get(target[1]), query)
        token = query.get("rewriteToken")
        if token is not None and token not in self._rewritten:
            raise Refused(400, "invalid", "Invalid rewrite token.")
        size = len(found.data)
        written = min(size, (self._rewritten.pop(token) if token is not None else 0) + self.most_rewritten)
        answer: dict[str, Any] = {
            "kind": "storage#rewriteResponse",
            "objectSize": str(size),
            "totalBytesRewritten": str(written),
            "done": written == size,
        }
        if written < size:
            answer["rewriteToken"] = uuid.uuid4().hex
            self._rewritten[answer["rewriteToken"]] = written
            return answer
        described = checked(given, found.data) if given else dict(found.described)
        held.objects[target[1]] = Stored(found.data, described, found.components)
        answer["resource"] = self._resource(request, *target)
        return answer

    def _compose(
        self, request: web.BaseRequest, bucket: str, name: str, query: Mapping[str, str], given: dict[str, Any]
    ) -> web.Response:
        held = self._bucket(bucket)
        parts = given.get("sourceObjects", [])
        if not 1 <= len(parts) <= 32:
            raise Refused(400, "invalid", "The number of source components is limited to 32.")
        found = []
        for part in parts:
            source = held.at(bucket, part["name"], _texts(part, "generation"))
            require_condition(source, _texts(part.get("objectPreconditions") or {}, "ifGenerationMatch"))
            found.append(source)
        require_condition(held.objects.get(name), query)
        data = b"".join(source.data for source in found)
        count = sum(max(1, source.components) for source in found)
        held.objects[name] = Stored(data, checked(given.get("destination", {}), data), count)
        return self._shown(self._resource(request, bucket, name), query)

    # ------------------------------------------------------------------ uploads

    def _upload(self, request: web.BaseRequest, bucket: str, query: dict[str, str], body: bytes) -> web.Response:
        if "upload_id" in query and request.method in {"PUT", "DELETE"}:
            return self._go_on(request, query["upload_id"], body)
        if request.method != "POST":
            raise Refused(405, "methodNotAllowed", "Method Not Allowed")
        self._bucket(bucket)
        kind = request.headers.get("Content-Type", "")
        match query.get("uploadType"):
            case "media":
                return self._store(request, bucket, _named({}, query), query, {"contentType": kind}, body)
            case "multipart":
                described, data = _two_parts(kind, body)
                return self._store(request, bucket, _named(described, query), query, described, data)
            case "resumable":
                return self._begin(request, bucket, query, json.loads(body) if body else {})
        raise Refused(400, "invalid", "Unknown uploadType")

    def _begin(
        self, request: web.BaseRequest, bucket: str, query: dict[str, str], described: dict[str, Any]
    ) -> web.Response:
        name = _named(described, query)
        require_condition(self._bucket(bucket).objects.get(name), query)
        if kind := request.headers.get("X-Upload-Content-Type"):
            described.setdefault("contentType", kind)
        upload = Upload(bucket, name, described, query)
        self.uploads[upload.key] = upload
        place = f"{request.url.origin()}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={upload.key}"
        return web.Response(headers={"Location": place, "X-GUploader-UploadID": upload.key})

    def _go_on(self, request: web.BaseRequest, key: str, body: bytes) -> web.Response:
        upload = self.uploads.get(key)
        if upload is None:
            raise Refused(404, "notFound", "No such upload")
        if request.method == "DELETE":
            del self.uploads[key]
            return web.Response(status=499)
        if upload.stored is not None:
            return self._shown(self._resource(request, upload.bucket, upload.name), upload.query)
        told = request.headers.get("Content-Range") or f"bytes 0-{len(body) - 1}/{len(body)}"
        if upload.take(told, body, self.most_kept) is None:
            headers = {"Range": f"bytes=0-{len(upload.data) - 1}"} if upload.data else {}
            return web.Response(status=308, headers=headers, reason="Resume Incomplete")
        claimed = dict(upload.described)
        for stated_sum in request.headers.get("X-Goog-Hash", "").split(","):
            kind, _, value = stated_sum.strip().partition("=")
            claimed |= {"md5Hash": value} if kind == "md5" else {"crc32c": value} if kind == "crc32c" else {}
        try:
            answer = self._store(request, upload.bucket, upload.name, upload.query, claimed, bytes(upload.data))
        except Refused:
            del self.uploads[key]
            raise
        upload.stored = self._bucket(upload.bucket).objects[upload.name]
        upload.data.clear()
        return answer

    def unfinished(self) -> list[str]:
        """Names that uploads were begun for and neither finished nor given up."""
        return [upload.name for upload in self.uploads.values() if upload.stored is None]


@functools.cache
def _account_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def _refusal(refused: Refused) -> web.Response:
    error = {"message": str(refused), "domain": "global", "reason": refused.reason}
    body = {"error": {"code": refused.status, "message": str(refused), "errors": [error]}}
    return web.json_response(body, status=refused.status)


def _texts(given: Mapping[str, Any], name: str) -> dict[str, str]:
    """One property of a request's body as a query would have it."""
    return {name: str(given[name])} if given.get(name) is not None else {}


def _quote(name: str) -> str:
    return "".join(chr(byte) if chr(byte).isalnum() and byte < 128 else f"%{byte:02X}" for byte in name.encode())


def _of_base64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _named(described: Mapping[str, Any], query: Mapping[str, str]) -> str:
    name = str(described.get("name") or query.get("name") or "")
    if not name or name in {".", ".."} or "\r" in name or "\n" in name or len(name.encode()) > _LONGEST_NAME:
        raise Refused(400, "invalid", "Disallowed unicode characters or length in the object name")
    return name


def _two_parts(kind: str, body: bytes) -> tuple[dict[str, Any], bytes]:
    """Take apart a description and the content behind it."""
    boundary = HTTP.header_factory("Content-Type", kind).params.get("boundary", "").encode()
    parts = re.split(rb"(?:^|\r\n)--" + re.escape(boundary) + rb"(?:--\s*$|\r?\n)", body)
    if not kind.startswith("multipart/related") or not boundary or len(parts) != 4:
        raise Refused(400, "invalid", "Malformed multipart body.")
    described: dict[str, Any] = json.loads(parts[1].replace(b"\r\n", b"\n").partition(b"\n\n")[2])
    head, _, data = parts[2].partition(b"\r\n\r\n")
    described.setdefault("contentType", BytesParser().parsebytes(head).get_content_type())
    return described, data


def _partial(found: Any, fields: str) -> Any:
    """What the parameter ``fields`` leaves of an answer."""
    if isinstance(found, list):
        return [_partial(one, fields) for one in found]
    wanted: dict[str, str] = {}
    depth, name, inner = 0, "", ""
    for character in itertools.chain(fields, ","):
        if character == ")":
            depth -= 1
        if depth:
            inner += character
        elif character == ",":
            wanted[name], name, inner = inner, "", ""
        elif character not in "()":
            name += character
        if character == "(":
            depth += 1
    return {
        name: _partial(found[name], below) if below else found[name] for name, below in wanted.items() if name in found
    }


@asynccontextmanager
async def gcs_server() -> AsyncIterator[GcsServer]:
    """Start the server on a free loopback port."""
    server = GcsServer()
    runner = web.ServerRunner(web.Server(server.handle, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.port = runner.addresses[0][1]
        yield server
    finally:
        await runner.cleanup()
