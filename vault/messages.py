"""What the keyholder and its callers say to each other: bytes on a Unix socket, no I/O here.

    frame = length of the body (4 bytes, big endian, at most 262,144) | body: one message in msgpack

The caller opens with `Hello` and gets one back, then asks; every request gets exactly one answer, in order. The unions
are closed and every field is bounded. What is secret is in `Sealed` only, sealed to the transit key of the asker.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias, TypeVar

import msgspec

from crypto import transit
from domain import errors
from domain.errors import KeyholderUnavailable, ProtocolViolation, TenantryError
from domain.events import Retained

VERSION: Final = 1
LENGTH_BYTES: Final = 4
MAX_BODY: Final = 256 * 1024
MOST_STEP: Final = 500
"""Items of one resealing step: their answer comes long before a caller stops waiting."""
MOST_LEFT: Final = 20
BUSY: Final = "busy"
"""Why an item was left that the next pass takes."""
_MAX_FACT = 2000
_PEER = "keyholder"

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
MaybeText = Annotated[str, msgspec.Meta(max_length=256)]
Thumbprint = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{43}$")]
Epoch = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
PublicKey = Annotated[bytes, msgspec.Meta(min_length=transit.PUBLIC_BYTES, max_length=transit.PUBLIC_BYTES)]
Fact: TypeAlias = str | int | float | None


class _Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="message"):
    """The common form: keyword-only, frozen, closed."""


class Hello(_Message, frozen=True, tag="hello"):
    """`pid`: the keyholder's process in its answer, 0 in the caller's."""

    version: int = VERSION
    pid: int = 0


class Release(_Message, frozen=True, tag="release"):
    """Answered with `Sealed`: the credential's payload. For a run; or, with `operator`, for a verification, whose id is
    in `run` then, with `vault.policy.VERIFICATION` for activation and epoch 0."""

    run: Text
    tenant: Text
    slot: Text
    activation: Text
    epoch: Epoch
    purpose: Text
    transit_key: PublicKey
    operator: Text | None = None


class ReleaseDataKey(_Message, frozen=True, tag="release-data-key"):
    """Answered with `Sealed`: the 32 bytes of the tenant's data key. For a run, or for an operator who says why."""

    tenant: Text
    transit_key: PublicKey
    run: Text | None = None
    activation: MaybeText = ""
    epoch: Epoch = 0
    operator: Text | None = None
    why: MaybeText = ""


class CreateDataKey(_Message, frozen=True, tag="create-data-key"):
    """Answered with `Done`: the id of the tenant's data key, new or not."""

    tenant: Text
    actor: Text
    cause: Text


class CreateVaultKey(_Message, frozen=True, tag="create-vault-key"):
    """Answered with `Done`: the thumbprint of a new vault key, active from now on."""

    actor: Text
    cause: Text


class RotateVaultKey(_Message, frozen=True, tag="rotate-vault-key"):
    """Answered with `Done`: the thumbprint of the active key, a new one if `replaces` was active until now. Asked
    again, it makes no second one."""

    replaces: Thumbprint
    actor: Text
    cause: Text


class ResealStep(_Message, frozen=True, tag="reseal-step"):
    """Answered with `Resealed`. `after`: where the step before it ended; empty for the first of a pass."""

    actor: Text
    cause: Text
    after: MaybeText = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=MOST_STEP)] = 100


class RetireVaultKey(_Message, frozen=True, tag="retire-vault-key"):
    """Answered with `Done` once it is recorded that nothing is sealed to it."""

    key: Thumbprint
    actor: Text
    cause: Text


class DestroyVaultKey(_Message, frozen=True, tag="destroy-vault-key"):
    """Answered with `Destroyed` once the retired key is deleted."""

    key: Thumbprint
    actor: Text
    cause: Text


class ListVaultKeys(_Message, frozen=True, tag="list-vault-keys"):
    """Answered with `VaultKeySet`. `count`: look at everything that is stored, too."""

    count: bool = False


class PublicKeys(_Message, frozen=True, tag="public-keys"):
    """Answered with `PublicKeySet`."""


class Health(_Message, frozen=True, tag="health"):
    """Answered with `Healthy` when a credential could be released now."""


class Sealed(_Message, frozen=True, tag="sealed"):
    """`payload`: HPKE to the transit key. `key`: id of the data key, or thumbprint of the vault key that opened it."""

    payload: bytes
    key: str


class PublicKeySet(_Message, frozen=True, tag="public-key-set"):
    """A JWK Set, the active key first."""

    jwks: str


class Left(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An item of the secret store that is not resealed. `why`: a word of `vault.resealing.WHY`."""

    name: str
    why: str


class Resealed(_Message, frozen=True, tag="resealed"):
    """One step of a pass. `after`: for the next step, empty when the pass is over. `remaining`: names that the pass has
    still to look at. `left`: the first of the `left_count` items that were left as they are."""

    after: str
    resealed: int
    remaining: int
    left: tuple[Left, ...] = ()
    left_count: int = 0


class VaultKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`state`: active; former (it opens what is still sealed to it); retired (nothing was, when that was recorded);
    destroyed; created. `sealed`: what is stored sealed to it, None when that was not counted."""

    key: str
    version: int
    state: str
    custody: str
    sealed: int | None = None


class VaultKeySet(_Message, frozen=True, tag="vault-key-set"):
    """In order of version. `unreadable`: the first of the `unreadable_count` stored items that are not counted because
    they cannot be read."""

    keys: tuple[VaultKey, ...]
    unreadable: tuple[str, ...] = ()
    unreadable_count: int = 0


class Done(_Message, frozen=True, tag="done"):
    key: str


class Destroyed(_Message, frozen=True, tag="destroyed"):
    """`retained`: what the key's custody still keeps of it."""

    key: str
    retained: Retained | None = None


class Healthy(_Message, frozen=True, tag="healthy"):
    """`active`: thumbprint of the active vault key; `keys`: how many the keyring has."""

    pid: int
    active: str
    keys: int
    custody: str


class Refused(_Message, frozen=True, tag="refused"):
    """A class of `domain.errors` by its name, and its `args`."""

    error: Text
    args: tuple[Fact, ...] = ()


KeyRequest: TypeAlias = CreateVaultKey | RotateVaultKey | ResealStep | RetireVaultKey | DestroyVaultKey | ListVaultKeys
Request: TypeAlias = Hello | Release | ReleaseDataKey | CreateDataKey | KeyRequest | PublicKeys | Health
Answer: TypeAlias = Hello | Sealed | PublicKeySet | VaultKeySet | Resealed | Done | Destroyed | Healthy | Refused

_M = TypeVar("_M")
_ENCODER = msgspec.msgpack.Encoder()
_REQUESTS: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_ANSWERS: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


def encode(message: Request | Answer) -> bytes:
    """The whole frame. Raises `ProtocolViolation` for a message that is too long."""
    body = _ENCODER.encode(message)
    if len(body) > MAX_BODY:
        raise ProtocolViolation(_PEER, f"a message of {len(body)} bytes; at most {MAX_BODY} are allowed")
    return len(body).to_bytes(LENGTH_BYTES) + body


def body_length(prefix: bytes) -> int:
    """How many bytes follow the first four. Raises `ProtocolViolation`."""
    length = int.from_bytes(prefix)
    if len(prefix) != LENGTH_BYTES or not 0 < length <= MAX_BODY:
        raise ProtocolViolation(_PEER, f"a message of {length} bytes; 1 to {MAX_BODY} are allowed")
    return length


def decode_request(body: bytes) -> Request:
    """Raises `ProtocolViolation`, which quotes nothing."""
    return _decoded(_REQUESTS, body)


def decode_answer(body: bytes) -> Answer:
    """Raises `ProtocolViolation`."""
    return _decoded(_ANSWERS, body)


def _decoded(decoder: msgspec.msgpack.Decoder[_M], body: bytes) -> _M:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ProtocolViolation(_PEER, "a message that is none of its protocol") from None


def refusal(error: TenantryError) -> Refused:
    """An error on its way to the caller; facts that are neither text nor numbers travel as text."""
    facts = (fact if isinstance(fact, int | float | None) else str(fact)[:_MAX_FACT] for fact in error.args)
    return Refused(error=type(error).__name__, args=tuple(facts))


def raised(refused: Refused) -> TenantryError:
    """The error that the keyholder met; one that this program does not know is `KeyholderUnavailable`."""
    kind = getattr(errors, refused.error, None)
    if isinstance(kind, type) and issubclass(kind, TenantryError):
        return kind(*refused.args)
    return KeyholderUnavailable(f"it refused with {refused.error}, which this program does not know")


def release_context(run: str, tenant: str, slot: str, activation: str, epoch: int) -> bytes:
    """What a released credential is bound to on its way."""
    return transit.context("credential", run, tenant, slot, activation, str(epoch))


def data_key_context(tenant: str, receiver: str) -> bytes:
    """What a released data key is bound to on its way. `receiver`: the run, or the operator."""
    return transit.context("data-key", tenant, receiver)
