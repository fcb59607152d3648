"""Vault keys that never leave their Azure Key Vault: it is asked to unwrap, through Microsoft's own client.

Each vault key is a Key Vault key of its own, because a version of one cannot be deleted:
`https://NAME.vault.azure.net/keys/PREFIX` names them `PREFIX-` and 12 random hex digits. The keyholder's identity needs
`create`, `get`, `list`, `update`, `delete`, `purge` and `unwrapKey` on keys; nobody else should have `unwrapKey`. A key
is unwrapped with wherever it was made: software and HSM keys stand beside each other under one prefix.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from typing import Any, Self
from urllib.parse import urlsplit
from uuid import uuid4

from azure.core.credentials import TokenCredential
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.keyvault.keys import DeletedKey, KeyClient, KeyVaultKey
from azure.keyvault.keys.crypto import CryptographyClient, KeyWrapAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa

from crypto.azurevault import REFUSED, SETTLED_SECONDS, code_of, explained, inner_code_of, options, retained, said_by
from crypto.keyring import KEY_BITS, PrivateHalf, VaultPublicKey, public_of
from domain.errors import NotAllowed, StoreUnavailable, Unreadable
from domain.events import Retained

MAX_KEYS = 1_000
"""Keys that are looked at. Destroyed ones are gone, so there are a few."""
_THUMBPRINT = "thumbprint"
_NO_HSM = 'Use a vault of the premium SKU, or set [vault] key_type = "RSA".'
_GRANT = "Grant it on the Key Vault (Key Vault Crypto User to unwrap, Crypto Officer to rotate)."


class DistantKey:
    """A private half in a Key Vault."""

    def __init__(self, public: rsa.RSAPublicKey, client: CryptographyClient) -> None:
        self.public = public
        self._client = client

    def unwrap(self, encrypted_key: bytes) -> bytes:
        """Raises `ValueError` when it does not open, `StoreUnavailable` or `NotAllowed`."""
        with explained("unwrap with the vault key", _GRANT):
            try:
                return self._client.unwrap_key(KeyWrapAlgorithm.rsa_oaep_256, encrypted_key).key
            except HttpResponseError as error:
                if error.status_code == 400:
                    raise ValueError("the Key Vault does not unwrap it") from None
                raise


class KeyVaultKeyCustody:
    """`url`: `https://NAME.vault.azure.net/keys/PREFIX`. Connects at the first call.

    `hardware`: new keys are made in the vault's HSM (RSA-HSM), which a vault of the standard SKU does not have.
    """

    def __init__(self, url: str, identity: TokenCredential, *, ca_bundle: str = "", hardware: bool = False) -> None:
        parts = urlsplit(url)
        self.name = url
        self._prefix = parts.path.removeprefix("/keys/") + "-"
        self._identity = identity
        self._hardware = hardware
        self._options: dict[str, Any] = options(url, ca_bundle)
        self._client = KeyClient(f"https://{parts.netloc}", identity, **self._options)
        self._opened: list[KeyClient | CryptographyClient] = [self._client]

    def create(self) -> VaultPublicKey:
        with explained("create a vault key", _GRANT):
            try:
                made = self._client.create_rsa_key(
                    f"{self._prefix}{uuid4().hex[:12]}",
                    size=KEY_BITS,
                    hardware_protected=self._hardware,
                    key_operations=["unwrapKey"],
                )
            except HttpResponseError as error:
                if not self._hardware or error.status_code not in REFUSED or _lacks_grant(error):
                    raise
                why = f"{self.name} refuses a key in an HSM ({code_of(error)}: {said_by(error)})"
                raise NotAllowed("create a vault key", why, _NO_HSM) from None
        return public_of(_public_half(made))

    def halves(self, keys: Collection[str]) -> dict[str, PrivateHalf]:
        found = {key: one for key, one in self._found().items() if isinstance(one, KeyVaultKey)}
        missing = [key for key in keys if key not in found]
        if missing:
            what_to_do = "Recover it there: without it nothing sealed to it opens."
            raise Unreadable("vault key", self.name, f"there is no {missing[0]}", what_to_do)
        return {key: self._half(found[key]) for key in keys}

    def _half(self, key: KeyVaultKey) -> DistantKey:
        client = CryptographyClient(key, self._identity, **self._options)
        self._opened.append(client)
        return DistantKey(_public_half(key), client)

    def destroy(self, key: str) -> Retained | None:
        """Disables, deletes and purges it. Where the vault or the identity's grant forbids purging, who may recover
        keys can have it back until the vault's retention ends."""
        found = self._found().get(key)
        with explained("destroy a vault key", _GRANT), suppress(ResourceNotFoundError):
            deleted = self._deleted_before(key) if found is None else self._deleted(found, key)
            if deleted is None:
                return None
            try:
                self._client.purge_deleted_key(deleted.name)
            except HttpResponseError as error:
                if error.status_code not in REFUSED:
                    raise
                return retained(deleted.name, deleted.properties.recovery_level, deleted.scheduled_purge_date)
        return None

    def _deleted(self, found: KeyVaultKey | str, key: str) -> DeletedKey:
        name = found if isinstance(found, str) else found.name
        self._client.update_key_properties(name, enabled=False, tags={_THUMBPRINT: key})
        deletion = self._client.begin_delete_key(name)
        deletion.wait(SETTLED_SECONDS)
        if not deletion.done():
            raise StoreUnavailable("Key Vault", f"a deletion did not end within {SETTLED_SECONDS:.0f} s")
        return deletion.result()

    def _deleted_before(self, key: str) -> DeletedKey | None:
        gone = (one for one in self._client.list_deleted_keys() if one.name.startswith(self._prefix))
        return next((one for one in gone if (one.properties.tags or {}).get(_THUMBPRINT) == key), None)

    def _found(self) -> dict[str, KeyVaultKey | str]:
        """The keys of this prefix by their thumbprint; of one that is being destroyed, only its name."""
        with explained("read the vault keys", _GRANT):
            listed = self._client.list_properties_of_keys()
            ours = [one for one in listed if one.name and one.name.startswith(self._prefix)]
            if len(ours) > MAX_KEYS:
                raise Unreadable("vault keys", self.name, f"there are more than {MAX_KEYS}", "Use another prefix.")
            keys = [self._client.get_key(one.name) for one in ours if one.enabled and one.name]
        ending = {(one.tags or {}).get(_THUMBPRINT, ""): one.name or "" for one in ours if not one.enabled}
        return {**ending, **{public_of(_public_half(key)).thumbprint: key for key in keys}}

    def close(self) -> None:
        """Closes the connections, those of the keys that it gave too."""
        for client in self._opened:
            client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _lacks_grant(error: HttpResponseError) -> bool:
    """Whether it is the identity that may not, and not the vault that cannot."""
    return inner_code_of(error).startswith(("ForbiddenBy", "AccessDenied"))


def _public_half(key: KeyVaultKey) -> rsa.RSAPublicKey:
    jwk = key.key
    if not getattr(jwk, "n", None) or not getattr(jwk, "e", None):
        raise Unreadable("vault key", key.id or "", "it is no RSA key", "Use another prefix.")
    return rsa.RSAPublicNumbers(n=int.from_bytes(jwk.n), e=int.from_bytes(jwk.e)).public_key()  # type: ignore[attr-defined]
