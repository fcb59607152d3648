"""The vault actor's core: passes requests to its keyholder and ciphertext back. It holds no key and no password."""

from __future__ import annotations

import asyncio

from domain.errors import NotAllowed
from domain.settings import Settings
from vault.client import Keyholder, connect
from vault.messages import Release, ReleaseDataKey


class VaultCore:
    """Finds or starts the keyholder at the first request, and again whenever it is gone."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._keyholder: Keyholder | None = None
        self._lock = asyncio.Lock()

    async def release(self, request: Release) -> bytes:
        """For a run. Raises `NotAllowed` for a verification: its operator speaks to the keyholder himself."""
        if request.operator is not None:
            do = "Use `tenantry credential verify`."
            raise NotAllowed("release the credential", "the vault actor serves runs", do)
        keyholder = await self._connected()
        return await asyncio.to_thread(keyholder.release, request)

    async def release_data_key(self, request: ReleaseDataKey) -> bytes:
        keyholder = await self._connected()
        return await asyncio.to_thread(keyholder.release_data_key, request)

    async def _connected(self) -> Keyholder:
        async with self._lock:
            if self._keyholder is None:
                self._keyholder = await asyncio.to_thread(connect, self._settings)
            return self._keyholder
