"""The former envelope of a credential that is being replaced, kept until the new one counts.

Law: it is on the disk before anything changes, and leaves it last. What has happened in between is read off the events,
so whoever finds it undoes or finishes the replacement alike: the command itself at its end, or, when that was killed,
the next one that uses credentials here. The one who has its lock is at work.

It counts when the new envelope is recorded and, if that was asked for, has signed in. Else the former one is put back,
and stands as it stood. Only an envelope that the events name is put back: the file proves nothing.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, TypeAlias, cast

import msgspec

from cli.state import State
from crypto.envelope import read_header
from crypto.stores import MAX_VALUE, credential_name
from domain import credential as credentials
from domain import vaultkey
from domain.credential import Credential
from domain.errors import NotAllowed, SecretMissing, TenantryError
from domain.events import CredentialEvent
from domain.ids import VAULT_KEYS, Slot, TenantId, credential_stream
from domain.vaultkey import VaultKeys
from vault import lineage
from vault.lineage import HeldLineage, Lineage
from vault.policy import digest_of

DIRECTORY = "replacing"
COMMAND = "replace the credential"
_SUFFIX = ".json"
_MAX_FILE = 2 * MAX_VALUE

End: TypeAlias = Literal["replaced", "former", "nothing", "stands", "unopenable", "undecided"]
SENTENCES: dict[End, str] = {
    "replaced": "The new one stands.",
    "former": "The former one stays in use.",
    "nothing": "Nothing was stored.",
    "stands": "It has been replaced or revoked meanwhile, and that stands.",
    "unopenable": "The former one's vault key has been destroyed, so it could not be put back: the new one stands.",
    "undecided": "The next `tenantry credential verify` or `collect` puts the former one back.",
}
"""What became of a replacement, and what that means."""
NOT_KEPT = "The former one could not be kept (its envelope cannot be read here, or is another): the new one stands."


class Former(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`envelope`: the one that is being replaced, empty where there was none; `digest`: of the one that takes its
    place; `tried`: whether that has to sign in first."""

    tenant: TenantId
    slot: Slot
    envelope: str
    digest: str
    tried: bool


class Keeping:
    """A replacement that is under way. `end`: what became of it, once it has ended; None where nothing was kept."""

    end: End | None = None

    @property
    def told(self) -> str:
        return SENTENCES[self.end] if self.end else NOT_KEPT


@contextmanager
def keeping(state: State, tenant: TenantId, slot: Slot, digest: str, *, tried: bool) -> Iterator[Keeping]:
    """Keeps what there is while the block replaces it by the envelope of this digest; afterwards the new one counts or
    the former one is back. When a store does not say which, it stays kept, and the next command decides.

    Raises `NotAllowed` while another command replaces the same credential.
    """
    path = _path(state, tenant, slot)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with _locked(path, os.O_CREAT) as file:
        if file is None:
            why = f"another `tenantry credential set` is replacing the {slot} credential of {tenant}"
            raise NotAllowed(COMMAND, why, "Wait for it.")
        if left := _read(file):
            ended(state, left)
        kept, former = Keeping(), _former(state, tenant, slot, digest, tried=tried)
        if former is None:
            path.unlink()
            yield kept
            return
        _write(path, file, former)
        try:
            yield kept
        finally:
            kept.end = "undecided"
            with suppress(TenantryError):
                kept.end = ended(state, former)
                path.unlink(missing_ok=True)


def settled(state: State) -> list[str]:
    """Ends every replacement whose command was killed; a sentence for each. Those that are under way are left alone."""
    return [said for path in _left(state) if (said := _settled(state, path))]


def interrupted(state: State) -> list[tuple[TenantId, Slot]]:
    """Credentials whose replacement nobody has ended."""
    found = []
    for path in _left(state):
        with _locked(path) as file:
            if file is not None and (former := _read(file)):
                found.append((former.tenant, former.slot))
    return found


def forget(state: State, tenant: TenantId, slot: Slot) -> None:
    """Of a credential that is gone for good."""
    _path(state, tenant, slot).unlink(missing_ok=True)


def ended(state: State, former: Former) -> End:
    """Done again after a kill anywhere, it comes to the same."""
    held = _held(state, former.tenant, former.slot)
    credential = held.state.credential
    if credential is None or credential.state == "revoked":
        state.secrets.delete(credential_name(former.tenant, former.slot))
        return "nothing" if credential is None else "stands"
    if former.digest in held.state.digests:
        if not former.tried or credential.state == "verified":
            return "replaced"
        end = _restored(state, former, held)
        if end != "former":
            return end
    if digest_of(former.envelope.encode()) not in held.state.digests:
        return "stands"
    name = credential_name(former.tenant, former.slot)
    if digest_of(read_back(state, name) or b"") not in held.state.digests:
        state.secrets.put(name, former.envelope.encode())
    return "former"


def read_back(state: State, name: str) -> bytes | None:
    """The envelope that is stored now: empty when there is none, None when this identity may only write."""
    try:
        return state.secrets.get(name)
    except SecretMissing:
        return b""
    except NotAllowed:
        return None


def _former(state: State, tenant: TenantId, slot: Slot, digest: str, *, tried: bool) -> Former | None:
    """None when what is stored cannot be read, or no event names it: it could not be put back."""
    standing = _held(state, tenant, slot).state
    envelope = ""
    if standing.credential is not None and standing.credential.state != "revoked":
        stored = read_back(state, credential_name(tenant, slot))
        if not stored or digest_of(stored) not in standing.digests:
            return None
        envelope = stored.decode("ascii", "replace")
    return Former(tenant=tenant, slot=slot, envelope=envelope, digest=digest, tried=tried)


def _restored(state: State, former: Former, held: HeldLineage) -> End:
    """On record; the envelope follows. Unless somebody else has recorded something else."""
    before = _before(state, former)
    if before is None:
        return "stands"
    if not _opens(state, before.vault_key):
        return "unopenable"

    def restore(found: Lineage) -> list[CredentialEvent]:
        standing = found.credential
        still = former.digest in found.digests and standing is not None and standing.state != "revoked"
        return credentials.restore(before) if still else []

    return "former" if state.decide(held, restore, "credential set") else "stands"


def _before(state: State, former: Former) -> Credential | None:
    """The credential as it stood when it was replaced, in the envelope that was kept; None when no event names that."""
    before, found = Lineage(), Lineage()
    for recorded in state.store.read(credential_stream(former.tenant, former.slot)):
        after = lineage.evolve(before, cast("CredentialEvent", recorded.event))
        if after.generation > before.generation and after.digests == (former.digest,):
            found = before
        before = after
    kept = digest_of(former.envelope.encode())
    if found.credential is None or kept not in found.digests:
        return None
    key = read_header(former.envelope).kid
    return msgspec.structs.replace(found.credential, digest=kept, vault_key=key)


def _opens(state: State, key: str) -> bool:
    return state.held(VAULT_KEYS, vaultkey.evolve, VaultKeys()).state.keys.get(key) not in (None, "destroyed")


def _held(state: State, tenant: TenantId, slot: Slot) -> HeldLineage:
    return state.held(credential_stream(tenant, slot), lineage.evolve, Lineage())


def _settled(state: State, path: Path) -> str:
    with _locked(path) as file:
        if file is None:
            return ""
        end: End = "replaced"
        if former := _read(file):
            whose = f"A `tenantry credential set` for the {former.slot} credential of {former.tenant} was stopped"
            try:
                end = ended(state, former)
            except TenantryError as error:
                return f"{whose}, and it cannot be undone yet: {error}"
        path.unlink()
        return "" if former is None or end == "replaced" else f"{whose} halfway. {SENTENCES[end]}"


# the file


def _path(state: State, tenant: TenantId, slot: Slot) -> Path:
    return state.directory / DIRECTORY / f"{tenant}-{slot}{_SUFFIX}"


def _left(state: State) -> list[Path]:
    return sorted((state.directory / DIRECTORY).glob(f"*{_SUFFIX}"))


@contextmanager
def _locked(path: Path, create: int = 0) -> Iterator[int | None]:
    """The file; None while somebody else has it, or when it is gone."""
    try:
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | create, 0o600)
    except FileNotFoundError:
        yield None
        return
    try:
        yield file if _taken(path, file) else None
    finally:
        os.close(file)


def _taken(path: Path, file: int) -> bool:
    """Not when somebody else has it, or had it and deleted it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(path.stat(), os.fstat(file))
    except (BlockingIOError, FileNotFoundError):
        return False


def _read(file: int) -> Former | None:
    """None for what was not written to its end: nothing had changed then."""
    try:
        return msgspec.json.decode(os.pread(file, _MAX_FILE, 0), type=Former)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _write(path: Path, file: int, former: Former) -> None:
    """On the disk when this returns, and so is its name."""
    os.ftruncate(file, 0)
    os.pwrite(file, msgspec.json.encode(former), 0)
    os.fsync(file)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
