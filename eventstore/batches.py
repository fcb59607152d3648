"""Where sealed batches lie: a directory, a container or a bucket, all through obstore.

A batch is put whole or not at all (a file is written beside its place, renamed and synced; an object appears when its
upload ends), and putting it again replaces it, so a retry also heals what a power cut left.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Protocol

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, MemoryStore, ObjectStore, from_url

from domain.errors import Malformed, StorageFull, StoreUnavailable, TenantryError, Unknown
from domain.settings import without_secrets
from eventstore.disk import sync

MAX_BATCH_BYTES = 256 * 1024 * 1024
MAX_KEY_CHARACTERS = 512
SCHEMES = ("az://", "s3://")
ACCEPTED = "file:///directory, az://container/prefix, s3://bucket/prefix or memory://"

_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]{0,127}")
_NO_SPACE = re.compile(r"os error (27|28|122)\b")
"""EFBIG, ENOSPC, EDQUOT: obstore keeps the number in its text only."""
_URL = re.compile(r"[a-z][a-z0-9+.-]*://\S*")


class BatchStore(Protocol):
    async def put(self, key: str, data: bytes) -> None:
        """Stores `data` under `key`. Raises `StorageFull`, or `StoreUnavailable` when it may succeed later."""

    async def get(self, key: str) -> bytes:
        """Raises `Unknown` when there is no such batch."""


class ObjectBatchStore:
    """`directory`: where a local store keeps its files, which are synced after each put; None for any other store."""

    def __init__(self, objects: ObjectStore, place: str, directory: Path | None = None) -> None:
        self._objects = objects
        self._place = place
        self._directory = directory

    async def put(self, key: str, data: bytes) -> None:
        _check(key)
        if len(data) > MAX_BATCH_BYTES:
            raise Malformed("size of a batch", len(data), f"at most {MAX_BATCH_BYTES} bytes")
        try:
            await obstore.put_async(self._objects, key, data, use_multipart=False)
            if self._directory is not None:
                await asyncio.to_thread(_sync, self._directory, key)
        except (BaseError, OSError) as error:
            raise self._failed(error) from None

    async def get(self, key: str) -> bytes:
        _check(key)
        try:
            found = await obstore.get_async(self._objects, key)
            if found.meta["size"] > MAX_BATCH_BYTES:
                raise Malformed("size of a batch", found.meta["size"], f"at most {MAX_BATCH_BYTES} bytes")
            return bytes(await found.bytes_async())
        except FileNotFoundError:
            raise Unknown("batch", key, f"It is not in {self._place}.") from None
        except (BaseError, OSError) as error:
            raise self._failed(error) from None

    def _failed(self, error: Exception) -> TenantryError:
        why = _first_line(error)
        if _NO_SPACE.search(str(error)) or (isinstance(error, OSError) and error.errno in (27, 28, 122)):
            return StorageFull(self._place, why)
        return StoreUnavailable("batch store", why)


def open_batch_store(url: str) -> BatchStore:
    """`file:///absolute/directory`, `az://container/prefix`, `s3://bucket/prefix` or `memory://`.

    The path of a directory is taken literally and made when it is missing. Accounts and credentials of the clouds
    come from their usual variables (`AZURE_*`, `AWS_*`), read by obstore.
    """
    place = without_secrets(url)
    try:
        if url.startswith("memory:"):
            return ObjectBatchStore(MemoryStore(), place)
        if url.startswith("file:///"):
            directory = Path(url.removeprefix("file://"))
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            return ObjectBatchStore(LocalStore(directory), str(directory), directory)
        if url.startswith(SCHEMES):
            return ObjectBatchStore(from_url(url), place)
    except (BaseError, OSError) as error:
        raise StoreUnavailable("batch store", _first_line(error)) from None
    except ValueError:
        raise Malformed("batch store URL", place, ACCEPTED) from None
    raise Malformed("batch store URL", place, ACCEPTED)


def _first_line(error: Exception) -> str:
    """What an error says, without what URLs carry to sign in with."""
    return _URL.sub(lambda found: without_secrets(found[0]), str(error).partition("\n")[0])[:300]


def _check(key: str) -> None:
    if len(key) > MAX_KEY_CHARACTERS or not all(_SEGMENT.fullmatch(segment) for segment in key.split("/")):
        raise Malformed("batch key", key, "segments of letters, digits and . _ = - between slashes")


def _sync(directory: Path, key: str) -> None:
    """The file, then the directories whose entries may be new."""
    path = directory / key
    levels = 1 + key.count("/")
    for place in (path, *path.parents[:levels]):
        sync(place)
