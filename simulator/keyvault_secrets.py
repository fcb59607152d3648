"""The secrets of a Key Vault, learn.microsoft.com/rest/api/keyvault/secrets, without HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from simulator.keyvault_items import Item, Items, Version, bad_parameter

LONGEST_VALUE_BYTES = 25_600


class Secrets(Items[str]):
    noun = "secret"

    def put(self, name: str, body: Mapping[str, Any], now: datetime) -> tuple[Item[str], Version[str]]:
        """A new version. Raises `VaultRefused` as `add` does, and 400 for a value that does not fit."""
        value = body.get("value")
        if not isinstance(value, str):
            raise bad_parameter("Property value is required and must be a string.")
        if len(value.encode()) > LONGEST_VALUE_BYTES:
            raise bad_parameter(f"The secret value is too long: at most {LONGEST_VALUE_BYTES} bytes are allowed.")
        return self.add(name, value, body, now)
