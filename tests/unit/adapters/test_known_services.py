"""The table of services that people ask for by name says nothing that the code does not know."""

from __future__ import annotations

import pytest

from cdir_adapters import registry
from cdir_adapters.known_services import KNOWN_SERVICES, KnownService, Reach

_ASKED_FOR = """Amazon S3, Google Storage, Connectria, Host Europe, Walrus, Cumulus, Swift, Rackspace, Amazon Drive,
SSH, Azure, Box, Degoo, Dropbox, Google Drive, Icedrive, MEGA, MediaFire, Nextcloud, OneCloud, OneDrive, Oracle,
Sync.com, WebDAV, Local disk, iCloud, iDrive, pCloud"""


@pytest.mark.parametrize("wanted", [name.strip() for name in _ASKED_FOR.replace("\n", " ").split(",")])
def test_every_service_that_is_asked_for_has_a_line(wanted: str) -> None:
    assert any(wanted in service.name for service in KNOWN_SERVICES)


@pytest.mark.parametrize("service", KNOWN_SERVICES, ids=lambda service: service.name)
def test_a_line_claims_no_more_than_there_is(service: KnownService) -> None:
    reached = service.reach not in {Reach.NOT_YET, Reach.ENDED}
    assert reached == bool(service.kind)
    assert (service.reach is Reach.PROTOCOL) == bool(service.proven)
    assert ("not tried" in service.how) == (service.reach in {Reach.BRIDGE, Reach.FOLDER})
    if service.kind:
        spec = registry.kinds()[service.kind]
        for part in service.how.split("--set ")[1:]:
            name, _, value = part.split("`")[0].split(" ")[0].partition("=")
            choices = spec.option(name).choices
            assert not choices or value in choices
        for part in service.how.split("--secret ")[1:]:
            assert spec.option(part.split("`")[0].split(" ")[0]).secret
