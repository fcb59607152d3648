"""Names of things, checked where they enter. A value of one of these types has the right form."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import NewType
from uuid import UUID

from domain.errors import Malformed, Unknown

TenantId = NewType("TenantId", str)
"""A lower-case GUID: the Entra directory id."""
RunId = NewType("RunId", str)
"""`YYYYMMDDThhmmss-xxxxxxxx`: time of the request and 32 random bits."""
Slot = NewType("Slot", str)
"""Which credential of a tenant: `entra` signs in to Microsoft 365, `exchange-server` to its own Exchange Server."""
Dataset = NewType("Dataset", str)
"""`area.what`, for example `entra.users`. The area says which services it is read from: `workloads_of`."""
Stream = NewType("Stream", str)
"""`category:key`, the events of one aggregate."""

ENTRA = Slot("entra")
EXCHANGE_SERVER = Slot("exchange-server")
SLOTS = (ENTRA, EXCHANGE_SERVER)

AREAS: Mapping[str, frozenset[str]] = {
    "entra": frozenset({"graph"}),
    "audit": frozenset({"graph"}),
    "reports": frozenset({"graph"}),
    "exchange": frozenset({"exchange"}),
    "onprem": frozenset({"exchange-server"}),
}
OTHER_AREAS = frozenset({"graph", "exchange"})
"""Names that users choose for datasets of their own."""

_DATASET = re.compile(r"[a-z][a-z0-9]*\.[a-z][a-z0-9-]{0,60}")
_DOMAIN = re.compile(r"(?=.{4,253}\Z)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]")
_RUN = re.compile(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{8}")


def tenant_id(text: str) -> TenantId:
    """Raises `Malformed` unless `text` is a GUID."""
    try:
        guid = UUID(text)
    except ValueError:
        raise Malformed("tenant id", text, "a directory GUID such as 11111111-2222-3333-4444-555555555555") from None
    if text.strip("{}").lower() != str(guid):
        raise Malformed("tenant id", text, "a directory GUID with its hyphens")
    return TenantId(str(guid))


def domain_name(text: str) -> str:
    """A DNS name in lower case; raises `Malformed`."""
    name = text.strip().lower()
    if not _DOMAIN.fullmatch(name):
        raise Malformed("domain", text, "a DNS name such as contoso.com")
    return name


def dataset(text: str) -> Dataset:
    """Raises `Malformed` unless `text` has the form of a dataset's name; whether there is one the catalog knows."""
    if not _DATASET.fullmatch(text):
        raise Malformed("dataset", text, "a name such as entra.users")
    return Dataset(text)


def workloads_of(name: Dataset) -> frozenset[str]:
    """The services that a dataset of this name may be read from. Its runs are given a credential for no others."""
    return AREAS.get(name.split(".", 1)[0], OTHER_AREAS)


def known_dataset(text: str, known: Collection[Dataset]) -> Dataset:
    """Raises `Unknown`, with the nearest of the `known` names or all of them, unless `text` is one."""
    if text in known:
        return Dataset(text)
    near = get_close_matches(text, known, n=3)
    raise Unknown(
        "dataset", text, f"Did you mean {' or '.join(near)}?" if near else f"There are: {', '.join(sorted(known))}."
    )


def key_names(key: str | None) -> tuple[str, ...]:
    """The properties that tell a dataset's rows apart together, of a `key` that joins them by commas."""
    return tuple(name.strip() for name in key.split(",")) if key else ()


def slot(text: str) -> Slot:
    """Raises `Malformed` unless `text` is one of `SLOTS`."""
    if text not in SLOTS:
        raise Malformed("credential slot", text, " or ".join(SLOTS))
    return Slot(text)


def run_id(text: str) -> RunId:
    """Raises `Malformed` unless `text` has the form of a run id."""
    if not _RUN.fullmatch(text):
        raise Malformed("run id", text, "an id such as 20261122T203000-0a1b2c3d (see `tenantry run list`)")
    return RunId(text)


def new_run_id(now: datetime, random: int) -> RunId:
    """`random`: 32 bits."""
    return RunId(f"{now.astimezone(UTC):%Y%m%dT%H%M%S}-{random:08x}")


def moment(text: str) -> datetime:
    """An ISO 8601 time, in UTC when it names no zone; raises `Malformed`."""
    try:
        parsed = datetime.fromisoformat(text)
        return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
    except (ValueError, OverflowError):
        raise Malformed("time", text, "ISO 8601 such as 2026-03-01 or 2026-03-01T12:00:00Z") from None


def tenant_stream(tenant: TenantId) -> Stream:
    return Stream(f"tenant:{tenant}")


def credential_stream(tenant: TenantId, name: Slot) -> Stream:
    return Stream(f"credential:{tenant}:{name}")


def run_stream(run: RunId) -> Stream:
    return Stream(f"run:{run}")


def collection_stream(tenant: TenantId, name: Dataset) -> Stream:
    return Stream(f"collection:{tenant}:{name}")


VAULT_KEYS = Stream("vault-key:all")
LEDGER = Stream("ledger:all")


def category(stream: str) -> str:
    """`tenant`, `credential`, `vault-key`, `run`, `collection` or `ledger`."""
    return stream.split(":", 1)[0]
