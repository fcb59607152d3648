"""What a Key Vault holds, secrets or keys: versions, attributes, soft deletion and recovery, without HTTP.

learn.microsoft.com/rest/api/keyvault and azure/key-vault/general/soft-delete-overview. Deletion and recovery take
effect at once here and become visible after some looks, as the service's replicas let them.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

NAME = re.compile(r"[0-9a-zA-Z-]{1,127}")
LONGEST_CONTENT_TYPE = 255
MOST_TAGS = 15
LONGEST_TAG = 256
MOST_VERSIONS = 100_000
RECOVERABLE_DAYS = 90
"""The service's default; a vault may be made with 7 or more."""

V = TypeVar("V")


class VaultRefused(Exception):
    """A refusal in Key Vault's words. args: HTTP status, error code, message, inner error code or None."""

    def __init__(self, status: int, code: str, message: str, inner: str | None = None) -> None:
        super().__init__(status, code, message, inner)
        self.status, self.code, self.message, self.inner = status, code, message, inner


@dataclass(frozen=True, slots=True)
class Retention:
    """How long the vault keeps what is deleted, and whether it may be purged before."""

    days: int = RECOVERABLE_DAYS
    purgeable: bool = True

    @property
    def level(self) -> str:
        """The recovery level, learn.microsoft.com/rest/api/keyvault (DeletionRecoveryLevel)."""
        kept = "Recoverable" if self.days == RECOVERABLE_DAYS else "CustomizedRecoverable"
        return f"{kept}+Purgeable" if self.purgeable else kept


@dataclass(slots=True)
class Version(Generic[V]):
    """One version of an item. `expires` and `not_before` are seconds since 1970 and stop nobody from reading."""

    id: str
    value: V = field(repr=False)
    created: int
    updated: int
    content_type: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    enabled: bool = True
    not_before: int | None = None
    expires: int | None = None


@dataclass(slots=True)
class Item(Generic[V]):
    """A name and its versions, oldest first. `looks_until_seen` more looks find nothing where it has gone to."""

    name: str
    versions: dict[str, Version[V]] = field(default_factory=dict)
    deleted: datetime | None = None
    looks_until_seen: int = 0

    @property
    def latest(self) -> Version[V]:
        return next(reversed(self.versions.values()))


class Items(Generic[V]):
    """All secrets, or all keys, of one vault, present and deleted. `noun`: what the messages call one."""

    noun = "item"

    def __init__(self) -> None:
        self._all: dict[str, Item[V]] = {}
        self._versions = 0

    def add(self, name: str, value: V, body: Mapping[str, Any], now: datetime) -> tuple[Item[V], Version[V]]:
        """A new version. Raises `VaultRefused` 400 for what does not fit, 409 when the name is taken by a deletion."""
        if not NAME.fullmatch(name):
            raise bad_parameter(f"The request URI contains an invalid name: {name}")
        noun = self.noun.capitalize()
        if self._versions >= MOST_VERSIONS:
            raise VaultRefused(
                403, "Forbidden", f"The vault holds as many {self.noun} versions as it can.", "QuotaExceeded"
            )
        found = self._all.get(name.lower())
        if found and found.deleted:
            raise VaultRefused(
                409,
                "Conflict",
                f"{noun} {found.name} is currently in a deleted but recoverable state, and its name cannot be reused; "
                f"in this state, the {self.noun} can only be recovered or purged.",
                "ObjectIsDeletedButRecoverable",
            )
        moment = int(now.timestamp())
        version = Version(uuid.uuid4().hex, value, moment, moment)
        _describe(version, body)
        item = self._all.setdefault(name.lower(), Item(name))
        item.versions[version.id] = version
        self._versions += 1
        return item, version

    def get(self, name: str, version_id: str = "") -> tuple[Item[V], Version[V]]:
        """A version by id, or the latest. Raises `VaultRefused` 404, and 403 when it is disabled."""
        item, version = self._version(name, version_id)
        if not version.enabled:
            message = f"Operation get is not allowed on a disabled {self.noun}."
            raise VaultRefused(403, "Forbidden", message, f"{self.noun.capitalize()}Disabled")
        return item, version

    def update(self, name: str, version_id: str, body: Mapping[str, Any], now: datetime) -> tuple[Item[V], Version[V]]:
        """Change attributes, content type or tags, never the value."""
        item, version = self._version(name, version_id)
        _describe(version, body)
        version.updated = int(now.timestamp())
        return item, version

    def present(self) -> list[Item[V]]:
        """Items that are not deleted, by name."""
        return sorted((s for s in self._all.values() if not s.deleted), key=lambda s: s.name)

    def versions(self, name: str) -> list[Version[V]]:
        """Every version of an item; of an unknown name none, as the service answers."""
        found = self._all.get(name.lower())
        return sorted(found.versions.values(), key=lambda v: v.id) if found and not found.deleted else []

    def gone(self) -> list[Item[V]]:
        """Deleted items that can be recovered, by name."""
        return sorted((s for s in self._all.values() if s.deleted), key=lambda s: s.name)

    def delete(self, name: str, now: datetime, looks: int) -> Item[V]:
        """Delete softly; the deleted item is found after `looks` more looks."""
        item = self._present(name)
        item.deleted, item.looks_until_seen = now, looks
        return item

    def deleted(self, name: str) -> Item[V]:
        """A deleted item; each look at one that is still being deleted counts."""
        item = self._all.get(name.lower())
        if item is None or not item.deleted or not _seen(item):
            raise self._not_found(name)
        return item

    def recover(self, name: str, looks: int) -> Item[V]:
        """Undo a deletion; the item is found again after `looks` more looks."""
        item = self._settled(name)
        item.deleted, item.looks_until_seen = None, looks
        return item

    def purge(self, name: str, retention: Retention) -> None:
        """Forget a deleted item for good. Raises `VaultRefused` 403 where purge protection is on."""
        if not retention.purgeable:
            raise VaultRefused(
                403,
                "Forbidden",
                'Operation "purge" is not allowed because purge protection is enabled for this vault. Key Vault '
                "service will automatically purge it after the retention period has passed.",
            )
        item = self._settled(name)
        self._versions -= len(item.versions)
        del self._all[name.lower()]

    def _settled(self, name: str) -> Item[V]:
        item = self._all.get(name.lower())
        if item is None or not item.deleted:
            raise self._not_found(name)
        if not _seen(item):
            raise VaultRefused(
                409,
                "Conflict",
                f"{self.noun.capitalize()} {item.name} is currently being deleted.",
                "ObjectIsBeingDeleted",
            )
        return item

    def _present(self, name: str) -> Item[V]:
        item = self._all.get(name.lower())
        if item is None or item.deleted or not _seen(item):
            raise self._not_found(name)
        return item

    def _version(self, name: str, version_id: str) -> tuple[Item[V], Version[V]]:
        item = self._present(name)
        version = item.versions.get(version_id) if version_id else item.latest
        if version is None:
            raise self._not_found(f"{name}/{version_id}")
        return item, version

    def _not_found(self, name: str) -> VaultRefused:
        return VaultRefused(
            404,
            f"{self.noun.capitalize()}NotFound",
            f"A {self.noun} with (name/id) {name} was not found in this key vault. If you recently deleted this "
            f"{self.noun} you may be able to recover it using the correct recovery command. For help resolving this "
            "issue, please see https://go.microsoft.com/fwlink/?linkid=2125182",
        )


def attributes(version: Version[Any], retention: Retention) -> dict[str, Any]:
    """The attributes object of a version on the wire."""
    times = {"nbf": version.not_before, "exp": version.expires}
    return {
        "enabled": version.enabled,
        **{name: moment for name, moment in times.items() if moment is not None},
        "created": version.created,
        "updated": version.updated,
        "recoveryLevel": retention.level,
        "recoverableDays": retention.days,
    }


def purge_date(deleted: datetime, retention: Retention) -> int:
    """When a deleted item disappears by itself, in seconds since 1970."""
    return int((deleted + timedelta(days=retention.days)).timestamp())


def bad_parameter(message: str) -> VaultRefused:
    return VaultRefused(400, "BadParameter", message)


def _describe(version: Version[Any], body: Mapping[str, Any]) -> None:
    """Check all that a request says besides the value, then take it over."""
    given, tags = body.get("attributes") or {}, body.get("tags")
    content_type = body.get("contentType", version.content_type)
    if content_type is not None and (not isinstance(content_type, str) or len(content_type) > LONGEST_CONTENT_TYPE):
        raise bad_parameter(f"Property contentType must be a string of at most {LONGEST_CONTENT_TYPE} characters.")
    if tags is not None:
        if not isinstance(tags, dict) or len(tags) > MOST_TAGS:
            raise bad_parameter(f"Property tags has too many entries: at most {MOST_TAGS} tags are allowed.")
        texts = [*tags, *tags.values()]
        if not all(isinstance(text, str) and len(text) <= LONGEST_TAG for text in texts):
            raise bad_parameter(f"Tag names and values are strings of at most {LONGEST_TAG} characters.")
    if not isinstance(given, dict) or not isinstance(given.get("enabled", True), bool):
        raise bad_parameter("Property attributes is not valid.")
    for name in ("nbf", "exp"):
        if not isinstance(given.get(name, 0), int):
            raise bad_parameter(f"Property attributes.{name} is a number of seconds since 1970.")
    version.content_type = content_type
    version.tags = dict(tags) if tags is not None else version.tags
    version.enabled = given.get("enabled", version.enabled)
    version.not_before = given.get("nbf", version.not_before)
    version.expires = given.get("exp", version.expires)


def _seen(item: Item[Any]) -> bool:
    if item.looks_until_seen > 0:
        item.looks_until_seen -= 1
        return False
    return True
