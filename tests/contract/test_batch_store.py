from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

import eventstore
from domain.errors import Malformed, StorageFull, StoreUnavailable, TenantryError, Unknown
from eventstore.batches import MAX_BATCH_BYTES, BatchStore, open_batch_store

KEY = "11111111-2222-3333-4444-555555555555/entra.users/20261122T203000-0a1b2c3d/5feceb66ffc86f38"
REPOSITORY = Path(eventstore.__file__).parents[1]


class BatchStoreContract:
    def test_a_batch_is_read_as_it_was_put(self, store: BatchStore) -> None:
        data = os.urandom(100_000)
        asyncio.run(store.put(KEY, data))
        assert asyncio.run(store.get(KEY)) == data

    def test_putting_a_batch_again_is_harmless(self, store: BatchStore) -> None:
        for _ in range(2):
            asyncio.run(store.put(KEY, b"sealed rows"))
        assert asyncio.run(store.get(KEY)) == b"sealed rows"

    def test_putting_a_batch_again_mends_what_was_there(self, store: BatchStore) -> None:
        asyncio.run(store.put(KEY, b""))
        asyncio.run(store.put(KEY, b"sealed rows"))
        assert asyncio.run(store.get(KEY)) == b"sealed rows"

    def test_a_batch_that_is_not_there_is_unknown(self, store: BatchStore) -> None:
        with pytest.raises(Unknown) as caught:
            asyncio.run(store.get(KEY))
        assert caught.value.args[:2] == ("batch", KEY)

    def test_many_batches_are_put_at_once(self, store: BatchStore) -> None:
        async def put_all() -> list[bytes]:
            await asyncio.gather(*(store.put(f"{KEY}/{n}", b"%d" % n) for n in range(50)))
            return list(await asyncio.gather(*(store.get(f"{KEY}/{n}") for n in range(50))))

        assert asyncio.run(put_all()) == [b"%d" % n for n in range(50)]

    @pytest.mark.parametrize(
        "key", ["", "/a", "a/", "a//b", "../a", "a/../b", "a/./b", ".hidden", "a b", "a\n", "a?b", "a%2e", "a" * 129]
    )
    def test_a_malformed_key_is_refused(self, store: BatchStore, key: str) -> None:
        for attempt in (store.put(key, b""), store.get(key)):
            with pytest.raises(Malformed):
                asyncio.run(attempt)

    def test_a_batch_has_a_largest_size(self, store: BatchStore) -> None:
        with pytest.raises(Malformed):
            asyncio.run(store.put(KEY, bytes(MAX_BATCH_BYTES + 1)))


class TestMemoryBatchStore(BatchStoreContract):
    @pytest.fixture
    def store(self) -> BatchStore:
        return open_batch_store("memory://")


class TestFileBatchStore(BatchStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> BatchStore:
        return open_batch_store(f"file://{tmp_path}/batches here")

    def test_another_process_finds_the_batch(self, store: BatchStore, tmp_path: Path) -> None:
        asyncio.run(store.put(KEY, b"sealed rows"))
        assert asyncio.run(open_batch_store(f"file://{tmp_path}/batches here").get(KEY)) == b"sealed rows"
        assert (tmp_path / "batches here" / KEY).read_bytes() == b"sealed rows"

    def test_nothing_is_kept_of_a_batch_for_which_there_is_no_space(self, store: BatchStore, tmp_path: Path) -> None:
        attempt = subprocess.run(  # noqa: S603
            [sys.executable, "-c", FULL, f"file://{tmp_path}/batches here", KEY],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (attempt.stdout.strip(), attempt.stderr) == (StorageFull.__name__, "")
        with pytest.raises(Unknown):
            asyncio.run(store.get(KEY))
        assert [p for p in (tmp_path / "batches here").rglob("*") if p.is_file()] == []

    def test_a_directory_that_is_none_is_unavailable(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(StoreUnavailable):
            open_batch_store(f"file://{tmp_path}/file")


FULL = """
import asyncio, resource, signal, sys
from domain.errors import StorageFull
from eventstore.batches import open_batch_store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    asyncio.run(open_batch_store(sys.argv[1]).put(sys.argv[2], bytes(20_000)))
except StorageFull as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize("url", ["", "https://x/y", "file://host/x", "relative", "ftp://x/y"])
def test_any_other_url_is_refused(url: str) -> None:
    with pytest.raises(Malformed):
        open_batch_store(url)


@pytest.mark.parametrize("url", ["https://{}@x/y", "https://x/y?sig={}", "https://[{}/y", "ftp://u:{}@x/y?sig={}"])
def test_a_refused_url_is_shown_without_what_it_signs_in_with(url: str) -> None:
    signature = os.urandom(8).hex()
    with pytest.raises(Malformed) as refused:
        open_batch_store(url.replace("{}", signature))
    assert signature not in str(refused.value)


def test_a_cloud_that_does_not_answer_is_unavailable_and_its_signature_stays_unsaid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    signature = os.urandom(8).hex()
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "nobody")
    monkeypatch.setenv("AZURE_STORAGE_SAS_KEY", f"sv=2024-01-01&sig={signature}")
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("AZURE_ALLOW_HTTP", "true")
    store = open_batch_store("az://container/prefix")
    with pytest.raises(TenantryError) as caught:
        asyncio.run(asyncio.wait_for(store.get(KEY), 30))
    assert isinstance(caught.value, StoreUnavailable)
    assert signature not in str(caught.value)
