"""The storage services that people ask for by name: how cdir reaches each today, and what has been seen to work.

A service is not a kind. A kind is code that speaks a protocol (:mod:`cdir_adapters.registry`); many services speak the
same one. ``docs/providers.md`` is made from this table. A line claims no more than was seen, and nothing was tried with
an account at the service itself.
"""

from __future__ import annotations

import dataclasses
import enum

__all__ = ["KNOWN_SERVICES", "KnownService", "Reach"]


class Reach(enum.StrEnum):
    PROTOCOL = "by its protocol"
    """A kind speaks the protocol of the service, and passes the conformance suite against a server of that protocol."""
    BRIDGE = "by rclone"
    """rclone speaks to the service, and the kind ``rclone`` to rclone; that it works there was not tried."""
    FOLDER = "by its folder"
    """The service has no interface; its own program keeps a folder alike, which the kind ``local`` can use."""
    NOT_YET = "not yet"
    """The service has an interface that no kind speaks yet."""
    ENDED = "ended"
    """The service does not exist any more."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KnownService:
    """One service, as it is known on 27 November 2026."""

    name: str
    cost: str
    """``free``, ``paid``, ``free and paid``, or ``own`` for what one runs oneself."""
    reach: Reach
    kind: str = ""
    """The kind to use; empty when there is none."""
    how: str = ""
    """What to write, or what stands in the way."""
    proven: str = ""
    """The server against which the kind's tests run."""


_S3_SERVERS = "moto, `rclone serve s3`, Ceph 16 and Swift 2.38's `s3api`"
_OLD_S3 = "a server of the project's own"
_DAV_SERVERS = "Apache mod_dav, wsgidav and `rclone serve webdav`"

_BRIDGED = "`--set remote=NAME: --set config=FILE`, after signing in with `rclone config`; not tried"

KNOWN_SERVICES = (
    KnownService(
        name="Amazon S3",
        cost="paid",
        reach=Reach.PROTOCOL,
        kind="s3",
        how="`--set bucket=B --set region=R --set access_key=K --secret secret_key`",
        proven=_S3_SERVERS,
    ),
    KnownService(
        name="Google Storage",
        cost="paid",
        reach=Reach.PROTOCOL,
        kind="gcs",
        how="`--set bucket=B --secret credentials`, the key of a service account as JSON, or the path of its file",
        proven="a server of the project's own, with which Google's own library works",
    ),
    KnownService(
        name="Google Storage, as S3",
        cost="paid",
        reach=Reach.PROTOCOL,
        kind="s3",
        how="its interoperability with S3: an HMAC key, and "
        "`--set profile=gcs --set endpoint=https://storage.googleapis.com`",
        proven=f"{_S3_SERVERS}; Google's own deviations from S3 were not tried",
    ),
    KnownService(
        name="Oracle Object Storage",
        cost="free and paid",
        reach=Reach.PROTOCOL,
        kind="s3",
        how="its S3 interface, a customer secret key, and "
        "`--set profile=oracle --set endpoint=https://NAMESPACE.compat.objectstorage.REGION.oraclecloud.com`",
        proven=_S3_SERVERS,
    ),
    KnownService(
        name="IDrive e2",
        cost="paid",
        reach=Reach.PROTOCOL,
        kind="s3",
        how="`--set profile=idrive_e2 --set endpoint=URL`, the one that its console shows",
        proven=_S3_SERVERS,
    ),
    KnownService(
        name="MEGA S4",
        cost="paid",
        reach=Reach.PROTOCOL,
        kind="s3",
        how="`--set profile=mega_s4 --set endpoint=https://s3.REGION.megas4.com`",
        proven=_S3_SERVERS,
    ),
    KnownService(
        name="Any other S3-compatible service",
        cost="free and paid",
        reach=Reach.PROTOCOL,
        kind="s3",
        how="`--set endpoint=URL`; what the service can do is tried when it is added",
        proven=_S3_SERVERS,
    ),
    KnownService(
        name="Connectria Cloud Storage",
        cost="paid",
        reach=Reach.PROTOCOL,
        kind="s3",
        how="`--set profile=connectria --set endpoint=URL`; no document of an endpoint was found",
        proven=f"{_OLD_S3} of signature version 2",
    ),
    KnownService(
        name="Host Europe Cloud Storage",
        cost="paid",
        reach=Reach.PROTOCOL,
        kind="s3",
        how="`--set profile=hosteurope --set endpoint=https://cs.hosteurope.de`; said to have ended in 2014",
        proven=f"{_OLD_S3} of signature version 2",
    ),
    KnownService(
        name="Walrus (Eucalyptus)",
        cost="own",
        reach=Reach.PROTOCOL,
        kind="s3",
        how="`--set profile=walrus --set endpoint=http://HOST:8773/services/Walrus --set bucket=B --set access_key=K "
        "--secret secret_key`; objects up to 5 GiB, of known size",
        proven=f"{_OLD_S3} with the oddities of Walrus",
    ),
    KnownService(
        name="Cumulus (Nimbus)",
        cost="own",
        reach=Reach.PROTOCOL,
        kind="s3",
        how="`--set profile=cumulus --set endpoint=http://HOST:8888 --set bucket=B --set access_key=K "
        "--secret secret_key`; objects up to 5 GiB, of known size; keeps no times",
        proven=f"{_OLD_S3} with the oddities of Cumulus; names beyond ASCII were not tried on Cumulus",
    ),
    KnownService(
        name="OpenStack Swift",
        cost="own",
        reach=Reach.PROTOCOL,
        kind="swift",
        how="`--set auth_url=URL --set container=C --set user=U --secret key`",
        proven="Swift 2.38 itself; sign-in by Keystone 3 against a server of the project's own",
    ),
    KnownService(
        name="Rackspace Cloud Files",
        cost="paid",
        reach=Reach.PROTOCOL,
        kind="swift",
        how="sign-in of version 1, `--set auth_url=https://auth.api.rackspacecloud.com/v1.0`",
        proven="Swift 2.38; Rackspace's own sign-in was not tried",
    ),
    KnownService(
        name="Azure Blob Storage",
        cost="paid",
        reach=Reach.PROTOCOL,
        kind="azure",
        how="`--set account=A --set container=C --secret key`",
        proven="Azurite 3.35",
    ),
    KnownService(
        name="SSH computer",
        cost="own",
        reach=Reach.PROTOCOL,
        kind="sftp",
        how="`--set host=H --set user=U --set root=FOLDER`",
        proven="OpenSSH: by key, certificate, agent and over another host",
    ),
    KnownService(
        name="FTP server",
        cost="own",
        reach=Reach.PROTOCOL,
        kind="ftp",
        how="`--set host=H --set user=U --secret password`, under TLS unless `--set tls=off`",
        proven="vsftpd and pyftpdlib",
    ),
    KnownService(
        name="Nextcloud",
        cost="free and paid",
        reach=Reach.PROTOCOL,
        kind="webdav",
        how="`--set profile=nextcloud --set url=https://HOST/remote.php/dav/files/USER/ --secret password`",
        proven=f"{_DAV_SERVERS}; chunked uploads against a server of the project's own",
    ),
    KnownService(
        name="ownCloud",
        cost="free and paid",
        reach=Reach.PROTOCOL,
        kind="webdav",
        how="`--set profile=owncloud`, else as Nextcloud",
        proven=_DAV_SERVERS,
    ),
    KnownService(
        name="WebDAV server",
        cost="own",
        reach=Reach.PROTOCOL,
        kind="webdav",
        how="`--set url=URL --set user=U --secret password`",
        proven=_DAV_SERVERS,
    ),
    KnownService(name="Box", cost="free and paid", reach=Reach.BRIDGE, kind="rclone", how=_BRIDGED),
    KnownService(
        name="pCloud",
        cost="free and paid",
        reach=Reach.PROTOCOL,
        kind="webdav",
        how="`--set profile=pcloud --set url=https://webdav.pcloud.com/`, in Europe `https://ewebdav.pcloud.com/`",
        proven=_DAV_SERVERS,
    ),
    KnownService(
        name="Icedrive",
        cost="paid",
        reach=Reach.PROTOCOL,
        kind="webdav",
        how="`--set profile=icedrive --set url=https://webdav.icedrive.io/`, with an access key as password",
        proven=_DAV_SERVERS,
    ),
    KnownService(name="Dropbox", cost="free and paid", reach=Reach.BRIDGE, kind="rclone", how=_BRIDGED),
    KnownService(name="Google Drive", cost="free and paid", reach=Reach.BRIDGE, kind="rclone", how=_BRIDGED),
    KnownService(name="OneDrive", cost="free and paid", reach=Reach.BRIDGE, kind="rclone", how=_BRIDGED),
    KnownService(name="MediaFire", cost="free and paid", reach=Reach.NOT_YET, how="an interface of its own"),
    KnownService(name="MEGA", cost="free and paid", reach=Reach.BRIDGE, kind="rclone", how=_BRIDGED),
    KnownService(name="iCloud Drive", cost="free and paid", reach=Reach.BRIDGE, kind="rclone", how=_BRIDGED),
    KnownService(
        name="Sync.com",
        cost="free and paid",
        reach=Reach.FOLDER,
        kind="local",
        how="no interface; the folder that its program keeps; not tried",
    ),
    KnownService(
        name="Degoo",
        cost="free and paid",
        reach=Reach.NOT_YET,
        how="no public interface",
    ),
    KnownService(
        name="iDrive",
        cost="free and paid",
        reach=Reach.NOT_YET,
        how="its old interface has no digests and no times; IDrive e2 is reached",
    ),
    KnownService(name="OneCloud", cost="unknown", reach=Reach.NOT_YET, how="which service is meant is not known"),
    KnownService(name="Amazon Drive", cost="paid", reach=Reach.ENDED, how="ended on 31 December 2023"),
    KnownService(name="Amazon WorkDocs", cost="paid", reach=Reach.ENDED, how="ended on 25 April 2025"),
    KnownService(
        name="Local disk",
        cost="own",
        reach=Reach.PROTOCOL,
        kind="local",
        how="`--set root=FOLDER`",
        proven="ext4",
    ),
)
"""In the order in which they are shown."""
