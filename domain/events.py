"""Everything that can ever have happened.

An event is a frozen struct; its tag is the name under which it is stored, written by hand and carrying its version.
None holds a secret or a collected row. Who recorded it, when and because of what stands in `Recorded` around it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal, TypeAlias

import msgspec

from domain.ids import Dataset, RunId, Slot, Stream, TenantId

CredentialKind = Literal["app-certificate", "app-secret", "service-account"]
Mode = Literal["full", "delta", "window", "report", "per-item"]
OutcomeKind = Literal["complete", "truncated", "not-possible", "not-started"]


class Event(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="event"):
    """The common form: keyword-only, frozen, closed."""


# tenant


ExchangeAuth = Literal["negotiate", "basic", "kerberos"]


class ExchangeServer(msgspec.Struct, frozen=True, kw_only=True):
    """Where a tenant's own Exchange Server answers remote PowerShell. `auth`: what WSMan signs in with."""

    host: str
    port: int = 443
    path: str = "PowerShell"
    auth: ExchangeAuth = "kerberos"
    tls: bool = True


class TenantRegistered(Event, frozen=True, tag="tenant-registered/1"):
    tenant: TenantId
    name: str
    domain: str
    cloud: str
    exchange_server: ExchangeServer | None = None


class TenantChanged(Event, frozen=True, tag="tenant-changed/1"):
    name: str
    domain: str
    cloud: str
    exchange_server: ExchangeServer | None = None


class PlanChanged(Event, frozen=True, tag="plan-changed/1"):
    """The datasets to collect (empty: the whole catalog) and every how many seconds."""

    datasets: tuple[Dataset, ...]
    cadence_seconds: int


class TenantSuspended(Event, frozen=True, tag="tenant-suspended/1"):
    reason: str


class TenantResumed(Event, frozen=True, tag="tenant-resumed/1"):
    pass


class DataKeyCreated(Event, frozen=True, tag="data-key-created/1"):
    key: str


class DataKeyReleased(Event, frozen=True, tag="data-key-released/1"):
    """To a run, or to an operator with a reason."""

    key: str
    run: RunId | None
    operator: str | None
    why: str


class DataKeyDenied(Event, frozen=True, tag="data-key-denied/1"):
    """To whoever asked: an activation of a run, or an operator. `why`: a word of the release policy."""

    run: RunId | None
    activation: str
    operator: str | None
    why: str


class DataKeyDestroyed(Event, frozen=True, tag="data-key-destroyed/1"):
    key: str


class Retained(msgspec.Struct, frozen=True, kw_only=True):
    """A deleted secret that may still be recovered. `until`: when the store forgets it, None where that was not seen.

    `why` it could not be purged: the store lets nobody, or not this identity; `unseen`: this identity may neither purge
    it nor look whether there is anything to purge.
    """

    name: str
    until: datetime | None
    why: Literal["purge-protected", "purge-refused", "unseen"]


class TenantOffboarded(Event, frozen=True, omit_defaults=True, tag="tenant-offboarded/1"):
    """`retained`: what the secret store still keeps. Recorded again when that is found to have changed."""

    reason: str
    retained: tuple[Retained, ...] = ()


# credential


class CredentialSealed(Event, frozen=True, tag="credential-sealed/1"):
    """`identity`: client id or user name. `digest`: SHA-256 of the envelope. `vault_key`: thumbprint of its key."""

    tenant: TenantId
    slot: Slot
    kind: CredentialKind
    identity: str
    vault_key: str
    digest: str
    expires: datetime | None = None


class CredentialRotated(Event, frozen=True, tag="credential-rotated/1"):
    """`verified`: of a former envelope that is put back after another was refused, and that had signed in."""

    kind: CredentialKind
    identity: str
    vault_key: str
    digest: str
    expires: datetime | None = None
    verified: bool | msgspec.UnsetType = msgspec.UNSET


class CredentialVerified(Event, frozen=True, tag="credential-verified/1"):
    run: RunId | None
    resource: str


class CredentialRejected(Event, frozen=True, omit_defaults=True, tag="credential-rejected/1"):
    """`code`: AADSTS number, or 0 when the refusal came from a server without one. `until`: when a refusal that passes
    by itself has passed, where that is known."""

    code: int
    category: str
    permanent: bool
    run: RunId | None
    resource: str
    until: datetime | None = None


class CredentialReleased(Event, frozen=True, omit_defaults=True, tag="credential-released/1"):
    """`transit_key`: SHA-256 of the public key that the answer is sealed to. `operator`: who verifies the credential;
    `run` is then the verification's id, which no run has."""

    run: RunId
    activation: str
    epoch: int
    purpose: str
    transit_key: str
    operator: str | None = None


class ReleaseDenied(Event, frozen=True, tag="release-denied/1"):
    run: str
    activation: str
    why: str


class CredentialResealed(Event, frozen=True, tag="credential-resealed/1"):
    vault_key: str
    digest: str


class CredentialExpiring(Event, frozen=True, tag="credential-expiring/1"):
    expires: datetime


class CredentialRevoked(Event, frozen=True, tag="credential-revoked/1"):
    reason: str


# vault key


class VaultKeyCreated(Event, frozen=True, tag="vault-key-created/1"):
    """`key`: RFC 7638 thumbprint of the public key."""

    key: str
    version: int
    custody: str


class VaultKeyActivated(Event, frozen=True, tag="vault-key-activated/1"):
    key: str


class VaultKeyRetired(Event, frozen=True, tag="vault-key-retired/1"):
    key: str


class VaultKeyDestroyed(Event, frozen=True, omit_defaults=True, tag="vault-key-destroyed/1"):
    """`retained`: what its custody still keeps of it. Recorded again when that is found to have changed."""

    key: str
    retained: Retained | None = None


# run


class DatasetOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """How one dataset of a run ended. `reason` is a short stable word, `detail` a sentence with what to do."""

    dataset: Dataset
    outcome: OutcomeKind
    reason: str | None = None
    detail: str | None = None
    rows: int = 0
    requests: int = 0
    seconds: float = 0.0


class RunRequested(Event, frozen=True, tag="run-requested/1"):
    """`full`: collect everything, even where a delta would do."""

    run: RunId
    tenant: TenantId
    datasets: tuple[Dataset, ...]
    full: bool = False


class RunStarted(Event, frozen=True, tag="run-started/1"):
    activation: str
    epoch: int


class RunResumed(Event, frozen=True, tag="run-resumed/1"):
    activation: str
    epoch: int


class RunFinished(Event, frozen=True, tag="run-finished/1"):
    outcomes: tuple[DatasetOutcome, ...]


class RunFailed(Event, frozen=True, tag="run-failed/1"):
    """Nothing more can be collected in this run: `reason` is a stable word, `detail` says what to do."""

    reason: str
    detail: str
    outcomes: tuple[DatasetOutcome, ...]


class RunCancelled(Event, frozen=True, tag="run-cancelled/1"):
    reason: str


# collection


class CollectionStarted(Event, frozen=True, tag="collection-started/1"):
    """`since`: the delta link it continues from (mode `delta`). `window`: from and until (mode `window`).

    `lost`: from and until of what came after the last complete collection and can no longer be read.
    """

    run: RunId
    mode: Mode
    since: str | None = None
    window: tuple[datetime, datetime] | None = None
    lost: tuple[datetime, datetime] | msgspec.UnsetType = msgspec.UNSET


class BatchRecorded(Event, frozen=True, tag="batch-recorded/1"):
    """A stored batch counts from here on. `after` and `cursor`: reading position before it (None: the start) and after.

    `key` names it in the batch store, `digest` is SHA-256 of its rows, `stored_bytes` its size compressed and sealed.
    `rows` may be 0: many requests that found nothing are progress too.
    """

    run: RunId
    key: str
    data_key: str
    rows: int
    row_bytes: int
    stored_bytes: int
    digest: str
    requests: int
    after: str | None
    cursor: str


class CollectionRestarted(Event, frozen=True, omit_defaults=True, tag="collection-restarted/1"):
    """Reading begins again; `mode` may fall back from `delta` to `full`. Batches before it no longer count.

    `requests`: those after the last batch.
    """

    run: RunId
    reason: str
    mode: Mode
    requests: int = 0


class CollectionCompleted(Event, frozen=True, tag="collection-completed/1"):
    """`expected` rows and how that was known; `delta_link` or `watermark` is where the next collection goes on."""

    run: RunId
    rows: int
    requests: int
    restarts: int
    seconds: float
    expected: int | None = None
    expected_by: str | None = None
    delta_link: str | None = None
    watermark: datetime | None = None


class CollectionTruncated(Event, frozen=True, tag="collection-truncated/1"):
    run: RunId
    reason: str
    detail: str
    cursor: str | None
    rows: int
    requests: int
    seconds: float


class CollectionNotPossible(Event, frozen=True, tag="collection-not-possible/1"):
    """`reason`: unlicensed, not-permitted, not-consented, no-endpoint..."""

    run: RunId
    reason: str
    detail: str
    requests: int
    seconds: float


# ledger


class CheckpointSigned(Event, frozen=True, tag="checkpoint-signed/1"):
    """`note`: the signed checkpoint text (C2SP tlog-checkpoint) over the first `tree_size` events; `root` in hex."""

    tree_size: int
    root: str
    note: str


TenantEvent: TypeAlias = (
    TenantRegistered
    | TenantChanged
    | PlanChanged
    | TenantSuspended
    | TenantResumed
    | DataKeyCreated
    | DataKeyReleased
    | DataKeyDenied
    | DataKeyDestroyed
    | TenantOffboarded
)
CredentialEvent: TypeAlias = (
    CredentialSealed
    | CredentialRotated
    | CredentialVerified
    | CredentialRejected
    | CredentialReleased
    | ReleaseDenied
    | CredentialResealed
    | CredentialExpiring
    | CredentialRevoked
)
VaultKeyEvent: TypeAlias = VaultKeyCreated | VaultKeyActivated | VaultKeyRetired | VaultKeyDestroyed
RunEvent: TypeAlias = RunRequested | RunStarted | RunResumed | RunFinished | RunFailed | RunCancelled
CollectionEvent: TypeAlias = (
    CollectionStarted
    | BatchRecorded
    | CollectionRestarted
    | CollectionCompleted
    | CollectionTruncated
    | CollectionNotPossible
)
LedgerEvent: TypeAlias = CheckpointSigned
AnyEvent: TypeAlias = TenantEvent | CredentialEvent | VaultKeyEvent | RunEvent | CollectionEvent | LedgerEvent

EVENT_TYPES: dict[str, type[Event]] = {str(kind.__struct_config__.tag): kind for kind in AnyEvent.__args__}
"""Stored name to type: the registry. A name that is not here is refused on reading."""


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """An event in its place: stream and version, position in the whole store, and when, by whom and because of what.

    `actor`: `operator:NAME`, `schedule`, `vault`, or `tenant-actor:ACTIVATION`. `cause`: run id or command id.
    """

    stream: Stream
    version: int
    position: int
    at: datetime
    actor: str
    cause: str
    event: AnyEvent


def stored_name(event: Event) -> str:
    """The name under which an event is stored, for example `batch-recorded/1`."""
    return str(event.__struct_config__.tag)
