"""Opens the secret store that the settings name."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from crypto.filestore import FileSecretStore
from crypto.stores import SecretStore
from domain.errors import Malformed
from domain.settings import Settings, without_secrets

_FILE = "file://"
_ORIGIN = re.compile(r"https://[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?/?")
_ACCEPTED = "file:///absolute/directory or https://NAME.vault.azure.net"


def open_secret_store(settings: Settings) -> SecretStore:
    """`file:///absolute/directory` or `https://NAME.vault.azure.net`. Raises `Malformed` for any other URL.

    The identity for a Key Vault is azure-identity's default chain: what stands in the environment, a workload identity
    or a managed identity. Azure's libraries are loaded for a Key Vault only: they take longer than most commands.
    """
    url = settings.secrets
    if url.startswith(f"{_FILE}/"):
        return FileSecretStore(Path(unquote(url.removeprefix(_FILE))))
    if _ORIGIN.fullmatch(url):
        from crypto.keyvault import KeyVaultSecretStore, vault_identity

        identity = vault_identity(settings.secrets_authority, settings.secrets_ca_bundle)
        return KeyVaultSecretStore(url, identity, ca_bundle=settings.secrets_ca_bundle)
    raise Malformed("secret store", without_secrets(url), _ACCEPTED)
