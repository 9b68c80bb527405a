"""The migrations make exactly the schema, and the queries that matter use its indexes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy.engine import Connection, Engine

from cdir.v1 import adapter_service_pb2, provider_pb2, scan_pb2
from cdir.v1 import catalog_service_pb2 as catalog
from cdir.v1 import directory_service_pb2 as directory
from cdir_catalog.migrate import migrate
from cdir_catalog.schema import REVISION, metadata
from cdir_catalog.store.begin import begin_writes
from cdir_catalog.store.commit import commit_writes
from cdir_catalog.store.comparing import compare_listing
from cdir_catalog.store.debt import claim_debt
from cdir_catalog.store.history import list_restorable
from cdir_catalog.store.listing import list_entries, search_entries
from cdir_catalog.store.providers import create_provider, record_provider_states
from cdir_catalog.store.resolving import resolve_entries
from cdir_catalog.store.scans import claim_scan, finish_scan, make_scan_due
from cdir_catalog.store.standing import quarantined_copies
from cdir_catalog.store.status import get_tree_status
from cdir_catalog.store.trash import list_trash

_PATHS = ["/d/f", "/d/e/g", "/h"]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'catalog.db'}")
    with engine.begin() as connection:
        migrate(connection)
    yield engine
    engine.dispose()


def _is_described(name: str | None, kind: str, _parents: Any) -> bool:
    """Whether the tables of the module say what it is; the index over names is SQLite's own."""
    return kind != "table" or not (name or "").startswith("entry_names")


def test_the_migrations_make_the_schema(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_name": _is_described})
        assert compare_metadata(context, metadata) == []
        assert context.get_current_revision() == REVISION


def _providers(connection: Connection) -> list[str]:
    ids = [number * 32 for number in "ab"]
    for provider_id in ids:
        provider = provider_pb2.Provider(provider_id=provider_id, name=provider_id[0], kind="memory")
        request = catalog.CreateProviderRequest(provider=catalog.StoredProvider(provider=provider))
        create_provider(connection, request, "")
    up = [catalog.ProviderObservation(provider_id=one, state=provider_pb2.PROVIDER_STATE_UP) for one in ids]
    record_provider_states(connection, catalog.RecordProviderStatesRequest(observations=up), "")
    return ids


def _begin(connection: Connection) -> catalog.BeginWritesResponse:
    intents = [catalog.WriteIntent(path=path) for path in _PATHS]
    return begin_writes(connection, catalog.BeginWritesRequest(owner="w", intents=intents), "")


def _write(connection: Connection) -> None:
    provider = catalog.StoredCopy(provider_id="a" * 32)
    commitments = [
        catalog.WriteCommitment(version_id=one.version_id, sha256=b"x" * 32, stored=[provider])
        for one in _begin(connection).results
    ]
    response = commit_writes(connection, catalog.CommitWritesRequest(commitments=commitments), "")
    assert not any(result.HasField("failure") for result in response.results)


def _now() -> Timestamp:
    now = Timestamp()
    now.GetCurrentTime()
    return now


def _scan(path: str, *objects: str) -> Callable[[Connection], Any]:
    """Return the scan of a path at one provider, in which exactly these keys are listed."""

    def work(connection: Connection) -> None:
        make_scan_due(connection, scan_pb2.MakeScanDueRequest(path=path, provider="a"), "")
        scan = claim_scan(connection, scan_pb2.ClaimScanRequest(owner="w"), "").scan
        found = [adapter_service_pb2.ObjectInfo(key=key, size=9) for key in objects]
        part = scan_pb2.ListedRange(prefix=scan.prefix, recursive=scan.recursive, objects=found, complete=True)
        request = scan_pb2.CompareListingRequest(provider_id="a" * 32, owner="w", scan_id=scan.scan_id, ranges=[part])
        request.as_of.CopyFrom(scan.as_of)
        compare_listing(connection, request, "")
        finish_scan(connection, scan_pb2.FinishScanRequest(scan_id=scan.scan_id, owner="w", complete=True), "")

    return work


_SMALL = {"workspaces", "providers", "counters", "placements", "policies", "intents", "identity", "scans"}
"""Tables that do not grow with the files; walking over one is nothing."""

_WORK: dict[str, Callable[[Connection], Any]] = {
    "begin": _begin,
    "write again": _write,
    "scan all": _scan("/", "d/f", "new"),
    "scan a directory": _scan("/d/f", "d/new"),
    "claim": lambda connection: claim_debt(connection, catalog.ClaimDebtRequest(owner="w"), ""),
    "list": lambda connection: list_entries(connection, directory.ListEntriesRequest(path="/d", page_size=1)),
    "list recursively": lambda connection: list_entries(
        connection, directory.ListEntriesRequest(path="/d", recursive=True)
    ),
    "next page": lambda connection: list_entries(
        connection,
        directory.ListEntriesRequest(
            path="/",
            recursive=True,
            page_token=list_entries(
                connection, directory.ListEntriesRequest(path="/", recursive=True, page_size=1)
            ).next_page_token,
        ),
    ),
    "search": lambda connection: search_entries(connection, directory.SearchEntriesRequest(path="/d", pattern="g")),
    "search by index": lambda connection: search_entries(
        connection, directory.SearchEntriesRequest(path="/", pattern="absent")
    ),
    "resolve": lambda connection: resolve_entries(
        connection,
        catalog.ResolveEntriesRequest(refs=[catalog.PathRef(path=path) for path in _PATHS], with_replicas=True),
    ),
    "trash": lambda connection: list_trash(connection, directory.ListTrashRequest(path="/d", page_size=1)),
    "restorable": lambda connection: list_restorable(
        connection, catalog.ListRestorableRequest(path="/d", at=_now(), recursive=True)
    ),
    "quarantined": lambda connection: quarantined_copies(connection, 1, "/"),
    "status of all": lambda connection: get_tree_status(connection, directory.GetTreeStatusRequest(path="/")),
}


@pytest.mark.parametrize("work", _WORK)
def test_what_must_not_depend_on_the_size_of_the_tree_uses_indexes(engine: Engine, work: str) -> None:
    """No statement walks over a table that grows with the files, or sorts what an index gives in order."""
    with engine.begin() as connection:
        _providers(connection)
        _write(connection)
        statements: list[tuple[str, Any]] = []

        def note(_c: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
            if not statement.startswith("EXPLAIN"):
                statements.append((statement, parameters[0] if many else parameters))

        sa.event.listen(connection, "before_cursor_execute", note)
        _WORK[work](connection)
        sa.event.remove(connection, "before_cursor_execute", note)
        assert statements
        for statement, parameters in statements:
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters):
                detail: str = row[3]
                scanned = re.match(r"SCAN (\w+)(?! USING INDEX ix_replicas_quarantined)\b", detail)
                walked = scanned is not None and scanned[1] in set(metadata.tables) - _SMALL
                assert not walked, f"{detail}\n{statement}"
                if "LIMIT" not in statement and "FROM counters" not in statement:
                    assert not detail.endswith("(workspace_id=?)"), f"{detail}\n{statement}"
                if "LIMIT" in statement and "FROM scans" not in statement:
                    assert "USE TEMP B-TREE FOR ORDER BY" not in detail, statement
