"""The process of a whole Swift cluster: ``python swift_process.py PORT FOLDER DEVICES``.

Swift's own proxy, account, container and object servers, each with its own pipeline and its own loopback port, in one
process as in Swift's own functional tests: five interpreters that import all of Swift would take as many seconds on a
small machine. The tokens of tempauth lie in a real memcached; its port is written to ``FOLDER/memcached.port``.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

_STORES = ("account", "container", "object")

_SWIFT = """
[swift-hash]
swift_hash_path_prefix = prefix
swift_hash_path_suffix = suffix
[storage-policy:0]
name = gold
default = yes
"""

_COMMON = """
[DEFAULT]
swift_dir = {folder}
devices = {devices}
mount_check = false
disable_fallocate = true
fallocate_reserve = 0
log_address = /nonexistent
log_level = WARNING
"""

_STORE = (
    _COMMON
    + """
[pipeline:main]
pipeline = {name}-server
[app:{name}-server]
use = egg:swift#{name}
"""
)

_PROXY = (
    _COMMON
    + """
[pipeline:main]
pipeline = catch_errors gatekeeper cache listing_formats bulk s3api tempauth copy container-quotas account-quotas
    slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
allow_account_management = true
account_autocreate = true
[filter:tempauth]
use = egg:swift#tempauth
user_admin_admin = admin .admin .reseller_admin
user_test_tester = testing .admin
user_test_guest = visiting
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{memcached}
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:s3api]
use = egg:swift#s3api
[filter:copy]
use = egg:swift#copy
[filter:container-quotas]
use = egg:swift#container_quotas
[filter:account-quotas]
use = egg:swift#account_quotas
[filter:slo]
use = egg:swift#slo
rate_limit_segments_per_sec = 0
[filter:dlo]
use = egg:swift#dlo
"""
)


def _unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _ring(folder: Path, name: str, port: int) -> None:
    """Write the ring of one store: a single device, on this machine."""
    from swift.common.ring import RingBuilder

    builder: Any = RingBuilder(4, 1, 1)
    builder.add_dev(
        {
            **{"id": 0, "region": 1, "zone": 1, "device": "disk", "weight": 1.0, "meta": ""},
            **{"ip": "127.0.0.1", "port": port, "replication_ip": "127.0.0.1", "replication_port": port},
        }
    )
    builder.rebalance()
    builder.get_ring().save(str(folder / f"{name}.ring.gz"))


def _serve(config: Path, listening: Any) -> None:
    from eventlet import wsgi
    from swift.common.http_protocol import SwiftHttpProtocol
    from swift.common.utils.logs import NullLogger
    from swift.common.wsgi import loadapp

    application = loadapp(str(config), global_conf={"log_name": config.stem})
    wsgi.server(
        listening,
        application,
        NullLogger(),
        protocol=SwiftHttpProtocol,
        capitalize_response_headers=False,
        max_size=1024,
        socket_timeout=60,
    )


def main(port: int, folder: Path, devices: Path) -> None:
    """Serve until SIGTERM. Swift is imported here and below: it replaces the sockets and threads of its process."""
    warnings.filterwarnings("ignore")  # eventlet announces its own retirement
    import eventlet
    from swift.common import utils

    utils.monkey_patch()
    (devices / "disk").mkdir(parents=True, exist_ok=True)
    memcached_port = _unused_port()
    binary = shutil.which("memcached")
    assert binary is not None
    memcached = subprocess.Popen(
        [binary, "-u", "root", "-l", "127.0.0.1", "-p", str(memcached_port), "-m", "32"], stdin=subprocess.DEVNULL
    )
    values: dict[str, object] = {"folder": folder, "devices": devices, "memcached": memcached_port}
    (folder / "swift.conf").write_text(_SWIFT)
    utils.set_swift_dir(str(folder))
    for name in _STORES:
        listening = eventlet.listen(("127.0.0.1", 0))
        _ring(folder, name, listening.getsockname()[1])
        config = folder / f"{name}-server.conf"
        config.write_text(_STORE.format(name=name, **values))
        eventlet.spawn(_serve, config, listening)
    config = folder / "proxy-server.conf"
    config.write_text(_PROXY.format(**values))
    (folder / "memcached.port").write_text(str(memcached_port))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        _serve(config, eventlet.listen(("127.0.0.1", port), backlog=256))
    finally:
        memcached.kill()
        memcached.wait()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
