"""The processes of Ceph: ``python ceph_process.py PORT FOLDER``.

One monitor, one store that keeps its objects in memory, and the gateway that speaks the protocol of S3 on ``PORT``. No
manager is needed. Without cephx the gateway never connects. ``FOLDER/ready`` appears when the user is made.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

_CONFIG = """
[global]
fsid = {fsid}
mon_host = [v2:127.0.0.1:{monitor}]
mon_initial_members = a
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
keyring = {folder}/keyring
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 4
osd_pool_default_pgp_num = 4
osd_pool_default_pg_autoscale_mode = off
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
mon_data_avail_crit = 1
mon_data_avail_warn = 2
osd_crush_chooseleaf_type = 0
run_dir = {folder}
admin_socket = {folder}/$name.asok
log_file = {folder}/$name.log
pid_file = {folder}/$name.pid
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_ipv6 = false
osd_objectstore = memstore
memstore_device_bytes = 1073741824
osd_memory_target = 939524096
[mon.a]
mon_data = {folder}/mon
[osd.0]
osd_data = {folder}/osd
osd_class_load_list = *
osd_class_default_list = *
[client.rgw]
rgw_frontends = beast endpoint=127.0.0.1:{port}
rgw_data = {folder}/rgw
rgw_dns_name = localhost
rgw_thread_pool_size = 32
rgw_enable_apis = s3, admin
"""

_KEYS = {
    "mon.": ("mon", "allow *"),
    "client.admin": ("mon", "allow *", "osd", "allow *"),
    "client.rgw": ("mon", "allow rw", "osd", "allow rwx"),
    "osd.0": ("mon", "allow profile osd", "osd", "allow *"),
}


class _Cluster:
    def __init__(self, port: int, folder: Path) -> None:
        self._port = port
        self._folder = folder
        self._config = folder / "ceph.conf"
        self.daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        folder, keyring = self._folder, str(self._folder / "keyring")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            monitor = probe.getsockname()[1]
        fsid = str(uuid.uuid4())
        self._config.write_text(_CONFIG.format(fsid=fsid, monitor=monitor, folder=folder, port=self._port))
        for name in ("mon", "osd", "rgw"):
            (folder / name).mkdir()
        for number, (name, caps) in enumerate(_KEYS.items()):
            allowed = [word for kind, what in zip(caps[::2], caps[1::2], strict=True) for word in ("--cap", kind, what)]
            made = () if number else ("--create-keyring",)
            self._run("ceph-authtool", *made, keyring, "--gen-key", "-n", name, *allowed)
        where = f"[v2:127.0.0.1:{monitor}]"
        self._run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", where, str(folder / "monmap"))
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", str(folder / "monmap"), "--keyring", keyring)
        self._daemon("ceph-mon", "-f", "-i", "a")
        self._run("ceph", "auth", "import", "-i", keyring)
        store = str(uuid.uuid4())
        self._run("ceph", "osd", "new", store, "0")
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", store)
        self._daemon("ceph-osd", "-f", "-i", "0")
        while b"1 up" not in self._run("ceph", "osd", "stat"):
            time.sleep(0.1)
        self._daemon("radosgw", "-f", "-n", "client.rgw")
        key, secret = os.environ["CEPH_ACCESS_KEY"], os.environ["CEPH_SECRET_KEY"]
        self._run(
            *("radosgw-admin", "-n", "client.rgw", "user", "create", "--uid", "tester", "--display-name", "tester"),
            *("--access-key", key, "--secret", secret),
        )
        (folder / "ready").touch()

    def _run(self, *command: str) -> bytes:
        return subprocess.run([*command, *self._named(command[0])], check=True, stdout=subprocess.PIPE).stdout

    def _daemon(self, *command: str) -> None:
        self.daemons.append(subprocess.Popen([*command, *self._named(command[0])]))

    def _named(self, program: str) -> tuple[str, ...]:
        return () if program in {"ceph-authtool", "monmaptool"} else ("-c", str(self._config))


def _end(number: int, frame: object) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    cluster = _Cluster(int(sys.argv[1]), Path(sys.argv[2]))
    try:
        cluster.start()
        while all(daemon.poll() is None for daemon in cluster.daemons):
            time.sleep(0.2)
    finally:
        for daemon in cluster.daemons:
            daemon.kill()
