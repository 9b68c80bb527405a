"""How services that speak the protocol of S3 depart from it.

A field is set for a service only where its own source, or a client that has been in use against it for years (rclone),
says so. What a service merely may lack, such as conditions, is declared and tried when a provider is added
(:mod:`cdir_adapters.probe`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from cdir_adapters.capability import Capability, ChecksumKind

__all__ = ["PROFILES", "Profile"]

_PUT_LIMIT = 5 * 1024**3
"""The most that one request stores."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The departures of one service; without any, the protocol as Amazon describes it."""

    signature_v2: bool = False
    """Requests are signed by version 2 unless the user says otherwise."""
    location_constraint: bool = False
    """A bucket outside us-east-1 is made with the region in the request's body; others refuse or ignore that."""
    bucket_head: bool = True
    """HEAD tells whether a bucket is there."""
    list_v2: bool = True
    """The second version of the listing; else the first."""
    list_pages: bool = True
    """A listing comes in pages, and folder by folder where that is asked for. Else an answer is never marked as cut
    short, so that it must be asked for whole, and everything below the prefix is in it."""
    list_url_encoded: bool = True
    """Names in listings may be asked for in the encoding of URLs, which alone carries control characters."""
    list_ghost: str = ""
    """Name of an entry in listings that may stand for no object."""
    multipart: bool = True
    """Large objects go in parts; else in one request, which takes a size that is known."""
    multipart_etags: bool = True
    """The ETag of an object that was sent in parts is made of their MD5s."""
    copy_in_parts: bool = True
    """A part can be copied from another object; else a copy is one request whatever its size."""
    conditional_writes: bool = True
    conditional_reads: bool = True
    metadata: bool = True
    """Metadata is kept, the modified time in it."""
    acls: bool = True
    """Objects have access control lists, unless the bucket has them turned off."""
    forbidden_names: str | None = None
    """Components that the service would change; see :attr:`cdir_adapters.capability.Capability.forbidden_names`."""

    def narrow(self, best: Capability) -> Capability:
        """Return what is left of ``best``, the most that the kind can do."""
        checksums = best.checksums
        if not (self.multipart and self.multipart_etags):
            checksums -= {ChecksumKind.MD5_MULTIPART}
        return dataclasses.replace(
            best,
            write_if_absent=self.conditional_writes,
            write_if_match=self.conditional_writes,
            read_if_match=self.conditional_reads,
            write_unknown_size=self.multipart,
            metadata=self.metadata,
            acl=self.acls,
            acl_grants=self.acls,
            write_access=self.acls,
            modified_settable=self.metadata,
            modified_precision=best.modified_precision if self.metadata else None,
            checksums=checksums,
            max_object_size=best.max_object_size if self.multipart else _PUT_LIMIT,
            forbidden_names=self.forbidden_names,
        )


_BEFORE_2014 = Profile(signature_v2=True, list_v2=False, conditional_writes=False)
"""Of the first decade: version 4 of signatures, the second listing and conditional writes came later."""

PROFILES: Mapping[str, Profile] = {
    "aws": Profile(location_constraint=True),
    "gcs": Profile(copy_in_parts=False),
    "ceph": Profile(list_v2=False, list_url_encoded=False),
    "minio": Profile(),
    "oracle": Profile(acls=False),
    "idrive_e2": Profile(),
    "mega_s4": Profile(multipart_etags=False, copy_in_parts=False),
    "backblaze": Profile(),
    "wasabi": Profile(),
    "r2": Profile(multipart_etags=False, acls=False),
    # A parameter that Walrus does not know is an error there, and HEAD of a bucket an operation that it does not have.
    "walrus": dataclasses.replace(
        _BEFORE_2014, bucket_head=False, list_url_encoded=False, list_ghost="None", multipart=False
    ),
    # Cumulus looks at neither Range nor If-Match, forgets metadata, and takes white space off both ends of a key.
    "cumulus": dataclasses.replace(
        _BEFORE_2014,
        bucket_head=False,
        list_pages=False,
        list_url_encoded=False,
        multipart=False,
        conditional_reads=False,
        metadata=False,
        forbidden_names=r"[ \t\n\r\x0b\x0c](?s:.*)|(?s:.*)[ \t\n\r\x0b\x0c]",
    ),
    "hosteurope": _BEFORE_2014,
    "connectria": _BEFORE_2014,
    "generic": Profile(),
}
