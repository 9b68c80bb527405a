"""The process of moto's server: ``python moto_process.py PORT``.

moto looks at the condition of a request and acts on it in two steps, so that of two creators that race both may win. At
AWS one does: here a request is received whole and then handled alone.

moto takes any ``Authorization`` of five parts between slashes for signature version 4, and fails when the base64 of a
signature of version 2 happens to have four of them. It checks no signature, so they are put in the other alphabet.
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple


class OneAtATime:
    """A WSGI application that handles one request after the other."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self._handling = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        if length:
            body = environ["wsgi.input"].read(length)
            if len(body) < length:
                start_response("400 Bad Request", [])
                return []
            environ["wsgi.input"] = io.BytesIO(body)
        if environ.get("HTTP_AUTHORIZATION", "").startswith("AWS "):
            environ["HTTP_AUTHORIZATION"] = environ["HTTP_AUTHORIZATION"].replace("/", "_")
        with self._handling:
            return list(self._application(environ, start_response))


if __name__ == "__main__":
    dispatcher = DomainDispatcherApplication(create_backend_app)
    application = OneAtATime(dispatcher)
    run_simple("127.0.0.1", int(sys.argv[1]), application, threaded=True, request_handler=MotoRequestHandler)
