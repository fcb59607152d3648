"""The PowerShell sealing script: what can be read off it everywhere, and what it does where there is a PowerShell."""

from __future__ import annotations

import json
import re
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12
from sealing import CLIENTS, TENANT, certificate, jwks, opened, private_key, vault
from vectors import GOOD, VECTORS, keyring, named, opened_secret

from cli.sealing import SealedCredential, parse_sealed
from crypto import credential as payloads
from crypto import envelope, jwe
from crypto.keyring import (
    MAX_JWKS_BYTES,
    MAX_KEY_BITS,
    MIN_KEY_BITS,
    VaultPublicKey,
    fingerprint,
    public_jwks,
)
from domain.ids import ENTRA, SLOTS, TenantId

SCRIPT = CLIENTS / "Protect-TenantryCredential.ps1"
TEXT = SCRIPT.read_bytes().decode("ascii")
INPUTS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "inputs.json").read_text())
POWERSHELLS = [shutil.which(name) for name in ("pwsh", "powershell")]
POWERSHELL = next((found for found in POWERSHELLS if found), None)
needs_powershell = pytest.mark.skipif(POWERSHELL is None, reason="No PowerShell here: the script is read, not run")
SECONDS = 60

HELP, CODE = re.split(r"(?<=^#>)\n", TEXT, maxsplit=1, flags=re.MULTILINE)
TOKEN = re.compile(
    r"""'(?:[^']|'')*'            # a literal string
      | "(?:[^"`]|`.|"")*"        # an expandable string
      | \#[^\n]*                  # a comment
      | [\[\](){}]                # a bracket
    """,
    re.VERBOSE | re.DOTALL,
)


def constant(name: str) -> str:
    """What `name = ...` is in the script: a number, a literal string, or literal strings added up."""
    found = re.search(rf"^ *\$?{name} = (?:(\d+)$|\(([^)]*)\)|('[^'\n]*')$)", CODE, re.MULTILINE)
    assert found, name
    number, added, single = found.groups()
    return number or "".join(re.findall(r"'([^']*)'", added or single))


# what can be read


def test_every_bracket_of_the_script_is_closed_in_its_place() -> None:
    closing = {"(": ")", "[": "]", "{": "}"}
    open_: list[str] = []
    for token in TOKEN.findall(CODE):
        if token in closing:
            open_.append(closing[token])
        elif token in closing.values():
            assert open_.pop() == token
    assert not open_


def test_windows_powershell_can_read_the_script() -> None:
    """Words and operators that only PowerShell 7 has; and 5.1 reads a file without a byte order mark as ANSI."""
    bare = TOKEN.sub(" ", CODE)
    for modern in (r"\?\?", r"\?\.", r"&&", r"\|\|", r"\s\?\s", r"\bclean\b", r"-AsPlainText\b", r"-AsHashtable\b"):
        assert not re.search(modern, bare), modern
    assert TEXT.startswith("#Requires -Version 5.1\n")
    assert "\t" not in TEXT
    assert "\r" not in TEXT


def test_types_that_only_newer_platforms_have_are_not_named_where_older_ones_read_them() -> None:
    assert "[System.Security.Cryptography.AesGcm]" not in CODE
    assert "'System.Security.Cryptography.AesGcm' -as [type]" in CODE


def test_nothing_in_the_script_runs_text_or_writes_a_secret() -> None:
    forbidden = ("Invoke-Expression", "iex ", "Add-Type", "Start-Process", "ConvertFrom-SecureString", "Write-Host")
    assert not [word for word in forbidden if word.lower() in CODE.lower()]
    assert "GetNetworkCredential" not in CODE
    for written in re.findall(r"Write-(?:Warning|Information|Verbose|Debug|Output) ([^\n]*)", CODE):
        assert not re.search(r"secret|password|payload|\$characters", written, re.IGNORECASE)


def test_every_parameter_is_explained_and_there_are_examples() -> None:
    parameters = re.findall(r"^    \[[^\n=]*\] \$(\w+)", CODE.split("\n)\n", maxsplit=1)[0], re.MULTILINE)
    assert len(parameters) == 13
    assert re.findall(r"^\.PARAMETER (\w+)$", HELP, re.MULTILINE) == parameters
    assert HELP.count("\n.EXAMPLE\n") == 3
    assert all(section in HELP for section in (".SYNOPSIS", ".DESCRIPTION"))


@pytest.mark.parametrize("parameter", ["Fingerprint", "Expires"])
def test_what_is_named_is_never_empty(parameter: str) -> None:
    """What a misspelt variable leaves empty would be no fingerprint to compare with, and no expiry."""
    assert re.search(rf"\[ValidateNotNullOrEmpty\(\)\]\n +\[string\] \${parameter},", CODE)


def test_a_check_of_the_self_test_that_ends_in_an_error_is_listed_like_the_others() -> None:
    checks = body("function Test-Client {")
    assert re.search(r"try \{\s+\$result = if \(& \$check\.Run\)", checks)
    assert '$result = "failed: $($_.Exception.Message)"' in checks
    assert "-like 'failed*'" in checks


def test_the_header_has_the_members_that_python_writes_in_their_order() -> None:
    form = constant("HeaderForm")
    names = re.findall(r'"(\w+)":"\{\d\}"', form)
    assert tuple(names) == jwe.Header.__struct_fields__
    filled = form.replace("{{", "{").replace("}}", "}")
    for at, name in enumerate(names):
        filled = filled.replace(f"{{{at}}}", name)
    assert json.loads(filled) == {name: name for name in names}
    assert re.search(r"\$HeaderForm -f \$Alg, \$enc, \$Key\.Thumbprint, \$Typ, \$Tid, \$Place\)", CODE)


CONSTANTS: dict[str, object] = {
    "Alg": jwe.ALG,
    "Gcm": "A256GCM",
    "Cbc": "A256CBC-HS512",
    "Typ": envelope.TYP,
    "AzurePowerShell": payloads.AZURE_POWERSHELL,
    "MinKeyBits": MIN_KEY_BITS,
    "MaxKeyBits": MAX_KEY_BITS,
    "MaxJwksBytes": MAX_JWKS_BYTES,
    "MaxPayload": jwe.MAX_PAYLOAD,
    "MaxText": 256,
    "MaxSecret": 1024,
    "MaxPem": 12 * 1024,
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_the_script_means_the_same_by_its_constants_as_python(name: str) -> None:
    assert constant(name) == str(CONSTANTS[name])


def test_kinds_and_slots_are_those_of_python() -> None:
    sets = re.findall(r"\[ValidateSet\(([^)]*)\)\]", CODE)
    assert [re.findall(r"'([^']*)'", one) for one in sets] == [
        ["app-certificate", "app-secret", "service-account"],
        list(SLOTS),
    ]


def spelt(vector: dict[str, str]) -> dict[str, str]:
    """As the script spells the members of a vector."""
    return {name.capitalize(): text for name, text in vector.items()}


CHECKED: dict[str, dict[str, str]] = {
    "Cbc": spelt(VECTORS["cbc_hs512"]),
    "Key": spelt(VECTORS["thumbprint"]),
    "Digest": spelt(VECTORS["digest"]),
    "Payload": {
        "UserName": VECTORS["payload"]["credential"]["username"],
        "Password": VECTORS["payload"]["password"],
        "Payload": VECTORS["payload"]["payload"],
    },
}
"""What the self test compares with, by the name of its check, as it stands in the vector file."""
MEMBER = re.compile(r"^    (?P<name>\w+) = (?P<text>'[^'\n]*'|\((?:\s*'[^'\n]*'(?: \+)?)+\s*\))$", re.MULTILINE)


def body(opening: str) -> str:
    """What stands between this line and the brace that closes it, which is the first in the first column."""
    return CODE.split(f"\n{opening}\n", maxsplit=1)[1].split("\n}\n", maxsplit=1)[0]


@pytest.mark.parametrize("name", CHECKED)
def test_a_vector_of_the_self_test_is_the_one_of_the_vector_file(name: str) -> None:
    block = body(f"${name}Vector = @{{")
    found = {one["name"]: "".join(re.findall(r"'([^']*)'", one["text"])) for one in MEMBER.finditer(block)}
    assert MEMBER.sub("", block).strip() == ""
    assert found == CHECKED[name]


@pytest.mark.parametrize("name", CHECKED)
def test_a_check_of_the_self_test_looks_at_all_of_its_vector(name: str) -> None:
    used = set(re.findall(rf"\${name}Vector\.(\w+)", body(f"function Test-{name}Vector {{")))
    assert used == CHECKED[name].keys() - {"Source"}
    assert f"Possible = $true; Run = {{ Test-{name}Vector }} }}" in body("function Test-Client {")


def test_the_payload_of_the_self_test_is_of_the_credential_in_the_vector_file() -> None:
    check = body("function Test-PayloadVector {")
    assert "ConvertTo-Payload 'service-account' $fields" in check
    assert re.findall(r"(\w+)(?:'\])? = \$", check) == ["username", "password", "client_id"]
    assert VECTORS["payload"]["credential"] == {
        "kind": "service-account",
        "username": VECTORS["payload"]["credential"]["username"],
        "password": bytes.fromhex(VECTORS["payload"]["password"]).decode(),
        "client_id": constant("AzurePowerShell"),
    }


def test_the_self_test_reads_dates_and_times_of_the_vector_file() -> None:
    meant = {good["text"]: good["utc"] for good in INPUTS["expiries"]["good"]}
    assert meant[constant("Day")] == meant[constant("Zoned")] == constant("ZonedUtc")
    assert meant[constant("Zoneless")] == constant("ZonelessUtc")
    read = CODE.split("function Read-Moment", maxsplit=1)[1].split("\n}\n", maxsplit=1)[0]
    assert all(word in read for word in ("InvariantCulture", "AssumeUniversal", "AdjustToUniversal"))


def test_every_key_of_a_set_is_looked_at_before_the_first_is_taken() -> None:
    looked = CODE.split("function Read-VaultKey", maxsplit=1)[1].split("$jwk = $keys[0]", maxsplit=1)[0]
    assert re.search(r"foreach \(\$jwk in \$keys\) \{[^}]*\}\s+foreach \(\$name in \$PrivateMembers\)", looked)


def test_the_members_of_a_sealed_credential_are_those_that_python_reads_in_their_order() -> None:
    written = body("function Protect-Given {")
    assert tuple(re.findall(r"'[{,]\"(\w+)\":'", written)) == SealedCredential.__struct_fields__
    assert "Get-TextDigest $envelope" in written


# what it does


def run(*arguments: str, secret: str = "") -> str:
    """Standard output of a PowerShell command. The secret is on its standard input, as `$given`."""
    found = ran(*arguments, secret=secret)
    assert found.returncode == 0, found.stderr
    return found.stdout


def ran(*arguments: str, secret: str = "") -> subprocess.CompletedProcess[str]:
    assert POWERSHELL is not None
    read = "$given = ConvertTo-SecureString ([Console]::In.ReadToEnd()) -AsPlainText -Force; "
    command = read + f"& '{SCRIPT}' " + " ".join(arguments)
    return subprocess.run(  # noqa: S603
        [POWERSHELL, "-NoProfile", "-NonInteractive", "-Command", command],
        input=secret or "unused",
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
    )


@needs_powershell
def test_the_self_test_passes() -> None:
    results = {row["Check"]: row["Result"] for row in json.loads(run("-SelfTest", "| ConvertTo-Json"))}
    assert set(results.values()) <= {"passed", "not on this platform"}
    assert len(results) == 7
    assert list(results.values())[: len(CHECKED)] == ["passed"] * len(CHECKED)


def sealed_by_script(
    directory: Path, *arguments: str, secret: str, to: VaultPublicKey | None = None, tenant: TenantId = TENANT
) -> SealedCredential:
    """`to`: the vault's key, that of `vault` when left out."""
    key, out = directory / "vault.jwks", directory / "sealed.json"
    recipient = to or vault().active
    key.write_text(public_jwks([recipient]))
    named_ = ("-PublicKey", f"'{key}'", "-Fingerprint", fingerprint(recipient), "-Tenant", tenant)
    run(*named_, *arguments, "-Secret $given", "-OutFile", f"'{out}'", secret=secret)
    return parse_sealed(out.read_text(), out)


PARAMETERS = {
    "app-secret": ("-ClientId", "client_id", "secret"),
    "service-account": ("-UserName", "username", "password"),
}
"""Kind to the parameter that takes its identity, and to the members of the payload with identity and secret."""
SEALABLE = [good for good in GOOD if json.loads(good.get("payload", "{}")).get("kind") in PARAMETERS]


@needs_powershell
@pytest.mark.parametrize("good", [good for good in SEALABLE if good["made_by"] == "seal.js"], ids=named)
def test_a_credential_of_the_vector_file_that_the_script_seals_opens_as_it_is_written(
    tmp_path: Path, good: dict[str, str]
) -> None:
    payload = json.loads(good["payload"])
    parameter, identity, secret = PARAMETERS[payload["kind"]]
    given = ("-Kind", payload["kind"], parameter, payload[identity], "-Slot", good["slot"])
    to, tenant = keyring().active, TenantId(good["tenant"])
    sealed = sealed_by_script(tmp_path, *given, secret=payload[secret], to=to, tenant=tenant)
    assert envelope.read_header(sealed.envelope).kid == VECTORS["public_key"]["kid"]
    assert opened_secret(good | {"envelope": sealed.envelope}).text() == good["payload"]


def asked_for(directory: Path, *arguments: str, key: str) -> tuple[str, ...]:
    """The arguments that seal an app secret to this key."""
    file = directory / "vault.jwks"
    file.write_text(key)
    named = ("-PublicKey", f"'{file}'", "-Tenant", TENANT, "-Kind app-secret", "-ClientId", TENANT)
    return (*named, "-Secret $given", *arguments)


@needs_powershell
def test_an_expiry_is_read_by_the_script_as_everywhere(tmp_path: Path) -> None:
    for good in INPUTS["expiries"]["good"]:
        said = run(*asked_for(tmp_path, "-Expires", f"'{good['text']}'", "3>$null", key=jwks()))
        assert json.loads(said)["expires"] == good["utc"], good
    for bad in INPUTS["expiries"]["bad"]:
        assert ran(*asked_for(tmp_path, "-Expires", f"'{bad}'", key=jwks())).returncode != 0, bad


@needs_powershell
def test_the_script_takes_the_public_keys_that_every_client_takes_and_no_others(tmp_path: Path) -> None:
    for good in INPUTS["public_keys"]["good"]:
        run(*asked_for(tmp_path, "-Fingerprint", good["fingerprint"], key=json.dumps(good["jwks"])))
    for bad in INPUTS["public_keys"]["bad"]:
        refused = ran(*asked_for(tmp_path, key=json.dumps(bad["jwks"])))
        assert refused.returncode != 0, bad["name"]
        assert ("as disclosed" in " ".join(refused.stderr.split())) == (bad["why"] == "disclosed"), bad["name"]


@needs_powershell
def test_a_service_account_that_the_script_seals_opens(tmp_path: Path) -> None:
    password = f'{secrets.token_urlsafe(20)}"\\äß 😀'
    sealed = sealed_by_script(
        tmp_path, "-Kind service-account -UserName reader@contoso.com -Slot exchange-server", secret=password
    )
    assert opened(sealed) == payloads.ServiceAccount(username="reader@contoso.com", password=password)
    assert (sealed.tenant, sealed.slot, sealed.identity) == (TENANT, "exchange-server", "reader@contoso.com")


@needs_powershell
def test_a_certificate_that_the_script_takes_from_a_pfx_file_opens(tmp_path: Path) -> None:
    key = private_key("rsa")
    password = secrets.token_urlsafe(20)
    parsed = x509.load_pem_x509_certificate(certificate("rsa").encode())
    protection = BestAvailableEncryption(password.encode())
    content = pkcs12.serialize_key_and_certificates(b"app", key, parsed, None, protection)
    pfx = tmp_path / "app.pfx"
    pfx.write_bytes(content)
    arguments = f"-Kind app-certificate -ClientId {TENANT} -Certificate '{pfx}'"
    sealed = sealed_by_script(tmp_path, arguments, secret=password)
    assert isinstance(opened(sealed), payloads.AppCertificate)
    assert (sealed.slot, sealed.expires) == (ENTRA, parsed.not_valid_after_utc)
