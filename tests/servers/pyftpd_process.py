"""The process of pyftpdlib's server: ``python pyftpd_process.py PORT JSON``."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.filesystems import AbstractedFS, FilesystemError
from pyftpdlib.handlers import FTPHandler, TLS_FTPHandler
from pyftpdlib.servers import FTPServer


class CarefulFiles(AbstractedFS):  # type: ignore[misc] # the library has no types
    """Renaming does not replace, as on Windows."""

    def rename(self, src: str, dst: str) -> None:
        if os.path.lexists(dst):
            raise FilesystemError("Cannot create a file when that file already exists")
        super().rename(src, dst)


class ImplicitHandler(TLS_FTPHandler):  # type: ignore[misc] # the library has no types
    """TLS from the first byte."""

    def handle(self) -> None:
        self.secure_connection(self.get_ssl_context())
        super().handle()

    def handle_ssl_established(self) -> None:
        self._pbsz = True  # it would want an AUTH before


def handler_of(settings: dict[str, Any]) -> Any:
    tls = settings["tls"]
    base = {"off": FTPHandler, "explicit": TLS_FTPHandler, "implicit": ImplicitHandler}[tls]
    handler: Any = type("Handler", (base,), {})
    handler.authorizer = DummyAuthorizer()
    handler.authorizer.add_user(settings["user"], settings["password"], settings["root"], perm="elradfmwMT")
    handler.auth_failed_timeout = 0
    handler.timeout = settings["idle"]
    handler.masquerade_address = settings["masquerade"]
    handler.proto_cmds = {verb: what for verb, what in base.proto_cmds.items() if verb not in settings["without"]}
    handler.dtp_handler.ac_in_buffer_size = handler.dtp_handler.ac_out_buffer_size = 256 * 1024
    if not settings["replaces"]:
        handler.abstracted_fs = CarefulFiles
    if tls != "off":
        handler.certfile = settings["certificate"]
        handler.tls_control_required = handler.tls_data_required = True
    return handler


if __name__ == "__main__":
    settings = json.loads(sys.argv[2])
    server = FTPServer(("127.0.0.1", int(sys.argv[1])), handler_of(settings))
    server.max_cons_per_ip = settings["connections"]
    server.serve_forever()
