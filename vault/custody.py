"""Where the vault's private keys rest. Who holds a custody can open every envelope: only the keyholder makes one."""

from __future__ import annotations

import base64
import contextlib
import os
import re
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Lock
from typing import Protocol
from urllib.parse import urlsplit
from uuid import uuid4

from crypto.filestore import explained
from crypto.keyring import (
    LocalKey,
    PrivateHalf,
    VaultPublicKey,
    encode_private,
    generate_private,
    load_private,
    public_of,
)
from crypto.secret import Secret
from crypto.stores import SecretStore
from domain.errors import Malformed, NotAllowed, SecretMissing, Unreadable
from domain.events import Retained
from domain.settings import Settings, without_secrets
from eventstore.disk import sync

MAX_PASSPHRASE = 1023
"""Bytes, as OpenSSL counts them."""
MAX_PEM = 16 * 1024
FILE = "file"
SOFTWARE, HARDWARE = "RSA", "RSA-HSM"
_KEYS = "https://NAME.vault.azure.net/keys/PREFIX"
_CUSTODIES = f"file, https://NAME.vault.azure.net/secrets/PREFIX or {_KEYS}"
_KEY_VAULT = re.compile(r"(?P<origin>https://[A-Za-z0-9.:-]{1,253})/(?P<kind>secrets|keys)/[a-z0-9][a-z0-9-]{0,39}")
_THUMBPRINT = re.compile(r"[A-Za-z0-9_-]{43}")
_SUFFIX = ".pem"


class Custody(Protocol):
    """Keys are named by their thumbprint. Which of them count is in the event store, not here. Each method raises
    `StoreUnavailable` or `NotAllowed` when its place is away or refuses."""

    @property
    def name(self) -> str:
        """What `VaultKeyCreated` calls this custody: `file`, or the URL of its Key Vault."""
        ...

    def create(self) -> VaultPublicKey:
        """A new key, safely kept when this returns. Raises `Unreadable`, `StorageFull`."""
        ...

    def halves(self, keys: Collection[str]) -> Mapping[str, PrivateHalf]:
        """The keys of these thumbprints. Raises `Unreadable` when one is missing or does not open."""
        ...

    def destroy(self, key: str) -> Retained | None:
        """Afterwards it is not there; destroying what is not there is done already. What its place keeps of it
        nevertheless, None when nothing."""
        ...


class Custodies(Protocol):
    """The custody that new keys go to, and that which an event names: they differ while a vault moves."""

    def current(self) -> Custody: ...

    def of(self, name: str) -> Custody: ...


class FileCustody:
    """One passphrase-encrypted PKCS#8 file for each key, mode 0600, in a directory of mode 0700."""

    name = FILE

    def __init__(self, directory: Path, passphrase_file: Path) -> None:
        self._directory = directory
        self._passphrase_file = passphrase_file

    def create(self) -> VaultPublicKey:
        private = generate_private()
        public = public_of(private)
        with read_passphrase(self._passphrase_file) as passphrase:
            pem = encode_private(private, passphrase)
        _write(self._path(public.thumbprint), pem)
        return public

    def halves(self, keys: Collection[str]) -> dict[str, PrivateHalf]:
        with read_passphrase(self._passphrase_file) as passphrase:
            return {key: LocalKey(load_private(self._pem(key), passphrase)) for key in keys}

    def destroy(self, key: str) -> None:
        with _explained(self._path(key)):
            self._path(key).unlink(missing_ok=True)
            sync(self._directory)

    def _path(self, key: str) -> Path:
        return self._directory / f"{checked_thumbprint(key)}{_SUFFIX}"

    def _pem(self, key: str) -> bytes:
        path = self._path(key)
        return _read(path, MAX_PEM, "vault key", "Restore it from a backup: without it nothing sealed to it opens.")


class KeyVaultSecretCustody:
    """Each key is a Key Vault secret, a PKCS#8 PEM, encrypted when a passphrase file is named.

    `https://NAME.vault.azure.net/secrets/PREFIX` names them `PREFIX-` and the thumbprint in hex.
    """

    def __init__(self, url: str, store: SecretStore, passphrase_file: Path | None) -> None:
        self.name = url
        self._prefix = urlsplit(url).path.removeprefix("/secrets/")
        self._store = store
        self._passphrase_file = passphrase_file

    def create(self) -> VaultPublicKey:
        private = generate_private()
        public = public_of(private)
        with self._passphrase() as passphrase:
            pem = encode_private(private, passphrase)
        self._store.put(self._secret(public.thumbprint), pem, {"kind": "vault-key", "thumbprint": public.thumbprint})
        return public

    def halves(self, keys: Collection[str]) -> dict[str, PrivateHalf]:
        with self._passphrase() as passphrase:
            return {key: LocalKey(load_private(self._pem(key), passphrase)) for key in keys}

    def destroy(self, key: str) -> Retained | None:
        """Where it cannot be purged, who may recover secrets can have it back until the retention ends."""
        return self._store.delete(self._secret(key))

    def _secret(self, key: str) -> str:
        return f"{self._prefix}-{base64.urlsafe_b64decode(checked_thumbprint(key) + '=').hex()}"

    def _pem(self, key: str) -> bytes:
        try:
            return self._store.get(self._secret(key))
        except SecretMissing:
            what_to_do = "Recover it there: without it nothing sealed to it opens."
            raise Unreadable("vault key", f"{self.name}-...", f"there is no {key}", what_to_do) from None

    def _passphrase(self) -> AbstractContextManager[Secret | None]:
        return contextlib.nullcontext() if self._passphrase_file is None else read_passphrase(self._passphrase_file)


class SettingsCustodies:
    """Makes each custody once, when it is first asked for; afterwards it keeps its connections."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._made: dict[str, Custody] = {}
        self._making = Lock()

    def current(self) -> Custody:
        """Raises `Malformed` for a key type that there is none of, or none of in this custody."""
        kind, place = self._settings.key_type, self._settings.custody
        if kind not in (SOFTWARE, HARDWARE) or (kind == HARDWARE and "/keys/" not in place):
            expected = f"{SOFTWARE}, or {HARDWARE} with custody {_KEYS}, and custody is {without_secrets(place)}"
            raise Malformed("key type", kind, expected)
        return self.of(place)

    def of(self, name: str) -> Custody:
        """`file`, `https://NAME.vault.azure.net/secrets/PREFIX` or `.../keys/PREFIX`. Raises `Malformed`."""
        with self._making:
            if name not in self._made:
                self._made[name] = self._make(name)
            return self._made[name]

    def _make(self, name: str) -> Custody:
        directory = Path(self._settings.state) / "keys"
        named = self._settings.passphrase_file
        if name == FILE:
            return FileCustody(directory, Path(named or directory / "passphrase"))
        where = _KEY_VAULT.fullmatch(name)
        if where is None:
            raise Malformed("custody", without_secrets(name), _CUSTODIES)
        from crypto.keyvault import KeyVaultSecretStore, vault_identity

        ca_bundle = self._settings.secrets_ca_bundle
        identity = vault_identity(self._settings.secrets_authority, ca_bundle)
        if where["kind"] == "keys":
            from vault.keyvault import KeyVaultKeyCustody

            hardware = self._settings.key_type == HARDWARE
            return KeyVaultKeyCustody(name, identity, ca_bundle=ca_bundle, hardware=hardware)
        store = KeyVaultSecretStore(where["origin"], identity, ca_bundle=ca_bundle)
        return KeyVaultSecretCustody(name, store, Path(named) if named else None)


def checked_thumbprint(key: str) -> str:
    if not _THUMBPRINT.fullmatch(key):
        raise Malformed("vault key name", key, "an RFC 7638 thumbprint")
    return key


def open_custody(settings: Settings) -> Custodies:
    """What `custody` names; `file` is `keys/` in the state directory, with the passphrase in `passphrase_file`
    (`keys/passphrase` when not set)."""
    return SettingsCustodies(settings)


def read_passphrase(path: Path) -> Secret:
    """Raises `Unreadable`."""
    what_to_do = "Put the passphrase of the vault keys there, or name its file with `passphrase_file`."
    text = _read(path, MAX_PASSPHRASE + 2, "passphrase", what_to_do).rstrip(b"\r\n")
    if not 0 < len(text) <= MAX_PASSPHRASE:
        raise Unreadable("passphrase", str(path), f"it does not hold 1 to {MAX_PASSPHRASE} bytes", what_to_do)
    return Secret(text)


def create_passphrase(path: Path) -> bool:
    """Writes 256 random bits in base64, mode 0600, unless the file is there already. Whether it was written."""
    with _explained(path):
        if path.exists():
            return False
    _write(path, base64.b64encode(os.urandom(32)) + b"\n")
    return True


def _read(path: Path, limit: int, what: str, what_to_do: str) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise Unreadable(what, str(path), os.strerror(error.errno or 0), what_to_do) from None
    if len(content) > limit:
        raise Unreadable(what, str(path), f"it is longer than {limit} bytes", what_to_do)
    return content


def _write(path: Path, content: bytes) -> None:
    """All of it under this name and on the disk, or nothing; a file that is there stays. Makes the directory."""
    temporary = path.with_name(f".{uuid4().hex}.tmp")
    with _explained(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            os.link(temporary, path)
            sync(path.parent)
        except FileExistsError:
            raise NotAllowed(f"write {path}", "it exists", "Keep it: something may be sealed with it.") from None
        finally:
            temporary.unlink(missing_ok=True)


def _explained(path: Path) -> AbstractContextManager[None]:
    return explained(path, "store of the vault's keys", "Run as the keyholder's user.")
