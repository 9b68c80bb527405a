"""A statement that is run directly does what it does the usual way, from its third run on as in its first two."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError, OperationalError

from cdir_catalog.prepared import PreparedConnection, PreparedQueries

_TABLE = sa.Table(
    "things",
    sa.MetaData(),
    sa.Column("id", sa.Integer(), primary_key=True),
    sa.Column("name", sa.Text()),
    sa.Column("data", sa.LargeBinary()),
    sa.Column("kind", sa.Integer()),
    sa.Column("day", sa.Date()),
)
_NAMED = sa.select(_TABLE).where(_TABLE.c.name.in_(sa.bindparam("names", expanding=True))).order_by(_TABLE.c.id)
_KINDS = _NAMED.where(_TABLE.c.kind.in_([1, 2]), _TABLE.c.id > sa.bindparam("after"))


@pytest.fixture
def prepared(tmp_path: Path) -> Iterator[PreparedConnection]:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'things.db'}")
    with closing(PreparedConnection(engine, PreparedQueries())) as connection, connection.begin():
        _TABLE.create(connection)
        connection.execute(
            sa.text("INSERT INTO things VALUES (:id, :name, :data, :kind, '2020-02-03')"),
            [{"id": id, "name": f"n{id % 5}", "data": b"\0\xff", "kind": id % 3} for id in range(200)],
        )
        yield connection
    engine.dispose()


def rows_of(connection: Connection, statement: Any, parameters: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    return [dict(row._mapping) for row in connection.execute(statement, parameters)]


def test_parameters_lists_constants_and_types_are_as_the_first_time(prepared: PreparedConnection) -> None:
    for names in ([], ["n1"], ["n1", "n4"], ["n2", "n3"], ["nobody"]):
        for after in (0, 100, 190):
            parameters = {"names": names, "after": after}
            direct = rows_of(prepared, _KINDS, parameters)
            assert direct == [
                {"id": id, "name": f"n{id % 5}", "data": b"\0\xff", "kind": id % 3, "day": date(2020, 2, 3)}
                for id in range(after + 1, 200)
                if f"n{id % 5}" in names and id % 3 in (1, 2)
            ]


@pytest.mark.parametrize("negated", [False, True], ids=["in", "not in"])
def test_lists_of_any_length_hold_what_they_hold(prepared: PreparedConnection, negated: bool) -> None:
    column = _TABLE.c.id.not_in if negated else _TABLE.c.id.in_
    query = sa.select(_TABLE.c.id).where(column(sa.bindparam("ids", expanding=True)), _TABLE.c.id < 150)
    kinds = []
    for length in (2, 3, 0, 1, 15, 16, 17, 31, 32, 33, 64, 65, 128, 1000, 1024, 1025, 2):
        ids = list(range(0, 7 * length, 7))
        result = prepared.execute(query, {"ids": ids})
        kinds.append(type(result).__name__)
        assert result.scalars().all() == [id for id in range(150) if (id in ids) is not negated]
        assert ids == list(range(0, 7 * length, 7))
    assert kinds == ["CursorResult"] * 2 + ["IteratorResult"] * 13 + ["CursorResult", "IteratorResult"]


def test_statements_that_differ_in_a_constant_alone_are_kept_apart(prepared: PreparedConnection) -> None:
    ones, twos = (sa.select(_TABLE.c.id).where(_TABLE.c.kind == kind, _TABLE.c.id < 9) for kind in (1, 2))
    for _ in range(4):
        assert prepared.execute(ones).scalars().all() == [1, 4, 7]
        assert prepared.execute(twos).scalars().all() == [2, 5, 8]
        assert prepared.scalar(twos) == 2


def test_a_query_sees_what_changed_since_and_takes_other_parameters(prepared: PreparedConnection) -> None:
    query = sa.select(_TABLE.c.name).where(_TABLE.c.id == sa.bindparam("one"))
    for number in range(4):
        prepared.execute(_TABLE.update().where(_TABLE.c.id == 1).values(name=f"new {number}"))
        assert prepared.scalar(query, {"one": 1}) == f"new {number}"
        assert prepared.execute(query, {"one": 10_000}).first() is None
    assert prepared.scalar(query, {"one": 1, "another": 2}) == "new 3"


def test_many_rows_all_come(prepared: PreparedConnection) -> None:
    other = _TABLE.alias()
    pairs = _TABLE.join(other, sa.true())
    query = sa.select(_TABLE.c.id, other.c.id.label("other")).select_from(pairs)
    query = query.where(_TABLE.c.id < sa.bindparam("end")).order_by(_TABLE.c.id, other.c.id)
    for end in (3, 3, 3, 19, 20, 21, 200, 3):
        expected = [(one, another) for one in range(end) for another in range(200)]
        assert prepared.execute(query, {"end": end}).all() == expected


def test_only_what_is_run_again_is_run_directly(prepared: PreparedConnection) -> None:
    query = sa.select(_TABLE.c.id).where(_TABLE.c.id == sa.bindparam("one"))
    raw: sqlite3.Connection = prepared.connection.dbapi_connection  # type: ignore[assignment] # typed for any database
    asked: list[str] = []
    raw.set_trace_callback(asked.append)
    results = [prepared.execute(query, {"one": 7}) for _ in range(3)]
    assert len(asked) == 3
    assert [type(result).__name__ for result in results] == ["CursorResult", "CursorResult", "IteratorResult"]
    assert [result.scalar_one() for result in results] == [7, 7, 7]


def test_an_error_is_the_usual_one(prepared: PreparedConnection) -> None:
    query = sa.select(_TABLE.c.id).where(_TABLE.c.id == sa.bindparam("one"))
    for _ in range(3):
        assert prepared.scalar(query, {"one": 7}) == 7
    _TABLE.drop(prepared)
    with pytest.raises(OperationalError, match="no such table"):
        prepared.execute(query, {"one": 7})


def test_rows_are_inserted_and_changed_as_the_first_time(prepared: PreparedConnection) -> None:
    insert = _TABLE.insert()
    update = _TABLE.update().where(_TABLE.c.id == sa.bindparam("row"))
    for begin in range(1000, 1015, 3):
        rows: list[dict[str, Any]] = [
            {"id": id, "name": f"n{id}", "data": None if id % 2 else b"\1", "kind": 7, "day": date(2021, 3, 4)}
            for id in range(begin, begin + 3)
        ]
        prepared.execute(insert, rows)
        prepared.execute(update, [{"row": row["id"], "kind": row["id"] + 1, "data": b"\2\3"} for row in rows])
        expected = [{**row, "kind": begin + place + 1, "data": b"\2\3"} for place, row in enumerate(rows)]
        assert rows_of(prepared, sa.select(_TABLE).where(_TABLE.c.id >= begin).order_by(_TABLE.c.id)) == expected


@pytest.mark.parametrize("count", [1, 3, 4, 17, 64, 83, 150])
def test_any_number_of_rows_is_inserted_and_changed(prepared: PreparedConnection, count: int) -> None:
    insert = _TABLE.insert()
    update = _TABLE.update().where(_TABLE.c.id == sa.bindparam("row"))
    for begin in (1000, 2000, 3000):
        ids = range(begin, begin + count)
        prepared.execute(insert, [{"id": id, "name": f"n{id}", "day": date(2021, 3, 4)} for id in ids])
        prepared.execute(update, [{"row": id, "kind": id % 7, "data": bytes([id % 256])} for id in reversed(ids)])
        found = rows_of(prepared, sa.select(_TABLE).where(_TABLE.c.id >= begin).order_by(_TABLE.c.id))
        assert found == [
            {"id": id, "name": f"n{id}", "data": bytes([id % 256]), "kind": id % 7, "day": date(2021, 3, 4)}
            for id in ids
        ]


def test_of_changes_to_the_same_row_the_last_counts(prepared: PreparedConnection) -> None:
    update = _TABLE.update().where(_TABLE.c.id == sa.bindparam("row"))
    for last in range(4):
        prepared.execute(update, [{"row": 1, "name": "a", "kind": number} for number in [5, 6, 7, 8, 9, last]])
        assert prepared.scalar(sa.select(_TABLE.c.kind).where(_TABLE.c.id == 1)) == last


def test_a_change_of_what_is_there_uses_it(prepared: PreparedConnection) -> None:
    update = (
        _TABLE.update()
        .where(_TABLE.c.id == sa.bindparam("row"))
        .values(kind=_TABLE.c.kind + sa.bindparam("more"), name=sa.bindparam("called"))
    )
    for turn in range(1, 5):
        prepared.execute(update, [{"row": id, "more": id, "called": "x"} for id in range(20)])
        query = sa.select(_TABLE.c.kind).where(_TABLE.c.id < 20).order_by(_TABLE.c.id)
        assert prepared.scalars(query).all() == [id % 3 + turn * id for id in range(20)]


def test_rows_with_other_columns_than_before_are_changed_too(prepared: PreparedConnection) -> None:
    update = _TABLE.update().where(_TABLE.c.id == sa.bindparam("row"))
    for _ in range(3):
        prepared.execute(update, [{"row": 1, "kind": 8}, {"row": 2, "kind": 9}])
    prepared.execute(update, [{"row": 1, "name": "one"}, {"row": 2, "name": "two"}])
    query = sa.select(_TABLE.c.name, _TABLE.c.kind).where(_TABLE.c.id.in_([1, 2])).order_by(_TABLE.c.id)
    assert rows_of(prepared, query) == [{"name": "one", "kind": 8}, {"name": "two", "kind": 9}]


def test_a_constant_in_a_change_is_kept(prepared: PreparedConnection) -> None:
    update = _TABLE.update().where(_TABLE.c.id == sa.bindparam("row")).values(kind=5, name=sa.bindparam("called"))
    for number in range(4):
        prepared.execute(update, [{"row": 3, "called": f"a{number}"}, {"row": 4, "called": f"b{number}"}])
        query = sa.select(_TABLE.c.name, _TABLE.c.kind).where(_TABLE.c.id.in_([3, 4])).order_by(_TABLE.c.id)
        assert rows_of(prepared, query) == [{"name": f"a{number}", "kind": 5}, {"name": f"b{number}", "kind": 5}]


def test_only_a_change_that_is_made_again_is_made_directly(prepared: PreparedConnection) -> None:
    insert = _TABLE.insert()
    rows = [[{"id": id, "kind": 1}, {"id": id + 1, "kind": 2}] for id in (1000, 2000, 3000)]
    results = [prepared.execute(insert, some) for some in rows]
    assert [type(result).__name__ for result in results] == ["CursorResult", "CursorResult", "IteratorResult"]


def test_an_error_of_a_change_is_the_usual_one_and_its_savepoint_undoes_it(prepared: PreparedConnection) -> None:
    insert = _TABLE.insert()
    for id in range(1000, 1003):
        prepared.execute(insert, [{"id": id, "name": "there"}])
    with pytest.raises(IntegrityError, match="UNIQUE"), prepared.begin_nested():
        prepared.execute(insert, [{"id": id, "name": "new"} for id in (*range(2000, 2100), 1001)])
    count = sa.select(sa.func.count()).select_from(_TABLE).where(_TABLE.c.id >= 1000)
    assert prepared.scalar(count) == 3


def test_rows_are_changed_and_removed_by_conditions_as_the_first_time(prepared: PreparedConnection) -> None:
    count = sa.select(sa.func.count()).select_from(_TABLE)
    grow = (
        _TABLE.update()
        .where(_TABLE.c.id == sa.bindparam("row"))
        .values(kind=_TABLE.c.kind + sa.bindparam("more"), name="grown")
        .returning(_TABLE.c.kind, _TABLE.c.day)
    )
    rename = _TABLE.update().where(_TABLE.c.name == sa.bindparam("old")).values(name=sa.bindparam("new"))
    remove = _TABLE.delete().where(_TABLE.c.id.in_(sa.bindparam("rows", expanding=True)))
    results = []
    for turn in range(4):
        grown = prepared.execute(grow, {"row": 3, "more": 2}).one()
        assert (grown.kind, grown.day) == (2 * (turn + 1), date(2020, 2, 3))
        changed = prepared.execute(rename, {"old": f"n{turn}", "new": "renamed"})
        assert changed.rowcount == _named(turn)
        before = prepared.scalar(count)
        results.append(prepared.execute(remove, {"rows": [100 + turn, 110 + turn, 100000]}))
        assert results[-1].rowcount == 2
        assert prepared.scalar(count) == before - 2
    assert [type(one).__name__ for one in results] == ["CursorResult", "CursorResult", "_Changed", "_Changed"]


def _named(turn: int) -> int:
    """How many are named ``n{turn}`` by then: some have been removed, and one was renamed."""
    gone = [100 + past + ten for past in range(turn) for ten in (0, 10)]
    return sum(id % 5 == turn and id not in gone and id != 3 for id in range(200))


def test_of_many_rows_a_change_by_a_condition_returns_all(prepared: PreparedConnection) -> None:
    prepared.execute(_TABLE.insert(), [{"id": id, "kind": 1} for id in range(1000, 1600)])
    grow = (
        _TABLE.update()
        .where(_TABLE.c.id >= sa.bindparam("first"))
        .values(kind=_TABLE.c.kind + 1)
        .returning(_TABLE.c.kind)
    )
    for turn in range(4):
        assert prepared.execute(grow, {"first": 1000}).scalars().all() == [turn + 2] * 600


def test_a_change_by_a_condition_that_fails_changes_nothing(prepared: PreparedConnection) -> None:
    move = _TABLE.update().where(_TABLE.c.id >= sa.bindparam("first")).values(id=sa.bindparam("to"))
    for number in range(4):
        prepared.execute(_TABLE.insert(), [{"id": 1000}])
        prepared.execute(move, {"first": 1000, "to": 300 + number})
    with pytest.raises(IntegrityError, match="UNIQUE"):
        prepared.execute(move, {"first": 301, "to": 999})
    assert prepared.scalars(sa.select(_TABLE.c.id).where(_TABLE.c.id >= 300).order_by(_TABLE.c.id)).all() == [
        300, 301, 302, 303,
    ]  # fmt: skip


@pytest.mark.parametrize("count", [1, 5, 70])
def test_rows_of_a_text_are_put_beside_or_added_to_what_is_there(prepared: PreparedConnection, count: int) -> None:
    add = sa.text(
        "INSERT INTO things (id, kind) VALUES (:id, :kind)"
        " ON CONFLICT (id) DO UPDATE SET kind = things.kind + excluded.kind"
    )
    for turn in range(4):
        prepared.execute(add, [{"id": 1000 + place, "kind": place} for place in range(count)])
        query = sa.select(_TABLE.c.kind).where(_TABLE.c.id >= 1000).order_by(_TABLE.c.id)
        assert prepared.scalars(query).all() == [place * (turn + 1) for place in range(count)]
