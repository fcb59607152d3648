"""Effective settings, as values that travel between processes. They hold places and names, never a secret."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import msgspec

HIDDEN = "***"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/*")
_LITERAL = ("/", "file:///", "sqlite:///")
"""What follows is the path of a file, whatever characters it has."""


class Cloud(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The hosts of one Microsoft cloud (or of a simulator), as origins. `ca_bundle`: PEM file, empty for public CAs.

    `activity` is empty where there is no Management Activity API.
    """

    login: str
    graph: str
    exchange: str
    compliance: str
    activity: str = ""
    ca_bundle: str = ""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`state` is an absolute directory; URLs are absolute. `catalog`: TOML file with further datasets, or empty.

    `custody`: where the vault's private keys rest, `file` (in the state directory),
    `https://NAME.vault.azure.net/secrets/PREFIX` or `https://NAME.vault.azure.net/keys/PREFIX` (they never leave it).
    `key_type`: what new keys of the last form are, `RSA` or `RSA-HSM`.
    `secrets_authority` and `secrets_ca_bundle` concern only an Azure Key Vault outside the public cloud.
    """

    state: str
    eventstore: str
    secrets: str
    batches: str
    clouds: dict[str, Cloud]
    ray_address: str = "local"
    passphrase_file: str = ""
    custody: str = "file"
    key_type: str = "RSA"
    catalog: str = ""
    secrets_authority: str = ""
    secrets_ca_bundle: str = ""
    tenant_actors: int = 2
    graph_collectors: int = 1
    powershell_collectors: int = 1


def without_secrets(url: str) -> str:
    """A place in the settings as it may be shown, also one that is refused: user name and password, the values of a
    query and a fragment are withheld; all but the scheme where they cannot be told from the rest.

    A password ends at the last `@` here: `urllib.parse` ends it at its first `/`, `?` or `#`, and shows what follows.
    """
    if url.startswith(_LITERAL):
        return url
    scheme = _SCHEME.match(url)
    if scheme is None:
        return HIDDEN if set("@=") & set(url) else url
    user, at, rest = url[scheme.end() :].rpartition("@")
    if set("?#") & set(user) or not _splits(url):
        return scheme[0] + HIDDEN
    rest, has_fragment, _ = rest.partition("#")
    rest, has_query, query = rest.partition("?")
    items = (item.partition("=") for item in query.split("&"))
    withheld = "&".join(f"{name}={HIDDEN}" if equals else HIDDEN for name, equals, _ in items)
    return "".join((scheme[0], at and HIDDEN + at, rest, has_query and f"?{withheld}", has_fragment and f"#{HIDDEN}"))


def _splits(url: str) -> bool:
    try:
        return bool(urlsplit(url))
    except ValueError:
        return False


CLOUDS: dict[str, Cloud] = {
    "public": Cloud(
        login="https://login.microsoftonline.com",
        graph="https://graph.microsoft.com",
        exchange="https://outlook.office365.com",
        compliance="https://ps.compliance.protection.outlook.com",
        activity="https://manage.office.com",
    ),
    "usgov": Cloud(
        login="https://login.microsoftonline.us",
        graph="https://graph.microsoft.us",
        exchange="https://outlook.office365.us",
        compliance="https://ps.compliance.protection.office365.us",
        activity="https://manage.office365.us",
    ),
    "dod": Cloud(
        login="https://login.microsoftonline.us",
        graph="https://dod-graph.microsoft.us",
        exchange="https://outlook-dod.office365.us",
        compliance="https://l5.ps.compliance.protection.office365.us",
        activity="https://manage.protection.apps.mil",
    ),
    "china": Cloud(
        login="https://login.chinacloudapi.cn",
        graph="https://microsoftgraph.chinacloudapi.cn",
        exchange="https://outlook.office365.cn",
        compliance="https://ps.compliance.protection.partner.outlook.cn",
    ),
}
"""Microsoft's clouds by the name users give them (host names: Microsoft Graph deployments, Exchange admin API)."""
