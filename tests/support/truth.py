"""What was collected, held against what there is in the simulated tenant."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from collectors.catalog import load_catalog
from crypto.datakey import DataKey
from domain.events import (
    AnyEvent,
    BatchRecorded,
    CollectionCompleted,
    CollectionRestarted,
    CollectionStarted,
)
from domain.ids import Dataset, TenantId, collection_stream, key_names
from eventstore.batches import BatchStore
from eventstore.store import EventStore
from query.merge import DatasetShape
from query.state import fold_batches, rows_of
from simulator.server import truths
from simulator.world import Tenant

Row = dict[str, Any]
SMALL_PAGES = Path(__file__).with_name("small_pages.toml")
"""A user's own datasets: some of ours in pages of a few rows."""
CATALOG = load_catalog(str(SMALL_PAGES))
NAMES: Mapping[str, str] = {
    "entra.organization": "organization",
    "entra.users": "users",
    "entra.groups": "groups",
    "entra.subscribed-skus": "subscribed-skus",
    "entra.group-owners": "group-owners",
    "audit.sign-ins": "sign-ins",
    "reports.active-users": "active-users",
    "exchange.mailboxes": "mailboxes",
    "exchange.mailbox-statistics": "mailbox-statistics",
    "exchange.transport-rules": "transport-rules",
    "own.users": "users",
    "own.groups": "groups",
    "onprem.mailboxes": "onprem-mailboxes",
    "onprem.receive-connectors": "receive-connectors",
}
"""Dataset to what the simulator calls it."""
OTHERWISE: Mapping[str, frozenset[str]] = {
    "entra.users": frozenset({"manager"}),
    "entra.groups": frozenset({"members"}),
    "own.groups": frozenset({"members"}),
    "exchange.mailbox-statistics": frozenset({"MailboxGuid"}),
}
"""Columns that the service words in another way than its truth does."""


def collected(store: EventStore, batches: BatchStore, tenant: TenantId, name: str, key: DataKey) -> list[Row]:
    """The rows that the dataset has now."""
    definition = CATALOG[Dataset(name)]
    shape = DatasetShape(key=definition.key, mode=definition.mode)
    passes = fold_batches(store.read(collection_stream(tenant, Dataset(name))))

    async def read() -> list[Row]:
        return [json.loads(row.raw) async for row in rows_of(passes, batches, tenant, Dataset(name), key, shape)]

    return asyncio.run(read())


def differences(tenant: Tenant, name: str, rows: Iterable[Row], events: Iterable[AnyEvent] = ()) -> list[str]:
    """Rows that are missing, too many, doubled or not what there is. `events`: the collection's, for its windows."""
    found, expected = list(rows), truth(tenant, name, events)
    keys = [key_of(name, row) for row in found]
    got = dict(zip(keys, found, strict=True))
    said = [f"missing: {key}" for key in expected.keys() - got.keys()]
    said += [f"too many: {key}" for key in got.keys() - expected.keys()]
    said += ["doubled"] if len(keys) != len(got) else []
    for key in expected.keys() & got.keys():
        columns = expected[key].keys() & got[key].keys() - OTHERWISE.get(name, frozenset())
        said += [f"{key} {c}: {got[key][c]} is {expected[key][c]}" for c in columns if got[key][c] != expected[key][c]]
    if NAMES[name] == "groups":
        said += [f"members of {key}" for key in got.keys() & expected.keys() if members(got[key]) != there(tenant, key)]
    return said


def truth(tenant: Tenant, name: str, events: Iterable[AnyEvent]) -> dict[str, Row]:
    rows = truths()[NAMES[name]](tenant)
    if name == "audit.sign-ins":
        windows = [event.window for event in events if isinstance(event, CollectionStarted) and event.window]
        rows = [row for row in rows if any(a <= created(row) < b for a, b in windows)]
    if name == "entra.group-owners":
        rows = [{"_item": row["groupId"], "id": row["id"]} for row in rows]
    if name == "exchange.mailbox-statistics":
        rows = [{**row, "_item": row["MailboxGuid"]} for row in rows]
    return {key_of(name, row): row for row in rows}


def created(row: Row) -> datetime:
    return datetime.fromisoformat(row["createdDateTime"])


def key_of(name: str, row: Row) -> str:
    definition = CATALOG[Dataset(name)]
    return "|".join(str(row[part]) for part in key_names(definition.key))


def members(row: Row) -> set[str]:
    return set(row.get("members", ()))


def there(tenant: Tenant, group: str) -> set[str]:
    return set(tenant.groups[group].member_ids)


def counted(events: Iterable[AnyEvent]) -> tuple[int, int]:
    """Rows of the batches of the last attempt, each going on where the one before ended; and what its end says."""
    rows = said = 0
    cursor: str | None = None
    for event in events:
        match event:
            case CollectionStarted() | CollectionRestarted():
                rows, said, cursor = 0, -1, None
            case BatchRecorded():
                assert event.after == cursor, "a batch does not go on where the last one ended"
                rows, cursor = rows + event.rows, event.cursor
            case CollectionCompleted():
                said = event.rows
            case _:
                pass
    return rows, said


def batches_of(store: EventStore, tenant: TenantId, name: str) -> list[AnyEvent]:
    return [recorded.event for recorded in store.read(collection_stream(tenant, Dataset(name)))]
