"""Opens the secret store that the settings name."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from crypto.filestore import FileSecretStore
from crypto.stores import SecretStore
from domain.errors import Malformed
from domain.settings import Settings, without_secrets


def open_secret_store(settings: Settings) -> SecretStore:
    """`file:///absolute/directory` or `https://NAME.vault.azure.net`. Raises `Malformed` for any other URL.

    The identity for a Key Vault is azure-identity's default chain: what stands in the environment, a workload identity
    or a managed identity. Azure's libraries are loaded for a Key Vault only: they take longer than most commands.
    """
    parts = urlsplit(settings.secrets)
    path = unquote(parts.path)
    if parts.scheme == "file" and not parts.netloc and path.startswith("/"):
        return FileSecretStore(Path(path))
    if parts.scheme == "https" and parts.hostname and path in ("", "/"):
        from crypto.keyvault import KeyVaultSecretStore, vault_identity

        identity = vault_identity(settings.secrets_authority, settings.secrets_ca_bundle)
        return KeyVaultSecretStore(settings.secrets, identity, ca_bundle=settings.secrets_ca_bundle)
    shown = without_secrets(settings.secrets)
    raise Malformed("secret store", shown, "file:///absolute/directory or https://NAME.vault.azure.net")
