"""A server in the event loop of the test that follows the WebDAV protocol which Nextcloud documents.

It holds files in memory and knows chunked uploads of version 2, ``X-OC-Mtime``, ``OC-Checksum``, quota and conditions.
Nextcloud itself takes a web server, PHP and a database. What is told here of its behaviour is what its developer manual
says, so it shows that the client keeps to the protocol, not that the server does.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from urllib.parse import quote, unquote, urlsplit
from xml.sax.saxutils import escape

from aiohttp import web

__all__ = ["NextcloudServer", "nextcloud_server"]

_MIN_CHUNK = 5 * 1000 * 1000
_FILES = "/remote.php/dav/files/me"
_UPLOADS = "/remote.php/dav/uploads/me"
_ETAGS = itertools.count(1)


@dataclass
class Node:
    """A file, or a folder, which has no content."""

    data: bytes | None
    modified: int = field(default_factory=lambda: int(time.time()))
    checksum: str = ""
    etag: str = field(default_factory=lambda: f'"{next(_ETAGS):032x}"')


class _Refused(Exception):
    def __init__(self, status: int, message: str = "") -> None:
        super().__init__(message)
        self.status = status


class NextcloudServer:
    """A running server. ``nodes`` are files and folders by their paths."""

    user = "me"
    password = "cdir-test-secret"

    def __init__(self, *, computes_checksums: bool) -> None:
        self._computes_checksums = computes_checksums
        self.nodes: dict[str, Node] = {_FILES: Node(None), _UPLOADS: Node(None)}
        self.requests: list[tuple[str, str]] = []
        """Method and path of everything that was asked."""
        self.port = 0

    def options(self, folder: str) -> Mapping[str, str | int | bool]:
        """Options of a ``webdav`` provider in ``folder``."""
        return {
            "url": f"http://127.0.0.1:{self.port}{_FILES}/{folder}",
            "profile": "owncloud" if self._computes_checksums else "nextcloud",
            "user": self.user,
            "password": self.password,
        }

    def put(self, path: str, data: bytes) -> None:
        """Put a file below the user's folder, folders included."""
        names = path.split("/")
        for end in range(1, len(names)):
            self.nodes.setdefault(f"{_FILES}/{'/'.join(names[:end])}", Node(None))
        self.nodes[f"{_FILES}/{path}"] = Node(data, checksum=self._checksum(data, ""))

    def get(self, path: str) -> bytes | None:
        """The content of a file below the user's folder."""
        node = self.nodes.get(f"{_FILES}/{path}")
        return None if node is None else node.data

    def uploads(self) -> list[str]:
        """Paths of everything that unfinished uploads have left."""
        return [path for path in self.nodes if path.startswith(f"{_UPLOADS}/")]

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        path = unquote(urlsplit(request.raw_path).path).rstrip("/")
        self.requests.append((request.method, path))
        try:
            return await self._answer(request, path)
        except _Refused as refused:
            body = (
                f'<d:error xmlns:d="DAV:" xmlns:s="http://sabredav.org/ns"><s:message>{refused}</s:message></d:error>'
            )
            return web.Response(status=refused.status, text=body, content_type="application/xml")

    async def _answer(self, request: web.BaseRequest, path: str) -> web.Response:
        wanted = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        if request.headers.get("Authorization") != f"Basic {wanted}":
            raise _Refused(401, "no user is known by these credentials")
        if not path.startswith((_FILES, _UPLOADS)):
            raise _Refused(404, "nothing is served here")
        method = getattr(self, f"_{request.method.lower()}", None)
        if method is None:
            raise _Refused(501, "not implemented")
        answer: web.Response = await method(request, path)
        return answer

    # ------------------------------------------------------------------ methods

    async def _propfind(self, request: web.BaseRequest, path: str) -> web.Response:
        await request.content.read()
        node = self._at(path)
        depth = request.headers.get("Depth", "infinity")
        if depth not in {"0", "1"}:
            raise _Refused(403, "this depth is not allowed")
        shown = {path: node}
        if depth == "1" and node.data is None:
            shown |= {below: found for below, found in self.nodes.items() if below.rpartition("/")[0] == path}
        responses = "".join(self._response(where, found) for where, found in shown.items())
        document = f'<?xml version="1.0"?><d:multistatus xmlns:d="DAV:" xmlns:oc="http://owncloud.org/ns">{responses}'
        return web.Response(status=207, text=f"{document}</d:multistatus>", content_type="application/xml")

    def _response(self, path: str, node: Node) -> str:
        properties = [
            f"<d:getlastmodified>{formatdate(node.modified, usegmt=True)}</d:getlastmodified>",
            f"<d:getetag>{escape(node.etag)}</d:getetag>",
        ]
        missing = "<oc:checksums/>"
        if node.data is None:
            used = sum(len(found.data or b"") for found in self.nodes.values())
            properties.append("<d:resourcetype><d:collection/></d:resourcetype>")
            properties.append(f"<d:quota-used-bytes>{used}</d:quota-used-bytes>")
            properties.append("<d:quota-available-bytes>-3</d:quota-available-bytes>")
            missing += "<d:getcontentlength/>"
        else:
            properties.append(f"<d:resourcetype/><d:getcontentlength>{len(node.data)}</d:getcontentlength>")
        if node.checksum:
            properties.append(f"<oc:checksums><oc:checksum>{node.checksum}</oc:checksum></oc:checksums>")
            missing = "<d:displayname/>"
        href = quote(path) + ("/" if node.data is None else "")
        return (
            f"<d:response><d:href>{href}</d:href>"
            f"<d:propstat><d:prop>{''.join(properties)}</d:prop><d:status>HTTP/1.1 200 OK</d:status></d:propstat>"
            f"<d:propstat><d:prop>{missing}</d:prop><d:status>HTTP/1.1 404 Not Found</d:status></d:propstat>"
            "</d:response>"
        )

    async def _get(self, request: web.BaseRequest, path: str) -> web.Response:
        node = self._at(path)
        if node.data is None:
            raise _Refused(405, "this is a folder")
        headers = {"ETag": node.etag, "Last-Modified": formatdate(node.modified, usegmt=True)}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if wanted is None:
            return web.Response(body=node.data, headers=headers)
        start, end = int(wanted[1]), int(wanted[2] or len(node.data) - 1)
        if start >= len(node.data):
            raise _Refused(416, "the range is past the end")
        part = node.data[start : end + 1]
        headers["Content-Range"] = f"bytes {start}-{start + len(part) - 1}/{len(node.data)}"
        return web.Response(status=206, body=part, headers=headers)

    async def _put(self, request: web.BaseRequest, path: str) -> web.Response:
        data = await request.content.read()
        if path.startswith(_UPLOADS):
            if "Destination" not in request.headers:
                raise _Refused(400, "a chunk has no destination")
            self._parent(path)
            self.nodes[path] = Node(data)
            return web.Response(status=201)
        return self._store(request, path, data)

    def _store(self, request: web.BaseRequest, path: str, data: bytes) -> web.Response:
        self._parent(path)
        old = self.nodes.get(path)
        if old is not None and old.data is None:
            raise _Refused(409, "PUT is not allowed on folders")
        self._require_condition(request, path, old)
        node = Node(data, checksum=self._checksum(data, request.headers.get("OC-Checksum", "")))
        headers = {"ETag": node.etag, "OC-ETag": node.etag}
        modified = request.headers.get("X-OC-Mtime")
        if modified is not None:
            if int(modified) <= 24 * 3600 and not self._computes_checksums:
                raise _Refused(400, "the time is none")
            node.modified = int(modified)
            headers["X-OC-Mtime"] = "accepted"
        self.nodes[path] = node
        return web.Response(status=201 if old is None else 204, headers=headers)

    async def _mkcol(self, request: web.BaseRequest, path: str) -> web.Response:
        if path in self.nodes:
            raise _Refused(405, "it exists already")
        self._parent(path)
        self.nodes[path] = Node(None)
        return web.Response(status=201)

    async def _delete(self, request: web.BaseRequest, path: str) -> web.Response:
        self._require_condition(request, path, self._at(path))
        self._remove(path)
        return web.Response(status=204)

    async def _proppatch(self, request: web.BaseRequest, path: str) -> web.Response:
        node = self._at(path)
        wanted = re.search(rb":lastmodified[^>]*>(\d+)<", await request.content.read())
        if wanted is not None:
            node.modified = int(wanted[1])
        status = "200 OK" if wanted else "403 Forbidden"
        name = "lastmodified" if wanted else "getlastmodified"
        body = (
            f'<d:multistatus xmlns:d="DAV:"><d:response><d:href>{quote(path)}</d:href><d:propstat><d:prop><d:{name}/>'
            f"</d:prop><d:status>HTTP/1.1 {status}</d:status></d:propstat></d:response></d:multistatus>"
        )
        return web.Response(status=207, text=body, content_type="application/xml")

    async def _copy(self, request: web.BaseRequest, path: str) -> web.Response:
        node = self._at(path)
        target, status = self._target(request)
        self.nodes[target] = Node(node.data, checksum=node.checksum)
        return web.Response(status=status)

    async def _move(self, request: web.BaseRequest, path: str) -> web.Response:
        if path.startswith(_UPLOADS) and path.endswith("/.file"):
            return self._put_together(request, path.removesuffix("/.file"))
        self._at(path)
        target, status = self._target(request)
        for where in [where for where in self.nodes if where == path or where.startswith(f"{path}/")]:
            self.nodes[target + where[len(path) :]] = self.nodes.pop(where)
        return web.Response(status=status)

    def _put_together(self, request: web.BaseRequest, upload: str) -> web.Response:
        self._at(upload)
        chunks = sorted(path for path in self.uploads() if path.startswith(f"{upload}/"))
        parts = [self.nodes[path].data or b"" for path in chunks]
        if any(len(part) < _MIN_CHUNK for part in parts[:-1]):
            raise _Refused(400, "a chunk is too small")
        data = b"".join(parts)
        if len(data) != int(request.headers.get("OC-Total-Length", len(data))):
            raise _Refused(400, "chunks are missing")
        answer = self._store(request, unquote(urlsplit(request.headers["Destination"]).path), data)
        self._remove(upload)
        return answer

    # ------------------------------------------------------------------ what they share

    def _at(self, path: str) -> Node:
        if path not in self.nodes:
            raise _Refused(404, "it could not be located")
        return self.nodes[path]

    def _parent(self, path: str) -> None:
        parent = self.nodes.get(path.rpartition("/")[0])
        if parent is None or parent.data is not None:
            raise _Refused(409, "the parent is no folder")

    def _target(self, request: web.BaseRequest) -> tuple[str, int]:
        target = unquote(urlsplit(request.headers["Destination"]).path).rstrip("/")
        self._parent(target)
        old = self.nodes.get(target)
        if old is not None and request.headers.get("Overwrite", "T") == "F":
            raise _Refused(412, "the target exists")
        self._require_condition(request, target, old)
        self._remove(target)
        return target, 201 if old is None else 204

    def _remove(self, path: str) -> None:
        for where in [where for where in self.nodes if where == path or where.startswith(f"{path}/")]:
            del self.nodes[where]

    def _require_condition(self, request: web.BaseRequest, path: str, node: Node | None) -> None:
        wanted = re.fullmatch(r"<([^>]*)> \(\[([^]]*)\]\)", request.headers.get("If", ""))
        if wanted is None or unquote(urlsplit(wanted[1]).path) != path:
            return
        if node is None or node.etag != wanted[2]:
            raise _Refused(412, "the condition does not hold")

    def _checksum(self, data: bytes, claimed: str) -> str:
        """Nextcloud repeats what it was told; ownCloud computes, and refuses what does not fit."""
        if not self._computes_checksums:
            return claimed
        computed = f"SHA1:{hashlib.sha1(data).hexdigest()} MD5:{hashlib.md5(data).hexdigest()}"
        if claimed and claimed not in computed:
            raise _Refused(400, "the computed checksum does not match the one received")
        return computed


@asynccontextmanager
async def nextcloud_server(*, computes_checksums: bool = False) -> AsyncIterator[NextcloudServer]:
    """Start the server; ``computes_checksums`` makes it state checksums of its own, as ownCloud does."""
    server = NextcloudServer(computes_checksums=computes_checksums)

    runner = web.ServerRunner(web.Server(server.handle, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.port = runner.addresses[0][1]
        yield server
    finally:
        await runner.cleanup()
