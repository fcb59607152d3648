"""The batch store's disk is full in the middle of a collection: nothing half-written counts, and nothing is lost."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from disk import enlarge, small_disk
from running import Running

from cli.ledger import sign_checkpoint, verified

BATCH = re.compile(r"[0-9a-f]{64}")
"""The name of a batch that was stored whole."""
DATASETS = ["entra.organization", "entra.users", "exchange.mailboxes"]


def test_a_collection_that_meets_a_full_disk_says_so_and_the_next_one_has_every_row(running: Running) -> None:
    tenant = running.estate.add_tenant(60, "app-secret")
    place = Path(urlsplit(running.estate.settings.batches).path) / tenant.id

    with small_disk(place, "size=12k") as disk:
        (run,) = running.collect(tenant, names=DATASETS)
        left = [path.name for path in disk.rglob("*") if path.is_file()]
        enlarge(disk, "8m")
        (again,) = running.collect(tenant, names=DATASETS)

        assert running.differences(tenant, again) == []
    assert run.state == "finished"
    full = [one for one in run.outcomes if one.outcome != "complete"]
    assert {(one.outcome, one.reason) for one in full} == {("truncated", "storage-full")}
    assert all("Nothing of it was kept; free space" in (one.detail or "") for one in full)
    assert all(BATCH.fullmatch(name) for name in left)
    sign_checkpoint(running.estate.state, "test")
    assert verified(running.estate.state, []).ok
