"""Collected rows of several tenants as DuckDB tables, through the real event store, batch store and seals."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from batches import encode_batch

from crypto.datakey import DataKey, new_data_key
from domain.errors import KeyholderUnavailable, Malformed, NotAllowed, ReleaseRefused, Unknown, UsageError
from domain.events import AnyEvent, BatchRecorded, CollectionCompleted, CollectionStarted, CollectionTruncated, Mode
from domain.ids import Dataset, RunId, TenantId, collection_stream
from eventstore.batches import open_batch_store
from eventstore.store import open_event_store
from query.duck import connect, perform
from query.merge import DatasetShape
from query.tables import Expected, Tables

CONTOSO = TenantId("11111111-2222-3333-4444-555555555555")
FABRIKAM = TenantId("99999999-2222-3333-4444-555555555555")
USERS = Dataset("entra.users")
GROUPS = Dataset("entra.groups")
SKUS = Dataset("entra.subscribed-skus")
SIGN_INS = Dataset("audit.sign-ins")
SHAPES = {
    USERS: DatasetShape(key="id", mode="full", columns=("id", "mail")),
    GROUPS: DatasetShape(key="id", mode="delta"),
    SKUS: DatasetShape(key="id", mode="full"),
    SIGN_INS: DatasetShape(key="id", mode="window"),
}
EVERYTHING = Expected(datasets=frozenset(SHAPES), hindrance="Its last run failed: expired.")
START = datetime(2026, 3, 1, tzinfo=UTC)
RUN = RunId("20260301T000000-00000001")

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Estate:
    """Two tenants with their keys. `refused`: those whose key is not given."""

    def __init__(self) -> None:
        self.store = open_event_store("memory:", os.urandom(32))
        self.batches = open_batch_store("memory://")
        self.keys = {tenant: new_data_key() for tenant in (CONTOSO, FABRIKAM)}
        self.refused: dict[TenantId, Exception] = {}
        self.asked: list[TenantId] = []
        self.minutes = 0
        self.tables = Tables(
            self.store, self.batches, self.key_of, SHAPES, dict.fromkeys(self.keys, EVERYTHING), memory_bytes=256 << 20
        )

    def key_of(self, tenant: TenantId) -> DataKey:
        self.asked.append(tenant)
        if tenant in self.refused:
            raise self.refused[tenant]
        return self.keys[tenant]

    def record(self, tenant: TenantId, dataset: Dataset, event: AnyEvent) -> datetime:
        stream = collection_stream(tenant, dataset)
        at = START + timedelta(minutes=self.minutes)
        self.minutes += 1
        self.store.append(stream, len(self.store.read(stream)), [event], at=at, actor="test", cause=RUN)
        return at

    async def collect(
        self,
        tenant: TenantId,
        dataset: Dataset,
        *rows: dict[str, Any] | str,
        mode: Mode = "full",
        complete: bool = True,
    ) -> datetime:
        bodies = [row.encode() if isinstance(row, str) else json.dumps(row).encode() for row in rows]
        sealed, facts = encode_batch(bodies, self.keys[tenant], tenant, dataset)
        await self.batches.put(facts.key, sealed)
        self.record(tenant, dataset, CollectionStarted(run=RUN, mode=mode, since="link" if mode == "delta" else None))
        batch = BatchRecorded(
            run=RUN,
            key=facts.key,
            data_key=facts.data_key,
            rows=facts.rows,
            row_bytes=facts.row_bytes,
            stored_bytes=facts.stored_bytes,
            digest=facts.digest,
            requests=1,
            after=None,
            cursor="c",
        )
        self.record(tenant, dataset, batch)
        end: AnyEvent = CollectionCompleted(run=RUN, rows=facts.rows, requests=1, restarts=0, seconds=1.0)
        if not complete:
            end = CollectionTruncated(
                run=RUN, reason="throttled", detail="", cursor=None, rows=facts.rows, requests=1, seconds=1.0
            )
        return self.record(tenant, dataset, end)


@pytest.fixture
def estate() -> Estate:
    return Estate()


async def test_tables_join_over_tenants_and_say_where_each_row_comes_from(estate: Estate) -> None:
    await estate.collect(CONTOSO, USERS, {"id": "a", "sku": "s"})
    await estate.collect(FABRIKAM, USERS, {"id": "b", "sku": "s"}, {"id": "c"})
    await estate.collect(CONTOSO, SKUS, {"id": "s", "name": "E5", "units": {"enabled": 5}})
    result = await estate.tables.sql(
        "SELECT u.id, name, units.enabled, u._tenant, u._collected_at, u._run FROM Entra_Users u"
        " LEFT JOIN entra_subscribed_skus s ON s.id = u.sku ORDER BY u.id"
    )
    at = START.replace(tzinfo=None)
    assert result.columns == ("id", "name", "enabled", "_tenant", "_collected_at", "_run")
    assert result.rows == [
        ("a", "E5", 5, CONTOSO, at + timedelta(minutes=1), RUN),
        ("b", "E5", 5, FABRIKAM, at + timedelta(minutes=4), RUN),
        ("c", None, None, FABRIKAM, at + timedelta(minutes=4), RUN),
    ]
    assert [(one.tenant, one.dataset) for one in result.missing] == [(FABRIKAM, SKUS)]


async def test_tables_join_by_a_shared_column(estate: Estate) -> None:
    await estate.collect(CONTOSO, USERS, {"id": "a"})
    await estate.collect(CONTOSO, GROUPS, {"id": "a", "name": "A"}, {"id": "b"})
    result = await estate.tables.sql("SELECT name FROM entra_users JOIN entra_groups USING (id)")
    assert result.objects() == [{"name": "A"}]


async def test_a_statement_sees_the_rows_as_they_were(estate: Estate) -> None:
    before = await estate.collect(CONTOSO, USERS, {"id": "a"}, {"id": "b"})
    await estate.collect(CONTOSO, USERS, {"id": "b"})
    count = "SELECT count(*) AS n FROM entra_users"
    assert (await estate.tables.sql(count)).objects() == [{"n": 1}]
    assert (await estate.tables.sql(count, as_of=before)).objects() == [{"n": 2}]
    assert (await estate.tables.sql(count, as_of=START - timedelta(days=1))).objects() == [{"n": 0}]


async def test_properties_with_odd_names_survive(estate: Estate) -> None:
    row = {"@odata.type": "#u", "Id": 1, "id": "x", "a/b~c.d": 2, "q\"'": 3, "": 4, "_run": 5, "n": {"k": 1, "K": 2}}
    await estate.collect(CONTOSO, SKUS, json.dumps(row, separators=(",", ":")))
    result = await estate.tables.sql("SELECT * EXCLUDE (_tenant, _collected_at) FROM entra_subscribed_skus")
    assert result.objects() == [
        {
            "@odata.type": "#u",
            "Id": 1,
            "id_2": "x",
            "a/b~c.d": 2,
            "q\"'": 3,
            "_": 4,
            "_run_2": 5,
            "n": '{"k":1,"K":2}',
            "_run": RUN,
        }
    ]


async def test_rows_that_do_not_agree_lose_nothing(estate: Estate) -> None:
    rows = [
        '{"id":"1","mixed":1,"list":[],"number":1,"deep":{"a":null}}',
        '{"id":"2","mixed":"s","list":[{"a":1}],"number":-2.5,"deep":{"b":[true]},"big":18446744073709551615}',
    ]
    await estate.collect(CONTOSO, SKUS, *rows)
    result = await estate.tables.sql("SELECT mixed, list, number, deep, big FROM entra_subscribed_skus ORDER BY id")
    assert result.rows == [
        ("1", [], 1.0, {"a": None, "b": None}, None),
        ('"s"', [{"a": 1}], -2.5, {"a": None, "b": [True]}, 18446744073709551615),
    ]


async def test_a_dataset_without_rows_is_an_empty_table(estate: Estate) -> None:
    described = await estate.tables.sql("DESCRIBE entra_users")
    assert [row[0] for row in described.rows] == ["id", "mail", "_tenant", "_collected_at", "_run"]
    assert (await estate.tables.sql("SHOW audit_sign_ins")).rows == [
        ("_tenant", "VARCHAR", "YES", None, None, None),
        ("_collected_at", "TIMESTAMP", "YES", None, None, None),
        ("_run", "VARCHAR", "YES", None, None, None),
    ]
    assert (await estate.tables.sql("SELECT * FROM entra_groups")).rows == []
    assert estate.asked == []


async def test_the_catalog_lists_every_dataset(estate: Estate) -> None:
    shown = await estate.tables.sql("SHOW TABLES")
    assert sorted(row[0] for row in shown.rows) == [
        "audit_sign_ins",
        "entra_groups",
        "entra_subscribed_skus",
        "entra_users",
    ]
    named = await estate.tables.sql("SELECT table_name FROM information_schema.tables")
    assert len(named.rows) == len(SHAPES)


async def test_only_named_tables_take_a_key_and_each_tenant_is_asked_once(estate: Estate) -> None:
    await estate.collect(CONTOSO, USERS, {"id": "a"})
    await estate.collect(CONTOSO, SKUS, {"id": "s"})
    await estate.tables.sql("SELECT 1")
    assert estate.asked == []
    await estate.tables.sql(
        "WITH entra_groups AS (SELECT 1) SELECT * FROM entra_users, entra_subscribed_skus, entra_groups"
    )
    assert estate.asked == [CONTOSO]


async def test_a_tenant_whose_key_is_refused_is_named(estate: Estate) -> None:
    await estate.collect(CONTOSO, USERS, {"id": "a"})
    await estate.collect(FABRIKAM, USERS, {"id": "b"})
    estate.refused[CONTOSO] = ReleaseRefused("data", "its key was destroyed")
    result = await estate.tables.sql("SELECT id FROM entra_users")
    assert result.rows == [("b",)]
    assert [(one.tenant, one.dataset) for one in result.missing] == [(CONTOSO, USERS)]
    assert "its key was destroyed" in result.missing[0].why


async def test_a_tenant_without_a_complete_collection_is_named_and_says_why(estate: Estate) -> None:
    before = START - timedelta(days=1)
    first = await estate.collect(CONTOSO, USERS, {"id": "a"})

    async def missing(as_of: datetime | int | None = None) -> list[tuple[str, str]]:
        result = await estate.tables.sql("SELECT count(*) FROM entra_users", as_of)
        return [(one.tenant, one.why) for one in result.missing]

    assert await missing() == [(FABRIKAM, "It was never collected. Its last run failed: expired.")]
    assert await missing(before) == [(one, "It was not collected by then.") for one in (CONTOSO, FABRIKAM)]
    estate.record(FABRIKAM, USERS, CollectionStarted(run=RUN, mode="full", since=None))
    assert await missing() == [(FABRIKAM, "Its first collection has not ended.")]
    await estate.collect(CONTOSO, GROUPS, {"id": "g"}, complete=False)
    groups = await estate.tables.sql("SELECT id FROM entra_groups")
    assert groups.rows == [("g",)]
    assert groups.missing[0].why == "No collection of it was complete, the last is truncated: throttled."
    await estate.collect(CONTOSO, USERS, {"id": "b"}, complete=False)
    assert CONTOSO not in dict(await missing())
    assert await missing(first) == [(FABRIKAM, "It was not collected by then.")]


async def test_nothing_is_missing_of_what_a_tenant_is_not_to_have(estate: Estate) -> None:
    await estate.collect(CONTOSO, USERS, {"id": "a"})
    await estate.collect(FABRIKAM, USERS, {"id": "b"}, complete=False)
    users_only = dict.fromkeys(estate.keys, Expected(datasets=frozenset()))
    tables = Tables(estate.store, estate.batches, estate.key_of, SHAPES, users_only)
    assert (await tables.sql("SELECT * FROM entra_groups")).missing == ()
    assert [one.tenant for one in (await tables.sql("SELECT * FROM entra_users")).missing] == [FABRIKAM]


async def test_a_position_of_the_ledger_is_a_point_in_time_as_well(estate: Estate) -> None:
    await estate.collect(CONTOSO, USERS, {"id": "a"})
    last = estate.store.last_position()
    await estate.collect(CONTOSO, USERS, {"id": "b"})
    for position, rows in ((last, [("a",)]), (last + 3, [("b",)]), (0, [])):
        assert (await estate.tables.sql("SELECT id FROM entra_users", position)).rows == rows


async def test_a_tenant_whose_batches_do_not_open_is_named(estate: Estate) -> None:
    await estate.collect(CONTOSO, USERS, {"id": "a"})
    estate.keys[CONTOSO] = new_data_key()
    result = await estate.tables.sql("SELECT id FROM entra_users")
    assert result.rows == []
    assert "cannot be opened" in {one.tenant: one.why for one in result.missing}[CONTOSO]


async def test_a_keyholder_that_does_not_answer_fails_the_statement(estate: Estate) -> None:
    await estate.collect(CONTOSO, USERS, {"id": "a"})
    estate.refused[CONTOSO] = KeyholderUnavailable("no socket")
    with pytest.raises(KeyholderUnavailable):
        await estate.tables.sql("SELECT id FROM entra_users")


@pytest.mark.parametrize(
    "statement",
    [
        "",
        "SELEC 1",
        "SELECT 1; SELECT 2",
        "CREATE TABLE x AS SELECT 1",
        "INSERT INTO entra_users VALUES (1)",
        "DROP TABLE entra_users",
        "COPY entra_users TO '/tmp/x'",
        "ATTACH '/tmp/x.db'",
        "INSTALL httpfs",
        "SET memory_limit = '9GB'",
        "PRAGMA database_list",
        "PIVOT entra_users ON id USING count(*)",
    ],
)
async def test_anything_but_one_reading_statement_is_refused(estate: Estate, statement: str) -> None:
    with pytest.raises(Malformed) as refused:
        await estate.tables.sql(statement)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("source", ["read_text('{0}')", "read_csv('{0}')", "'{0}'", "glob('{0}')", "read_json('{0}')"])
async def test_a_statement_reaches_no_file(estate: Estate, tmp_path: Path, source: str) -> None:
    path = tmp_path / "outside.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UsageError) as refused:
        await estate.tables.sql(f"SELECT * FROM {source.format(path)}")  # noqa: S608
    assert "\n" not in str(refused.value)


async def test_an_unknown_table_is_answered_with_those_there_are(estate: Estate) -> None:
    with pytest.raises(Unknown, match="entra_subscribed_skus"):
        await estate.tables.sql("SELECT * FROM entra_users JOIN entra_devices USING (id)")
    with pytest.raises(NotAllowed):
        await estate.tables.sql("SELECT * FROM query_table('entra_' || 'users')")
    with pytest.raises(NotAllowed, match="nonesuch"):
        await estate.tables.sql("SELECT nonesuch FROM entra_users")
    with pytest.raises(NotAllowed, match="TIMESTAMP"):
        await estate.tables.sql("SELECT now()")


async def test_what_does_not_fit_in_memory_fails_and_is_not_written_to_a_disk(estate: Estate) -> None:
    with pytest.raises(NotAllowed, match="256 MiB"):
        await estate.tables.sql("SELECT list(i || repeat('x', 100)) FROM range(10000000) t(i)")


async def test_a_cancelled_statement_stops(estate: Estate) -> None:
    endless = "SELECT count(*) FROM range(1000000000000) a, range(1000000) b"
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(estate.tables.sql(endless), 0.2)


async def test_a_statement_that_is_cancelled_before_it_began_stops_as_well() -> None:
    endless = "SELECT count(*) FROM range(1000000000000) a, range(1000000) b"
    begun = threading.Event()
    with closing(connect(1 << 28)) as connection:

        def work() -> None:
            begun.wait()
            connection.execute(endless)

        running = asyncio.ensure_future(perform(connection, work))
        await asyncio.sleep(0)
        running.cancel()
        await asyncio.sleep(0)
        begun.set()
        done, _ = await asyncio.wait((running,), timeout=30)
        assert running in done
        assert running.cancelled()


async def test_columns_of_the_same_name_are_told_apart(estate: Estate) -> None:
    assert (await estate.tables.sql("SELECT 1 AS a, 2 AS a, 3 AS A")).objects() == [{"a": 1, "a_2": 2, "A_3": 3}]


async def test_exports_hold_the_same_rows(estate: Estate, tmp_path: Path) -> None:
    await estate.collect(CONTOSO, USERS, {"id": "a", "licences": [{"sku": "s"}], "n": 1}, {"id": "b", "mail": "ü,\n"})
    old = await estate.collect(FABRIKAM, USERS, {"id": "c"})
    await estate.collect(FABRIKAM, USERS, {"id": "d"})
    places = {}
    for format_ in ("parquet", "csv", "jsonl"):
        places[format_] = tmp_path / f"it's {format_}"
        done = await estate.tables.export("entra.users", format_, places[format_], as_of=old)
        assert (done.rows, done.missing) == (3, ())
        assert stat.S_IMODE(places[format_].stat().st_mode) == 0o600
    assert sorted(os.listdir(tmp_path)) == ["it's csv", "it's jsonl", "it's parquet"]
    assert json.loads(sorted(places["jsonl"].read_bytes().splitlines())[0]) == {
        "id": "a",
        "licences": [{"sku": "s"}],
        "n": 1,
        "_tenant": CONTOSO,
        "_collected_at": "2026-03-01T00:01:00Z",
        "_run": RUN,
    }
    rows = [("a", None, 1), ("b", "ü,\n", None), ("c", None, None)]
    with duckdb.connect(":memory:") as reader:
        for source, format_ in (("read_parquet", "parquet"), ("read_csv", "csv")):
            query = f"SELECT id, mail, n FROM {source}(?) ORDER BY id"  # noqa: S608
            assert reader.execute(query, [str(places[format_])]).fetchall() == rows


async def test_an_export_that_fails_leaves_what_was_there(estate: Estate, tmp_path: Path) -> None:
    path = tmp_path / "users.parquet"
    path.write_bytes(b"before")
    await estate.collect(CONTOSO, USERS, {"id": "a"})
    estate.refused[CONTOSO] = KeyholderUnavailable("no socket")
    with pytest.raises(KeyholderUnavailable):
        await estate.tables.export("entra.users", "parquet", path, overwrite=True)
    with pytest.raises(NotAllowed, match="--overwrite"):
        await estate.tables.export("entra.users", "parquet", path)
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["users.parquet"]
    with pytest.raises(NotAllowed):
        await estate.tables.export("entra.users", "parquet", tmp_path / "nowhere" / "users.parquet")
    with pytest.raises(Unknown):
        await estate.tables.export("entra.devices", "csv", path)
    with pytest.raises(Malformed):
        await estate.tables.export("entra.users", "xlsx", path)  # type: ignore[arg-type]


async def test_an_export_follows_a_link_and_replaces_nothing_but_a_regular_file(estate: Estate, tmp_path: Path) -> None:
    await estate.collect(CONTOSO, USERS, {"id": "a"})
    target, link, pipe = tmp_path / "target", tmp_path / "link", tmp_path / "pipe"
    target.write_bytes(b"before")
    link.symlink_to("target")
    os.mkfifo(pipe)
    await estate.tables.export("entra.users", "jsonl", link, overwrite=True)
    assert link.is_symlink()
    assert json.loads(target.read_bytes())["id"] == "a"
    read_end, write_end = os.pipe()
    descriptor = tmp_path / "descriptor"
    descriptor.symlink_to(f"/proc/self/fd/{write_end}")
    for path, why in ((pipe, "no regular"), (descriptor, "no regular"), (tmp_path, "a directory")):
        with pytest.raises(NotAllowed, match=why):
            await estate.tables.export("entra.users", "jsonl", path, overwrite=True)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    os.close(read_end)
    os.close(write_end)


async def test_the_overview_tells_state_and_rows_of_every_dataset(estate: Estate) -> None:
    ended = await estate.collect(CONTOSO, USERS, {"id": "a"}, {"id": "b"})
    await estate.collect(CONTOSO, GROUPS, {"id": "g"}, {"id": "h"})
    changed = await estate.collect(CONTOSO, GROUPS, {"id": "g", "@removed": {"reason": "deleted"}}, mode="delta")
    await estate.collect(FABRIKAM, USERS, {"id": "c"}, complete=False)

    def seen(found: list[Any]) -> dict[tuple[str, str], tuple[Any, ...]]:
        return {(one.tenant, one.table): (one.state, one.last_complete, one.rows) for one in found}

    overview = seen(await estate.tables.datasets())
    assert len(overview) == 2 * len(SHAPES)
    assert overview[CONTOSO, "entra_users"] == ("complete", ended, 2)
    assert overview[CONTOSO, "entra_groups"] == ("complete", changed, None)
    assert overview[CONTOSO, "entra_subscribed_skus"] == ("never", None, 0)
    assert overview[FABRIKAM, "entra_users"] == ("truncated", None, None)
    assert estate.asked == []
    counted = seen(await estate.tables.datasets(count=True))
    assert counted[CONTOSO, "entra_groups"] == ("complete", changed, 1)
    assert counted[FABRIKAM, "entra_users"] == ("truncated", None, 1)


async def test_a_first_round_of_a_delta_may_send_a_row_in_parts_and_is_not_counted_by_its_events(
    estate: Estate,
) -> None:
    parts = ({"id": "g", "members@delta": [{"id": member}]} for member in "ab")
    await estate.collect(CONTOSO, GROUPS, *parts, {"id": "h"})

    def rows(found: list[Any]) -> int | None:
        [one] = [one for one in found if (one.tenant, one.dataset) == (CONTOSO, GROUPS)]
        return one.rows  # type: ignore[no-any-return]

    assert rows(await estate.tables.datasets()) is None
    assert rows(await estate.tables.datasets(count=True)) == 2
    assert (await estate.tables.sql("SELECT count(*) AS n FROM entra_groups")).objects() == [{"n": 2}]
